package main

import (
	"context"
	"fmt"
	"time"

	"github.com/choria-io/prometheus-streams/internal/config"
	"github.com/choria-io/prometheus-streams/internal/forward"
	"github.com/choria-io/prometheus-streams/internal/manage/micro"
	"github.com/choria-io/prometheus-streams/internal/poller"
	"github.com/choria-io/prometheus-streams/internal/receiver"
	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/choria-io/prometheus-streams/internal/stream/streaming"
)

// A stream block with cluster_id is on NATS Streaming, which carries messages of format 1 and nothing else.

// link is a connection as readiness and the status page see it, whatever the carrier.
type link interface {
	Connected() (bool, error)
	Stream() string
}

// outlet is where an edge sends what it makes.
type outlet struct {
	link      link
	publisher forward.Publisher
	subject   string          // of the frames
	subjects  stream.Subjects // of the schemas
	format1   *poller.Format1 // nil: format 2
	// syncs asks how often the stream's disk is synced; nil if that cannot be asked.
	syncs func(context.Context) (time.Duration, error)
}

// inlet is a stream block of a receiver.
type inlet interface {
	link() link
	// follow receives from a time on and remembers nothing; durable goes on where the sink of that name was.
	follow(h *house, from time.Time) receiver.Source
	durable(h *house, sink string) (receiver.Source, error)
}

// durableName is the name of a sink's durable on a stream. On NATS Streaming that of the Push Gateway is the client id
// alone, as in version 1.0, so that a receiver goes on where the one before it stopped.
func durableName(s *config.Stream, sink string) string {
	if s.ClusterID != "" && sink == pushGatewaySink {
		return s.ClientID
	}
	return s.ClientID + "-" + sink
}

// connectStreaming opens a connection to NATS Streaming, which goes on trying for as long as the process lives.
func (h *house) connectStreaming(ctx context.Context, s *config.Stream, role, clientID string) (*streaming.Conn, error) {
	o, err := h.natsOptions(published(s))
	if err != nil {
		return nil, fmt.Errorf("%s_stream: %w", role, err)
	}
	if o.InboxPrefix != "" || o.Domain != "" {
		return nil, fmt.Errorf("%s_stream: inbox_prefix and domain, also of a context, are of JetStream: they do not go with cluster_id", role)
	}
	conn, err := streaming.Connect(ctx, streaming.Options{
		Server: h.named(o.Server, role), ClusterID: s.ClusterID, ClientID: clientID, Topic: s.Topic,
	})
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

// streamingEdge adds poller, spool and forwarder for NATS Streaming.
func (h *house) streamingEdge(ctx context.Context) error {
	s := h.cfg.PollerStream
	conn, err := h.connectStreaming(ctx, s, "poller", s.ClientID)
	if err != nil {
		return err
	}
	if !h.cfg.Labels().IsEmpty() {
		h.env.Logger.Warn("messages on NATS Streaming have no room for external_labels: they are not sent", "stream", s.ClusterID)
	}
	report := h.cfg.Poller.Format1Report
	return h.edgeTo(outlet{
		link: conn, publisher: conn.Publisher(), subject: s.Topic, subjects: stream.Subjects{Topic: s.Topic},
		format1: &poller.Format1{Report: report},
	})
}

// streamingBlock is a stream block of a receiver on NATS Streaming.
type streamingBlock struct {
	conn   *streaming.Conn
	stream *config.Stream
}

func (b *streamingBlock) link() link { return b.conn }

func (b *streamingBlock) follow(_ *house, from time.Time) receiver.Source {
	return b.source(streaming.ConsumerOptions{From: from})
}

func (b *streamingBlock) durable(_ *house, sink string) (receiver.Source, error) {
	return b.source(streaming.ConsumerOptions{Durable: durableName(b.stream, sink)}), nil
}

func (b *streamingBlock) source(o streaming.ConsumerOptions) receiver.Source {
	return receiver.Source{Name: b.conn.Stream(), Consumer: b.conn.Consumer(o)}
}

// checkStreaming tells whether a server of the cluster id answers. It uses a client id of its own: that of the process
// which is to run may be in use.
func (h *house) checkStreaming(ctx context.Context, s *config.Stream, role string) error {
	conn, err := h.connectStreaming(ctx, s, role, s.ClientID+"_check")
	if err != nil {
		return err
	}
	if err := connected(ctx, conn); err != nil {
		return fmt.Errorf("%s_stream: cluster_id %s: %w", role, s.ClusterID, err)
	}
	_, _ = fmt.Fprintf(h.env.Stdout, "%s_stream: the NATS Streaming server of cluster_id %s answers; the topic is %s\n", role, s.ClusterID, s.Topic)
	return nil
}
