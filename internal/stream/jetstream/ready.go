package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Pauses between attempts at what others have to mend.
const (
	firstPause = 250 * time.Millisecond
	longPause  = 10 * time.Second
	// renewAfter is how long the server may go on denying our inbox before we connect again to ask for it anew.
	renewAfter = 30 * time.Second
)

// Ready waits until the connection is up, the subjects may be published on and a stream takes them. Until then the log
// says what is wrong, once for each change (of the connection, the Conn itself says it). Messages that were not yet sent have failed when it returns nil. Its error
// is that of ctx, with what was wrong last.
func (p *Publisher) Ready(ctx context.Context) error {
	if p.narrow.Swap(false) { // a server does not tell its clients of another max_payload, but new ones
		_ = p.c.nats().ForceReconnect() // fails only when there is no connection
	}
	err := p.c.until(ctx, &p.state, "publishing has to wait", func(ctx context.Context) error {
		for _, subject := range p.subjects {
			if err := p.c.probe(ctx, subject); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.queue {
		p.end(m, stream.Result{Err: fmt.Errorf("publishing on %s: %w", m.msg.Subject, stream.ErrDisconnected)})
	}
	p.queue, p.failed = nil, nil
	p.state.over(p.c, "publishing again")
	return nil
}

// until tries again and again, with growing pauses, while connected, until it succeeds or ctx ends.
func (c *Conn) until(ctx context.Context, n *notice, what string, try func(context.Context) error) error {
	var last error
	since := time.Now()
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		state, err := c.link.waitUp(ctx)
		if err == nil {
			if err = try(ctx); err == nil {
				return nil
			}
		}
		if ctx.Err() != nil {
			if last == nil {
				last = err
			}
			return fmt.Errorf("%w while waiting (%w)", ctx.Err(), last)
		}
		last = err
		if permanent(err) {
			return err
		}
		n.say(c, what, err)
		var denied *stream.PermissionError
		if errors.As(err, &denied) && denied.Operation == "subscribe" && time.Since(since) > renewAfter {
			since = time.Now()
			_ = c.nats().ForceReconnect()
		}
		select {
		case <-time.After(pause):
		case <-state.changed:
			pause = firstPause
		case <-ctx.Done():
		}
	}
}

// errConflict marks what does not pass by waiting: somebody has to change a configuration.
var errConflict = errors.New("not usable")

func permanent(err error) bool { return errors.Is(err, errConflict) }

// probeStream is a stream that cannot be: names have no blanks.
const probeStream = "no such stream, only asking"

// probe asks whether we may publish on a subject and whether a stream takes it, without storing anything: the message
// demands to be stored in a stream that cannot exist, so the stream that takes the subject refuses it. This needs no
// right but to publish there.
func (c *Conn) probe(ctx context.Context, subject string) error {
	m := &nats.Msg{Subject: subject, Header: nats.Header{jetstream.ExpectedStreamHeader: {probeStream}}}
	answer, err := c.request(ctx, m)
	if errors.Is(err, errNobody) {
		return c.whyNobody(ctx, subject)
	}
	if err != nil {
		return err
	}
	var head struct {
		Error  *jetstream.APIError `json:"error"`
		Stream string              `json:"stream"`
	}
	if err := json.Unmarshal(answer.Data, &head); err != nil || (head.Error == nil && head.Stream == "") {
		return fmt.Errorf("asking for a stream on %s: something that is no stream answered", subject)
	}
	if head.Error != nil && head.Error.Code >= 500 {
		return fmt.Errorf("asking for a stream on %s: %w", subject, apiError(head.Error))
	}
	return nil
}

// whyNobody finds out whether JetStream is there at all; one who may not ask hears that there is no stream.
func (c *Conn) whyNobody(ctx context.Context, subject string) error {
	if err := c.call(ctx, "INFO", nil, nil); errors.Is(err, ErrNoJetStream) {
		return err
	}
	return fmt.Errorf("%w takes %s", ErrNoStream, subject)
}
