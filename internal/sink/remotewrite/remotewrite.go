package remotewrite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/redact"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// The values of Options.Protocol.
const (
	// Auto speaks 2.0 until the server's answer shows that it knows only 1.0.
	Auto = "auto"
	// V1 and V2 speak only the one.
	V1 = "1"
	V2 = "2"
)

// Options are what a Sink is made of.
type Options struct {
	// Name tells this sink from others of its kind, in metrics and logs.
	Name string
	// URL that takes remote write.
	URL string
	// HTTPClient sends the requests; nil means one of its own without authentication.
	HTTPClient *http.Client
	// Headers are sent along with each request.
	Headers map[string]string
	// UserAgent is what requests say of themselves.
	UserAgent string
	// Timeout of one request; 0 means 30 s.
	Timeout time.Duration
	// Protocol is Auto (the default), V1 or V2.
	Protocol string
	// PublisherLabel is the name of a label with the publisher; empty adds none.
	PublisherLabel string
	// WriteRelabel are rules for what is sent, as Prometheus' write_relabel_configs. They must be validated.
	WriteRelabel []*relabel.Config
	// OutOfOrderWindow is how much older than the newest frame of its target one may be that comes late by
	// another lane. 0 takes none.
	OutOfOrderWindow time.Duration
	// LateDirectory is where samples are written that the server does not take for their age, as OpenMetrics text; empty
	// writes none. LateMaxSize bounds what this sink has there, in bytes; 0 means 1 GiB.
	LateDirectory string
	LateMaxSize   int64
	// NoMetadata leaves out type, help and unit, which only 2.0 has.
	NoMetadata bool
	// SendExemplars and SendNativeHistograms are as in Prometheus: without them, exemplars and native histograms are left out.
	SendExemplars, SendNativeHistograms bool
	// MaxSamples of one request; 0 means 10,000. A server that answers 413 gets fewer.
	MaxSamples int
	// FlushAge is how long a sample waits for others before it is sent; 0 means 50 ms.
	FlushAge time.Duration
	// MaxRequests is how many requests are on their way at a time; 0 means 8, and more than 64 mean 64.
	MaxRequests int
	// MinBackoff and MaxBackoff are the shortest and the longest wait before a request is repeated, beside what the server
	// asks for; 0 means 100 ms and 5 s.
	MinBackoff, MaxBackoff time.Duration
	// StateDirectory keeps what stale markers need over a restart, and Schema finds the schemas named there; without
	// either, what vanishes during a restart gets no stale markers. One process at a time may use it.
	StateDirectory string
	Schema         func(frame.SchemaID) *frame.Schema
	// Owners decides who speaks for a target; nil means one of its own.
	Owners *sink.Owners
	// Logger and Registerer may be nil.
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// What done is told beside rejections, and why a server that answered well is asked again.
var (
	errStopped     = errors.New("remote write sink stopped")
	errUnconfirmed = errors.New("the answer does not say how many samples of remote write 2.0 were written: the server may know only 1.0")
)

const (
	shardCount = 64

	defaultMaxRequests = 8
	defaultMaxSamples  = 10_000
	defaultFlushAge    = 50 * time.Millisecond
	defaultTimeout     = 30 * time.Second
	// leastSamples is how small a request is made at most because of 413.
	leastSamples = 500
	// shutdownFor is how long requests that are on their way may take when the sink stops.
	shutdownFor = 2 * time.Second
	// idle is how long Run sleeps when nothing is due.
	idle = 10 * time.Second
)

// Sink writes to one server. Deliver is for concurrent use; Run is called once.
type Sink struct {
	Options
	owners  *sink.Owners
	labels  *sink.Labels
	builder *labels.Builder
	metrics *metrics
	said    map[string]time.Time

	mu      sync.Mutex
	inbox   []delivery
	stopped bool
	paused  bool
	wake    chan struct{}
	recalls int           // frames in inbox that are only to be remembered
	taken   chan struct{} // closed once those of now are taken

	// All below belongs to Run.
	protocol  int // 1 or 2
	confirmed bool
	encoder   *encoder
	texts     map[*sink.Shape]*text
	diffs     map[diffKey][]int32
	targets   map[string]*target
	endings   map[*target]struct{}
	nextEnd   time.Time // no ending is due before
	swept     time.Time
	saved     time.Time
	late      *lateWriter // nil without LateDirectory
	saving    chan error  // the result of the write that is on its way; nil if none is
	shards    [shardCount]shard
	next      int // the shard to look at first
	requests  int // on their way or waiting to be repeated
	limit     int // samples of one request
	grown     int // requests since limit changed
	pause     time.Time
	repeats   []*batch
	spare     []*batch
	results   chan *batch
	succeeded time.Time
}

// delivery is a frame that waits for Run.
type delivery struct {
	sink.Delivery
	done    func(error)
	arrived time.Time
}

// New makes a sink; nothing is sent before Run.
func New(o Options) (*Sink, error) {
	u, err := url.Parse(o.URL)
	if err != nil {
		return nil, fmt.Errorf("remote_write url: %w", redact.Error(err))
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("remote_write url %q: want http://host/path", redact.URL(u))
	}
	switch o.Protocol {
	case "":
		o.Protocol = Auto
	case Auto, V1, V2:
	default:
		return nil, fmt.Errorf("remote_write protocol %q: want %s, %s or %s", o.Protocol, Auto, V1, V2)
	}
	if l := o.PublisherLabel; l != "" && (!model.UTF8Validation.IsValidLabelName(l) || l == model.MetricNameLabel) {
		return nil, fmt.Errorf("remote_write publisher_label %q: no name of a label", l)
	}
	o.defaults()
	s := &Sink{
		Options: o, owners: o.Owners,
		labels:  sink.NewLabels(sink.Labelling{Publisher: o.PublisherLabel}),
		builder: labels.NewBuilder(labels.EmptyLabels()),
		said:    make(map[string]time.Time),
		wake:    make(chan struct{}, 1),
		taken:   make(chan struct{}),
		encoder: newEncoder(), protocol: 2, limit: o.MaxSamples,
		texts:   make(map[*sink.Shape]*text),
		diffs:   make(map[diffKey][]int32),
		targets: make(map[string]*target),
		endings: make(map[*target]struct{}),
		results: make(chan *batch, o.MaxRequests),
	}
	if o.Protocol == V1 {
		s.protocol = 1
	}
	s.metrics = newMetrics(o.Registerer)
	s.metrics.version.Set(float64(s.protocol))
	s.saved = time.Now()
	return s, errors.Join(s.newLate(), s.load())
}

func (o *Options) defaults() {
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.MaxSamples <= 0 {
		o.MaxSamples = defaultMaxSamples
	}
	if o.FlushAge <= 0 {
		o.FlushAge = defaultFlushAge
	}
	if o.MaxRequests <= 0 {
		o.MaxRequests = defaultMaxRequests
	}
	o.MaxRequests = min(o.MaxRequests, shardCount)
	if o.MaxBackoff <= 0 {
		o.MaxBackoff = max(defaultMaxBackoff, o.MinBackoff)
	}
	if o.MinBackoff <= 0 {
		o.MinBackoff = min(defaultMinBackoff, o.MaxBackoff)
	}
	if o.UserAgent == "" {
		o.UserAgent = "prometheus-streams"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	if o.Name != "" {
		o.Logger = o.Logger.With("sink", o.Name)
	}
	o.Registerer = prometheus.WrapRegistererWith(prometheus.Labels{"sink": o.Name}, o.Registerer)
	if o.HTTPClient == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxIdleConnsPerHost = o.MaxRequests
		o.HTTPClient = &http.Client{Transport: t}
	}
	o.HTTPClient = onlyPost(o.HTTPClient)
	if o.Owners == nil {
		o.Owners = sink.NewOwners(0, o.Logger)
	}
}

// onlyPost makes a client that does not follow a redirect which would turn a write into the reading of a page.
func onlyPost(client *http.Client) *http.Client {
	c, follow := *client, client.CheckRedirect
	c.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		switch {
		case r.Method != http.MethodPost:
			return http.ErrUseLastResponse
		case follow != nil:
			return follow(r, via)
		case len(via) >= 10:
			return errors.New("10 redirects")
		}
		return nil
	}
	return &c
}

