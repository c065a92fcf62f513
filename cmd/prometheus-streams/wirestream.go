package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/choria-io/prometheus-streams/internal/config"
	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/choria-io/prometheus-streams/internal/stream/access"
	"github.com/choria-io/prometheus-streams/internal/stream/jetstream"
)

// natsOptions says how a block of the configuration connects.
func (h *house) natsOptions(s *config.ReceiverStream) (jetstream.Options, error) {
	o := jetstream.Options{
		Server: access.Server{URLs: urls(s.URLs), InboxPrefix: s.InboxPrefix, TLSFirst: s.TLSFirst},
		Domain: s.Domain, Topic: s.Topic, Stream: s.Name, SchemasStream: s.SchemasStream, Filter: s.Filter(),
	}
	if len(s.URLs) == 0 && s.Context == "" {
		return o, nil // inside this process
	}
	c, err := address(&o, s)
	if err != nil {
		return o, err
	}
	if err := identify(&o, s, c); err != nil {
		return o, err
	}
	return o, h.secure(&o, s, c)
}

func urls(list config.URLs) []string {
	out := make([]string, len(list))
	for i, u := range list {
		out[i] = string(u)
	}
	return out
}

// published is a stream as its poller sees it, in the words of those who read it.
func published(s *config.Stream) *config.ReceiverStream {
	return &config.ReceiverStream{
		Stream: *s, Subject: s.Topic + ".frames.{publisher}.*", SchemasSubject: s.Topic + ".schemas.{publisher}.*",
	}
}

// block is one stream that a receiver reads, in the words of the receiver.
type block struct {
	conn   *jetstream.Conn
	stream *config.ReceiverStream
	token  int // which token of a subject names the publisher
	want   jetstream.StreamConfig

	mu   sync.Mutex // over said
	said string     // the problems that were logged last
}

func newBlock(conn *jetstream.Conn, s *config.ReceiverStream, want jetstream.StreamConfig) *block {
	return &block{conn: conn, stream: s, token: s.PublisherIndex(), want: want}
}

// Publisher is the publisher that a message's subject proves.
func (b *block) Publisher(subject string) (string, error) {
	rest := subject
	for range b.token {
		_, after, found := strings.Cut(rest, ".")
		if !found {
			return "", fmt.Errorf("subject %q has no token %d", subject, b.token+1)
		}
		rest = after
	}
	token, _, _ := strings.Cut(rest, ".")
	return stream.UnescapeToken(token)
}

// Schema asks the block's registry.
func (b *block) Schema(ctx context.Context, publisher string, id frame.SchemaID) ([]byte, error) {
	return b.conn.Schema(ctx, b.stream.SchemaSubject(stream.EscapeToken(publisher), id.String()))
}

// Read reads the block's stream again.
func (b *block) Read(ctx context.Context, r stream.Range, handle func(stream.Message) error) error {
	return b.conn.Read(ctx, r, handle)
}

// ready makes the streams if they are missing and may be made, and says what is wrong with those that are there, once.
func (b *block) ready(ctx context.Context, logger *slog.Logger) error {
	problems, err := b.conn.EnsureStreams(ctx, b.want)
	if err != nil {
		return err
	}
	var lines []string
	for _, p := range problems {
		lines = append(lines, p.String())
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if all := strings.Join(lines, "\n"); all != b.said {
		b.said = all
		for _, line := range lines {
			logger.Warn(line, "stream", b.conn.Stream())
		}
	}
	return nil
}

// consumer is a jetstream consumer or follower that looks after its stream first.
type consumer struct {
	block  *block
	logger *slog.Logger
	opener
}

// opener is what consumers and followers have in common.
type opener interface {
	Open(ctx context.Context) (stream.Floor, error)
	Receive(ctx context.Context, handle func(stream.Event)) error
}

func (c consumer) Open(ctx context.Context) (stream.Floor, error) {
	if err := c.block.ready(ctx, c.logger); err != nil {
		return stream.Floor{}, err
	}
	return c.opener.Open(ctx)
}

// streamConfig is how the streams are made and what they have to hold.
func (h *house) streamConfig(s *config.Stream, create bool) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Create: create, MaxAge: time.Duration(s.StreamConfig.MaxAge), MaxBytes: int64(s.StreamConfig.MaxBytes),
		Replicas: s.StreamConfig.Replicas, NeedAge: time.Duration(h.cfg.MaxAge),
		KeyframeInterval: time.Duration(h.cfg.Poller.KeyframeInterval),
	}
}

// standaloneStream is the stream inside a standalone process.
func standaloneStream(c *config.Config) *config.ReceiverStream {
	return published(&config.Stream{
		Topic: "prometheus", ClientID: "standalone",
		StreamConfig: config.StreamConfig{
			MaxAge: config.Age(24 * time.Hour), Replicas: 1,
			MaxBytes: c.Embedded.MaxBytes / 10 * 9, // the registry needs room beside it
		},
	})
}

// checkTimeout bounds what check stream and inspect wait for an answer.
const checkTimeout = 10 * time.Second

