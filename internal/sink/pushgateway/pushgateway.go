// Package pushgateway is the sink for a Prometheus Push Gateway: it keeps one group of the gateway for each target, filled
// with the target's newest scrape.
//
// A group is named by job and instance, and the publisher if it is asked for. A scrape whose series name other jobs or
// instances (honor_labels, federation) fills the groups that they name beside its own. Each scrape replaces its groups
// whole (PUT), so that a series that is gone is gone; a failed scrape leaves up 0 and the scrape_* series; the end of a
// target, or its silence, deletes its groups. Groups that this sink filled are remembered on disk, so that what ended
// while nobody looked is deleted after the next start. Nothing else is ever deleted.
//
// The gateway shows values, not a history. So only the newest frame of a group matters: one that waits is superseded by
// the next, and is done by that. What the gateway accepted, what was superseded and what it refused for good is done;
// everything else waits and is tried again, for each group alone, until something newer supersedes it.
//
// The gateway's page holds all groups together and must be consistent: the sink sends no timestamps, gives a metric one
// type on the whole page, and leaves out what the gateway does not take, counted, rather than to lose the whole scrape.
package pushgateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"

	"github.com/choria-io/prometheus-streams/internal/redact"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// The methods of a push.
const (
	// Put replaces a group.
	Put = "put"
	// Post replaces the metrics of the same name in a group and leaves others as they are: how version 1.0 pushed.
	Post = "post"
)

