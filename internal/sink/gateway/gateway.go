// Package gateway is the sink that Prometheus scrapes: it keeps the newest frame of every target until it is stale and
// shows all of them on one page, as a Prometheus beside the targets would have scraped them.
//
//	/gateway/metrics   ?publisher=, ?job=, match[]=    all series of the targets chosen, in text, OpenMetrics or protobuf
//	/gateway/targets   one scrape address per publisher, as http_sd_configs reads it
//
// Nothing is kept on disk but how far back to read after a restart. Label text is made once for each schema and target;
// a delivery swaps one pointer, and an answer is put together from prepared bytes and the values.
package gateway

import (
	"context"
	"hash/maphash"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

const (
	// staleIntervals, staleSlack and staleAtLeast make the default of Options.StaleAfter.
	staleIntervals = 3
	staleSlack     = 30 * time.Second
	staleAtLeast   = 5 * time.Minute
	// tendEvery is how often stale targets are looked for.
	tendEvery = 15 * time.Second
	// publisherMemory is how long a silent publisher stays listed in /gateway/targets.
	publisherMemory = 24 * time.Hour
	// maxPublishers bounds how many publishers are known at a time.
	maxPublishers = 20_000
)

// The reasons for which a gateway rejects a frame, beside those of sink.Owners.
const (
	// Aged: the frame is older than MaxAge.
	Aged = "aged"
	// Stale: the frame is so old that it would not be shown.
	Stale = "stale"
)

// Options say how a gateway behaves. The zero value is good.
type Options struct {
	// StaleAfter is the age above which a target's newest frame is no longer shown. 0 means, for each target,
	// three of its intervals and 30 s, at least 5 minutes.
	StaleAfter time.Duration
	// MaxAge is the age above which a frame is not taken at all; 0 is no limit but StaleAfter.
	MaxAge time.Duration
	// Timestamps shows each sample with its time: the scrape's, or its own if it had one.
	Timestamps bool
	// PublisherLabel is the name of a label with the publisher; empty adds none.
	PublisherLabel string
	// MaxTargets, MaxSeries and MaxPublisherSeries bound what is kept, in total and for one publisher. 0 means
	// sink.DefaultMaxTargets and no limit.
	MaxTargets, MaxSeries, MaxPublisherSeries int
	// ExternalURL is where scrapers reach the web server, with its route prefix: http://host:port/prefix. If
	// it is empty, /gateway/targets names the host of the request.
	ExternalURL string
	// RoutePrefix is put before the path that /gateway/targets names when ExternalURL is empty.
	RoutePrefix string
	// StateDirectory remembers how far to read back after a restart; empty remembers nothing.
	StateDirectory string

	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// Clock is time.Now if nil.
	Clock func() time.Time
}

// Gateway keeps the newest frame of each target. Its methods and handlers are for concurrent use.
type Gateway struct {
	opts    Options
	logger  *slog.Logger
	now     func() time.Time
	owners  *sink.Owners
	labels  *sink.Labels
	metrics *metrics
	memory  *memory
	seed    maphash.Seed
	zippers sync.Pool
	answers chan struct{} // a place for each answer that may be written at a time

	// delivering serialises deliveries; the preparation of labels needs no other lock.
	delivering sync.Mutex
	builder    *labels.Builder
	agedSaid   map[string]time.Time

	mu         sync.RWMutex
	targets    map[string]*target
	publishers map[string]*publisher
	texts      map[*sink.Shape]*text // those in use by targets
	series     int
	generation uint64 // changes with the set of targets or their schemas
	tended     time.Time
	plans      plans
	complained time.Time
}

// target is one target with its newest frame.
type target struct {
	key       string
	publisher *publisher
	raw       labels.Labels // the target's labels as they came
	lane      string
	prepared  *prepared
	frame     *frame.Frame
	seen      time.Time // the earlier one of the frame's time and when the stream stored it
	stale     time.Duration
}

// publisher is what is known of one publisher.
type publisher struct {
	name            string
	targets, series int
	seen            time.Time // time of its newest frame
	delivered       time.Time // when the gateway was last handed one
}

// New makes an empty gateway.
func New(o Options) *Gateway {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	logger := o.Logger.With("sink", "gateway")
	g := &Gateway{
		opts:       o,
		logger:     logger,
		now:        o.Clock,
		owners:     sink.NewOwners(o.MaxTargets, logger),
		labels:     sink.NewLabels(sink.Labelling{Publisher: o.PublisherLabel}),
		memory:     openMemory(o.StateDirectory, logger, o.Clock()),
		seed:       maphash.MakeSeed(),
		answers:    make(chan struct{}, maxAnswers),
		builder:    labels.NewBuilder(labels.EmptyLabels()),
		agedSaid:   make(map[string]time.Time),
		targets:    make(map[string]*target),
		publishers: make(map[string]*publisher),
		texts:      make(map[*sink.Shape]*text),
		plans:      make(plans),
	}
	g.metrics = newMetrics(o.Registerer, g)
	return g
}

// Lookback is how far back the stream must be read after a start so that every target that is not stale is shown.
func (g *Gateway) Lookback() time.Duration { return g.memory.lookback() }

// Deliver takes a frame. It calls done before it returns. The frame must stay as it is for good.
func (g *Gateway) Deliver(_ context.Context, d sink.Delivery, done func(error)) {
	done(g.take(&d))
}

// take admits a frame and shows it.
func (g *Gateway) take(d *sink.Delivery) error {
	f := d.Frame
	if f.Kind == frame.EpochEnd {
		return nil
	}
	if err := sink.Check(f, validLabel); err != nil {
		return g.reject(err)
	}
	g.delivering.Lock()
	defer g.delivering.Unlock()
	now := g.now()
	g.tend(now)

	final := g.labels.Target(f.Target.Labels, d.Publisher, g.builder)
	key := sink.Key(final)
	if _, err := g.owners.Admit(sink.Claim{Key: key}, d); err != nil {
		return g.reject(err)
	}
	if f.Kind == frame.End {
		g.remove(key)
		g.metrics.taken.Inc()
		return nil
	}
	stale := g.staleAfter(f.Target)
	g.memory.note(stale)
	if err := g.checkAge(d, now, stale); err != nil {
		return g.reject(err)
	}
	if err := g.show(d, key, stale, now); err != nil {
		return g.reject(err)
	}
	g.metrics.taken.Inc()
	return nil
}

func validLabel(l labels.Label) bool {
	return l.Name != model.MetricNameLabel && validName(l.Name) && utf8.ValidString(l.Value)
}

// validName tells whether a metric or label can have this name. Parsers stumble over a NUL.
func validName(name string) bool {
	return model.UTF8Validation.IsValidMetricName(name) && strings.IndexByte(name, 0) < 0
}

// reject counts a rejection.
func (g *Gateway) reject(err error) error {
	if reason, ok := sink.Rejected(err); ok {
		g.metrics.rejected.WithLabelValues(reason).Inc()
	}
	return err
}

func (g *Gateway) staleAfter(t *frame.Target) time.Duration {
	if g.opts.StaleAfter > 0 {
		return g.opts.StaleAfter
	}
	return max(staleIntervals*sink.Interval(t)+staleSlack, staleAtLeast)
}

// checkAge refuses what is too old to be shown. A publisher whose clock is slow by more than that would show nothing,
// so it is said, once an hour for each publisher.
func (g *Gateway) checkAge(d *sink.Delivery, now time.Time, stale time.Duration) error {
	age := now.Sub(time.UnixMilli(d.Frame.Time))
	limit, name, reason := stale, "stale_after", Stale
	if g.opts.MaxAge > 0 && age > g.opts.MaxAge {
		limit, name, reason = g.opts.MaxAge, "max_age", Aged
	}
	if age <= limit {
		return nil
	}
	if now.Sub(d.Stored) < staleSlack && now.Sub(g.agedSaid[d.Publisher]) > time.Hour {
		if len(g.agedSaid) >= maxPublishers {
			clear(g.agedSaid)
		}
		g.agedSaid[d.Publisher] = now
		g.logger.Warn("frames arrive too old to be shown: a backlog, or the publisher's clock is slow",
			"publisher", d.Publisher, "target", d.Frame.Target.Labels.String(), "duration", age, "limit", limit, "reason", name)
	}
	return sink.Reject(reason, "scraped %s ago, %s is %s", age.Round(time.Millisecond), name, limit)
}

// show puts a frame in the place of its target's last one.
func (g *Gateway) show(d *sink.Delivery, key string, stale time.Duration, now time.Time) error {
	f := d.Frame
	g.mu.RLock()
	old := g.targets[key]
	pub := g.publishers[d.Publisher]
	series, publishers := g.series, len(g.publishers)
	g.mu.RUnlock()

	// What is counted for a target that is down is its last schema, which is kept for its return.
	count, before := 0, 0
	if old != nil {
		before = old.prepared.count()
		count = before
	}
	if f.Kind == frame.Scraped {
		count = len(f.Schema.Series)
	}
	if err := g.checkRoom(pub, old, publishers, series-before+count, count); err != nil {
		return err
	}
	if pub == nil {
		pub = &publisher{name: d.Publisher}
	}
	t := &target{
		key: key, publisher: pub, raw: f.Target.Labels, lane: d.Lane, frame: f, stale: stale,
		seen: earlier(time.UnixMilli(f.Time), d.Stored),
	}
	same := old != nil && labels.Equal(old.raw, t.raw)
	switch {
	case same && (f.Kind == frame.Down || old.prepared.is(f.Schema)):
		t.prepared = old.prepared
	default:
		t.prepared = prepare(g.labels, f.Schema, t.raw, d.Publisher, g.textOf)
		g.metrics.invalid.Add(float64(t.prepared.invalid()))
	}
	g.swap(old, t, now)
	return nil
}

// checkRoom refuses what would go beyond the limits.
func (g *Gateway) checkRoom(pub *publisher, old *target, publishers, total, count int) error {
	if pub == nil && publishers >= maxPublishers {
		return sink.Reject(sink.TooMany, "%d publishers are known, the limit is %d", publishers, maxPublishers)
	}
	if limit := g.opts.MaxSeries; limit > 0 && total > limit {
		return sink.Reject(sink.TooMany, "%d series, the limit is %d", total, limit)
	}
	if limit := g.opts.MaxPublisherSeries; limit > 0 {
		own := count
		if pub != nil {
			own += pub.series
			if old != nil && old.publisher == pub {
				own -= old.prepared.count()
			}
		}
		if own > limit {
			return sink.Reject(sink.TooMany, "%d series of one publisher, the limit is %d", own, limit)
		}
	}
	return nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
