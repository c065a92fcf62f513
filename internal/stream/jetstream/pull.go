package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/nats-io/nats.go"
)

// Settings of pull requests. A request is open for a short time, so that one that died with its process does not
// swallow messages for long; while it is open the server shows every few seconds that it is alive.
const (
	pullExpires   = 15 * time.Second
	pullHeartbeat = 5 * time.Second
	pullMessages  = 512
	pullBytes     = 8 << 20
)

// Reasons for which a pull ends.
var (
	errLink   = errors.New("the connection changed")
	errGone   = errors.New("the consumer or its stream is gone")
	errMute   = errors.New("the consumer does not answer")
	errOthers = errors.New("messages went to another receiver")
)

// puller fetches messages of one consumer at a time, one request after the other: the next one is made only when all
// messages of the one before were taken. So at most one request's worth of messages waits here, however slow the taker.
type puller struct {
	c     *Conn
	sub   *nats.Subscription
	in    chan *nats.Msg
	inbox string

	verb   string // of the consumer in use
	number int    // of the open request, which is the last token of its inbox
	open   bool
	left   int // messages the open request may still bring
	mute   int // requests in a row without a sign of life
	beat   *time.Timer
	denied chan error
	stop   func() // ends the watch for denials
}

// newPuller subscribes to an inbox for all requests: messages that an old request still draws arrive, and are seen.
func (c *Conn) newPuller() (*puller, error) {
	p := &puller{c: c, denied: make(chan error, 1), beat: time.NewTimer(time.Hour)}
	return p, p.renew()
}

// renew takes another inbox, so that the server no longer answers the requests of before.
func (p *puller) renew() (err error) {
	if p.sub != nil {
		_ = p.sub.Unsubscribe() // fails only when the connection is gone
	}
	p.inbox, p.in = p.c.nats().NewInbox(), make(chan *nats.Msg, 4*pullMessages)
	if p.sub, err = p.c.nats().ChanSubscribe(p.inbox+".*", p.in); err != nil && disconnected(err) {
		return fmt.Errorf("%w to NATS", stream.ErrDisconnected)
	}
	return err
}

func (p *puller) close() {
	p.beat.Stop()
	if p.stop != nil {
		p.stop()
	}
	if p.sub != nil {
		_ = p.sub.Unsubscribe() // fails only when the connection is gone
	}
}

// use makes the puller fetch from a consumer from now on; what is said of requests of before no longer matters.
func (p *puller) use(consumer string) {
	if p.stop != nil {
		p.stop()
	}
	select {
	case <-p.denied:
	default:
	}
	p.verb = p.c.api("CONSUMER.MSG.NEXT." + p.c.opts.Stream + "." + consumer)
	p.stop = p.c.denials.watch(p.verb, func(e *stream.PermissionError) { p.denied <- e })
	p.open, p.mute = false, 0
	p.number++
}

// drain throws away what has arrived: it is all to come again.
func (p *puller) drain() {
	for {
		select {
		case <-p.in:
		default:
			return
		}
	}
}

func (p *puller) request() error {
	p.number++
	// A message larger than max_bytes would never be delivered.
	bytes := max(pullBytes, 2*int(p.c.nats().MaxPayload()))
	body, err := json.Marshal(map[string]any{"batch": pullMessages, "max_bytes": bytes, "expires": pullExpires, "idle_heartbeat": pullHeartbeat})
	if err != nil {
		return err
	}
	if err = p.c.nats().PublishRequest(p.verb, p.inbox+"."+strconv.Itoa(p.number), body); err != nil {
		if disconnected(err) {
			return errLink
		}
		return fmt.Errorf("fetching: %w", err)
	}
	p.open, p.left = true, pullMessages
	p.beat.Reset(2 * pullHeartbeat)
	return nil
}

// next waits for the next message, making requests as needed, until the connection is no longer the one of state.
func (p *puller) next(ctx context.Context, state linkState) (*nats.Msg, error) {
	p.beat.Reset(2 * pullHeartbeat) // the taker may have been long about the last message
	for {
		select {
		case <-state.changed:
			return nil, errLink
		default:
		}
		if !p.open {
			if err := p.request(); err != nil {
				return nil, err
			}
		}
		select {
		case m := <-p.in:
			p.mute = 0
			p.beat.Reset(2 * pullHeartbeat)
			if !strings.HasPrefix(m.Subject, p.inbox) {
				if p.left--; p.left <= 0 {
					p.open = false
				}
				return m, nil
			}
			if err := p.status(m); err != nil {
				return nil, err
			}
		case <-p.beat.C:
			if p.mute++; p.mute >= 3 {
				return nil, errMute
			}
			p.open = false
		case err := <-p.denied:
			return nil, err
		case <-state.changed:
			return nil, errLink
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// status takes what the server says of a request.
func (p *puller) status(m *nats.Msg) error {
	if number := m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]; number != strconv.Itoa(p.number) {
		return nil
	}
	text := m.Header.Get("Description")
	switch m.Header.Get("Status") {
	case "100": // heartbeat
		return nil
	case "503":
		return errGone
	case "409":
		switch {
		case strings.EqualFold(text, "Consumer Deleted"):
			return errGone
		case strings.HasPrefix(text, "Batch Completed"), strings.HasPrefix(text, "Message Size"), strings.HasPrefix(text, "Leadership"),
			strings.HasPrefix(text, "Server Shutdown"):
		default:
			return fmt.Errorf("fetching: %s", text)
		}
	case "400":
		return fmt.Errorf("fetching: %s", text)
	}
	p.open = false
	return nil
}
