package streaming

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/stan.go"
	"github.com/nats-io/stan.go/pb"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/choria-io/prometheus-streams/internal/stream/access"
	"github.com/choria-io/prometheus-streams/internal/stream/embedded"
)

// The contract of carriers is run against a real server of NATS Streaming in the end-to-end tests. Here is what needs none.

func good() Options {
	return Options{Server: access.Server{URLs: []string{"nats://127.0.0.1:1"}}, ClusterID: "c", ClientID: "me", Topic: "t"}
}

func TestOptions(t *testing.T) {
	for want, change := range map[string]func(*Options){
		"no server URLs":            func(o *Options) { o.URLs = []string{" , "} },
		`illegal cluster id "a b"`:  func(o *Options) { o.ClusterID = "a b" },
		`illegal client id "a.b"`:   func(o *Options) { o.ClientID = "a.b" },
		`illegal client id ""`:      func(o *Options) { o.ClientID = "" },
		`illegal topic "a.*"`:       func(o *Options) { o.Topic = "a.*" },
		"reading nkey seed /nobody": func(o *Options) { o.NKeySeedFile = "/nobody" },
		"more than one of user, token": func(o *Options) {
			o.TokenSource, o.CredentialsFile = func() string { return "" }, "/nobody"
		},
	} {
		o := good()
		change(&o)
		c, err := Connect(t.Context(), o)
		if err == nil {
			c.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// Nobody answers, then NATS alone: it goes on trying, says why once, and closes at once.
func TestConnectWithoutServer(t *testing.T) {
	s, err := embedded.Start(embedded.Options{Directory: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	url := s.URL()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	log := &lockedBuffer{}
	o := good()
	o.URLs, o.ReconnectWait, o.RequestTimeout = []string{strings.Replace(url, "nats://", "nats://user:hidden@", 1)}, 20*time.Millisecond, 200*time.Millisecond
	o.Logger, o.Registerer = slog.New(slog.NewTextHandler(log, nil)), prometheus.NewRegistry()
	c, err := Connect(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p := c.Publisher()
	if r := <-p.Publish("t", []byte("x")); !errors.Is(r.Err, stream.ErrDisconnected) {
		t.Errorf("publishing without a connection: %v", r.Err)
	}
	if r := <-p.Publish("t.frames.me.live", []byte("x")); !errors.Is(r.Err, stream.ErrRefused) {
		t.Errorf("publishing what was made for JetStream: %v", r.Err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := p.Ready(ctx); !errors.Is(err, stream.ErrDisconnected) {
		t.Errorf("ready: %v", err)
	}
	if up, why := c.Connected(); up || why == nil {
		t.Errorf("connected %v, %v", up, why)
	}
	if s, err = embedded.Start(embedded.Options{Directory: t.TempDir(), Listen: strings.TrimPrefix(url, "nats://")}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	until(t, "it says that only NATS answers", func() bool { return strings.Contains(log.String(), "no NATS Streaming server of this cluster id") })
	time.Sleep(300 * time.Millisecond)
	if n := strings.Count(log.String(), "no NATS Streaming server of this cluster id"); n != 1 {
		t.Errorf("said %d times", n)
	}
	if strings.Contains(log.String(), "hidden") {
		t.Errorf("a password is logged: %s", log)
	}
	began := time.Now()
	c.Close()
	if d := time.Since(began); d > 3*time.Second {
		t.Errorf("closing took %s", d)
	}
	if problems, err := testutil.GatherAndLint(o.Registerer.(prometheus.Gatherer)); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

func TestClassify(t *testing.T) {
	s, err := embedded.Start(embedded.Options{Directory: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	o := good()
	o.URLs = []string{s.URL()}
	c, err := Connect(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p := c.Publisher()
	m := &publish{subject: "t", data: make([]byte, 10)}
	for _, tt := range []struct {
		err  error
		want error
		says string
	}{
		{nats.ErrMaxPayload, stream.ErrTooLarge, "it has 10 bytes, the server takes at most 1048576"},
		{stan.ErrConnectionClosed, stream.ErrDisconnected, ""},
		{nats.ErrReconnectBufExceeded, stream.ErrDisconnected, ""},
		{errors.New(errReplaced), stream.ErrDisconnected, ""},
		{stan.ErrTimeout, nil, "no answer within 10s"},
		{errors.New("stan: something"), nil, "stan: something"},
	} {
		got := p.classify(m, tt.err)
		if tt.want != nil && !errors.Is(got, tt.want) || !strings.Contains(got.Error(), tt.says) {
			t.Errorf("%v becomes %v", tt.err, got)
		}
		if tt.want == nil && (errors.Is(got, stream.ErrRefused) || errors.Is(got, stream.ErrTooLarge)) {
			t.Errorf("%v would set a message aside: %v", tt.err, got)
		}
	}
	if p.classify(m, nil) != nil {
		t.Error("no error becomes one")
	}
}

// What the server repeats while nobody takes it does not pile up.
func TestIntake(t *testing.T) {
	in := newIntake()
	put := func(seq uint64) { in.put(&stan.Msg{MsgProto: pb.MsgProto{Sequence: seq}}) }
	var got []uint64
	take := func() {
		for _, m := range in.take() {
			got = append(got, m.Sequence)
		}
	}
	for range 3 {
		for seq := range uint64(20) {
			put(seq)
		}
	}
	take()
	put(3) // it is with the handler: it comes again
	for len(in.wake) > 0 {
		<-in.wake
		take()
	}
	var want []uint64
	for seq := range uint64(20) {
		want = append(want, seq)
	}
	if want = append(want, 3); !slices.Equal(got, want) {
		t.Errorf("taken %v", got)
	}
}
