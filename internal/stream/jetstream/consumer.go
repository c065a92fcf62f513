package jetstream

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/nats-io/nats.go/jetstream"
)

// Times of a Consumer.
const (
	// jumpWindow: a second jump within it means that somebody else uses the durable.
	jumpWindow = time.Minute
	// sharedPause is how long a Consumer then leaves the durable alone.
	sharedPause = time.Minute
	// oldGrace is how long deliveries from before a reset may still arrive.
	oldGrace = 2 * time.Second
)

// ConsumerOptions describe a durable.
type ConsumerOptions struct {
	// Durable is its name.
	Durable string
	// Filter for subjects; the connection's if empty.
	Filter string
	// Create makes the durable if it is absent. One that exists needs no right to create.
	Create bool
	// AckWait (30 s) and MaxAckPending (20,000) of a durable that is created.
	AckWait       time.Duration
	MaxAckPending int
}

func (o *ConsumerOptions) setDefaults(c *Conn) error {
	if err := checkName("consumer", o.Durable); err != nil {
		return err
	}
	if o.Filter == "" {
		o.Filter = c.opts.Filter
	}
	if o.AckWait <= 0 {
		o.AckWait = defaultAckWait
	}
	if o.MaxAckPending <= 0 {
		o.MaxAckPending = defaultMaxAckPending
	}
	return nil
}

// Consumer receives from a durable. Open and Receive belong to one goroutine; the messages' Ack and InProgress may be
// called from any, and do nothing once the consumer has restarted.
type Consumer struct {
	c     *Conn
	o     ConsumerOptions
	state notice
	presence
	quiet  bool // nothing was delivered since the last Restarted
	floor  stream.Floor
	info   *jetstream.ConsumerInfo
	jumped time.Time // when the last unexplained jump was; zero if none
	jumpIn uint64    // and in which connection
	// noReset is the connection in which CONSUMER.RESET turned out not to be possible.
	noReset uint64
	// window and pause are jumpWindow and sharedPause, except in tests.
	window, pause time.Duration

	deliveries deliveries
	pending    atomic.Int64
}

// Consumer makes a Consumer of a durable on the connection's stream.
func (c *Conn) Consumer(o ConsumerOptions) (*Consumer, error) {
	if err := o.setDefaults(c); err != nil {
		return nil, err
	}
	r := &Consumer{c: c, o: o, window: jumpWindow, pause: sharedPause}
	r.deliveries.c = c
	return r, nil
}

// Open finds the durable, or creates it if it may, and tells how far it has come. While there is no connection, no
// stream, no durable or no right, it waits and says so in the log, once for each change. Errors are that of ctx, with
// what was wrong last, and a durable that exists but cannot be used.
func (r *Consumer) Open(ctx context.Context) (stream.Floor, error) {
	err := r.c.until(ctx, &r.state, "receiving has to wait", r.bind)
	if err != nil {
		return stream.Floor{}, fmt.Errorf("opening consumer %s: %w", r.o.Durable, err)
	}
	r.state.over(r.c, "the consumer is there", "consumer", r.o.Durable, "stream", r.c.opts.Stream)
	return r.floor, nil
}

// bind finds or creates the durable and notes its floor.
func (r *Consumer) bind(ctx context.Context) error {
	info, err := r.c.consumerInfo(ctx, r.o.Durable)
	switch {
	case err == nil:
		if err := usable(info, &r.o); err != nil {
			return err
		}
	case errors.Is(err, ErrNoConsumer) && r.o.Create:
		start, err := r.start(ctx)
		if err != nil {
			return err
		}
		if info, err = r.c.createDurable(ctx, r.o.config(start)); err != nil {
			return err
		}
	default:
		return fmt.Errorf("looking at consumer %s of stream %s: %w", r.o.Durable, r.c.opts.Stream, err)
	}
	floor, err := r.c.floor(ctx, info.AckFloor.Stream, info.Delivered.Stream)
	if err != nil {
		return err
	}
	if r.floor.Created.Equal(floor.Created) { // a reset makes the server forget what it has delivered
		floor.Delivered = max(floor.Delivered, min(r.floor.Delivered, floor.Last))
	}
	r.info, r.floor = info, floor
	r.setPending(info.NumPending)
	return nil
}

// start is where a durable has to begin that is created now: after what we know to be acknowledged, if the stream is
// still the same, else at the stream's start.
func (r *Consumer) start(ctx context.Context) (uint64, error) {
	if r.floor.Sequence == 0 {
		return 0, nil
	}
	info, err := r.c.streamInfo(ctx, r.c.opts.Stream)
	if err != nil {
		return 0, err
	}
	if !info.Created.Equal(r.floor.Created) || info.State.LastSeq < r.floor.Sequence {
		return 0, nil
	}
	return r.floor.Sequence + 1, nil
}

// Pending is how many messages of the stream the durable was not yet handed, as last heard.
func (r *Consumer) Pending() int64 { return r.pending.Load() }

func (r *Consumer) setPending(n uint64) {
	r.pending.Store(int64(n))
	r.c.metrics.pending.WithLabelValues(r.c.opts.Name, r.o.Durable).Set(float64(n))
}

