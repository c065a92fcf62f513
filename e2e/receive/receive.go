// Package receive runs our receiver with a sink of its caller: the pipeline, the carrier and the state are those of the
// product, wired as the product wires them, so that what a test or a measurement sees is what every sink is given.
package receive

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/receiver"
	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/choria-io/prometheus-streams/internal/stream/access"
	"github.com/choria-io/prometheus-streams/internal/stream/jetstream"
	"github.com/choria-io/prometheus-streams/internal/stream/streaming"
)

// Options say what to receive.
type Options struct {
	// URL of the server, or several with commas, Topic and Stream as in receiver_stream.
	URL, Topic, Stream string
	// ClientID and Name make the durable, CLIENT_ID-NAME.
	ClientID, Name string
	// ClusterID, if set, is that of a NATS Streaming server, and the stream there.
	ClusterID string
	// State is the directory that outlives the process.
	State string
	// Web is where to show metrics; empty is nowhere.
	Web    string
	Logger *slog.Logger
}

// Flags adds the options' flags.
func (o *Options) Flags(fs *flag.FlagSet) {
	fs.StringVar(&o.URL, "url", "nats://127.0.0.1:4222", "NATS server")
	fs.StringVar(&o.Topic, "topic", "prometheus", "topic, as in receiver_stream")
	fs.StringVar(&o.Stream, "stream", "PROMETHEUS", "stream, as in receiver_stream")
	fs.StringVar(&o.ClientID, "client-id", "e2e", "first part of the durable's name")
	fs.StringVar(&o.ClusterID, "cluster-id", "", "cluster of NATS Streaming, instead of a stream")
	fs.StringVar(&o.State, "state", "", "directory for what outlives the process (required)")
	fs.StringVar(&o.Web, "web", "", "address of /metrics and /-/ready; empty is none")
}

// Run receives until ctx ends. It returns nil then.
func Run(ctx context.Context, o Options, s receiver.Sink) error {
	if o.State == "" {
		return errors.New("no directory for state")
	}
	reg := prometheus.NewRegistry()
	connect := o.jetStream
	if o.ClusterID != "" {
		connect = o.streaming
	}
	source, closeConn, err := connect(ctx, reg)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	defer closeConn()
	limits := receiver.DefaultLimits()
	schemas, err := receiver.NewSchemas(filepath.Join(o.State, "schemas"), limits.Frame, o.Logger)
	if err != nil {
		return err
	}
	pipeline, err := receiver.New(receiver.Config{
		Name: o.Name, Sink: s, Schemas: schemas, StateDirectory: o.State, Limits: limits,
		Metrics: receiver.NewMetrics(reg), Logger: o.Logger,
		Sources: []receiver.Source{source},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if o.Web != "" {
		go func() {
			if err := serve(ctx, o.Web, reg); err != nil {
				o.Logger.Error("web", "error", err)
				cancel()
			}
		}()
	}
	o.Logger.Info("receiving", "stream", source.Name)
	return pipeline.Run(ctx)
}

func (o *Options) server(reg *prometheus.Registry) access.Server {
	return access.Server{
		URLs: strings.Split(o.URL, ","), Name: o.ClientID, ReconnectWait: 200 * time.Millisecond, Logger: o.Logger, Registerer: reg,
	}
}

// jetStream makes the durable of a stream.
func (o *Options) jetStream(ctx context.Context, reg *prometheus.Registry) (source receiver.Source, closeConn func(), err error) {
	conn, err := jetstream.Connect(ctx, jetstream.Options{
		Server: o.server(reg), Topic: o.Topic, Stream: o.Stream,
	})
	if err != nil {
		return source, nil, err
	}
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	problems, err := conn.EnsureStreams(ctx, jetstream.StreamConfig{Create: true})
	for ; err != nil && ctx.Err() == nil; problems, err = conn.EnsureStreams(ctx, jetstream.StreamConfig{Create: true}) {
		o.Logger.Warn("the streams cannot be looked at, trying again", "error", err) // a cluster without a leader, for one
		time.Sleep(500 * time.Millisecond)
	}
	if err != nil {
		return source, nil, err
	}
	for _, p := range problems {
		o.Logger.Warn(p.String())
	}
	consumer, err := conn.Consumer(jetstream.ConsumerOptions{Durable: o.ClientID + "-" + o.Name, Create: true})
	if err != nil {
		return source, nil, err
	}
	subjects := stream.Subjects{Topic: o.Topic}
	return receiver.Source{
		Name: conn.Stream(), Consumer: consumer, History: conn, Registry: registry{conn, subjects}, Publisher: publisher(subjects),
	}, conn.Close, nil
}

// streaming makes the durable of a topic.
func (o *Options) streaming(ctx context.Context, reg *prometheus.Registry) (source receiver.Source, closeConn func(), err error) {
	conn, err := streaming.Connect(ctx, streaming.Options{
		Server: o.server(reg), ClusterID: o.ClusterID, ClientID: o.ClientID, Topic: o.Topic,
	})
	if err != nil {
		return source, nil, err
	}
	return receiver.Source{
		Name: conn.Stream(), Consumer: conn.Consumer(streaming.ConsumerOptions{Durable: o.ClientID}),
	}, conn.Close, nil
}

// registry finds schemas where pollers store them.
type registry struct {
	conn     *jetstream.Conn
	subjects stream.Subjects
}

// Schema implements receiver.Registry.
func (r registry) Schema(ctx context.Context, publisher string, id frame.SchemaID) ([]byte, error) {
	return r.conn.Schema(ctx, r.subjects.Schema(publisher, id))
}

// publisher reads the publisher's token of a subject of frames.
func publisher(subjects stream.Subjects) func(string) (string, error) {
	return func(subject string) (string, error) {
		rest, ok := strings.CutPrefix(subject, subjects.Topic+".frames.")
		token, _, two := strings.Cut(rest, ".")
		if !ok || !two {
			return "", fmt.Errorf("subject %q is not one of frames", subject)
		}
		return stream.UnescapeToken(token)
	}
}

func serve(ctx context.Context, address string, reg *prometheus.Registry) error {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("/-/ready", func(http.ResponseWriter, *http.Request) {})
	server := &http.Server{Addr: address, Handler: mux}
	go func() { <-ctx.Done(); server.Close() }()
	if err := server.ListenAndServe(); ctx.Err() == nil {
		return err
	}
	return nil
}
