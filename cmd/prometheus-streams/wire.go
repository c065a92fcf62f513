package main

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	oklog "github.com/oklog/run"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/choria-io/prometheus-streams/internal/config"
	"github.com/choria-io/prometheus-streams/internal/manage"
	"github.com/choria-io/prometheus-streams/internal/manage/lifecycle"
	"github.com/choria-io/prometheus-streams/internal/manage/micro"
	"github.com/choria-io/prometheus-streams/internal/stream/access"
	"github.com/choria-io/prometheus-streams/internal/stream/embedded"
	"github.com/choria-io/prometheus-streams/internal/stream/jetstream"
)

// The files wire*.go are the only ones that know both the configuration and the rooms. A house is put up room by room,
// runs until the first actor ends or the context does, and is taken down in reverse.

// drainFor is how long a stopping poller goes on sending what it made.
const drainFor = 4 * time.Second

// house is a process being put together.
type house struct {
	env     *environment
	cfg     *config.Config
	group   oklog.Group
	closers []func()
	web     webParts
	breaker *manage.Breaker
	control func(context.Context) error // nil until there is a connection
	// networks are the connections of the streams.
	networks []network
	// selfScrapes counts for all sinks what was not written of publishers; nil if no sink is told.
	selfScrapes *prometheus.CounterVec
}

// pollerGC is how much garbage, in percent of what is in use, a poller may gather: it makes little once it knows its
// targets, and the edge has other work for the memory. GOGC goes before it.
const pollerGC = 25

func runPoller(ctx context.Context, env *environment) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(pollerGC)
	}
	return live(ctx, env, func(h *house) error {
		if h.cfg.PollerStream.ClusterID != "" {
			return h.streamingEdge(ctx)
		}
		conn, err := h.connect(ctx, published(h.cfg.PollerStream), "poller", nil)
		if err != nil {
			return err
		}
		return h.edge(conn, conn.SyncInterval)
	})
}

func runReceiver(ctx context.Context, env *environment) error {
	return live(ctx, env, func(h *house) error {
		blocks, err := h.blocks(ctx)
		if err != nil {
			return err
		}
		return h.centre(blocks)
	})
}

func runStandalone(ctx context.Context, env *environment) error {
	return live(ctx, env, func(h *house) error {
		server, err := embedded.Start(embedded.Options{
			Directory: h.cfg.Embedded.Directory, Listen: h.cfg.Embedded.Listen, MaxBytes: int64(h.cfg.Embedded.MaxBytes),
			Logger: env.Logger,
		})
		if err != nil {
			return err
		}
		h.closers = append(h.closers, func() { _ = server.Close() })
		s := standaloneStream(h.cfg)
		conn, err := h.connect(ctx, s, "standalone", server)
		if err != nil {
			return err
		}
		b := newBlock(conn, s, h.streamConfig(&s.Stream, true))
		if err := b.ready(ctx, env.Logger); err != nil {
			return err
		}
		if err := h.centre([]inlet{b}); err != nil {
			return err
		}
		syncs := func(context.Context) (time.Duration, error) { return server.SyncInterval(), nil }
		if err := h.edge(conn, syncs); err != nil {
			return err
		}
		h.announce()
		return nil
	})
}

// live puts a house up, lets it live until ctx ends, and takes it down.
func live(ctx context.Context, env *environment, build func(*house) error) error {
	h := &house{env: env, cfg: env.Config}
	defer h.close()
	if err := h.circuitBreaker(); err != nil {
		return err
	}
	if err := h.listen(); err != nil {
		return err
	}
	if err := build(h); err != nil {
		return err
	}
	if err := h.management(); err != nil {
		return err
	}
	h.serve()
	h.actor(func(actx context.Context) error {
		select {
		case <-ctx.Done():
		case <-actx.Done():
		}
		return nil
	})
	return h.group.Run()
}

// actor adds something that runs until its context ends. The first to return ends all others.
func (h *house) actor(run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	h.group.Add(func() error { return run(ctx) }, func(error) { cancel() })
}

// close closes what was opened, the last first.
func (h *house) close() {
	for i := len(h.closers) - 1; i >= 0; i-- {
		h.closers[i]()
	}
}

// connect opens a connection to NATS, which goes on trying for as long as the process lives.
func (h *house) connect(ctx context.Context, s *config.ReceiverStream, role string, server access.InProcess) (*jetstream.Conn, error) {
	o, err := h.natsOptions(s)
	if err != nil {
		return nil, fmt.Errorf("%s_stream: %w", role, err)
	}
	o.Server = h.named(o.Server, role)
	o.InProcess = server
	conn, err := jetstream.Connect(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("%s_stream: %w", role, err)
	}
	h.closers = append(h.closers, conn.Close)
	h.networks = append(h.networks, conn.NATS())
	h.offerControl(func(subject string) *micro.Service {
		return micro.New(micro.Options{Conn: conn.NATS(), Subject: subject, Breaker: h.breaker, Logger: h.env.Logger})
	}, conn.Topic(), conn.Replaced)
	return conn, nil
}

// named adds to a server who this process is to it, and where the connection is told of.
func (h *house) named(s access.Server, role string) access.Server {
	s.Name = clientName(h.cfg, role)
	s.Logger, s.Registerer = h.env.Logger, h.env.Registry
	s.Optional = lifecycle.Prefix
	return s
}

func clientName(c *config.Config, role string) string {
	return "prometheus-streams " + role + " " + c.Identity
}
