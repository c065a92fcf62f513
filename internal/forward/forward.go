// Package forward carries messages from the spool to the stream: go-back-N.
//
// Up to a window of messages is on its way at once, their acknowledgements are awaited in order, and the spool is
// trimmed as they come. After the first one whose outcome is unknown the rest of the window is discarded and everything
// from the first unacknowledged message on is sent again, the same bytes: the stream may hold a message twice, but never
// one for the first time after its successor. Receivers drop the repeats by epoch and sequence.
//
// Before a message goes out, the schemas that it names are stored; those in use are stored again at start, after a
// reconnect, when the stream's sequence goes back, and daily.
//
// One message that the stream refuses while later ones pass is set aside, counted and logged: it must not stop a site.
// When the stream refuses everything, or denies the right to publish, the spool keeps all of it.
package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/choria-io/prometheus-streams/internal/spool"
	"github.com/choria-io/prometheus-streams/internal/stream"
)

// Spool is where the messages wait.
type Spool interface {
	// Read returns up to max records after a position, in order, and waits until there is one. What is there it
	// returns even if ctx has ended, so that an ended ctx asks without waiting.
	Read(ctx context.Context, after spool.Position, max int) ([]spool.Entry, error)
	// Trim forgets all records up to and with a position.
	Trim(upTo spool.Position) error
	// Schema returns a schema that a record names or that is in use.
	Schema(id string) (spool.Schema, error)
	// Live names the schemas in use that the spool holds.
	Live() []string
}

// Publisher sends messages to the stream.
type Publisher interface {
	// Publish hands a message over without waiting, in order. The channel gives one result.
	Publish(subject string, data []byte) <-chan stream.Result
	// Ready waits until there is a connection and a stream that takes messages.
	Ready(ctx context.Context) error
}

// Config is what a Forwarder needs.
type Config struct {
	Spool     Spool
	Publisher Publisher
	// Window is how many messages may be on their way at once; 64 if not positive.
	Window int
	// BytesPerSecond bounds what is sent; no bound if not positive.
	BytesPerSecond int64
	// AckTimeout is how long a result may be missing before the outcome counts as unknown; 30 s if not positive.
	// It only guards against a publisher that forgets a result.
	AckTimeout time.Duration
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Forwarder is one spool's way to the stream.
type Forwarder struct {
	spool      Spool
	publisher  Publisher
	window     int
	ackTimeout time.Duration
	log        *slog.Logger
	metrics    *metrics

	acked       spool.Position // up to here everything is stored or set aside
	sent        spool.Position // the last one of the window
	highest     spool.Position // the last one ever sent
	inflight    []flight
	refused     map[spool.Position]struct{} // refused once while a later one passed
	connections uint64                      // how often the publisher's connection came back
	sequence    uint64                      // the stream's, of the last message stored
	looked      bool                        // whether the window was sent again after a refusal, to look behind it
	parts       parts
	// untrimmed tells that the last Trim went wrong.
	untrimmed bool

	registry registry
	pace     pace
	trouble  trouble
}

// flight is a message on its way.
type flight struct {
	spool.Entry
	sent time.Time
	// results are those of its parts, or of the whole.
	results []<-chan stream.Result
	err     error // it cannot be sent at all
}

var (
	// errGoBack sends everything unacknowledged again at once: nothing is wrong with the stream.
	errGoBack = errors.New("go back")
	// errSpool marks what went wrong on this side of the stream.
	errSpool = errors.New("spool")
)

// publishError is a publisher's error, with the subject for the log.
type publishError struct {
	subject string
	err     error
}

func (e *publishError) Error() string { return e.err.Error() }

func (e *publishError) Unwrap() error { return e.err }

// New makes a Forwarder.
func New(c Config) *Forwarder {
	if c.Window <= 0 {
		c.Window = 64
	}
	if c.AckTimeout <= 0 {
		c.AckTimeout = 30 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	m := newMetrics(c.Registerer)
	return &Forwarder{
		spool: c.Spool, publisher: c.Publisher, window: c.Window, ackTimeout: c.AckTimeout, log: c.Logger, metrics: m,
		refused:  map[spool.Position]struct{}{},
		registry: newRegistry(),
		pace:     pace{rate: c.BytesPerSecond},
		trouble:  trouble{log: c.Logger, metrics: m, kind: starting, since: time.Now()},
	}
}

// Run forwards until the spool is closed and all of it is stored, or until ctx ends; it returns nil then. What is not
// acknowledged stays in the spool. It is to be called once.
func (f *Forwarder) Run(ctx context.Context) error {
	err := f.ready(ctx)
	for ctx.Err() == nil {
		if err == nil {
			err = f.flow(ctx)
		}
		if errors.Is(err, spool.ErrClosed) {
			return nil
		}
		err = f.recover(ctx, err)
	}
	return nil
}

// flow keeps the window full until something goes wrong.
func (f *Forwarder) flow(ctx context.Context) error {
	for {
		if err := f.refresh(ctx); err != nil {
			return err
		}
		if err := f.fill(ctx); err != nil {
			return err
		}
		if err := f.settle(ctx); err != nil {
			return err
		}
	}
}

// fill sends what the window has room for. It waits for messages only if none is on its way.
func (f *Forwarder) fill(ctx context.Context) error {
	room := f.trouble.window(f.window) - len(f.inflight)
	if room <= 0 {
		return nil
	}
	due := f.registry.due
	if look := time.Now().Add(lookEvery); look.Before(due) {
		due = look
	}
	wait, cancel := context.WithDeadline(ctx, due)
	defer cancel()
	if len(f.inflight) > 0 {
		cancel()
	}
	entries, err := f.spool.Read(wait, f.sent, room)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, spool.ErrClosed) && len(f.inflight) > 0, wait.Err() != nil && errors.Is(err, wait.Err()):
		return nil
	case errors.Is(err, spool.ErrClosed):
		return err
	default:
		return fmt.Errorf("read the %w: %w", errSpool, err)
	}
	if err := f.storeNeeded(ctx, entries); err != nil {
		return err
	}
	for _, e := range entries {
		if err := f.pace.wait(ctx, len(e.Message)); err != nil {
			return err
		}
		f.send(e)
	}
	return nil
}

