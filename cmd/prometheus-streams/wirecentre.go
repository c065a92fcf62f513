package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	promconfig "github.com/prometheus/common/config"

	"github.com/choria-io/prometheus-streams/internal/config"
	"github.com/choria-io/prometheus-streams/internal/receiver"
	"github.com/choria-io/prometheus-streams/internal/sink/gateway"
	"github.com/choria-io/prometheus-streams/internal/sink/pushgateway"
	"github.com/choria-io/prometheus-streams/internal/stream/jetstream"
)

// The names of the sinks, in durables, metrics and files.
const (
	gatewaySink     = "gateway"
	pushGatewaySink = "push_gateway"
)

// blocks connects to the streams that a receiver reads.
func (h *house) blocks(ctx context.Context) ([]inlet, error) {
	var out []inlet
	for i := range h.cfg.ReceiverStreams {
		s := &h.cfg.ReceiverStreams[i]
		if s.ClusterID != "" {
			conn, err := h.connectStreaming(ctx, &s.Stream, "receiver", s.ClientID)
			if err != nil {
				return nil, err
			}
			out = append(out, &streamingBlock{conn, &s.Stream})
			continue
		}
		conn, err := h.connect(ctx, s, "receiver", nil)
		if err != nil {
			return nil, err
		}
		out = append(out, newBlock(conn, s, h.streamConfig(&s.Stream, true)))
	}
	return out, nil
}

// durables are the names of the durables that a receiver needs on a stream: one per sink that keeps its place.
func durables(c *config.Config, s *config.ReceiverStream) []string {
	var out []string
	if c.PushGateway != nil {
		out = append(out, durableName(&s.Stream, pushGatewaySink))
	}
	for i := range c.RemoteWrite {
		out = append(out, durableName(&s.Stream, remoteWriteSink(c, i)))
	}
	return out
}

// centre adds a pipeline for each sink.
func (h *house) centre(blocks []inlet) error {
	state, err := stateDirectory(h.cfg, h.env.Role, h.env.Logger)
	if err != nil {
		return err
	}
	limits := receiverLimits(h.cfg)
	cache := ""
	if state != "" {
		cache = filepath.Join(state, "schemas")
	}
	schemas, err := receiver.NewSchemas(cache, limits.Frame, h.env.Logger)
	if err != nil {
		return err
	}
	schemas.Bound(memoryLimit() / 8)
	metrics := receiver.NewMetrics(h.env.Registry)
	publishers, err := receiver.NewPublishers(h.cfg.Receiver.Publishers, state, h.env.Registry, h.env.Logger)
	if err != nil {
		return err
	}
	h.actor(publishers.Run)
	common := receiver.Config{
		Publishers: publishers, Only: h.cfg.Receiver.Publishers,
		Schemas: schemas, StateDirectory: state, Limits: limits, Gate: h.gate(metrics),
		Metrics: metrics, Logger: h.env.Logger,
	}
	if h.cfg.Gateway != nil {
		if err := h.gateway(common, blocks, state); err != nil {
			return err
		}
	}
	if h.cfg.PushGateway != nil {
		if err := h.pushGateway(common, blocks, state); err != nil {
			return err
		}
	}
	for i := range h.cfg.RemoteWrite {
		if err := h.remoteWrite(common, blocks, i); err != nil {
			return err
		}
	}
	for _, b := range blocks {
		h.web.centre = append(h.web.centre, b.link())
	}
	return nil
}

// gateway adds the sink that Prometheus scrapes. It keeps no place in the stream: at each start it reads what is still
// worth showing.
func (h *house) gateway(common receiver.Config, blocks []inlet, state string) error {
	c := h.cfg.Gateway
	o := gateway.Options{
		MaxAge: time.Duration(h.cfg.MaxAge), Timestamps: c.Timestamps, PublisherLabel: string(c.PublisherLabel),
		MaxTargets: h.cfg.Receiver.Limits.Targets, MaxSeries: h.cfg.Receiver.Limits.Series,
		MaxPublisherSeries: h.cfg.Receiver.Limits.PublisherSeries,
		ExternalURL:        h.env.Flags.Web.ExternalURL, RoutePrefix: h.env.Flags.Web.RoutePrefix,
		StateDirectory: state, Logger: h.env.Logger, Registerer: h.env.Registry,
	}
	if c.StaleAfter != nil {
		o.StaleAfter = time.Duration(*c.StaleAfter)
	}
	g := gateway.New(o)
	common.Name, common.Sink, common.StateDirectory = gatewaySink, g, ""
	from := time.Now().Add(-g.Lookback())
	for _, b := range blocks {
		common.Sources = append(common.Sources, b.follow(h, from))
	}
	h.web.gateway = g
	return h.pipeline(common)
}

