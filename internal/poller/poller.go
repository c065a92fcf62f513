// Package poller decides when which target is scraped, and makes bundles of the frames that come of it.
//
// Every target has its place in its interval (target.Next), so that many of them are spread over it and each is asked
// at the same distances for as long as its key does not change. A scrape that takes longer than the interval delays the
// next one and lets others out; two scrapes of one target never run at once.
//
// All frames of one Poller belong to one epoch of one lane. Within it a target has an id that is never given to another
// one: a target that is removed, goes on under other labels or is paused ends with an END frame, and what comes after it
// has a new id. The frames are gathered into bundles of about FlushSize that are at most FlushAge old, numbered without
// a hole, and handed to the spool in that order.
package poller

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/choria-io/prometheus-streams/internal/exposition"
	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/target"
)

// Scraper asks one target. It is used by one goroutine at a time. If it also has the methods of *scrape.Scraper that
// tell of its last scrape, what they tell goes into log, metrics and status. If it is an io.Closer it is closed when the
// target is asked no more.
type Scraper interface {
	// Scrape gives a frame of Kind Scraped or Down, valid until the next call. It fails only if ctx ends first.
	Scrape(ctx context.Context) (*frame.Frame, error)
}

// teller is a Scraper that tells of its last scrape what the frame does not hold.
type teller interface {
	LastError() error
	LastBytes() int64
	LastSkipped() exposition.Skipped
}

// Spool takes finished bundles.
type Spool interface {
	// Append takes a bundle and keeps its bytes. A bundle for which it wraps ErrSpoolFull is offered again later, and
	// nothing is scraped until it is taken; one refused for another reason is lost, and counted.
	Append(b Bundle) error
}

// ErrSpoolFull: the spool has no room and drops nothing to make some.
var ErrSpoolFull = errors.New("spool is full")

// Bundle is a finished message, with what the spool needs to know of it.
type Bundle struct {
	Message []byte
	// Frames and Samples are how many are lost if the bundle is. As in frame.Totals the end of an epoch is no
	// frame, and the samples of scrape reports do not count.
	Frames, Samples int
	// Schemas are those that its frames need.
	Schemas []*frame.Schema
}

// Config is what a Poller needs.
type Config struct {
	// Publisher and Lane name the frames' source; the lane is "live" if empty.
	Publisher, Lane string
	Spool           Spool
	// NewScraper makes what asks a target. If it fails the target is down, and it is asked again at the next scrape.
	NewScraper func(*target.Target) (Scraper, error)
	// Live, if not nil, is told which schemas are in use, before a bundle needs a new one. It must not call back.
	Live func(ids []frame.SchemaID)
	// Predecessor says where the publisher's last epoch ended, if that is known.
	Predecessor *frame.Predecessor
	// Format1, if not nil, makes messages of format 1 instead of bundles.
	Format1 *Format1
	// Encoder says when frames build on others.
	Encoder frame.EncoderOptions
	// FlushSize is how many bytes of frames make a bundle; 32 KiB if not positive. A larger frame is alone in its own.
	FlushSize int
	// FlushAge is how long the oldest frame of a bundle may wait; a fiftieth of the shortest interval, at most a
	// second, if not positive.
	FlushAge time.Duration
	// Concurrency bounds the scrapes that run at once; no bound if not positive.
	Concurrency int
	// Seed moves all targets of this process within their intervals: target.Seed of its identity.
	Seed uint64
	// StopTimeout is how long scrapes may go on when Run is told to stop; 5 s if not positive.
	StopTimeout time.Duration
	Logger      *slog.Logger
	Registerer  prometheus.Registerer
}

// Poller scrapes targets. Its methods may be called from any goroutine.
type Poller struct {
	cfg     Config
	epoch   uint64
	log     *slog.Logger
	metrics *metrics
	bundler *bundler
	slots   chan struct{} // nil if there is no bound
	buffers sync.Pool     // of *[]byte
	paused  atomic.Bool
	wg      sync.WaitGroup // the loops that run

	// mu is taken before a loop's and the bundler's.
	mu      sync.Mutex
	loops   map[string]*loop // by the target's key
	lastID  uint64
	ticks   context.Context // ends when no new scrape may begin; nil until Run
	scrapes context.Context // ends when those that run must end
	stopped bool
}

