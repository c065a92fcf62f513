package streaming

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/choria-io/prometheus-streams/internal/stream/access"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/stan.go"
)

// maxPings is after how many pings without an answer a session is given up.
const maxPings = 3

// closeFor bounds how long Close waits for the server.
const closeFor = time.Second

// The server's answers to a publish and a subscription of a client that it does not know.
const (
	errReplaced = "stan: invalid publish request"
	errUnknown  = "stan: unknown clientID"
)

// Conn is one client of NATS Streaming. It connects, and connects again, by itself until Close. It is safe for concurrent
// use.
type Conn struct {
	opts   Options
	way    *access.Access
	log    *slog.Logger
	cancel context.CancelFunc
	kept   chan struct{} // closed when keep has ended

	mu      sync.Mutex
	s       *session      // nil while there is none
	reason  error         // why there is none
	said    string        // the reason logged last
	changed chan struct{} // closed at each change of s
}

// session is one stan.Conn. It is over for good when lost is closed.
type session struct {
	sc   stan.Conn
	once sync.Once
	lost chan struct{}
	err  error // why, once lost is closed
	gone bool  // the server does not know it, or stan.go has closed it
}

// lose ends a session. With gone there is nothing to close: to ask the server for it by client id would end the session of
// whoever has the id now.
func (s *session) lose(err error, gone bool) {
	s.once.Do(func() {
		s.err, s.gone = err, gone
		close(s.lost)
	})
}

// Connect begins to connect. That no server answers is no error here: the connection goes on trying, says so in the log,
// and Ready and Open wait. Errors are those of the options, of files that cannot be read, and of ctx.
func Connect(ctx context.Context, o Options) (*Conn, error) {
	if err := o.setDefaults(); err != nil {
		return nil, fmt.Errorf("connecting to NATS Streaming: %w", err)
	}
	way, err := access.New(o.Server)
	if err != nil {
		return nil, fmt.Errorf("connecting to NATS Streaming: %w", err)
	}
	c := &Conn{
		opts: o, way: way, kept: make(chan struct{}), changed: make(chan struct{}),
		log: o.Logger.With("stream", o.ClusterID, "consumer", o.ClientID),
	}
	up := make(chan struct{}, 1)
	connected := func(*nats.Conn) {
		select {
		case up <- struct{}{}:
		default:
		}
	}
	err = way.Connect(ctx, access.Handlers{Connected: connected, Disconnected: c.onDisconnect, Failed: c.onFailed, Reported: c.onError})
	if err != nil {
		return nil, fmt.Errorf("connecting to NATS Streaming: %w", err)
	}
	kctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	go c.keep(kctx, up)
	return c, nil
}

// keep has a session whenever there can be one.
func (c *Conn) keep(ctx context.Context, up <-chan struct{}) {
	defer close(c.kept)
	wait := c.opts.ReconnectWait
	for ctx.Err() == nil {
		if !c.way.Conn().IsConnected() {
			select {
			case <-up:
			case <-time.After(c.opts.ReconnectWait): // in case the news came before we listened
			case <-ctx.Done():
			}
			continue
		}
		s, err := c.begin()
		if err != nil {
			c.trouble(err)
			select {
			case <-time.After(wait):
			case <-ctx.Done():
			}
			wait = min(2*wait, 10*c.opts.ReconnectWait)
			continue
		}
		wait = c.opts.ReconnectWait
		c.began(s)
		select {
		case <-s.lost:
			c.ended(s)
			// What stan.go still keeps of the session goes. While the connection is down this sends nothing; else the
			// server takes note, before the next session asks for the same client id.
			if !s.gone {
				_ = s.sc.Close()
			}
		case <-ctx.Done():
			c.leave(s)
		}
	}
}

// begin asks the server for a session.
func (c *Conn) begin() (*session, error) {
	s := &session{lost: make(chan struct{})}
	sc, err := stan.Connect(c.opts.ClusterID, c.opts.ClientID, stan.NatsConn(c.way.Conn()),
		stan.Pings(c.opts.pings(), maxPings), stan.ConnectWait(c.opts.RequestTimeout), stan.PubAckWait(c.opts.PublishTimeout),
		stan.MaxPubAcksInflight(maxUnanswered),
		stan.SetConnectionLostHandler(func(_ stan.Conn, err error) { s.lose(err, true) }))
	if err != nil {
		return nil, err
	}
	s.sc = sc
	return s, nil
}

