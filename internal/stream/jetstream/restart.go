package jetstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/nats-io/nats.go/jetstream"
)

// restart makes the durable deliver everything that is not acknowledged again, in order. It returns the consumer
// sequence that the first delivery will have, or 0 if that is not known.
//
// Best is CONSUMER.RESET. A server that does not know it, or a user without the right to it, makes the durable anew
// behind its floor. Without that right either, nothing is fetched until all that is pending has outlived AckWait: then
// the server hands it out again, sorted, before anything new.
func (r *Consumer) restart(ctx context.Context, state linkState, p *puller, reason string) (uint64, error) {
	if err := r.bind(ctx); err != nil {
		return 0, err
	}
	r.c.way.Restarted(r.o.Durable, reason)
	r.deliveries.restart()
	p.drain() // before the reset: what comes after it may be new
	if !r.quiet {
		r.quiet = true
		r.emit(stream.Event{Kind: stream.Restarted})
	}
	err := r.reset(ctx, state)
	if err == nil {
		return 1, nil
	}
	if !errors.Is(err, errNoReset) {
		return 0, err
	}
	again, err2 := r.recreate(ctx)
	if err2 == nil || !errors.Is(err2, stream.ErrPermission) {
		return again, err2
	}
	r.c.log.Debug("the consumer can be neither reset nor made anew", "consumer", r.o.Durable, "reason", errors.Join(err, err2))
	return 0, r.outwait(ctx, state, p)
}

// errNoReset: the server does not know CONSUMER.RESET, or does not let us use it.
var errNoReset = errors.New("no reset")

func (r *Consumer) reset(ctx context.Context, state linkState) error {
	if r.noReset == state.epoch {
		return errNoReset
	}
	verb := "CONSUMER.RESET." + r.c.opts.Stream + "." + r.o.Durable
	attempts := 2
	if !r.c.knowsReset() {
		attempts = 1
	}
	var err error
	for range attempts {
		var answer jetstream.ConsumerInfo
		err = r.c.call(ctx, verb, nil, &answer)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, stream.ErrPermission):
			r.noReset = state.epoch
			return fmt.Errorf("%w: %w", errNoReset, err)
		case !errors.Is(err, ErrNoAnswer) && !errors.Is(err, ErrNoJetStream):
			return fmt.Errorf("resetting consumer %s: %w", r.o.Durable, err)
		}
		select {
		case <-state.changed:
			return errLink
		default:
		}
	}
	// The durable is there, but nobody takes the request: the server is older than it.
	r.noReset = state.epoch
	return fmt.Errorf("%w: %w", errNoReset, err)
}

// knowsReset guesses from the version of the server that we are connected to, which need not be the one that has the
// consumer.
func (c *Conn) knowsReset() bool {
	var major, minor int
	if _, err := fmt.Sscanf(c.nats().ConnectedServerVersion(), "%d.%d.", &major, &minor); err != nil {
		return true
	}
	return major > 2 || (major == 2 && minor >= 14)
}

// recreate makes the durable anew, to start behind its floor.
func (r *Consumer) recreate(ctx context.Context) (uint64, error) {
	if !r.o.Create {
		return 0, &stream.PermissionError{Operation: "publish", Subject: r.c.api("CONSUMER.CREATE." + r.c.opts.Stream + "." + r.o.Durable)}
	}
	name := r.o.Durable
	if err := r.c.call(ctx, "CONSUMER.DELETE."+r.c.opts.Stream+"."+name, nil, nil); err != nil && !errors.Is(err, ErrNoConsumer) {
		return 0, fmt.Errorf("deleting consumer %s: %w", name, err)
	}
	info, err := r.c.createDurable(ctx, startingAt(r.info.Config, r.floor.Sequence+1))
	if err != nil {
		// It is gone now; the next attempt makes it at the same place.
		return 0, fmt.Errorf("%w (%w)", errGone, err)
	}
	r.setPending(info.NumPending)
	return 1, nil
}

// outwait lets AckWait pass, if anything is pending at all. Requests that are still open must draw nothing meanwhile.
func (r *Consumer) outwait(ctx context.Context, state linkState, p *puller) error {
	if err := p.renew(); err != nil {
		return err
	}
	info, err := r.c.consumerInfo(ctx, r.o.Durable)
	if err != nil {
		return err
	}
	if info.NumAckPending == 0 {
		return nil
	}
	wait := info.Config.AckWait + time.Second
	r.c.log.Info("waiting for unacknowledged messages to come again; the right to CONSUMER.RESET would save the wait",
		"consumer", r.o.Durable, "stream", r.c.opts.Stream, "count", info.NumAckPending, "duration", wait)
	select {
	case <-time.After(wait):
		return nil
	case <-state.changed:
		return errLink
	case <-ctx.Done():
		return ctx.Err()
	}
}