// checkStream connects to every stream of the configuration and prints what is wrong there. It counts the problems.
func checkStream(ctx context.Context, env *environment, create bool) (problems int, err error) {
	h := &house{env: env, cfg: env.Config}
	defer h.close()
	var errs []error
	check := func(s *config.ReceiverStream, role string, durables []string) {
		n, err := h.checkOne(ctx, s, role, durables, create)
		problems += n
		errs = append(errs, err)
	}
	if s := h.cfg.PollerStream; s != nil {
		check(published(s), "poller", nil)
	}
	for i := range h.cfg.ReceiverStreams {
		s := &h.cfg.ReceiverStreams[i]
		check(s, "receiver", durables(h.cfg, s))
	}
	return problems, errors.Join(errs...)
}

// checkOne checks one stream and the durables that are needed on it.
func (h *house) checkOne(ctx context.Context, s *config.ReceiverStream, role string, durables []string, create bool) (problems int, err error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	if s.ClusterID != "" {
		return 0, h.checkStreaming(ctx, &s.Stream, role)
	}
	conn, err := h.connect(ctx, s, role, nil)
	if err != nil {
		return 0, err
	}
	say := func(format string, args ...any) {
		_, _ = fmt.Fprintf(h.env.Stdout, role+"_stream: "+format+"\n", args...)
	}
	if err := connected(ctx, conn); err != nil {
		return 0, fmt.Errorf("%s_stream: %w", role, err)
	}
	found, err := conn.EnsureStreams(ctx, h.streamConfig(&s.Stream, create))
	if err != nil {
		return 0, fmt.Errorf("%s_stream: %w", role, unreachable(conn, err))
	}
	problems = len(found)
	for _, p := range found {
		say("%s", p)
	}
	for _, durable := range durables {
		if err := conn.EnsureDurable(ctx, durable, s.Filter(), create); err != nil {
			say("durable %s: %v", durable, err)
			problems++
		}
	}
	if problems > 0 {
		return problems, nil
	}
	say("streams %s and %s are good", conn.Stream(), conn.SchemasStream())
	if role == "poller" {
		say("the frames of %q go to %s", h.cfg.Identity, stream.Subjects{Topic: s.Topic}.Frames(h.cfg.Identity, lane))
	}
	return 0, nil
}

// connected waits for a connection, and ends with the first reason why there is none: by then all servers were tried.
func connected(ctx context.Context, l link) error {
	for {
		up, why := l.Connected()
		switch {
		case up:
			return nil
		case why != nil:
			return fmt.Errorf("no connection to NATS: %w", why)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no connection to NATS: no server answers: %w", ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// unreachable adds to an error why there is no connection, if that is the reason.
func unreachable(conn *jetstream.Conn, err error) error {
	if up, why := conn.Connected(); !up && why != nil {
		return fmt.Errorf("no connection to NATS: %w", why)
	}
	return err
}

// inspectBehind is how many messages before the ones asked for are read, for the frames that those build on.
const inspectBehind = 256

// inspectStream prints the last messages of the first stream that the configuration names.
func inspectStream(ctx context.Context, env *environment, last int, values bool, w io.Writer) error {
	h := &house{env: env, cfg: env.Config}
	defer h.close()
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	s, role := (*config.ReceiverStream)(nil), "receiver"
	if len(h.cfg.ReceiverStreams) > 0 {
		s = &h.cfg.ReceiverStreams[0]
	} else {
		s, role = published(h.cfg.PollerStream), "poller"
	}
	if s.ClusterID != "" {
		return fmt.Errorf("%s_stream is on NATS Streaming, whose messages cannot be read beside their receivers", role)
	}
	conn, err := h.connect(ctx, s, role, nil)
	if err != nil {
		return err
	}
	b := newBlock(conn, s, jetstream.StreamConfig{})
	messages, err := conn.Last(ctx, last+inspectBehind)
	if err != nil {
		return unreachable(conn, err)
	}
	if len(messages) == 0 {
		return fmt.Errorf("stream %s holds no messages", conn.Stream())
	}
	shown := &curtain{w: w}
	var publisher string
	out := newMessages(shown, values, func(id frame.SchemaID) (*frame.Schema, error) {
		return fetchSchema(ctx, b, publisher, id)
	})
	for i, m := range messages {
		shown.open = i >= len(messages)-last
		publisher, _ = b.Publisher(m.Subject)
		_, _ = fmt.Fprintf(shown, "%s  %d  %s\n", m.Subject, m.Sequence, m.Stored.UTC().Format(time.RFC3339Nano))
		if err := out.dumpFrom(m.Subject, m.Data); err != nil {
			_, _ = fmt.Fprintf(shown, "  %v\n", err)
		}
	}
	return nil
}

// fetchSchema asks a block's registry for one schema.
func fetchSchema(ctx context.Context, b *block, publisher string, id frame.SchemaID) (*frame.Schema, error) {
	msg, err := b.Schema(ctx, publisher, id)
	if err != nil {
		return nil, err
	}
	return frame.UnmarshalSchemaDelta(id, msg, func(parent frame.SchemaID) (*frame.Schema, []byte, error) {
		msg, err := b.Schema(ctx, publisher, parent)
		return nil, msg, err
	}, frame.DefaultLimits())
}

// curtain lets through what is written while it is open.
type curtain struct {
	w    io.Writer
	open bool
}

func (c *curtain) Write(p []byte) (int, error) {
	if !c.open {
		return len(p), nil
	}
	return c.w.Write(p)
}