// Info asks the server for the state of the durable.
func (r *Consumer) Info(ctx context.Context) (Lag, error) {
	info, err := r.c.consumerInfo(ctx, r.o.Durable)
	if err != nil {
		return Lag{}, fmt.Errorf("looking at consumer %s: %w", r.o.Durable, err)
	}
	r.setPending(info.NumPending)
	return Lag{Pending: info.NumPending, AckPending: info.NumAckPending, Floor: info.AckFloor.Stream, Delivered: info.Delivered.Stream}, nil
}

// Lag is how far a durable is behind its stream.
type Lag struct {
	// Pending messages were not yet delivered; AckPending ones were, but are not acknowledged.
	Pending    uint64
	AckPending int
	// Floor and Delivered are sequences of the stream: all up to Floor are acknowledged, none after Delivered was delivered.
	Floor, Delivered uint64
}

// Receive hands events to handle, messages in the order of the stream, until ctx ends; then it returns nil. The handler
// may block: at most one request's worth of messages (512, or 8 MiB) waits meanwhile. Open has to come before.
//
// The first event is Restarted, and it comes again whenever everything that is not acknowledged is about to come again:
// after a reconnect and after a jump. Disconnected and Connected also frame the time in which the durable is left alone
// because another receiver uses it. An error means that a durable exists which cannot be used.
func (r *Consumer) Receive(ctx context.Context, handle func(stream.Event)) error {
	r.presence, r.quiet = presence{link: r.c.link, emit: handle}, false
	var n notice
	reason, wait := "start", firstPause
	for ctx.Err() == nil {
		began := time.Now()
		err := r.session(ctx, reason, &n)
		if time.Since(began) > longPause {
			wait = firstPause
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case permanent(err):
			return fmt.Errorf("receiving: %w", err)
		case errors.Is(err, errLink), errors.Is(err, stream.ErrDisconnected):
			reason = "reconnect"
			sleep(ctx, 10*time.Millisecond) // for the connection to notice too
			continue
		case errors.Is(err, errOthers):
			reason = "jump"
			r.jump(ctx)
			continue
		case errors.Is(err, errGone), errors.Is(err, ErrNoConsumer), errors.Is(err, ErrNoStream):
			reason = "gone"
		default:
			reason = "error"
		}
		n.say(r.c, "receiving stopped, trying again", err, "consumer", r.o.Durable, "stream", r.c.opts.Stream)
		sleep(ctx, wait)
		wait = min(2*wait, longPause)
	}
	return nil
}

// session receives until something makes it necessary to begin again.
func (r *Consumer) session(ctx context.Context, reason string, n *notice) error {
	state, err := r.up(ctx)
	if err != nil {
		return err
	}
	p, err := r.c.newPuller()
	if err != nil {
		return err
	}
	defer p.close()
	for {
		p.use(r.o.Durable)
		first, err := r.restart(ctx, state, p, reason)
		if err != nil {
			return err
		}
		n.over(r.c, "receiving again", "consumer", r.o.Durable, "stream", r.c.opts.Stream)
		err = r.take(ctx, p, state, first)
		r.deliveries.restart()
		if !errors.Is(err, errOthers) || !r.explained(state) {
			return err
		}
		// The inbox is kept: requests of before may be open, and what they draw has to be seen.
		r.c.log.Warn("deliveries of the consumer are missing, asking for them again", "consumer", r.o.Durable, "stream", r.c.opts.Stream)
		reason = "jump"
	}
}

// explained notes a jump; it returns false for the second one within the window in the same connection: a lost request
// of our own explains one, not two.
func (r *Consumer) explained(state linkState) bool {
	again := !r.jumped.IsZero() && time.Since(r.jumped) < r.window && r.jumpIn == state.epoch
	r.jumped, r.jumpIn = time.Now(), state.epoch
	return !again
}

// jump leaves the durable alone for a while, because another receiver uses it.
func (r *Consumer) jump(ctx context.Context) {
	r.jumped = time.Time{}
	r.c.metrics.shared.WithLabelValues(r.c.opts.Name, r.o.Durable).Inc()
	r.c.log.Error("another receiver uses the same consumer: each gets a part of the messages, so this one pauses; stop one of them or give it another client_id",
		"consumer", r.o.Durable, "stream", r.c.opts.Stream, "duration", r.pause)
	r.down()
	sleep(ctx, r.pause)
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// take hands on what arrives. first is the consumer sequence that has to come first, 0 if any may.
func (r *Consumer) take(ctx context.Context, p *puller, state linkState, first uint64) error {
	expect, since := first, time.Now()
	waiting := first > 0 // for the first delivery after a reset; all others are from before
	var last uint64
	for {
		m, err := p.next(ctx, state)
		if err != nil {
			return err
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("delivery on %s has a strange reply subject %q: %w", m.Subject, m.Reply, err)
		}
		seq := meta.Sequence.Consumer
		switch {
		case waiting && seq != expect:
			if time.Since(since) < oldGrace {
				continue
			}
			return errOthers
		case expect > 0 && seq != expect:
			return errOthers
		}
		waiting, expect = false, seq+1
		r.setPending(meta.NumPending)
		if r.deliveries.repeated(m, meta.Sequence.Stream, last, first > 0) {
			continue
		}
		last = max(last, meta.Sequence.Stream)
		r.quiet = false
		r.emit(stream.Event{Kind: stream.Delivered, Message: r.deliveries.message(m, meta)})
	}
}
