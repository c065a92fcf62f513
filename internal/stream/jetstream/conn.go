package jetstream

import (
	"context"
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
	log     *slog.Logger
	metrics *metrics
	link    *link
	denials denials
	closing atomic.Bool

	mu   sync.Mutex
	said map[string]bool // the reasons logged since the connection was lost
}

// nats is the connection in use.
func (c *Conn) nats() *nats.Conn { return c.way.Conn() }

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
	c := &Conn{opts: o, way: way, log: o.Logger, metrics: m, link: newLink()}
	err = way.Connect(ctx, access.Handlers{Connected: c.onConnect, Disconnected: c.onDisconnect, Failed: c.onFailed, Reported: c.onError})
	if err != nil {
		return nil, fmt.Errorf("connecting to NATS: %w", err)
	}
	return c, nil
}

// Close writes out what waits to be sent, for a second at most, and ends the connection.
func (c *Conn) Close() {
	if c.closing.Swap(true) {
		return
	}
	if c.nats().IsConnected() {
		_ = c.nats().FlushTimeout(time.Second)
	}
	c.way.Close()
	c.link.setDown(nats.ErrConnectionClosed)
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
	c.denials.forget()
	c.link.setUp()
	c.mu.Lock()
	c.said = nil
	c.mu.Unlock()
	c.way.Up(c.link.state().epoch > 1)
	c.log.Info("connected to NATS", "url", access.Connected(nc), "address", nc.ConnectedAddr(), "version", nc.ConnectedServerVersion())
}

// onDisconnect is told of a lost connection.
func (c *Conn) onDisconnect(err error) {
	c.link.setDown(err)
	if c.first(err) {
		c.log.Warn("connection to NATS lost", "reason", err)
	}
}

// onFailed is told of every attempt to connect that fails; each reason is logged once. News that comes late, when there
// is a connection again, means nothing.
func (c *Conn) onFailed(err error) {
	if c.link.fail(err) && c.first(err) {
		c.log.Warn("no connection to NATS, trying on", "reason", err, "url", c.opts.Shown())
	}
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
func (c *Conn) onError(err error) {
	if denied := access.Violation(err); denied != nil && denied.Subject == syncSubject {
		c.denials.deny(denied) // not needed
		return
	}
	if denied := c.way.Reported(err); denied != nil {
		c.denials.deny(denied)
		c.log.Debug("denied", "subject", denied.Subject, "reason", denied.Operation)
	}
}
