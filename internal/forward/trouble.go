package forward

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
)

// What can keep the forwarder from storing anything.
const (
	starting     = "starting"     // nothing was stored yet: no trouble, but worth a line when it is over
	disconnected = "disconnected" // no connection, or the outcome of a message is unknown
	refusing     = "refused"      // the stream answers that it takes nothing
	full         = "full"         // the stream is at one of its limits
	denied       = "denied"       // no right to publish
	failing      = "failed"       // the spool cannot be read
)

// How long to wait before the next try.
const (
	firstDelay   = 100 * time.Millisecond // grows by two each time, up to the next two
	maxDelay     = 5 * time.Second
	maxRefused   = 30 * time.Second
	deniedDelay  = 30 * time.Second
	refusedDelay = time.Second
)

// trouble is the state in which nothing is stored. It is logged when it begins, changes and ends, not at each try.
type trouble struct {
	log     *slog.Logger
	metrics *metrics

	kind  string // empty if all is well
	since time.Time
	tries int // since the last message was stored
}

// begin notes that something went wrong and says how long to wait; more goes into the log.
func (t *trouble) begin(kind string, err error, more ...any) time.Duration {
	if t.kind != kind {
		if t.kind == "" {
			t.since = time.Now()
		}
		t.metrics.blockedBy(kind)
		t.kind = kind
		t.say(err, more)
	}
	t.tries++
	switch kind {
	case denied:
		return deniedDelay
	case refusing, full:
		return grown(refusedDelay, maxRefused, t.tries)
	}
	if t.tries == 1 && kind == disconnected { // Ready waits long enough
		return 0
	}
	return grown(firstDelay, maxDelay, t.tries)
}

func (t *trouble) say(err error, more []any) {
	args := append([]any{"error", err}, more...)
	if p := (*publishError)(nil); errors.As(err, &p) {
		args = append(args, "subject", p.subject)
	}
	switch t.kind {
	case denied:
		t.log.Error("the server denies the right to publish: the spool keeps everything until it is granted", args...)
	case refusing:
		t.log.Error("the stream refuses messages: the spool keeps them until it takes them", args...)
	case full:
		t.log.Error("the stream is full: the spool keeps everything until there is room", args...)
	case failing:
		t.log.Error("cannot read the spool: trying again", args...)
	default:
		t.log.Warn("cannot publish: the spool keeps everything, sending again when the stream is there", args...)
	}
}

// over notes that a message was stored.
func (t *trouble) over() {
	if t.tries = 0; t.kind == "" {
		return
	}
	t.metrics.blockedBy("")
	if t.kind == starting {
		t.log.Info("the stream stored the first message")
	} else {
		t.log.Info("the stream stores messages again", "reason", t.kind, "duration", time.Since(t.since))
	}
	t.kind = ""
}

// window is how many messages to send at once. While the stream refuses them the first two are enough to find out that
// it does no more, or refuses only one; now and then the whole window looks for one that passes behind many.
func (t *trouble) window(whole int) int {
	switch {
	case t.kind == denied, t.kind == full:
		return 1
	case t.kind == refusing && t.tries%4 != 0:
		return min(whole, 2)
	}
	return whole
}

// grown is a delay after some tries, spread so that many sites do not come back at one moment.
func grown(first, limit time.Duration, tries int) time.Duration {
	d := limit
	if tries < 16 {
		d = min(limit, first<<(tries-1))
	}
	return d - rand.N(d/4)
}

// recover discards the window and waits until it makes sense to send again from the first unacknowledged message. Its
// error is the next thing that went wrong.
func (f *Forwarder) recover(ctx context.Context, err error) error {
	f.inflight, f.sent = nil, f.acked
	if ctx.Err() != nil || errors.Is(err, errGoBack) {
		return nil
	}
	kind := disconnected
	switch {
	case errors.Is(err, stream.ErrPermission):
		kind = denied
	case errors.Is(err, stream.ErrFull):
		kind = full
	case refusal(err) && !f.looked:
		// The messages behind this window may pass, which makes it a matter of some messages, not of the stream.
		f.looked = true
		return nil
	case refusal(err):
		kind = refusing
	case errors.Is(err, errSpool):
		kind = failing
	}
	var more []any
	if kind == full && f.trouble.kind != full {
		more = f.usage(ctx)
	}
	if !sleep(ctx, f.trouble.begin(kind, err, more...)) || kind == failing {
		return nil
	}
	if kind == disconnected {
		f.parts = parts{}
		f.registry.hasten(refreshReconnect)
	}
	return f.ready(ctx)
}

// informer is a Publisher that can be asked how full its stream is, if it has the right to look.
type informer interface {
	Usage(ctx context.Context) (stream.Usage, error)
}

// usage says for the log what a full stream holds of what it may; nothing if that cannot be told.
func (f *Forwarder) usage(ctx context.Context) (args []any) {
	i, ok := f.publisher.(informer)
	if !ok {
		return nil
	}
	u, err := i.Usage(ctx)
	switch {
	case err != nil:
		f.log.Debug("cannot tell how full the stream is", "error", err)
	case u.MaxBytes > 0:
		args = append(args, "bytes", u.Bytes, "limit", u.MaxBytes)
	case u.MaxMessages > 0:
		args = append(args, "count", u.Messages, "limit", u.MaxMessages)
	}
	return args
}

// ready waits for the stream. An error of it is as good as one of publishing.
func (f *Forwarder) ready(ctx context.Context) error {
	err := f.publisher.Ready(ctx)
	if err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// sleep tells whether the time passed without ctx ending.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// pace bounds the bytes sent per second.
type pace struct {
	rate int64
	free time.Time // when the next message may go
}

func (p *pace) wait(ctx context.Context, bytes int) error {
	if p.rate <= 0 {
		return nil
	}
	now := time.Now()
	if p.free.Before(now) {
		p.free = now
	}
	if !sleep(ctx, p.free.Sub(now)) {
		return ctx.Err()
	}
	p.free = p.free.Add(time.Duration(float64(bytes) / float64(p.rate) * float64(time.Second)))
	return nil
}
