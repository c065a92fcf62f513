package jetstream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/nats-io/nats.go/jetstream"
)

// followKept is how long the server keeps a Follower's consumer that nobody uses.
const followKept = 5 * time.Minute

// Follower receives from a point in time on, without a durable and without acknowledgements: who starts again says
// again from when. It needs the right to create consumers. Open and Receive belong to one goroutine.
type Follower struct {
	c      *Conn
	from   time.Time
	filter string
	state  notice
	presence

	consumer string // as the server knows it; empty when a new one is needed
	created  time.Time
	last     uint64    // handed out last, or what lies before the first
	stored   time.Time // when the last one was stored; zero if none was handed out
	pending  atomic.Int64
}

// Follow makes a Follower of the messages stored since from; the zero time means all. An empty filter is the connection's.
func (c *Conn) Follow(from time.Time, filter string) *Follower {
	if filter == "" {
		filter = c.opts.Filter
	}
	return &Follower{c: c, from: from, filter: filter}
}

// Open waits until the stream is there and may be received from; the Floor's Sequence is the one before the first
// message to come. While it waits the log says why, once for each change. Its error is that of ctx.
func (f *Follower) Open(ctx context.Context) (stream.Floor, error) {
	var floor stream.Floor
	err := f.c.until(ctx, &f.state, "receiving has to wait", func(ctx context.Context) (err error) {
		f.consumer, f.stored = "", time.Time{}
		if err = f.create(ctx, f.from, 0); err != nil {
			return err
		}
		floor, err = f.c.floor(ctx, f.last, 0)
		f.created = floor.Created
		return err
	})
	if err != nil {
		return stream.Floor{}, fmt.Errorf("following stream %s: %w", f.c.opts.Stream, err)
	}
	f.state.over(f.c, "the stream is there", "stream", f.c.opts.Stream)
	return floor, nil
}

// create makes a consumer that begins at a sequence, or if that is 0 at a time.
func (f *Follower) create(ctx context.Context, from time.Time, seq uint64) error {
	cfg := jetstream.ConsumerConfig{
		Name: "follow-" + rand.Text(), Description: "prometheus-streams receiver", FilterSubject: f.filter,
		AckPolicy: jetstream.AckNonePolicy, ReplayPolicy: jetstream.ReplayInstantPolicy, MaxDeliver: -1,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: followKept,
	}
	switch {
	case seq > 0:
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, seq
	case from.IsZero():
		cfg.DeliverPolicy = jetstream.DeliverAllPolicy
	default:
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &from
	}
	info, err := f.c.createConsumer(ctx, cfg)
	if err != nil {
		return fmt.Errorf("creating a consumer of stream %s: %w", f.c.opts.Stream, err)
	}
	f.consumer, f.last = cfg.Name, info.Delivered.Stream
	f.pending.Store(int64(info.NumPending))
	return nil
}

// Pending is how many messages of the stream are still to come, as last heard.
func (f *Follower) Pending() int64 { return f.pending.Load() }

// Receive hands events to handle, messages in the order of the stream, until ctx ends; then it returns nil. The handler
// may block. After a lost connection or a restart of the server it goes on behind the last message; only if the stream
// is another one or was set back does it go on by time, after Restarted, and messages may repeat.
func (f *Follower) Receive(ctx context.Context, handle func(stream.Event)) error {
	f.presence = presence{link: f.c.link, emit: handle}
	var n notice
	for wait := firstPause; ctx.Err() == nil; wait = min(2*wait, longPause) {
		began := time.Now()
		err := f.session(ctx, &n)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errLink), errors.Is(err, stream.ErrDisconnected), errors.Is(err, errOthers):
			wait = 10 * time.Millisecond
		default:
			n.say(f.c, "receiving stopped, trying again", err, "stream", f.c.opts.Stream)
		}
		if time.Since(began) > longPause {
			wait = firstPause
		}
		sleep(ctx, wait)
	}
	return nil
}

func (f *Follower) session(ctx context.Context, n *notice) error {
	state, err := f.up(ctx)
	if err != nil {
		return err
	}
	p, err := f.c.newPuller()
	if err != nil {
		return err
	}
	defer p.close()
	if err := f.resume(ctx); err != nil {
		return err
	}
	p.use(f.consumer)
	defer func() { f.consumer = "" }()
	n.over(f.c, "receiving again", "stream", f.c.opts.Stream)
	for expect := uint64(1); ; expect++ {
		m, err := p.next(ctx, state)
		if err != nil {
			return err
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("delivery on %s has a strange reply subject %q: %w", m.Subject, m.Reply, err)
		}
		if meta.Sequence.Consumer != expect {
			return errOthers // something was lost on the way
		}
		f.last, f.stored = meta.Sequence.Stream, meta.Timestamp
		f.pending.Store(int64(meta.NumPending))
		f.emit(stream.Event{Kind: stream.Delivered, Message: &stream.Message{
			Subject: m.Subject, Data: m.Data, Sequence: f.last, Stored: f.stored, Ack: nothing, InProgress: nothing,
		}})
	}
}

// resume makes a consumer behind the last message, unless Open has just made one.
func (f *Follower) resume(ctx context.Context) error {
	if f.consumer != "" {
		return nil
	}
	info, err := f.c.streamInfo(ctx, f.c.opts.Stream)
	if err != nil {
		return fmt.Errorf("looking at stream %s: %w", f.c.opts.Stream, err)
	}
	if f.created.Equal(info.Created) && info.State.LastSeq >= f.last {
		return f.create(ctx, time.Time{}, f.last+1)
	}
	from := f.stored
	if from.IsZero() {
		from = f.from
	}
	f.c.log.Warn("the stream was made anew or set back, going on by time", "stream", f.c.opts.Stream, "seq", f.last, "from", from)
	f.created = info.Created
	f.emit(stream.Event{Kind: stream.Restarted})
	return f.create(ctx, from, 0)
}
