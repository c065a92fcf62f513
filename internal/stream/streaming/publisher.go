package streaming

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/stan.go"
)

// maxUnanswered bounds how many messages of a Publisher may be without a result; a forwarder's window is far below.
const maxUnanswered = 4096

// Publisher stores messages, in the order of the calls. Publish may be called by several goroutines, Ready by one at a time.
//
// After a failure that leaves a message's outcome open, or a loss of the session, all messages not yet sent fail with
// stream.ErrDisconnected, and so do new ones, until Ready has returned nil: otherwise a later message could be stored
// before the one that has to be sent again.
type Publisher struct {
	c *Conn

	mu      sync.Mutex
	s       *session
	queue   []*publish // not yet sent
	sending bool       // a goroutine empties the queue
	count   int        // without a result
	failed  error      // set until Ready
}

type publish struct {
	subject string
	data    []byte
	result  chan stream.Result
	done    bool
}

// Publisher makes a Publisher on the connection.
func (c *Conn) Publisher() *Publisher {
	return &Publisher{c: c, failed: fmt.Errorf("%w to NATS Streaming", stream.ErrDisconnected)}
}

// Ready waits for a session.
func (p *Publisher) Ready(ctx context.Context) error {
	s, err := p.c.session(ctx)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.s, p.failed = s, nil
	return nil
}

// Publish sends a message and returns at once; the channel gives exactly one Result. data must not be changed before.
func (p *Publisher) Publish(subject string, data []byte) <-chan stream.Result {
	m := &publish{subject: subject, data: data, result: make(chan stream.Result, 1)}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count++
	switch {
	case subject != p.c.opts.Topic: // nobody would read it there
		p.end(m, fmt.Errorf("publishing on %s: %w: NATS Streaming has the topic %s alone; it was made for another carrier",
			subject, stream.ErrRefused, p.c.opts.Topic))
	case p.failed != nil:
		p.end(m, p.failed)
	case p.count > maxUnanswered:
		p.end(m, fmt.Errorf("publishing on %s: %d messages wait for an answer, at most %d may", subject, p.count-1, maxUnanswered))
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
		s := p.s
		if p.failed != nil {
			p.end(m, p.failed)
			p.mu.Unlock()
			continue
		}
		p.mu.Unlock()
		_, err := s.sc.PublishAsync(m.subject, m.data, func(_ string, err error) { p.resolve(s, m, err) })
		if err != nil {
			p.resolve(s, m, err)
		}
	}
}

// resolve gives a message its result; s is the session it was sent in.
func (p *Publisher) resolve(s *session, m *publish, err error) {
	if err != nil && err.Error() == errReplaced {
		// The server does not know us: it lost its memory, or somebody else has our client id now.
		s.lose(err, true)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end(m, p.classify(m, err))
}

// classify says what an error means for the message. The server refuses nothing for what it is but its size; all else
// may pass by waiting.
func (p *Publisher) classify(m *publish, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("publishing on %s: %w: it has %d bytes, the server takes at most %d with those around it",
			m.subject, stream.ErrTooLarge, len(m.data), p.c.way.Conn().MaxPayload())
	case errors.Is(err, stan.ErrTimeout):
		return fmt.Errorf("publishing on %s: no answer within %s", m.subject, p.c.opts.PublishTimeout)
	case errors.Is(err, stan.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrDisconnected),
		errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionReconnecting), err.Error() == errReplaced:
		return fmt.Errorf("publishing on %s: %w to NATS Streaming", m.subject, stream.ErrDisconnected)
	}
	return fmt.Errorf("publishing on %s: %w", m.subject, err)
}

// end gives a message its result. mu is held.
func (p *Publisher) end(m *publish, err error) {
	if m.done {
		return
	}
	m.done = true
	p.count--
	p.c.way.Published(err)
	m.result <- stream.Result{Err: err}
	if p.failed == nil && err != nil && !errors.Is(err, stream.ErrTooLarge) && !errors.Is(err, stream.ErrRefused) {
		p.failed = fmt.Errorf("%w: not sent after a failure before it (%w)", stream.ErrDisconnected, err)
	}
}
