package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/nats-io/nats.go"
)

// syncSubject asks all servers what they say of their JetStream. Only the system account answers it: another one needs an
// import of this service. That is more than a site should be given, as a rule, so nobody relies on it.
const syncSubject = "$SYS.REQ.SERVER.PING.JSZ"

// moreAnswers is how long to wait for the next server's answer after one came.
const moreAnswers = 500 * time.Millisecond

// SyncInterval asks the servers how often they force what streams store to their disks: so much of what was acknowledged may
// be lost if the power fails there. The longest of their answers counts; 0 is before each acknowledgement. The error wraps
// stream.ErrNotFound if nobody answers this account, and stream.ErrPermission if the user may not ask.
func (c *Conn) SyncInterval(ctx context.Context) (time.Duration, error) {
	if _, err := c.link.waitUp(ctx); err != nil {
		return 0, fmt.Errorf("asking how often servers sync: %w", err)
	}
	ctx, stop := context.WithTimeoutCause(ctx, c.opts.RequestTimeout, stream.ErrNotFound)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer c.denials.watch(syncSubject, func(e *stream.PermissionError) { cancel(e) })()
	inbox := c.nats().NewInbox()
	sub, err := c.nats().SubscribeSync(inbox)
	if err == nil {
		defer func() { _ = sub.Unsubscribe() }()
		err = c.nats().PublishRequest(syncSubject, inbox, nil)
	}
	if err != nil {
		return 0, fmt.Errorf("asking how often servers sync: %w", err)
	}
	longest, answers := time.Duration(0), 0
	for {
		m, err := sub.NextMsgWithContext(ctx)
		switch {
		case err != nil && answers > 0:
			return longest, nil
		case errors.Is(err, nats.ErrNoResponders):
			return 0, fmt.Errorf("asking how often servers sync: %w: nobody answers on %s", stream.ErrNotFound, syncSubject)
		case ctx.Err() != nil:
			return 0, fmt.Errorf("asking how often servers sync: %w", context.Cause(ctx))
		case err != nil:
			return 0, fmt.Errorf("asking how often servers sync: %w", err)
		}
		interval, ok := syncOf(m.Data)
		if !ok {
			continue
		}
		if longest = max(longest, interval); answers == 0 {
			defer time.AfterFunc(moreAnswers, func() { cancel(nil) }).Stop()
		}
		answers++
	}
}

// syncOf reads one server's answer; a server without JetStream has none.
func syncOf(answer []byte) (time.Duration, bool) {
	var a struct {
		Data struct {
			Disabled bool `json:"disabled"`
			Config   *struct {
				SyncInterval time.Duration `json:"sync_interval"`
				SyncAlways   bool          `json:"sync_always"`
			} `json:"config"`
		} `json:"data"`
	}
	if json.Unmarshal(answer, &a) != nil || a.Data.Disabled || a.Data.Config == nil {
		return 0, false
	}
	switch s := a.Data.Config; {
	case s.SyncAlways:
		return 0, true
	case s.SyncInterval > 0:
		return s.SyncInterval, true
	}
	return 0, false // an older server, which does not tell
}
