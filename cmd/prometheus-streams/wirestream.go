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
	"github.com/choria-io/prometheus-streams/internal/stream/jetstream"
)

// publisherToken stands, in a configured subject, where the publisher's name is.
const publisherToken = "{publisher}"

// natsOptions says how a block of the configuration connects. Secrets in files are read at each connection.
func natsOptions(s *config.Stream) (jetstream.Options, error) {
	o := jetstream.Options{
		URLs: urls(s.URLs), Topic: s.Topic, Stream: s.Name,
		CredentialsFile: s.Credentials, NKeySeedFile: s.NKeySeedFile,
		InboxPrefix: s.InboxPrefix, Domain: s.Domain,
	}
	switch {
	case s.Context != "":
		return o, errors.New("context: contexts of the nats command are not in this build yet")
	case s.ProxyURL != "":
		return o, errors.New("proxy_url: proxies to NATS are not in this build yet")
	}
	if s.User != "" {
		if _, err := s.ReadPassword(); err != nil {
			return o, err
		}
		o.UserInfo = func() (string, string) {
			password, _ := s.ReadPassword() // a file that went away shows as a refusal by the server
			return s.User, password
		}
	}
	if s.Token != "" || s.TokenFile != "" {
		if _, err := s.ReadToken(); err != nil {
			return o, err
		}
		o.TokenSource = func() string {
			token, _ := s.ReadToken()
			return token
		}
	}
	return o, nil
}

func urls(list config.URLs) []string {
	out := make([]string, len(list))
	for i, u := range list {
		out[i] = string(u)
	}
	return out
}

// block is one stream that a receiver reads, in the words of the receiver.
type block struct {
	conn    *jetstream.Conn
	filter  string // of the consumers
	token   int    // which token of a subject names the publisher
	schemas string // the subject of a schema, with publisherToken and the id to come as last token
	want    jetstream.StreamConfig

	once sync.Mutex // over checked
	said string     // the problems that were logged last
}

func newBlock(conn *jetstream.Conn, s *config.ReceiverStream, want jetstream.StreamConfig) (*block, error) {
	subject := s.Subject
	if subject == "" {
		subject = s.Topic + ".frames." + publisherToken + ".*"
	}
	b := &block{conn: conn, filter: strings.ReplaceAll(subject, publisherToken, "*"), schemas: s.SchemasSubject, want: want, token: -1}
	for i, token := range strings.Split(subject, ".") {
		if token == publisherToken {
			b.token = i
		}
	}
	if b.token < 0 {
		return nil, fmt.Errorf("receiver_stream.subject %q has no %s", subject, publisherToken)
	}
	if b.schemas == "" {
		b.schemas = s.Topic + ".schemas." + publisherToken + ".{id}"
	}
	return b, nil
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
	subject := strings.ReplaceAll(b.schemas, publisherToken, stream.EscapeToken(publisher))
	return b.conn.Schema(ctx, strings.ReplaceAll(subject, "{id}", id.String()))
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
	b.once.Lock()
	defer b.once.Unlock()
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
	s := &config.ReceiverStream{Stream: config.Stream{Topic: "prometheus", ClientID: "standalone"}}
	s.StreamConfig.MaxAge = config.Age(24 * time.Hour)
	s.StreamConfig.MaxBytes = c.Embedded.MaxBytes / 10 * 9 // the registry needs room beside it
	s.StreamConfig.Replicas = 1
	return s
}

// checkTimeout bounds what check stream and inspect wait for an answer.
const checkTimeout = 10 * time.Second

// checkStream connects to every stream of the configuration and prints what is wrong there. It counts the problems.
func checkStream(ctx context.Context, env *environment, create bool) (problems int, err error) {
	h := &house{env: env, cfg: env.Config}
	defer h.close()
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(env.Stdout, format+"\n", args...) }
	check := func(key string, s *config.Stream, role string, durables []string, filter string) error {
		ctx, cancel := context.WithTimeout(ctx, checkTimeout)
		defer cancel()
		conn, err := h.connect(ctx, s, role, nil)
		if err != nil {
			return err
		}
		found, err := conn.EnsureStreams(ctx, h.streamConfig(s, create))
		if err != nil {
			return fmt.Errorf("%s: %w", key, unreachable(conn, err))
		}
		for _, p := range found {
			say("%s: %s", key, p)
		}
		for _, durable := range durables {
			if err := conn.EnsureDurable(ctx, durable, filter, create); err != nil {
				say("%s: durable %s: %v", key, durable, err)
				problems++
			}
		}
		if problems += len(found); len(found) == 0 {
			say("%s: streams %s and %s are good; frames of %q go to %s", key, conn.Stream(), conn.SchemasStream(),
				h.cfg.Identity, stream.Subjects{Topic: s.Topic}.Frames(h.cfg.Identity, lane))
		}
		return nil
	}
	var errs []error
	if s := h.cfg.PollerStream; s != nil {
		errs = append(errs, check("poller_stream", s, "poller", nil, ""))
	}
	for i := range h.cfg.ReceiverStreams {
		s := &h.cfg.ReceiverStreams[i]
		b, err := newBlock(nil, s, jetstream.StreamConfig{})
		if err == nil {
			err = check("receiver_stream", &s.Stream, "receiver", durables(h.cfg, &s.Stream), b.filter)
		}
		errs = append(errs, err)
	}
	return problems, errors.Join(errs...)
}

// unreachable adds to an error why there is no connection, if that is the reason.
func unreachable(conn *jetstream.Conn, err error) error {
	if up, why := conn.Connected(); !up && why != nil {
		return fmt.Errorf("no connection to NATS: %w", why)
	}
	return err
}

// inspectStream prints the last messages of the first stream that the configuration names.
func inspectStream(ctx context.Context, env *environment, last int, w io.Writer) error {
	h := &house{env: env, cfg: env.Config}
	defer h.close()
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	s, role := h.cfg.PollerStream, "poller"
	if len(h.cfg.ReceiverStreams) > 0 {
		s, role = &h.cfg.ReceiverStreams[0].Stream, "receiver"
	}
	conn, err := h.connect(ctx, s, role, nil)
	if err != nil {
		return err
	}
	messages, err := conn.Last(ctx, last)
	if err != nil {
		return unreachable(conn, err)
	}
	if len(messages) == 0 {
		return fmt.Errorf("stream %s holds no messages", conn.Stream())
	}
	for _, m := range messages {
		_, _ = fmt.Fprintf(w, "%s  %d  %s\n", m.Subject, m.Sequence, m.Stored.UTC().Format(time.RFC3339Nano))
		if err := dumpMessage(w, m.Data); err != nil {
			_, _ = fmt.Fprintf(w, "  %v\n", err)
		}
	}
	return nil
}