// New makes a Poller without targets, in a new epoch.
func New(c Config) *Poller {
	if c.Lane == "" {
		c.Lane = "live"
	}
	if c.FlushSize <= 0 {
		c.FlushSize = 32 << 10
	}
	if c.StopTimeout <= 0 {
		c.StopTimeout = 5 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Poller{cfg: c, epoch: newEpoch(), log: c.Logger, loops: map[string]*loop{}}
	p.metrics = newMetrics(c.Registerer, p.measured)
	p.bundler = newBundler(c, p.epoch, p.metrics)
	p.buffers.New = func() any { return new([]byte) }
	if c.Concurrency > 0 {
		p.slots = make(chan struct{}, c.Concurrency)
	}
	return p
}

// newEpoch draws a number that no start of any poller has had.
func newEpoch() uint64 {
	var b [8]byte
	for {
		_, _ = rand.Read(b[:]) // never fails
		if e := binary.LittleEndian.Uint64(b[:]); e != 0 {
			return e
		}
	}
}

// Epoch is the number of this poller's epoch.
func (p *Poller) Epoch() uint64 { return p.epoch }

// Run scrapes until ctx ends. Then it lets the scrapes that run come to their end, for StopTimeout; what they give, and
// the end of the epoch, is in the spool when it returns. A scrape that is cut short says nothing of its target. The
// error is nil. Run is to be called once.
func (p *Poller) Run(ctx context.Context) error {
	scrapes, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	p.mu.Lock()
	p.ticks, p.scrapes = ctx, scrapes
	for _, l := range p.loops {
		p.start(l)
	}
	p.log.Info("polling", "publisher", p.cfg.Publisher, "lane", p.cfg.Lane, "epoch", strconv.FormatUint(p.epoch, 16), "count", len(p.loops))
	p.mu.Unlock()

	<-ctx.Done()
	p.mu.Lock()
	p.stopped = true
	p.mu.Unlock()
	ended := make(chan struct{})
	go func() { p.wg.Wait(); close(ended) }()
	if !within(ended, p.cfg.StopTimeout) {
		cut()
		if !within(ended, time.Second) {
			p.log.Warn("gave up waiting for scrapes that do not end")
		}
	}
	p.bundler.close()
	return nil
}

func within(done <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// start lets a loop run; mu is held and Run was called.
func (p *Poller) start(l *loop) {
	ticks, stop := context.WithCancel(p.ticks)
	scrapes, cut := context.WithCancel(p.scrapes)
	l.stop = func() { stop(); cut() }
	p.wg.Go(func() {
		defer l.stop()
		defer l.close()
		l.run(ticks, scrapes)
	})
}

// Pause stops the scraping of all targets but those of the job prometheus_streams: their series end. What a scrape that
// runs still brings is late and goes nowhere.
func (p *Poller) Pause() { p.pause(true) }

// Resume lets it go on, under new ids.
func (p *Poller) Resume() { p.pause(false) }

func (p *Poller) pause(pause bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped || !p.paused.CompareAndSwap(!pause, pause) {
		return
	}
	for _, l := range p.loops {
		if l.alwaysOn() {
			continue
		}
		if pause {
			l.end(frame.Paused)
		} else {
			p.begin(l)
		}
	}
	set(p.metrics.paused, pause)
	if pause {
		p.log.Info("polling is paused", "paused", pause)
	} else {
		p.log.Info("polling goes on", "paused", pause)
	}
}

// begin gives a loop its identity in the epoch; mu is held.
func (p *Poller) begin(l *loop) {
	p.lastID++
	l.begin(&frame.Target{
		ID: p.lastID, Labels: l.target.Labels, Interval: milliseconds(l.interval), Timeout: milliseconds(l.timeout),
		TrackTimestamps: l.target.TrackTimestamps,
	})
}

// milliseconds is what frames can say of a duration.
func milliseconds(d time.Duration) time.Duration {
	return max(time.Millisecond, d.Round(time.Millisecond))
}