// Options are what a Sink is made of.
type Options struct {
	// URL of the gateway, with its path prefix if it has one and with user and password if it must be.
	URL string
	// PublisherLabel is the name of the label with the publisher, which becomes part of the groups' names; empty adds none.
	PublisherLabel string
	// Method is Put (the default) or Post.
	Method string
	// StaleAfter is after how long without a scrape of its target a group is deleted. nil means five intervals of
	// the target, at least five minutes; 0 means never.
	StaleAfter *time.Duration
	// MaxAge is the age above which a scrape is not pushed any more; 0 is no limit but StaleAfter.
	MaxAge time.Duration
	// Timeout of one push. 0 means the target's interval, between five and thirty seconds, and 7/4 of that after a timeout.
	Timeout time.Duration
	// HTTPClient sends the pushes; nil means one of its own without authentication.
	HTTPClient *http.Client
	// StateDirectory keeps the list of groups; empty keeps it in memory only. One process at a time may use it.
	StateDirectory string
	// Owners decides who speaks for a group; nil means one of its own.
	Owners *sink.Owners
	// Logger and Registerer may be nil.
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

const (
	// maxPushes is how many pushes are on their way at a time.
	maxPushes = 8
	// maxGroups bounds the groups that are known.
	maxGroups = 100_000
	// staleIntervals and staleAtLeast are the default of StaleAfter.
	staleIntervals = 5
	staleAtLeast   = 5 * time.Minute
	// backlogFor is how long a scrape of a backlog waits for a newer one.
	backlogFor = time.Second
	// shutdownFor is how long pushes that are on their way may take when the sink stops.
	shutdownFor = 2 * time.Second
)

var errStopped = errors.New("push gateway sink stopped")

// Sink keeps the groups of one gateway. Deliver is for concurrent use; Run is called once.
type Sink struct {
	Options
	base    *url.URL
	owners  *sink.Owners
	metrics *metrics
	state   *state
	free    chan *encoder // buffers of pushes that are not on their way
	sweeps  time.Duration
	wake    chan struct{}
	gzip    ability
	// protobuf is what native histograms need.
	protobuf ability
	said     said

	mu      sync.Mutex
	after   []func() // to call once mu is free: verdicts, which belong to the receiver
	stopped bool
	// pausedAt is when Pause was called; zero if Resume was since.
	pausedAt time.Time
	layouts  *layouts
	types    *types
	targets  map[targetID]*target
	groups   map[string]*group // by path
	due      queue
	pushes   int // on their way
	failing  int // groups whose last push failed
}

// New makes a sink and reads which groups an earlier process left.
func New(o Options) (*Sink, error) {
	base, err := url.Parse(o.URL)
	if err != nil {
		return nil, fmt.Errorf("push_gateway url: %w", redact.Error(err))
	}
	if base.Scheme != "http" && base.Scheme != "https" || base.Host == "" || base.RawQuery != "" || base.Fragment != "" {
		return nil, fmt.Errorf("push_gateway url %q: want http://host:port with at most a path", redact.URL(base))
	}
	base.Path, base.RawPath = strings.TrimRight(base.Path, "/"), strings.TrimRight(base.RawPath, "/")
	switch o.Method {
	case "":
		o.Method = Put
	case Put, Post:
	default:
		return nil, fmt.Errorf("push_gateway method %q: want %s or %s", o.Method, Put, Post)
	}
	if l := o.PublisherLabel; l != "" && (!model.LegacyValidation.IsValidLabelName(l) || strings.HasPrefix(l, "__") ||
		l == model.JobLabel || l == model.InstanceLabel) {
		return nil, fmt.Errorf("push_gateway publisher_label %q: cannot name a part of a group", l)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	if o.HTTPClient == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxIdleConnsPerHost = maxPushes
		o.HTTPClient = &http.Client{Transport: t}
	}
	if o.Owners == nil {
		o.Owners = sink.NewOwners(maxGroups, o.Logger)
	}
	s := &Sink{
		Options: o, base: base, owners: o.Owners,
		free: make(chan *encoder, maxPushes), sweeps: sweepEvery(o.StaleAfter),
		wake:    make(chan struct{}, 1),
		layouts: newLayouts(sink.Labelling{Publisher: o.PublisherLabel}),
		types:   newTypes(),
		targets: make(map[targetID]*target),
		groups:  make(map[string]*group),
	}
	for range maxPushes {
		s.free <- newEncoder()
	}
	if o.StateDirectory != "" {
		records, st, err := openState(o.StateDirectory, base.Redacted(), o.Logger)
		if err != nil {
			return nil, err
		}
		s.state = st
		s.inherit(records)
	}
	s.metrics = newMetrics(o.Registerer, s)
	return s, nil
}

// sweepEvery is how often silent groups are looked for.
func sweepEvery(staleAfter *time.Duration) time.Duration {
	if staleAfter == nil || *staleAfter <= 0 {
		return staleAtLeast / 20
	}
	return min(max(*staleAfter/20, 100*time.Millisecond), staleAtLeast/20)
}

// lock and unlock guard everything below mu. Verdicts that come up under the lock are given after it.
func (s *Sink) lock() { s.mu.Lock() }

func (s *Sink) unlock() {
	calls := s.after
	s.after = nil
	s.mu.Unlock()
	for _, call := range calls {
		call()
	}
}

// Run pushes until ctx ends. Then frames that wait are handed back as not delivered, and pushes that are on their way
// get two seconds.
func (s *Sink) Run(ctx context.Context) error {
	pushing, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var running sync.WaitGroup
	sweep := time.NewTicker(s.sweeps)
	defer sweep.Stop()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		timer.Reset(s.start(pushing, &running))
		select {
		case <-ctx.Done():
		case <-s.wake:
		case <-timer.C:
		case now := <-sweep.C:
			s.sweep(now)
		}
	}
	s.stop()
	grace := time.AfterFunc(shutdownFor, cancel)
	defer grace.Stop()
	running.Wait()
	if s.state != nil {
		return s.state.close()
	}
	return nil
}

// start begins the pushes that are due and tells for how long none will be.
func (s *Sink) start(ctx context.Context, running *sync.WaitGroup) time.Duration {
	s.lock()
	defer s.unlock()
	for s.pushes < maxPushes && s.pausedAt.IsZero() {
		g := s.due.first()
		if g == nil {
			break
		}
		now := time.Now()
		if wait := g.due.Sub(now); wait > 0 {
			return wait
		}
		s.due.remove(g)
		w := g.next
		g.next = nil
		if w.part != nil && s.dropAged(w, now) {
			continue
		}
		g.pushing = w
		s.pushes++
		e := <-s.free
		p := s.prepare(g, w)
		running.Go(func() {
			a := s.push(ctx, e, p)
			s.free <- e
			s.finish(g, w, a)
		})
	}
	return time.Hour
}

// wakeUp makes Run look for work.
func (s *Sink) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// stop hands back what waits.
func (s *Sink) stop() {
	s.lock()
	defer s.unlock()
	s.stopped = true
	for _, g := range s.groups {
		if g.next != nil {
			s.due.remove(g)
			s.settle(g.next, errStopped)
			g.next = nil
		}
	}
}
