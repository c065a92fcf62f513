package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/choria-io/prometheus-streams/internal/stream/access"
	"github.com/nats-io/nats.go"
)

// Conn is one connection to NATS. It connects, and connects again, by itself until Close. It is safe for concurrent use.
type Conn struct {
	opts    Options
	way     *access.Access
	nc      *nats.Conn
	log     *slog.Logger
	metrics *metrics
	link    *link
	denials denials
	closing atomic.Bool

	mu   sync.Mutex
	said map[string]bool // the reasons logged since the connection was lost
}

// Connect begins to connect to NATS. That no server answers is no error here: the connection goes on trying, says so in
// the log, and Ready, Open and the requests wait or fail. Errors are those of the options, of files that cannot be read,
// and of ctx.
func Connect(ctx context.Context, o Options) (*Conn, error) {
	if err := o.setDefaults(); err != nil {
		return nil, fmt.Errorf("connecting to NATS: %w", err)
	}
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, fmt.Errorf("connecting to NATS: %w", err)
	}
	way, err := o.access()
	if err != nil {
		return nil, fmt.Errorf("connecting to NATS: %w", err)
	}
	c := &Conn{opts: o, way: way, log: o.Logger, metrics: m, link: newLink()}
	opts := append(o.natsOptions(way),
		nats.ConnectHandler(c.onConnect), nats.ReconnectHandler(c.onConnect),
		nats.DisconnectErrHandler(c.onDisconnect), nats.ReconnectErrHandler(c.onFailed),
		nats.ErrorHandler(c.onError))
	m.connected.WithLabelValues(o.Name).Set(0)
	type made struct {
		nc  *nats.Conn
		err error
	}
	done := make(chan made, 1)
	go func() {
		nc, err := nats.Connect(strings.Join(o.servers(), ","), opts...)
		done <- made{nc, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, fmt.Errorf("connecting to NATS: %w", r.err)
		}
		c.nc = r.nc
		way.Watch(r.nc, func(err error) { c.onFailed(nil, err) })
		return c, nil
	case <-ctx.Done():
		c.closing.Store(true)
		go func() {
			if r := <-done; r.nc != nil {
				r.nc.Close()
			}
		}()
		return nil, fmt.Errorf("connecting to NATS: %w", ctx.Err())
	}
}

// Close writes out what waits to be sent, for a second at most, and ends the connection.
func (c *Conn) Close() {
	if c.closing.Swap(true) {
		return
	}
	if c.nc.IsConnected() {
		_ = c.nc.FlushTimeout(time.Second)
	}
	c.nc.Close()
	c.link.setDown(nats.ErrConnectionClosed)
	c.metrics.connected.WithLabelValues(c.opts.Name).Set(0)
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
	c.metrics.connected.WithLabelValues(c.opts.Name).Set(1)
	if c.link.state().epoch > 1 {
		c.metrics.reconnects.WithLabelValues(c.opts.Name).Inc()
	}
	c.log.Info("connected to NATS", "url", nc.ConnectedUrlRedacted(), "address", nc.ConnectedAddr(), "version", nc.ConnectedServerVersion())
}

// onDisconnect is told of a lost connection.
func (c *Conn) onDisconnect(_ *nats.Conn, err error) {
	if c.closing.Load() {
		return
	}
	if err == nil {
		err = errors.New("the server closed the connection")
	}
	err = c.way.Lost(err)
	c.metrics.connected.WithLabelValues(c.opts.Name).Set(0)
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
	c.log.Warn("no connection to NATS, trying on", "reason", err, "url", c.redactedURLs())
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

func (c *Conn) redactedURLs() string {
	if c.opts.InProcess != nil {
		return "in process"
	}
	return strings.Join(redact(c.opts.servers()), ",")
}

var userInfo = regexp.MustCompile(`^([a-z]+://)?[^@/]*@`)

func redact(urls []string) []string {
	out := make([]string, len(urls))
	for i, u := range urls {
		out[i] = userInfo.ReplaceAllString(u, "$1")
	}
	return out
}

var violation = regexp.MustCompile(`(?i)permissions violation for (publish|subscription) to "([^"]*)"`)

// parseViolation finds out what a permissions violation denies; nil if the text says something else.
func parseViolation(text string) *stream.PermissionError {
	m := violation.FindStringSubmatch(text)
	if m == nil {
		return nil
	}
	e := &stream.PermissionError{Operation: "publish", Subject: m[2]}
	if strings.EqualFold(m[1], "subscription") {
		e.Operation = "subscribe"
	}
	return e
}

// onError is told of errors that belong to no request.
func (c *Conn) onError(_ *nats.Conn, _ *nats.Subscription, err error) {
	kind := "other"
	switch {
	case errors.Is(err, nats.ErrPermissionViolation):
		if denied := parseViolation(err.Error()); denied != nil {
			if c.opts.Optional != "" && strings.HasPrefix(denied.Subject, c.opts.Optional) {
				c.log.Debug("denied, and not needed", "subject", denied.Subject, "reason", denied.Operation)
				return
			}
			c.count("permission")
			c.denials.deny(denied)
			c.log.Debug("denied", "subject", denied.Subject, "reason", denied.Operation)
			return
		}
		kind = "permission"
	case errors.Is(err, nats.ErrSlowConsumer):
		kind = "slow_consumer" // what was dropped shows as a jump of the consumer's sequence
	}
	c.count(kind)
	c.log.Warn("NATS reported an error", "error", err)
}

func (c *Conn) count(kind string) { c.metrics.errors.WithLabelValues(c.opts.Name, kind).Inc() }
