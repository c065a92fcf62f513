package jetstream

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const live = "demo.frames.edge.live"

// What Ready waits for is said once for each state, with what mends it, and it goes on by itself.
func TestReadyStates(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, `accounts {
		PROM { jetstream: enabled, users: [ { user: all, password: all } ] }
		NOJS { users: [ { user: nojs, password: nojs } ] } }`)
	var log logBuffer
	o := s.options("all")
	o.Logger = log.logger()
	c := connect(t, o)
	p := publisher(t, c, live)
	ready := make(chan error, 1)
	ctx := short(t)
	go func() { ready <- p.Ready(ctx) }()
	log.wait(t, "no such stream takes "+live, "check stream --create")
	time.Sleep(time.Second) // more than one attempt
	if n := strings.Count(log.String(), "publishing has to wait"); n != 1 {
		t.Errorf("said %d times:\n%s", n, &log)
	}
	ensure(t, c)
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "publishing again") {
		t.Errorf("the end of the wait is not said:\n%s", &log)
	}
	if info, err := c.streamInfo(t.Context(), "DEMO"); err != nil || info.State.Msgs != 0 {
		t.Errorf("asking stored something: %+v, %v", info, err)
	}

	o = s.options("nojs")
	o.Logger = log.logger()
	c = connect(t, o)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := publisher(t, c, live).Ready(ctx); !errors.Is(err, ErrNoJetStream) {
		t.Errorf("ready in an account without JetStream: %v", err)
	}
	log.wait(t, "enable JetStream")
	if _, err := c.EnsureStreams(short(t), StreamConfig{}); !errors.Is(err, ErrNoJetStream) {
		t.Errorf("checking streams in an account without JetStream: %v", err)
	}
}

// After a failure that leaves an outcome open nothing is sent until the caller asks whether the stream is ready: a later
// message must not be stored before the one that has to be sent again.
func TestNothingOvertakes(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, contractConfig)
	o := s.options("all")
	c := connect(t, o)
	ensure(t, c)
	p := publisher(t, c, live)
	if err := p.Ready(short(t)); err != nil {
		t.Fatal(err)
	}
	store(t, p, live, 1)
	s.stop(t)
	if r := result(t, p.Publish(live, []byte("two"))); !errors.Is(r.Err, stream.ErrDisconnected) {
		t.Errorf("without a server: %v", r.Err)
	}
	s.start(t)
	eventually(t, func() bool { up, _ := c.Connected(); return up }, func() string { return "not connected again" })
	if r := result(t, p.Publish(live, []byte("three"))); !errors.Is(r.Err, stream.ErrDisconnected) {
		t.Errorf("a later message was sent before the one that failed: %v", r.Err)
	}
	if err := p.Ready(short(t)); err != nil {
		t.Fatal(err)
	}
	if r := result(t, p.Publish(live, []byte("two"))); r.Err != nil || r.Sequence != 2 {
		t.Errorf("after Ready: %+v", r)
	}
	if n := value(t, o.Registerer, "prometheus_streams_stream_publishes_total", "stored"); n != 2 {
		t.Errorf("%v messages counted as stored", n)
	}
	if n := value(t, o.Registerer, "prometheus_streams_stream_publishes_total", "disconnected"); n != 2 {
		t.Errorf("%v messages counted as disconnected", n)
	}
}

// What the stream says of a message itself is a refusal; what may pass is not, so that nobody gives the message up.
func TestRefusals(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, contractConfig)
	c := connect(t, s.options("all"))
	small := jetstream.StreamConfig{Name: "SMALL", Subjects: []string{"small"}, MaxMsgSize: 2 * stream.MinPart, Replicas: 1}
	full := jetstream.StreamConfig{Name: "FULL", Subjects: []string{"full"}, MaxMsgs: 1, Discard: jetstream.DiscardNew, Replicas: 1}
	for _, cfg := range []jetstream.StreamConfig{small, full} {
		if err := c.call(short(t), "STREAM.CREATE."+cfg.Name, cfg, nil); err != nil {
			t.Fatal(err)
		}
	}
	p := publisher(t, c, "small", "full")
	if err := p.Ready(short(t)); err != nil {
		t.Fatal(err)
	}
	store(t, p, "full", 1)
	if r := result(t, p.Publish("small", make([]byte, 3000))); !errors.Is(r.Err, stream.ErrTooLarge) || !strings.Contains(r.Err.Error(), "3000 bytes") {
		t.Errorf("larger than the stream takes: %v", r.Err)
	}
	store(t, p, "small", 1) // goes on
	r := result(t, p.Publish("full", []byte("x")))
	if !errors.Is(r.Err, stream.ErrFull) || errors.Is(r.Err, stream.ErrRefused) || !strings.Contains(r.Err.Error(), "maximum messages exceeded") {
		t.Errorf("a full stream: %v", r.Err)
	}
	if r := result(t, p.Publish("small", []byte("x"))); !errors.Is(r.Err, stream.ErrDisconnected) {
		t.Errorf("sent behind a message that has to be sent again: %v", r.Err)
	}
	if err := p.Ready(short(t)); err != nil {
		t.Fatal(err)
	}
	if r := result(t, p.Publish("nowhere", []byte("x"))); !errors.Is(r.Err, ErrNoStream) || errors.Is(r.Err, stream.ErrRefused) {
		t.Errorf("a subject of no stream: %v", r.Err)
	}
}

// A server that swallows messages does not hold a publish for ever.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, contractConfig)
	o := s.options("all")
	o.PublishTimeout = 300 * time.Millisecond
	c := connect(t, o)
	if _, err := c.link.waitUp(short(t)); err != nil {
		t.Fatal(err)
	}
	sub, err := c.nats().SubscribeSync("swallowed")
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe() //nolint:errcheck // the connection ends with the test
	r := result(t, publisher(t, c).Publish("swallowed", []byte("x")))
	if !errors.Is(r.Err, ErrNoAnswer) || errors.Is(r.Err, stream.ErrRefused) {
		t.Errorf("got %v", r.Err)
	}
}

// Publish never blocks, however much is on its way; what is too much fails at once.
func TestPublishNeverBlocks(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, contractConfig)
	c := connect(t, s.options("all"))
	if _, err := c.link.waitUp(short(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.nats().Subscribe("swallowed", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	p := publisher(t, c)
	began := time.Now()
	var last <-chan stream.Result
	for range maxUnanswered + 1 {
		last = p.Publish("swallowed", []byte("x"))
	}
	if r := result(t, last); r.Err == nil || time.Since(began) > 10*time.Second {
		t.Errorf("after %s: %v", time.Since(began), r.Err)
	}
}
