package jetstream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// maxUnanswered bounds how many messages of a Publisher may be without a result; a forwarder's window is far below.
const maxUnanswered = 4096

// PublisherOptions say what a Publisher is for.
type PublisherOptions struct {
	// Subjects on which Ready asks whether they may be published on and whether a stream takes them.
	Subjects []string
}

// Publisher stores messages in the stream, in the order of the calls. Publish may be called by several goroutines, Ready
// by one at a time.
//
// After a failure that leaves a message's outcome open, or a loss of the connection, all messages not yet sent fail with
// stream.ErrDisconnected, and so do new ones, until Ready has returned nil: otherwise a later message could be stored
// before the one that has to be sent again.
type Publisher struct {
	c        *Conn
	subjects []string
	state    notice

	mu      sync.Mutex
	queue   []*publish // not yet sent
	sending bool       // a goroutine empties the queue
	pending map[*nats.Msg]*publish
	count   int   // without a result
	failed  error // set until Ready

	// narrow: the server takes less than any message of use, or did when we connected.
	narrow atomic.Bool

	// js is the client of a connection; the goroutine that empties the queue uses it alone.
	js jetstream.JetStream
	of *nats.Conn
}

type publish struct {
	msg    *nats.Msg
	size   int
	result chan stream.Result
	stop   func() // ends the watch for a denial; nil until sent
	done   bool
}

// Publisher makes a Publisher on the connection.
func (c *Conn) Publisher(o PublisherOptions) (*Publisher, error) {
	p := &Publisher{c: c, subjects: o.Subjects, pending: map[*nats.Msg]*publish{}}
	if _, err := p.client(); err != nil {
		return nil, err
	}
	return p, nil
}

// client is that of the connection in use.
func (p *Publisher) client() (js jetstream.JetStream, err error) {
	nc := p.c.nats()
	if p.of == nc {
		return p.js, nil
	}
	opts := []jetstream.JetStreamOpt{
		jetstream.WithPublishAsyncTimeout(p.c.opts.PublishTimeout),
		jetstream.WithPublishAsyncMaxPending(maxUnanswered),
		jetstream.WithPublishAsyncAckHandler(func(_ jetstream.JetStream, m *nats.Msg, ack *jetstream.PubAck) {
			p.resolve(m, stream.Result{Sequence: ack.Sequence})
		}),
		jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, m *nats.Msg, err error) {
			p.fail(m, err)
		}),
	}
	if p.c.opts.Domain != "" {
		js, err = jetstream.NewWithDomain(nc, p.c.opts.Domain, opts...)
	} else {
		js, err = jetstream.New(nc, opts...)
	}
	if err != nil {
		return nil, fmt.Errorf("making a publisher: %w", err)
	}
	p.js, p.of = js, nc
	return js, nil
}

// Publish sends a message and returns at once; the channel gives exactly one Result. data must not be changed before.
func (p *Publisher) Publish(subject string, data []byte) <-chan stream.Result {
	m := &publish{msg: &nats.Msg{Subject: subject, Data: data}, size: len(data), result: make(chan stream.Result, 1)}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count++
	switch {
	case p.failed != nil:
		p.end(m, stream.Result{Err: p.failed})
	case p.count > maxUnanswered:
		p.end(m, stream.Result{Err: fmt.Errorf("publishing on %s: %d messages wait for an answer, at most %d may", subject, p.count-1, maxUnanswered)})
	default:
		p.queue = append(p.queue, m)
		if !p.sending {
			p.sending = true
			go p.send()
		}
	}
	return m.result
}

// send empties the queue. Writing to a stuck connection blocks, so it is not done by the caller.
func (p *Publisher) send() {
	for {
		p.mu.Lock()
		if len(p.queue) == 0 {
			p.sending, p.queue = false, nil
			p.mu.Unlock()
			return
		}
		m := p.queue[0]
		p.queue = p.queue[1:]
		if p.failed != nil {
			p.end(m, stream.Result{Err: p.failed})
			p.mu.Unlock()
			continue
		}
		p.pending[m.msg] = m
		p.mu.Unlock()
		p.sendOne(m)
	}
}

func (p *Publisher) sendOne(m *publish) {
	if most := p.c.nats().MaxPayload(); most > 0 && int64(m.size) > most {
		p.narrow.Store(most < stream.MinPart)
		p.resolve(m.msg, stream.Result{Err: tooLarge(m, most)})
		return
	}
	stop := p.c.denials.watch(m.msg.Subject, func(e *stream.PermissionError) { p.resolve(m.msg, stream.Result{Err: e}) })
	p.mu.Lock()
	m.stop = stop
	p.mu.Unlock()
	// No retry by the client: it would send one message alone again, behind those that followed it.
	js, err := p.client()
	if err == nil {
		_, err = js.PublishMsgAsync(m.msg, jetstream.WithRetryAttempts(0), jetstream.WithStallWait(p.c.opts.PublishTimeout))
	}
	if err != nil {
		p.fail(m.msg, err)
	}
}

