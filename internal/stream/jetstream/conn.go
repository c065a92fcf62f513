package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream/access"
	"github.com/nats-io/nats.go"
)

// Conn is one connection to NATS. It connects, and connects again, by itself until Close. It is safe for concurrent use.
type Conn struct {
	opts    Options
	way     *access.Access
	nc      atomic.Pointer[nats.Conn] // another one after nats.go gave it up
	log     *slog.Logger
	metrics *metrics
	link    *link
	denials denials
	closing atomic.Bool

	mu   sync.Mutex
	said map[string]bool // the reasons logged since the connection was lost
	// replaced is closed when nats.go has given up the connection and there is another one.
	replaced chan struct{}
}

// nats is the connection in use.
func (c *Conn) nats() *nats.Conn { return c.nc.Load() }

// Connect begins to connect to NATS. That no server answers is no error here: the connection goes on trying, says so in
// the log, and Ready, Open and the requests wait or fail. Errors are those of the options, of files that cannot be read,
// and of ctx.
func Connect(ctx context.Context, o Options) (*Conn, error) {
	if err := o.setDefaults(); err != nil {
		return nil, fmt.Errorf("connecting to NATS: %w", err)
	}
	way, err := access.New(o.Server)
	if err != nil {
		return nil, fmt.Errorf("connecting to NATS: %w", err)
	}
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, fmt.Errorf("connecting to NATS: %w", err)
	}
	c := &Conn{opts: o, way: way, log: o.Logger, metrics: m, link: newLink(), replaced: make(chan struct{})}
	nc, err := c.dial(ctx)
	if err != nil {
		c.closing.Store(true)
		return nil, fmt.Errorf("connecting to NATS: %w", err)
	}
	c.nc.Store(nc)
	return c, nil
}

// dial begins to connect.
func (c *Conn) dial(ctx context.Context) (*nats.Conn, error) {
	return c.way.Connect(ctx, func(err error) { c.onFailed(nil, err) },
		nats.ConnectHandler(c.onConnect), nats.ReconnectHandler(c.onConnect),
		nats.DisconnectErrHandler(c.onDisconnect), nats.ReconnectErrHandler(c.onFailed),
		nats.ErrorHandler(c.onError), nats.ClosedHandler(c.onClosed))
}

// onClosed opens another connection after nats.go gave one up for good, which it does after some errors of the server: a
// message above a max_payload that was lowered meanwhile, which the server does not tell its clients, is one.
func (c *Conn) onClosed(nc *nats.Conn) {
	if c.closing.Load() {
		return
	}
	reason := nc.LastError()
	if reason == nil {
		reason = nats.ErrConnectionClosed
	}
	c.link.setDown(reason)
	c.log.Warn("the server ended the connection to NATS for good: opening another one", "reason", reason)
	for {
		time.Sleep(c.opts.ReconnectWait)
		if c.closing.Load() {
			return
		}
		next, err := c.dial(context.Background())
		if err != nil {
			c.onFailed(nil, err)
			continue
		}
		c.nc.Store(next)
		if c.closing.Load() {
			next.Close()
		}
		c.mu.Lock()
		close(c.replaced)
		c.replaced = make(chan struct{})
		c.mu.Unlock()
		return
	}
}

// Replaced is closed when the connection that NATS gave is of no use any more and there is another one.
func (c *Conn) Replaced() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.replaced
}

// Close writes out what waits to be sent, for a second at most, and ends the connection.
func (c *Conn) Close() {
	if c.closing.Swap(true) {
		return
	}
	if c.nats().IsConnected() {
		_ = c.nats().FlushTimeout(time.Second)
	}
	c.nats().Close()
	c.link.setDown(nats.ErrConnectionClosed)
	c.way.Down()
}

// Connected tells whether the connection is up, and if not why, as far as that is known.
func (c *Conn) Connected() (bool, error) {
	s := c.link.state()
	return s.up, s.reason
}

// Stream and SchemasStream are the names of the streams in use.
func (c *Conn) Stream() string        { return c.opts.Stream }
func (c *Conn) SchemasStream() string { return c.opts.SchemasStream }

func (c *Conn) onConnect(nc *nats.Conn) {
	c.nc.Store(nc) // Connect may not have returned yet
	c.denials.forget()
	c.link.setUp()
	c.mu.Lock()
	c.said = nil
	c.mu.Unlock()
	c.way.Up(c.link.state().epoch > 1)
	c.log.Info("connected to NATS", "url", nc.ConnectedUrlRedacted(), "address", nc.ConnectedAddr(), "version", nc.ConnectedServerVersion())
}

// onDisconnect is told of a lost connection.
func (c *Conn) onDisconnect(nc *nats.Conn, err error) {
	if c.closing.Load() {
		return
	}
	if err == nil {
		err = nc.LastError() // what the server said before it closed the connection
	}
	if err == nil {
		err = errors.New("the server closed the connection")
	}
	err = c.way.Lost(err)
	c.way.Down()
	c.link.setDown(err)
	if c.first(err) {
		c.log.Warn("connection to NATS lost", "reason", err)
	}
}

// onFailed is told of every attempt to connect that fails; each reason is logged once. News that comes late, when there
// is a connection again, means nothing.
func (c *Conn) onFailed(_ *nats.Conn, err error) {
	if c.closing.Load() || errors.Is(err, nats.ErrNoServers) { // the latter only sums up the others
		return
	}
	err = c.way.Failed(err)
	if !c.link.fail(err) || !c.first(err) {
		return
	}
	c.log.Warn("no connection to NATS, trying on", "reason", err, "url", c.opts.Shown())
}

// first tells whether a reason is new since the connection was lost.
func (c *Conn) first(reason error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.said[reason.Error()] {
		return false
	}
	if c.said == nil {
		c.said = map[string]bool{}
	}
	c.said[reason.Error()] = true
	return true
}

// onError is told of errors that belong to no request.
func (c *Conn) onError(_ *nats.Conn, _ *nats.Subscription, err error) {
	if denied := access.Violation(err); denied != nil && denied.Subject == syncSubject {
		c.denials.deny(denied) // not needed
		return
	}
	if denied := c.way.Reported(err); denied != nil {
		c.denials.deny(denied)
		c.log.Debug("denied", "subject", denied.Subject, "reason", denied.Operation)
	}
}
