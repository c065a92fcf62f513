package streaming

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/nats-io/stan.go"
)

// ConsumerOptions say what a Consumer receives.
type ConsumerOptions struct {
	// Durable is the name under which the server remembers, for the client id, what is acknowledged. Without one, From
	// is where to begin; nothing is remembered then.
	Durable string
	From    time.Time
	// MaxInflight is how many messages may be handed out and not acknowledged (512). It bounds the memory held here too.
	MaxInflight int
	// AckWait is after how long a message that is not acknowledged is handed out again (30 s, whole seconds).
	AckWait time.Duration
}

// Consumer receives the messages of the topic, all that the server has if it is new. It is used by one goroutine.
type Consumer struct {
	c *Conn
	o ConsumerOptions
	// last is the sequence of the last message handed over, for one that is not durable.
	last uint64
}

// Consumer makes a Consumer on the connection.
func (c *Conn) Consumer(o ConsumerOptions) *Consumer {
	if o.MaxInflight <= 0 {
		o.MaxInflight = 512
	}
	if o.AckWait < time.Second {
		o.AckWait = 30 * time.Second
	}
	return &Consumer{c: c, o: o}
}

// Open waits for a session. The floor is not known on this carrier.
func (r *Consumer) Open(ctx context.Context) (stream.Floor, error) {
	_, err := r.c.session(ctx)
	return stream.Floor{}, err
}

// Receive hands over events until ctx ends; it returns nil then. The handler may block: what the server sends meanwhile is
// at most MaxInflight messages. Messages can be acknowledged until the connection is closed.
func (r *Consumer) Receive(ctx context.Context, handle func(stream.Event)) error {
	down, began := false, false
	for ctx.Err() == nil {
		if up, _ := r.c.Connected(); !up && !down {
			down = true
			handle(stream.Event{Kind: stream.Disconnected})
		}
		s, err := r.c.session(ctx)
		if err != nil {
			return nil
		}
		if down {
			down = false
			handle(stream.Event{Kind: stream.Connected})
		}
		if began && r.o.Durable != "" {
			r.c.way.Restarted(r.o.Durable, "reconnect")
			handle(stream.Event{Kind: stream.Restarted})
		}
		in := newIntake()
		sub, err := s.sc.Subscribe(r.c.opts.Topic, in.put, r.options()...)
		if err != nil {
			// Another session may do better: requests that a server takes up late, after it stood still, confuse it.
			s.lose(fmt.Errorf("subscribing to %s: %w", r.c.opts.Topic, err), err.Error() == errUnknown)
			select {
			case <-time.After(r.c.opts.ReconnectWait):
			case <-ctx.Done():
			}
			continue
		}
		began = true
		if r.pass(ctx, s, in, handle); ctx.Err() != nil {
			return nil // and the subscription stays, for acknowledgements that are still to come
		}
		_ = sub.Close() // takes away what stan.go leaves of it
		down = true
		handle(stream.Event{Kind: stream.Disconnected})
	}
	return nil
}

// pass hands over messages until the session or ctx ends.
func (r *Consumer) pass(ctx context.Context, s *session, in *intake, handle func(stream.Event)) {
	for {
		for _, m := range in.take() {
			if ctx.Err() != nil {
				return
			}
			select {
			case <-s.lost: // it comes again, and could not be acknowledged
				return
			default:
			}
			r.last = max(r.last, m.Sequence)
			handle(stream.Event{Kind: stream.Delivered, Message: r.message(s, m)})
		}
		select {
		case <-in.wake:
		case <-s.lost:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (r *Consumer) message(s *session, m *stan.Msg) *stream.Message {
	return &stream.Message{
		Subject: m.Subject, Data: m.Data, Sequence: m.Sequence, Stored: time.Unix(0, m.Timestamp),
		Redelivered: m.Redelivered,
		Ack: func() error {
			select {
			case <-s.lost:
				return stream.ErrDisconnected
			default:
				return m.Ack()
			}
		},
		InProgress: func() error { return nil },
	}
}

func (r *Consumer) options() []stan.SubscriptionOption {
	opts := []stan.SubscriptionOption{stan.SetManualAckMode(), stan.MaxInflight(r.o.MaxInflight), stan.AckWait(r.o.AckWait)}
	switch {
	case r.o.Durable != "":
		return append(opts, stan.DurableName(r.o.Durable), stan.DeliverAllAvailable())
	case r.last > 0:
		return append(opts, stan.StartAtSequence(r.last+1))
	case r.o.From.IsZero():
		return append(opts, stan.DeliverAllAvailable())
	}
	return append(opts, stan.StartAtTime(r.o.From))
}

// intake holds messages between stan.go, which must not be blocked, and a handler that may be slow. A message that comes
// again while it waits here is one message, so that what the server repeats does not pile up.
type intake struct {
	wake chan struct{}

	mu      sync.Mutex
	queue   []*stan.Msg
	waiting map[uint64]struct{} // the sequences in queue
}

func newIntake() *intake {
	return &intake{wake: make(chan struct{}, 1), waiting: make(map[uint64]struct{})}
}

func (in *intake) put(m *stan.Msg) {
	in.mu.Lock()
	if _, again := in.waiting[m.Sequence]; !again {
		in.waiting[m.Sequence] = struct{}{}
		in.queue = append(in.queue, m)
	}
	in.mu.Unlock()
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

// take gives up to a few messages, and wakes the taker again if there are more.
func (in *intake) take() []*stan.Msg {
	const few = 16
	in.mu.Lock()
	defer in.mu.Unlock()
	n := min(few, len(in.queue))
	out := in.queue[:n:n]
	in.queue = in.queue[n:]
	for _, m := range out {
		delete(in.waiting, m.Sequence)
	}
	if len(in.queue) > 0 {
		select {
		case in.wake <- struct{}{}:
		default:
		}
	}
	return out
}
