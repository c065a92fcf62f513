package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/choria-io/prometheus-streams/internal/config"
	"github.com/choria-io/prometheus-streams/internal/manage"
	"github.com/choria-io/prometheus-streams/internal/manage/micro"
	"github.com/choria-io/prometheus-streams/internal/receiver"
	"github.com/choria-io/prometheus-streams/internal/stream"
)

// circuitBreaker makes the process's breaker; the rooms that it stops are put under it while the house is built.
func (h *house) circuitBreaker() error {
	b, err := manage.New(manage.Config{
		Identity: h.cfg.Identity, Mode: string(h.env.Role), Version: h.env.Version,
		File: rememberedIn(h.cfg, h.env.Role), Ready: h.ready, SetLevel: h.env.log.setLevel,
		Logger: h.env.Logger, Registerer: h.env.Registry,
	})
	h.breaker = b
	return err
}

// rememberedIn is the file that remembers a pause: beside what the process keeps on disk anyway. "" remembers nothing.
func rememberedIn(c *config.Config, role config.Role) string {
	if c.Management == nil || !c.Management.Remember {
		return ""
	}
	var dir string
	switch role {
	case config.PollerRole:
		dir = c.Spool.Directory
	case config.ReceiverRole:
		dir = c.Receiver.StateDirectory
	default:
		dir = c.Embedded.Directory
	}
	return filepath.Join(dir, "management-"+string(role)+"-"+stream.EscapeToken(c.Identity)+".json")
}

// gate is what all deliveries of a receiver pass.
func (h *house) gate(m *receiver.Metrics) *receiver.Gate {
	g := receiver.NewGate(h.cfg.Management.Holds(), m, h.env.Logger)
	h.breaker.Manage(g)
	return g
}

// offerControl remembers the connection on which management is offered. It is the first one alone: over two that lead to
// the same network, the process would be asked twice, and a switch would undo itself.
//
// When the connection is replaced by another one, which replaced tells, that gets a new service.
func (h *house) offerControl(make func(subject string) *micro.Service, topic string, replaced func() <-chan struct{}) {
	if h.control == nil {
		h.control = func(ctx context.Context) error {
			return serveControl(ctx, func() *micro.Service { return make(stream.Subjects{Topic: topic}.Control(h.cfg.Identity)) }, replaced)
		}
	}
}

// serveControl runs the service of one connection after the other.
func serveControl(ctx context.Context, make func() *micro.Service, replaced func() <-chan struct{}) error {
	for ctx.Err() == nil {
		one, stop := context.WithCancel(ctx)
		gone := replaced()
		go func() {
			select {
			case <-gone:
				stop()
			case <-one.Done():
			}
		}()
		err := make().Run(one)
		stop()
		if err != nil {
			return err
		}
	}
	return nil
}

// management starts the ways by which people reach the breaker over a network, once everything that it stops is there.
func (h *house) management() error {
	if m := h.cfg.Management; m != nil && m.Micro && h.control != nil {
		h.actor(h.control)
	}
	h.announceLife()
	return h.choria()
}

// choriaTLS is the block with the certificates for the Choria network, that of the file unless management has its own, with the
// name in ours; nil without one. What is wrong with the files is the error.
func choriaTLS(c *config.Config) (t *config.TLS, identity string, notes []string, err error) {
	if t = c.Management.TLS; t == nil {
		t = c.TLS
	}
	if t == nil {
		return nil, "", nil, nil
	}
	identity = cmp.Or(t.Identity, c.Management.Identity)
	files, err := tlsFiles(t, identity)
	if err == nil {
		_, err = files.Config()
	}
	if err != nil {
		return nil, "", nil, fmt.Errorf("management: %w", err)
	}
	return t, identity, files.Notes(), nil
}

// pausedFact is the state for the status page.
func (h *house) pausedFact() string {
	if h.breaker.Paused() {
		return "yes"
	}
	return "no"
}

// controlOverHTTP does what a request over HTTP asks for.
func (h *house) controlOverHTTP(action, caller string) (any, error) {
	r := manage.Request{Caller: caller, Via: "http"}
	switch action {
	case "pause":
		return h.breaker.Pause(r)
	case "resume":
		return h.breaker.Resume(r)
	case "switch":
		return h.breaker.Switch(r)
	}
	return nil, fmt.Errorf("no such action: %q", action)
}

// setLevel sets the level by its name, until a reload.
func (l *logging) setLevel(name string) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cmp.Or(name, "info"))); err != nil {
		return err
	}
	l.level.Set(level)
	return nil
}
