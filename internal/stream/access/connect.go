package access

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/choria-io/prometheus-streams/internal/stream"
)

// Connect begins to connect. That no server answers is no error: the connection goes on trying, and failed is told of the
// attempts for which nats.go has no handler. Errors are those of the options and of ctx.
func (a *Access) Connect(ctx context.Context, failed func(error), opts ...nats.Option) (*nats.Conn, error) {
	a.Down()
	opts = slices.Concat(a.server.nats(), a.nats(), opts)
	type made struct {
		nc  *nats.Conn
		err error
	}
	done := make(chan made, 1)
	go func() {
		nc, err := nats.Connect(strings.Join(a.server.servers(), ","), opts...)
		done <- made{nc, err}
	}()
	select {
	case r := <-done:
		if r.err == nil {
			a.watch(r.nc, failed)
		}
		return r.nc, r.err
	case <-ctx.Done():
		go func() {
			if r := <-done; r.nc != nil {
				r.nc.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// Up notes that there is a connection; again, that it is not the first one.
func (a *Access) Up(again bool) {
	a.metrics.connected.WithLabelValues(a.server.Name).Set(1)
	if again {
		a.metrics.reconnects.WithLabelValues(a.server.Name).Inc()
	}
}

// Down notes that there is no connection.
func (a *Access) Down() { a.metrics.connected.WithLabelValues(a.server.Name).Set(0) }

// Restarted counts that a consumer made the server deliver again what is not acknowledged.
func (a *Access) Restarted(consumer, reason string) {
	a.metrics.restarts.WithLabelValues(a.server.Name, consumer, reason).Inc()
}

// Published counts how a publish ended.
func (a *Access) Published(err error) {
	outcome := "unknown"
	switch {
	case err == nil:
		outcome = "stored"
	case errors.Is(err, stream.ErrTooLarge):
		outcome = "too_large"
	case errors.Is(err, stream.ErrRefused):
		outcome = "refused"
	case errors.Is(err, stream.ErrFull):
		outcome = "full"
	case errors.Is(err, stream.ErrPermission):
		outcome = "permission"
	case errors.Is(err, stream.ErrDisconnected):
		outcome = "disconnected"
	}
	a.metrics.published.WithLabelValues(a.server.Name, outcome).Inc()
}

// Reported takes an error that NATS reports apart from any request: it counts it, and logs it unless a right was denied,
// which is the carrier's to say. That a subject is denied which nobody relies on is neither counted nor told.
func (a *Access) Reported(err error) (denied *stream.PermissionError) {
	log, kind := a.server.Logger, "other"
	denied = Violation(err)
	switch {
	case denied != nil && a.server.Optional != "" && strings.HasPrefix(denied.Subject, a.server.Optional):
		log.Debug("denied, and not needed", "subject", denied.Subject, "reason", denied.Operation)
		return nil
	case errors.Is(err, nats.ErrPermissionViolation), denied != nil:
		kind = "permission"
	case errors.Is(err, nats.ErrSlowConsumer):
		kind = "slow_consumer" // what was dropped shows as a jump of the consumer's sequence
	}
	a.metrics.errors.WithLabelValues(a.server.Name, kind).Inc()
	if denied == nil {
		log.Warn("NATS reported an error", "error", err)
	}
	return denied
}

var violations = regexp.MustCompile(`(?i)permissions violation for (publish|subscription) to "([^"]*)"`)

// Violation finds out what a permissions violation denies; nil if the error says something else.
func Violation(err error) *stream.PermissionError {
	m := violations.FindStringSubmatch(err.Error())
	if m == nil {
		return nil
	}
	e := &stream.PermissionError{Operation: "publish", Subject: m[2]}
	if strings.EqualFold(m[1], "subscription") {
		e.Operation = "subscribe"
	}
	return e
}
