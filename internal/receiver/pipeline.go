package receiver

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
	"github.com/choria-io/prometheus-streams/internal/stream"
)

// Sink takes frames. Deliver does not wait for long; done is called exactly once, from any goroutine: nil means delivered,
// a sink.Rejection means counted and dropped, anything else means not delivered, keep it and try again.
// The frames of one target come in order.
type Sink interface {
	Deliver(ctx context.Context, d sink.Delivery, done func(error))
}

// Recaller is a Sink that is told, when a pipeline starts, of frames that an earlier process delivered to it: those of the last
// minutes, in their order and before those that Deliver brings. Recall may wait for as long as the sink is behind.
type Recaller interface {
	Recall(ctx context.Context, d sink.Delivery)
}

// Consumer is one durable (or follower) of one stream.
type Consumer interface {
	// Open connects to it and tells how far it has come.
	Open(ctx context.Context) (stream.Floor, error)
	// Receive hands over events in stream order until ctx ends. The handler may block.
	Receive(ctx context.Context, handle func(stream.Event)) error
}

// History reads messages of a stream again, in order, without consuming them.
type History interface {
	Read(ctx context.Context, r stream.Range, handle func(stream.Message) error) error
}

// Source is one stream that a pipeline receives from.
type Source struct {
	// Name of the stream, for logs.
	Name     string
	Consumer Consumer
	// History may be nil: then nothing is read back.
	History History
	// Registry may be nil if Publisher is.
	Registry Registry
	// Publisher gives the publisher's name that a message's subject proves, or an error if it proves none. It is nil for
	// a carrier that has nothing but messages of format 1, whose publisher is taken as they say.
	Publisher func(subject string) (string, error)
}

// Limits bound what a pipeline holds.
type Limits struct {
	// HoleAge and HoleBundles are how long a lane waits for a missing bundle, in connected time and in bundles.
	HoleAge     time.Duration
	HoleBundles int
	// SchemaAge is how long a lane waits for a schema that the registries say they do not have.
	SchemaAge time.Duration
	// VersionAge and VersionBundles are how long bundles of an unknown version are held back.
	VersionAge     time.Duration
	VersionBundles int
	// HeldBytes bounds the messages that are received and not done, and besides, with as much again, what of them is
	// decoded and with the sink. Above either nothing more is received; above the latter nothing more is decoded.
	HeldBytes int
	// Lanes bounds how many publishers' lanes are known at a time.
	Lanes int
	// StateBytes bounds the memory of all decoders of the pipeline: the states of targets and their schemas.
	// PublisherStateBytes bounds that of one publisher. 0 is no bound. See quota.
	StateBytes, PublisherStateBytes int64
	Frame                           frame.Limits
}

// DefaultLimits are the limits of design and documentation.
func DefaultLimits() Limits {
	return Limits{
		HoleAge: 30 * time.Second, HoleBundles: 128,
		SchemaAge:  30 * time.Second,
		VersionAge: 30 * time.Minute, VersionBundles: 128,
		HeldBytes: 256 << 20,
		Lanes:     20000,
		Frame:     frame.DefaultLimits(),
	}
}

// Config is what a pipeline is made of.
type Config struct {
	// Name of the sink, in metrics, logs and file names.
	Name    string
	Sink    Sink
	Sources []Source
	Schemas *Schemas
	// StateDirectory keeps the done table; empty keeps it in memory only.
	StateDirectory string
	// Keep is how long the done table remembers a silent lane: as long as the stream keeps messages.
	Keep   time.Duration
	Limits Limits
	// Gate, if not nil, is shut while the process is paused; pipelines may share it.
	Gate *Gate
	// Only, if not empty, are the publishers that are received; what others send is dropped and counted.
	Only []string
	// Publishers, if not nil, is told who publishes; pipelines may share it.
	Publishers *Publishers
	Metrics    *Metrics
	Logger     *slog.Logger
}

const (
	tick = time.Second
	// progressEvery is how often held messages are kept from coming again; the consumer's AckWait is 30 s.
	progressEvery = 10 * time.Second
	// readBack is how much stream time before its floor a pipeline first reads again.
	readBack = 10 * time.Minute
	// drainFor is how long a stopping pipeline waits for verdicts that are on their way.
	drainFor = 5 * time.Second
)