func (f *Forwarder) send(e spool.Entry) {
	f.metrics.messages.Inc()
	f.metrics.bytes.Add(float64(len(e.Message)))
	if e.Position <= f.highest {
		f.metrics.resent.Inc()
	}
	f.sent, f.highest = e.Position, max(e.Position, f.highest)
	results, err := f.publish(e.Message, func(int) string { return e.Subject })
	f.inflight = append(f.inflight, flight{Entry: e, sent: time.Now(), results: results, err: err})
}

// settle awaits the result of the oldest message on its way.
func (f *Forwarder) settle(ctx context.Context) error {
	if len(f.inflight) == 0 {
		return nil
	}
	head := f.inflight[0]
	r, err := f.awaitAll(ctx, head.results, head.err)
	if err != nil {
		return err
	}
	if f.parts.shrink(f.log, head.Subject, len(head.Message), r.Err) {
		return errGoBack
	}
	if refusal(r.Err) {
		return f.judge(ctx, r)
	}
	return f.conclude(head, r)
}

// conclude takes the oldest message off the window if it is stored.
func (f *Forwarder) conclude(head flight, r stream.Result) error {
	if r.Err != nil {
		f.metrics.publishErrors.Inc()
		return &publishError{head.Subject, r.Err}
	}
	f.metrics.publishTime.Observe(time.Since(head.sent).Seconds())
	f.metrics.published.Add(float64(head.Frames))
	f.metrics.lastStored.SetToCurrentTime()
	if r.Sequence != 0 {
		if r.Sequence <= f.sequence {
			f.log.Warn("the stream's sequence went back: it was made anew, all schemas are stored again",
				"subject", head.Subject, "from", f.sequence, "to", r.Sequence)
			f.registry.forget()
			f.sequence = r.Sequence
			if r, ok := f.spool.(rewinder); ok {
				f.stored()
				return f.rewind(r)
			}
		}
		f.sequence = r.Sequence
	}
	f.stored()
	return nil
}

// stored forgets the oldest message of the window, which the stream has.
func (f *Forwarder) stored() {
	f.looked = false
	f.trouble.over()
	f.done()
}

