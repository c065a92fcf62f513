package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/choria-io/prometheus-streams/internal/stream/embedded"
	"github.com/choria-io/prometheus-streams/internal/stream/jetstream"
	"github.com/choria-io/prometheus-streams/internal/tlsconf/tlstest"
)

// The rights that docs/permissions.md gives are enough, and no more than that.
func TestRightsInDocs(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "permissions.md"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```text\n(# nats-server: rights\n.*?)```").FindSubmatch(text)
	if m == nil {
		t.Fatal("docs/permissions.md has no configuration of a server")
	}
	server, err := embedded.Start(embedded.Options{
		Directory: t.TempDir(), Listen: "127.0.0.1:0", ConfigFile: tlstest.Write(t, t.TempDir()+"/nats.conf", m[1]),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	as := func(user, number string) *jetstream.Conn {
		s := &secured{dir: t.TempDir()}
		inbox := ""
		if user != "setup" {
			inbox = ", inbox_prefix: _INBOX." + user
		}
		h, _ := s.houseOf(t, "poller_stream: {urls: '"+server.URL()+"', user: "+user+", password: change-me-"+number+inbox+"}\n")
		c, err := h.connect(ctx, published(h.cfg.PollerStream), "poller", nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	ensure := func(c *jetstream.Conn) {
		t.Helper()
		if problems, err := c.EnsureStreams(ctx, jetstream.StreamConfig{Create: true}); err != nil || len(problems) > 0 {
			t.Errorf("%v, %v", problems, err)
		}
	}
	denied := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, stream.ErrPermission) {
			t.Errorf("%s: %v, want it denied", what, err)
		}
	}
	setup := as("setup", "0")
	ensure(setup)
	if err := setup.EnsureDurable(ctx, "hub-push_gateway", "", true); err != nil {
		t.Fatal(err)
	}

	names := stream.Subjects{Topic: "prometheus"}
	frames, schema := names.Frames("site1", lane), names.Schema("site1", [16]byte{1})
	edge, err := as("site1", "1").Publisher(jetstream.PublisherOptions{Subjects: []string{frames, schema}})
	if err != nil {
		t.Fatal(err)
	}
	if err := edge.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{schema, frames} {
		if r := <-edge.Publish(subject, []byte("x")); r.Err != nil {
			t.Error(r.Err)
		}
	}
	denied("speaking for another", (<-edge.Publish(names.Frames("site2", lane), nil)).Err)

	hub, strict := as("hub", "3"), as("strict", "4")
	durable, err := strict.Consumer(jetstream.ConsumerOptions{Durable: "hub-push_gateway"})
	if err != nil {
		t.Fatal(err)
	}
	for who, c := range map[string]struct {
		conn *jetstream.Conn
		opener
	}{"hub": {hub, hub.Follow(time.Time{}, "")}, "strict": {strict, durable}} {
		ensure(c.conn)
		if _, err := c.Open(ctx); err != nil {
			t.Fatalf("%s: %v", who, err)
		}
		rctx, done := context.WithCancel(ctx)
		got := 0
		err := c.Receive(rctx, func(e stream.Event) {
			if e.Kind == stream.Delivered {
				if err := e.Message.Ack(); err != nil {
					t.Error(err)
				}
				got++
				done()
			}
		})
		done()
		if got == 0 || err != nil {
			t.Errorf("%s received %d, %v", who, got, err)
		}
		if data, err := c.conn.Schema(ctx, schema); err != nil || string(data) != "x" {
			t.Errorf("%s: schema %q, %v", who, data, err)
		}
		if err := c.conn.Read(ctx, stream.Range{To: 1}, func(stream.Message) error { return nil }); err != nil {
			t.Errorf("%s: reading back: %v", who, err)
		}
		p, err := c.conn.Publisher(jetstream.PublisherOptions{Subjects: []string{frames}})
		if err != nil {
			t.Fatal(err)
		}
		denied(who+" publishes frames", (<-p.Publish(frames, nil)).Err)
	}
	denied("a durable", strict.EnsureDurable(ctx, "another", "", true))
	if err := hub.EnsureDurable(ctx, "another", "", true); err != nil {
		t.Error(err)
	}
}