// Deliver takes a frame and returns at once. done is called when the server has taken, or refused for good, all samples
// of the frame; for the end of a target that may be an interval later, when its stale markers are due. If Run has ended, or
// ends, done gets an error that is no Rejection. The frame must not change until then.
func (s *Sink) Deliver(_ context.Context, d sink.Delivery, done func(error)) {
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		done(errStopped)
		return
	}
	s.inbox = append(s.inbox, delivery{d, done, time.Now()})
	s.mu.Unlock()
	s.wakeUp()
}

// wakeUp makes Run look for work.
func (s *Sink) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Pause makes Run send nothing more; the requests that are on their way come to their end.
func (s *Sink) Pause() { s.pauseIf(true) }

// Resume makes Run send what waited meanwhile.
func (s *Sink) Resume() { s.pauseIf(false) }

func (s *Sink) pauseIf(paused bool) {
	s.mu.Lock()
	s.paused = paused
	s.mu.Unlock()
	s.wakeUp()
}

func (s *Sink) isPaused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.paused
}

// Run writes until ctx ends. Then frames that wait are handed back as not delivered, and requests that are on their way
// get two seconds.
func (s *Sink) Run(ctx context.Context) error {
	sending, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	timer := time.NewTimer(idle)
	defer timer.Stop()
	if s.late != nil {
		go s.late.run()
		defer s.late.stop()
	}
	for ctx.Err() == nil {
		timer.Reset(s.work(sending, time.Now()))
		select {
		case <-ctx.Done():
		case <-s.wake:
			s.take()
		case b := <-s.results:
			s.answered(b)
		case <-timer.C:
		}
	}
	s.stop(cancel)
	return nil
}