// rewinder is a Spool that keeps what was trimmed for a while.
type rewinder interface {
	// Rewind makes it readable again and returns the position before it.
	Rewind() spool.Position
}

// rewind sends again what the stream acknowledged not long ago and has lost.
func (f *Forwarder) rewind(r rewinder) error {
	to := r.Rewind()
	if to >= f.acked {
		return nil
	}
	f.log.Warn("sending again what the stream had acknowledged and may have lost", "count", uint64(f.acked-to))
	f.acked = to
	return errGoBack
}

// done forgets the oldest message of the window. A spool that cannot be trimmed is no reason to stop forwarding: the
// next trim takes what this one left.
func (f *Forwarder) done() {
	f.acked = f.inflight[0].Position
	f.inflight = f.inflight[1:]
	delete(f.refused, f.acked)
	err := f.spool.Trim(f.acked)
	if err != nil && !f.untrimmed {
		f.log.Error("cannot trim the spool: it grows though its messages are stored", "error", err)
	}
	f.untrimmed = err != nil
}

// judge decides on a window whose oldest message was refused. A message is set aside if it is refused twice while a
// later one passes: once may be a stream that was busy, and nothing must be lost to that.
func (f *Forwarder) judge(ctx context.Context, first stream.Result) error {
	results := []stream.Result{first}
	passed := 0 // index of the last message that was stored
	for i, later := range f.inflight[1:] {
		r, err := f.awaitAll(ctx, later.results, later.err)
		if err != nil {
			return err
		}
		results = append(results, r)
		if r.Err == nil {
			passed = i + 1
		}
	}
	for i, r := range results {
		head := f.inflight[0]
		if f.parts.shrink(f.log, head.Subject, len(head.Message), r.Err) {
			return errGoBack
		}
		if !refusal(r.Err) || i >= passed || narrow(r.Err) {
			if err := f.conclude(head, r); err != nil {
				return err
			}
			continue
		}
		f.metrics.publishErrors.Inc()
		if _, again := f.refused[head.Position]; !again {
			for j, r := range results[i:passed] {
				if refusal(r.Err) {
					f.refused[f.inflight[j].Position] = struct{}{}
				}
			}
			return errGoBack
		}
		f.setAside(head, r.Err)
		f.done()
	}
	return nil
}

func (f *Forwarder) setAside(e flight, err error) {
	reason := reasonOf(err)
	f.metrics.asideRecords.WithLabelValues(reason).Inc()
	f.metrics.asideFrames.WithLabelValues(reason).Add(float64(e.Frames))
	f.metrics.asideSamples.WithLabelValues(reason).Add(float64(e.Samples))
	f.log.Error("set aside a message that the stream refuses while others pass: its samples are lost",
		"subject", e.Subject, "reason", reason, "bytes", len(e.Message), "count", e.Samples, "error", err)
}

// await waits for one result. The error is ctx's alone: all else is the result's.
func (f *Forwarder) await(ctx context.Context, result <-chan stream.Result) (stream.Result, error) {
	select { // most are there already
	case r, ok := <-result:
		return known(r, ok), nil
	default:
	}
	timer := time.NewTimer(f.ackTimeout)
	defer timer.Stop()
	select {
	case r, ok := <-result:
		return known(r, ok), nil
	case <-timer.C:
		return stream.Result{Err: fmt.Errorf("no answer within %v", f.ackTimeout)}, nil
	case <-ctx.Done():
		return stream.Result{}, ctx.Err()
	}
}

func known(r stream.Result, ok bool) stream.Result {
	if !ok {
		return stream.Result{Err: errors.New("the publisher gave no result")}
	}
	return r
}

// refusal tells whether the stream answered that it does not take a message.
func refusal(err error) bool {
	return errors.Is(err, stream.ErrRefused) || errors.Is(err, stream.ErrTooLarge)
}

// Why something is set aside.
const (
	reasonTooLarge = "too_large"
	reasonRefused  = "refused"
	reasonMissing  = "missing"
)

func reasonOf(err error) string {
	if errors.Is(err, stream.ErrTooLarge) {
		return reasonTooLarge
	}
	return reasonRefused
}
