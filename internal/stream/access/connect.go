package access

import (
	"cmp"
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/choria-io/prometheus-streams/internal/stream"
)

// Handlers are told what becomes of the connection; all are set. None is called after Close.
type Handlers struct {
	// Connected is told of each connection that is made.
	Connected func(*nats.Conn)
	// Disconnected is told why one was lost, and Failed why an attempt to make one failed, both with what that means. News
	// of a failure may come late, when there is a connection again.
	Disconnected, Failed func(error)
	// Reported is told of errors that belong to no request.
	Reported func(error)
}

// Connect begins to connect, once. That no server answers is no error: it goes on trying until Close. Errors are those of
// the options and of ctx.
func (a *Access) Connect(ctx context.Context, h Handlers) error {
	a.handlers = h
	a.Down()
	type made struct {
		nc  *nats.Conn
		err error
	}
	done := make(chan made, 1)
	go func() {
		nc, err := a.dial()
		done <- made{nc, err}
	}()
	select {
	case r := <-done:
		if r.err == nil {
			a.use(r.nc)
		}
		return r.err
	case <-ctx.Done():
		a.closing.Store(true)
		go func() {
			if r := <-done; r.nc != nil {
				r.nc.Close()
			}
		}()
		return ctx.Err()
	}
}

func (a *Access) dial() (*nats.Conn, error) {
	made := new(atomic.Pointer[nats.Conn])
	connected := func(nc *nats.Conn) {
		made.Store(nc) // dial may not have returned yet
		a.conn.Store(nc)
		a.handlers.Connected(nc)
	}
	opts := slices.Concat(a.server.nats(), a.nats(made), []nats.Option{
		nats.ConnectHandler(connected), nats.ReconnectHandler(connected), nats.ClosedHandler(a.onClosed),
		nats.DisconnectErrHandler(a.onDisconnect),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { a.onFailed(err) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { a.handlers.Reported(err) }),
	})
	nc, err := nats.Connect(strings.Join(a.server.servers(), ","), opts...)
	if err == nil {
		made.Store(nc)
	}
	return nc, err
}

// use makes a connection the one in use.
func (a *Access) use(nc *nats.Conn) {
	a.conn.Store(nc)
	a.watch(nc)
	if a.closing.Load() {
		nc.Close()
	}
}

func (a *Access) onDisconnect(nc *nats.Conn, err error) {
	if a.closing.Load() {
		return
	}
	if err == nil {
		err = nc.LastError() // what the server said before it closed the connection
	}
	if err == nil {
		err = errors.New("the server closed the connection")
	}
	a.Down()
	a.handlers.Disconnected(a.Lost(err))
}

func (a *Access) onFailed(err error) {
	if a.closing.Load() || errors.Is(err, nats.ErrNoServers) { // the latter only sums up the others
		return
	}
	a.handlers.Failed(a.Failed(err))
}

// onClosed opens another connection after nats.go gave one up for good, which it does after some errors of the server: a
// message above a max_payload that was lowered meanwhile, which the server does not tell its clients, is one.
func (a *Access) onClosed(nc *nats.Conn) {
	if a.closing.Load() {
		return
	}
	a.server.Logger.Warn("the server ended the connection to NATS for good: opening another one", "reason", cmp.Or(nc.LastError(), nats.ErrConnectionClosed))
	for {
		time.Sleep(a.server.ReconnectWait)
		if a.closing.Load() {
			return
		}
		next, err := a.dial()
		if err != nil {
			a.onFailed(err)
			continue
		}
		a.use(next)
		a.mu.Lock()
		close(a.replaced)
		a.replaced = make(chan struct{})
		a.mu.Unlock()
		return
	}
}

// Conn is the connection in use, until Replaced. It is not to be closed.
func (a *Access) Conn() *nats.Conn { return a.conn.Load() }

// Replaced is closed when Conn is of no use any more and there is another one.
func (a *Access) Replaced() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.replaced
}

// Closing ends the news: what is lost from here on is meant to be.
func (a *Access) Closing() { a.closing.Store(true) }

// Close ends the connection.
func (a *Access) Close() {
	a.closing.Store(true)
	a.Conn().Close()
	a.Down()
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