// pushGateway adds the sink that pushes.
func (h *house) pushGateway(common receiver.Config, blocks []inlet, state string) error {
	c := h.cfg.PushGateway
	client, err := promconfig.NewClientFromConfig(c.HTTP, "push_gateway")
	if err != nil {
		return fmt.Errorf("push_gateway: %w", err)
	}
	o := pushgateway.Options{
		URL: string(c.URL), PublisherLabel: string(c.PublisherLabel), Method: c.Method,
		MaxAge: time.Duration(h.cfg.MaxAge), HTTPClient: client, StateDirectory: state,
		Logger: h.env.Logger, Registerer: h.env.Registry,
	}
	if c.StaleAfter != nil {
		stale := time.Duration(*c.StaleAfter)
		o.StaleAfter = &stale
	}
	if c.Timeout != nil {
		o.Timeout = time.Duration(*c.Timeout)
	}
	s, err := pushgateway.New(o)
	if err != nil {
		return fmt.Errorf("push_gateway: %w", err)
	}
	h.breaker.Manage(s)
	h.actor(s.Run)
	common.Name, common.Sink = pushGatewaySink, s
	for _, b := range blocks {
		source, err := b.durable(h, pushGatewaySink)
		if err != nil {
			return err
		}
		common.Sources = append(common.Sources, source)
	}
	return h.pipeline(common)
}

func (b *block) link() link { return b.conn }

func (b *block) follow(h *house, from time.Time) receiver.Source {
	return b.source(h, b.conn.Follow(from, ""))
}

func (b *block) durable(h *house, sink string) (receiver.Source, error) {
	c, err := b.conn.Consumer(jetstream.ConsumerOptions{Durable: durableName(&b.stream.Stream, sink), Create: true})
	if err != nil {
		return receiver.Source{}, err
	}
	return b.source(h, c), nil
}

// source is a block in the receiver's words.
func (b *block) source(h *house, o opener) receiver.Source {
	return receiver.Source{
		Name: b.conn.Stream(), Consumer: consumer{b, h.env.Logger, o}, History: b, Registry: b, Publisher: b.Publisher,
	}
}

func (h *house) pipeline(c receiver.Config) error {
	p, err := receiver.New(c)
	if err != nil {
		return err
	}
	h.actor(p.Run)
	return nil
}

func receiverLimits(c *config.Config) receiver.Limits {
	out, in := receiver.DefaultLimits(), c.Receiver.Limits
	out.HoleAge, out.HoleBundles = time.Duration(in.HoleAge), in.HoleBundles
	out.SchemaAge = time.Duration(in.SchemaAge)
	out.HeldBytes, out.Lanes = int(in.HeldBytes), in.Lanes
	out.StateBytes, out.PublisherStateBytes = int64(in.StateBytes), int64(in.PublisherStateBytes)
	if out.StateBytes == 0 {
		sinks := len(c.RemoteWrite)
		if c.Gateway != nil {
			sinks++
		}
		if c.PushGateway != nil {
			sinks++
		}
		out.StateBytes = memoryLimit() / 4 / int64(max(1, sinks))
	}
	return out
}

// stateDirectory is where receivers remember things. A directory that the configuration names has to be writable; without
// the default one, nothing is remembered over a restart.
func stateDirectory(c *config.Config, role config.Role, logger *slog.Logger) (string, error) {
	dir, named := c.Receiver.StateDirectory, c.Receiver.StateDirectorySet
	if role == config.StandaloneRole && !named {
		dir, named = filepath.Join(c.Embedded.Directory, "state"), true
	}
	err := os.MkdirAll(dir, 0o750)
	if err == nil {
		var f *os.File
		if f, err = os.CreateTemp(dir, ".writable-*"); err == nil {
			_ = f.Close()
			err = os.Remove(f.Name())
		}
	}
	switch {
	case err == nil:
		return dir, nil
	case named:
		return "", fmt.Errorf("receiver.state_directory: %w", err)
	}
	logger.Warn("the state directory cannot be written to: after a restart, what was delivered may be delivered again and "+
		"groups of targets that are gone stay on a Push Gateway", "file", dir, "error", err)
	return "", nil
}