func (c *Conn) began(s *session) {
	c.mu.Lock()
	again := c.reason != nil
	c.s, c.reason, c.said = s, nil, ""
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
	if !c.way.Conn().IsConnected() {
		s.lose(stream.ErrDisconnected, false) // the disconnect came before the session was known
	}
	c.way.Up(again)
	c.log.Info("connected to NATS Streaming", "url", access.Connected(c.way.Conn()), "address", c.way.Conn().ConnectedAddr(),
		"version", c.way.Conn().ConnectedServerVersion())
}

func (c *Conn) ended(s *session) {
	c.mu.Lock()
	c.s, c.reason = nil, s.err
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
	c.way.Down()
	c.log.Warn("connection to NATS Streaming lost", "reason", s.err)
}

// leave ends a session in good order.
func (c *Conn) leave(s *session) {
	c.mu.Lock()
	c.s, c.reason = nil, stream.ErrDisconnected
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
	s.lose(stream.ErrDisconnected, false)
	if c.way.Conn().IsConnected() {
		_ = c.way.Conn().FlushTimeout(closeFor)
	}
	_ = s.sc.Close()
}

// trouble notes why there is no session, and logs each reason once.
func (c *Conn) trouble(err error) {
	c.mu.Lock()
	c.reason = err
	said := c.said == err.Error()
	c.said = err.Error()
	c.mu.Unlock()
	switch {
	case said:
	case strings.Contains(err.Error(), "clientID already registered"):
		c.log.Error("another process is connected with the same client id: two pollers have one identity, or two processes "+
			"one client_id; trying until it is free", "error", err)
	case errors.Is(err, stan.ErrConnectReqTimeout):
		c.log.Warn("NATS answers, but no NATS Streaming server of this cluster id does; trying on", "error", err)
	default:
		c.log.Warn("no connection to NATS Streaming, trying on", "error", err)
	}
}

// onDisconnect is told of a lost connection.
func (c *Conn) onDisconnect(err error) {
	c.mu.Lock()
	s := c.s
	c.mu.Unlock()
	if s != nil {
		s.lose(err, false)
	} else {
		c.onFailed(err)
	}
}

// onFailed is told of every attempt to connect that fails. News that comes late, when there is a session again, means
// nothing.
func (c *Conn) onFailed(err error) {
	c.mu.Lock()
	quiet := c.s != nil || c.said == err.Error()
	if c.s == nil {
		c.reason, c.said = err, err.Error()
	}
	c.mu.Unlock()
	if !quiet {
		c.log.Warn("no connection to NATS, trying on", "reason", err, "url", c.opts.Shown())
	}
}

// onError is told of errors that belong to no request.
func (c *Conn) onError(err error) {
	if denied := c.way.Reported(err); denied != nil {
		c.log.Error("the server denies a right that NATS Streaming needs", "subject", denied.Subject, "reason", denied.Operation)
	}
}

// session waits for one. If ctx ends before, the error says why there is none.
func (c *Conn) session(ctx context.Context) (*session, error) {
	for {
		c.mu.Lock()
		s, reason, changed := c.s, c.reason, c.changed
		c.mu.Unlock()
		if s != nil {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if reason != nil {
				return nil, fmt.Errorf("%w to NATS Streaming: %w", stream.ErrDisconnected, reason)
			}
			return nil, fmt.Errorf("%w to NATS Streaming", stream.ErrDisconnected)
		}
	}
}

// Connected tells whether there is a session, and if not why, as far as that is known.
func (c *Conn) Connected() (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.s != nil, c.reason
}

// Stream is the cluster id, Topic the one subject of all messages.
func (c *Conn) Stream() string { return c.opts.ClusterID }

// Topic is the subject of all messages.
func (c *Conn) Topic() string { return c.opts.Topic }

// Close tells the server and ends the connection; it takes little more than a second at most.
func (c *Conn) Close() {
	c.way.Closing()
	c.cancel()
	select {
	case <-c.kept:
	case <-time.After(2 * closeFor):
	}
	c.way.Close()
}