// tooLarge is the error of a message above a limit; 0 is the stream's, which the poller may have no right to ask for.
func tooLarge(m *publish, limit int64) error {
	return fmt.Errorf("publishing on %s: %w", m.msg.Subject, &stream.TooLargeError{Size: int64(m.size), Limit: limit})
}

func (p *Publisher) fail(msg *nats.Msg, err error) {
	p.mu.Lock()
	m := p.pending[msg]
	p.mu.Unlock()
	if m != nil {
		p.resolve(msg, stream.Result{Err: p.classify(m, err)})
	}
}

// classify says what an error of nats.go means for the message. Only what the stream answers about the message itself is
// a refusal; what may pass by waiting is of unknown outcome, so that nobody sets a good message aside for it.
func (p *Publisher) classify(m *publish, err error) error {
	var api *jetstream.APIError
	switch {
	case errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamMessageExceedsMaximum:
		return tooLarge(m, 0)
	case errors.As(err, &api) && api.Code >= 400 && api.Code < 500:
		return fmt.Errorf("publishing on %s: %w: %s (%d)", m.msg.Subject, stream.ErrRefused, api.Description, api.ErrorCode)
	case errors.As(err, &api) && atLimit(api):
		return fmt.Errorf("publishing on %s: %w: %s (%d)", m.msg.Subject, stream.ErrFull, api.Description, api.ErrorCode)
	case errors.As(err, &api):
		return fmt.Errorf("publishing on %s: the stream cannot store it now: %s (%d)", m.msg.Subject, api.Description, api.ErrorCode)
	case errors.Is(err, nats.ErrMaxPayload):
		return tooLarge(m, p.c.nats().MaxPayload())
	case errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("publishing on %s: %w takes this subject", m.msg.Subject, ErrNoStream)
	case errors.Is(err, jetstream.ErrAsyncPublishTimeout):
		return fmt.Errorf("publishing on %s: %w within %s", m.msg.Subject, ErrNoAnswer, p.c.opts.PublishTimeout)
	case disconnected(err):
		return fmt.Errorf("publishing on %s: %w to NATS", m.msg.Subject, stream.ErrDisconnected)
	}
	return fmt.Errorf("publishing on %s: %w", m.msg.Subject, err)
}

// Usage asks how full the stream is, which needs the right to look at it.
func (p *Publisher) Usage(ctx context.Context) (stream.Usage, error) {
	info, err := p.c.streamInfo(ctx, p.c.opts.Stream)
	if err != nil {
		return stream.Usage{}, fmt.Errorf("looking at stream %s: %w", p.c.opts.Stream, err)
	}
	return stream.Usage{
		Messages: int64(info.State.Msgs), Bytes: int64(info.State.Bytes), MaxMessages: info.Config.MaxMsgs, MaxBytes: info.Config.MaxBytes,
	}, nil
}

func (p *Publisher) resolve(msg *nats.Msg, r stream.Result) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m := p.pending[msg]; m != nil {
		delete(p.pending, msg)
		p.end(m, r)
	}
}

// end gives a message its result. mu is held.
func (p *Publisher) end(m *publish, r stream.Result) {
	if m.done {
		return
	}
	m.done = true
	p.count--
	p.c.way.Published(r.Err)
	m.result <- r
	if m.stop != nil {
		m.stop()
	}
	if p.failed == nil && r.Err != nil && holdsUp(r.Err) {
		p.failed = fmt.Errorf("%w: not sent after a failure before it (%w)", stream.ErrDisconnected, r.Err)
		p.c.log.Debug("publishing stopped until the stream is ready again", "error", r.Err)
	}
}

// holdsUp tells whether later messages must wait: the same message will be sent again. What was refused for itself, or
// for its subject, may be set aside by the caller while the others pass.
func holdsUp(err error) bool {
	var denied *stream.PermissionError
	if errors.As(err, &denied) {
		return denied.Operation != "publish"
	}
	var large *stream.TooLargeError
	if errors.As(err, &large) {
		return large.Limit > 0 && large.Narrow() // it waits until the server takes more, and those behind it with it
	}
	return !errors.Is(err, stream.ErrRefused)
}
