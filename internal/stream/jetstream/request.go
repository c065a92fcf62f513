package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Errors of requests to JetStream, besides those of package stream.
var (
	// ErrNoJetStream: the server or the account has no JetStream.
	ErrNoJetStream = errors.New("JetStream is not enabled there")
	// ErrNoStream: the stream does not exist, or no stream takes the subject.
	ErrNoStream = errors.New("no such stream")
	// ErrNoConsumer: the consumer does not exist.
	ErrNoConsumer = errors.New("no such consumer")
	// ErrNoAnswer: nothing answered in time; the request may or may not have been carried out.
	ErrNoAnswer = errors.New("no answer")
	// errNobody: the server said at once that nobody listens to the subject.
	errNobody = errors.New("nobody answers")
)

// denials matches the server's permission violations, which come apart from any request, with whoever waits.
type denials struct {
	mu      sync.Mutex
	waiting map[*denial]struct{}
	// inbox is set once the server denied an inbox: answers cannot come until the next connection.
	inbox *stream.PermissionError
}

// denial is one wait; told is called at most once, when the subject or an inbox is denied.
type denial struct {
	subject string
	told    func(*stream.PermissionError)
}

func (d *denials) watch(subject string, told func(*stream.PermissionError)) (stop func()) {
	w := &denial{subject: subject, told: told}
	d.mu.Lock()
	inbox := d.inbox
	if inbox == nil {
		if d.waiting == nil {
			d.waiting = map[*denial]struct{}{}
		}
		d.waiting[w] = struct{}{}
	}
	d.mu.Unlock()
	if inbox != nil {
		told(inbox)
	}
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.waiting, w)
	}
}

func (d *denials) deny(e *stream.PermissionError) {
	var hit []*denial
	d.mu.Lock()
	if e.Operation == "subscribe" {
		d.inbox = e // we subscribe to nothing else
	}
	for w := range d.waiting {
		if e.Operation == "subscribe" || w.subject == e.Subject {
			hit = append(hit, w)
			delete(d.waiting, w)
		}
	}
	d.mu.Unlock()
	for _, w := range hit {
		w.told(e)
	}
}

// forget is for a new connection, in which subscriptions are made anew and rights may differ.
func (d *denials) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inbox = nil
}

// api is the subject of a request to JetStream.
func (c *Conn) api(verb string) string {
	if c.opts.Domain != "" {
		return "$JS." + c.opts.Domain + ".API." + verb
	}
	return "$JS.API." + verb
}

// request sends a message and waits for one answer, for RequestTimeout at most.
func (c *Conn) request(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	ctx, stop := context.WithTimeoutCause(ctx, c.opts.RequestTimeout, ErrNoAnswer)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer c.denials.watch(m.Subject, func(e *stream.PermissionError) { cancel(e) })()
	if state := c.link.state(); state.up {
		go func() { // an answer cannot come once the connection is gone
			select {
			case <-state.changed:
				cancel(fmt.Errorf("%w to NATS", stream.ErrDisconnected))
			case <-ctx.Done():
			}
		}()
	}
	answer, err := c.nats().RequestMsgWithContext(ctx, m)
	switch {
	case err == nil:
		return answer, nil
	case ctx.Err() != nil:
		cause := context.Cause(ctx)
		if errors.Is(cause, ErrNoAnswer) {
			return nil, fmt.Errorf("%w to %s within %s", ErrNoAnswer, m.Subject, c.opts.RequestTimeout)
		}
		return nil, cause
	case errors.Is(err, nats.ErrNoResponders):
		return nil, fmt.Errorf("%w on %s", errNobody, m.Subject)
	case disconnected(err):
		return nil, fmt.Errorf("%w to NATS", stream.ErrDisconnected)
	}
	return nil, fmt.Errorf("requesting %s: %w", m.Subject, err)
}

// call makes a request to JetStream's API. in may be nil for an empty body; out takes the answer.
func (c *Conn) call(ctx context.Context, verb string, in, out any) error {
	m := &nats.Msg{Subject: c.api(verb)}
	if in != nil {
		body, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("requesting %s: %w", verb, err)
		}
		m.Data = body
	}
	answer, err := c.request(ctx, m)
	if errors.Is(err, errNobody) && c.opts.Domain != "" {
		return fmt.Errorf("%w: nobody answers for the domain %q", ErrNoJetStream, c.opts.Domain)
	}
	if errors.Is(err, errNobody) {
		return ErrNoJetStream
	}
	if err != nil {
		return err
	}
	return readAnswer(verb, answer.Data, out)
}

// readAnswer reads an answer of JetStream's API into out, which may be nil.
func readAnswer(verb string, data []byte, out any) error {
	var head struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return fmt.Errorf("answer to %s: %w", verb, err)
	}
	if head.Error != nil {
		return apiError(head.Error)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("answer to %s: %w", verb, err)
	}
	return nil
}

func apiError(e *jetstream.APIError) error {
	switch e.ErrorCode {
	case jetstream.JSErrCodeJetStreamNotEnabled, jetstream.JSErrCodeJetStreamNotEnabledForAccount:
		return fmt.Errorf("%w: %s", ErrNoJetStream, e.Description)
	case jetstream.JSErrCodeStreamNotFound:
		return ErrNoStream
	case jetstream.JSErrCodeConsumerNotFound:
		return ErrNoConsumer
	}
	return e
}

// disconnected tells whether an error of nats.go means that there is no connection now.
func disconnected(err error) bool {
	for _, e := range []error{nats.ErrDisconnected, nats.ErrConnectionClosed, nats.ErrConnectionReconnecting,
		nats.ErrReconnectBufExceeded, nats.ErrStaleConnection, nats.ErrNoServers, jetstream.ErrConnectionClosed} {
		if errors.Is(err, e) {
			return true
		}
	}
	return strings.Contains(err.Error(), "server is disconnected")
}

// remedy says of a state that keeps us waiting what can be done about it.
func (c *Conn) remedy(err error) string {
	var denied *stream.PermissionError
	switch {
	case errors.As(err, &denied) && denied.Operation == "subscribe":
		return "answers cannot arrive: allow the user to subscribe there, or set inbox_prefix to what it may subscribe to"
	case errors.As(err, &denied):
		return "allow the user to publish on that subject"
	case errors.Is(err, ErrNoJetStream):
		return "enable JetStream on the server and for the account, or set domain"
	case errors.Is(err, ErrNoStream):
		return "start a receiver that may create it, or run `check stream --create`"
	case errors.Is(err, ErrNoConsumer):
		return "allow the user to create it, or run `check stream --create`"
	case errors.Is(err, stream.ErrDisconnected):
		return "check that the server runs and is reachable"
	}
	return ""
}

// notice logs a state once, when it changes.
type notice struct{ said string }

func (n *notice) say(c *Conn, what string, err error, keys ...any) {
	if err.Error() == n.said {
		return
	}
	n.said = err.Error()
	keys = append(keys, "reason", err)
	if fix := c.remedy(err); fix != "" {
		what += "; " + fix
	}
	c.log.Warn(what, keys...)
}

// over logs that the state has passed, if one was said.
func (n *notice) over(c *Conn, what string, keys ...any) {
	if n.said != "" {
		c.log.Info(what, keys...)
	}
	n.said = ""
}