// take notes what the frames that came mean.
func (s *Sink) take() {
	s.mu.Lock()
	inbox := s.inbox
	s.inbox = nil
	if s.recalls > 0 {
		s.recalls = 0
		close(s.taken)
		s.taken = make(chan struct{})
	}
	s.mu.Unlock()
	for _, d := range inbox {
		s.plan(&d)
	}
}

// work does what is due and tells for how long nothing is.
func (s *Sink) work(ctx context.Context, now time.Time) time.Duration {
	s.sweep(now)
	s.save(now, false)
	if s.isPaused() {
		return idle
	}
	wait := min(idle, s.end(now))
	if d := s.pause.Sub(now); d > 0 {
		return min(wait, d)
	}
	waiting := s.repeats
	s.repeats = nil
	for _, b := range waiting {
		if d := b.again.Sub(now); d > 0 {
			s.repeats = append(s.repeats, b)
			wait = min(wait, d)
			continue
		}
		s.send(ctx, b)
	}
	for s.requests < s.MaxRequests {
		b, d := s.fill(now)
		if b == nil {
			return min(wait, d)
		}
		s.requests++
		s.send(ctx, b)
	}
	return wait
}

// stop waits shortly for the requests that are on their way and hands back everything else.
func (s *Sink) stop(cancel func()) {
	grace := time.AfterFunc(shutdownFor, cancel)
	defer grace.Stop()
	for n := s.requests - len(s.repeats); n > 0; n-- {
		b := <-s.results
		if b.answer.status/100 == 2 {
			s.answered(b)
		} else {
			s.repeats = append(s.repeats, b)
		}
	}
	for _, b := range s.repeats {
		for _, p := range b.pieces {
			p.part.giveBack()
		}
	}
	for i := range s.shards {
		for _, p := range s.shards[i].queue {
			if p.part != nil {
				p.part.giveBack()
			}
		}
	}
	s.save(time.Now(), true)
	for t := range s.endings {
		t.ending.delivery.done(errStopped)
	}
	s.mu.Lock()
	s.stopped = true
	inbox := s.inbox
	s.inbox = nil
	s.mu.Unlock()
	for i := range inbox {
		if d := &inbox[i]; !d.recalled() {
			d.done(errStopped)
		}
	}
}