// Pipeline takes the bundles of its sources to one sink. Run is called once.
type Pipeline struct {
	Config
	metrics *sinkMetrics
	done    *doneTable
	sources []*source
	lanes   map[laneKey]*lane
	format1 format1
	unknown map[string]*quarantine // bundles of an unknown version, by publisher

	events  chan event
	answers mailbox
	retries []retry
	parked  []*bundle // decoded, and kept from the sink by the gate
	held    int
	quota   quota
	decoded int    // memory of the bundles' decoded frames
	goOn    func() // what to do once there is room for more of it; nil if nothing waits for that
	// outstanding counts the frames that the sink was given and gave no verdict on yet.
	outstanding int
	now         time.Time // of the last tick or event, to spare a system call for each bundle
	ticks       int
}

// event is what a source's goroutine tells the pipeline's.
type event struct {
	source *source
	stream.Event
	// history: the message was read back and is only decoded.
	history bool
	// floor is set with Connected after the consumer was opened.
	floor *stream.Floor
}

// source is a Source with what the pipeline knows of it.
type source struct {
	Source
	connected bool
	floor     stream.Floor
	inflight  map[uint64]*bundle // by stream sequence: received, not done
}

// New makes a pipeline and opens its done table.
func New(c Config) (*Pipeline, error) {
	path, newestPath := "", ""
	if c.StateDirectory != "" {
		path, newestPath = filepath.Join(c.StateDirectory, "done-"+c.Name), filepath.Join(c.StateDirectory, "newest-"+c.Name)
	}
	if c.Keep == 0 {
		c.Keep = 7 * 24 * time.Hour
	}
	done, err := openDone(path, c.Keep, time.Now)
	if err != nil {
		return nil, err
	}
	newest, err := openNewest(newestPath, c.Keep, c.Logger)
	if err != nil {
		return nil, err
	}
	p := &Pipeline{
		Config:  c,
		metrics: c.Metrics.sink(c.Name),
		done:    done,
		lanes:   make(map[laneKey]*lane),
		format1: newFormat1(newest),
		unknown: make(map[string]*quarantine),
		quota:   newQuota(&c.Limits),
		events:  make(chan event, 256),
		answers: newMailbox(),
		now:     time.Now(),
	}
	p.Logger = c.Logger.With("sink", c.Name)
	for _, s := range c.Sources {
		p.sources = append(p.sources, &source{Source: s, inflight: make(map[uint64]*bundle)})
	}
	return p, nil
}

// Run receives and delivers until ctx ends, then waits shortly for verdicts that are on their way. It returns an error if
// the done table can no longer be written: going on would deliver twice after every restart.
func (p *Pipeline) Run(ctx context.Context) error {
	defer p.done.close()
	defer p.format1.newest.close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p.Gate.onResume(func() { p.answers.post(func() { p.unpark(ctx) }) })
	for _, s := range p.sources {
		go p.receive(ctx, s)
	}
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		events := p.events
		if p.held > p.Limits.HeldBytes || p.full() {
			events = nil
		}
		select {
		case ev := <-events:
			p.now = time.Now()
			p.handle(ctx, ev)
		case <-p.answers.wake:
			p.answers.run()
		case p.now = <-ticker.C:
			p.tick(ctx)
		case <-ctx.Done():
			p.drain()
			return nil
		}
		if p.done.err != nil {
			return fmt.Errorf("receiver for %s: %w", p.Name, p.done.err)
		}
	}
}

// drain takes verdicts that come in the last seconds, so that what was delivered is also acknowledged.
func (p *Pipeline) drain() {
	deadline := time.NewTimer(drainFor)
	defer deadline.Stop()
	for p.outstanding > 0 {
		select {
		case <-p.answers.wake:
			p.answers.run()
		case <-deadline.C:
			return
		}
	}
}

func (p *Pipeline) handle(ctx context.Context, ev event) {
	s := ev.source
	switch ev.Kind {
	case stream.Connected:
		s.connected = true
		if ev.floor != nil {
			s.floor = *ev.floor
		}
	case stream.Disconnected:
		s.connected = false
	case stream.Restarted:
		// Everything not acknowledged comes again and brings its new Ack along.
		for _, b := range s.inflight {
			b.message.Ack, b.message.InProgress = nil, nil
		}
	case stream.Delivered:
		if ev.history {
			p.takeHistory(ctx, s, ev.Message)
			return
		}
		s.connected = true
		p.take(ctx, s, ev.Message)
	}
}
