package jetstream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

func TestConnectErrors(t *testing.T) {
	tests := []struct {
		name string
		o    Options
		want string
	}{
		{"no topic", Options{URLs: []string{"nats://127.0.0.1:1"}}, "topic is empty"},
		{"no URL", Options{Topic: "demo", URLs: []string{" , "}}, "no server URLs"},
		{"bad URL", Options{Topic: "demo", URLs: []string{"nats://a b:c"}}, "nats://a b:c"},
		{"bad stream", Options{Topic: "demo", Stream: "a.b", URLs: []string{"nats://127.0.0.1:1"}}, `stream name "a.b"`},
		{"two identities", Options{Topic: "demo", User: "u", Token: "t", URLs: []string{"nats://127.0.0.1:1"}}, "more than one of"},
		{"no nkey file", Options{Topic: "demo", NKeySeedFile: "/nowhere/seed", URLs: []string{"nats://127.0.0.1:1"}}, "/nowhere/seed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Connect(t.Context(), tt.o)
			if err == nil {
				c.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error that says %q", err, tt.want)
			}
		})
	}
}

func TestNames(t *testing.T) {
	for topic, want := range map[string]string{"prometheus": "PROMETHEUS", "dc1.prometheus": "DC1_PROMETHEUS", "a-b_9": "A-B_9", "ü x": "__X"} {
		if got := StreamName(topic); got != want || checkName("stream", got) != nil {
			t.Errorf("%s: %s, want %s", topic, got, want)
		}
	}
	o := Options{Topic: "prometheus", URLs: []string{"nats://a:1, nats://b:2", "nats://c:3"}}
	if err := o.setDefaults(); err != nil || o.Stream != "PROMETHEUS" || o.SchemasStream != "PROMETHEUS_SCHEMAS" || o.Filter != "prometheus.frames.*.*" {
		t.Errorf("%+v, %v", o, err)
	}
	if got := strings.Join(o.servers(), " "); got != "nats://a:1 nats://b:2 nats://c:3" {
		t.Errorf("servers %q", got)
	}
}

func TestRedact(t *testing.T) {
	for url, want := range map[string]string{
		"nats://user:secret@a:4222": "nats://a:4222", "token@a": "a", "tls://a:4222": "tls://a:4222", "nats://u:p%40x@a/b@c": "nats://a/b@c",
	} {
		if got := redact([]string{url})[0]; got != want {
			t.Errorf("%s: %s, want %s", url, got, want)
		}
	}
}

func TestParseViolation(t *testing.T) {
	tests := []struct{ text, operation, subject string }{
		{`nats: permissions violation: Permissions Violation for Publish to "a.b"`, "publish", "a.b"},
		{`nats: permissions violation: Permissions Violation for Subscription to "_INBOX.x.*"`, "subscribe", "_INBOX.x.*"},
		{`nats: permissions violation: Permissions Violation for Subscription to "a" using queue "q"`, "subscribe", "a"},
		{`nats: permissions violation: Permissions Violation for Publish with Reply of "x"`, "", ""},
		{`nats: stale connection`, "", ""},
	}
	for _, tt := range tests {
		e := parseViolation(tt.text)
		if (e == nil) != (tt.subject == "") || (e != nil && (e.Operation != tt.operation || e.Subject != tt.subject)) {
			t.Errorf("%s: %+v", tt.text, e)
		}
	}
}

// A server that is not there yet is no error: it is said once, waited for, and found.
func TestServerComesLater(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, contractConfig)
	ensure(t, connect(t, s.options("all")))
	s.stop(t)
	var log logBuffer
	o := s.options("all")
	o.Logger, o.URLs = log.logger(), []string{strings.Replace(s.url, "nats://", "nats://all:all@", 1)}
	o.User, o.Password = "", ""
	c := connect(t, o)
	p := publisher(t, c, "demo.frames.edge.live")
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	err := p.Ready(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, stream.ErrDisconnected) {
		t.Errorf("ready without a server: %v", err)
	}
	if r := result(t, p.Publish("demo.frames.edge.live", []byte("x"))); !errors.Is(r.Err, stream.ErrDisconnected) {
		t.Errorf("publishing without a server: %v", r.Err)
	}
	if n := strings.Count(log.String(), "no connection to NATS"); n != 1 || strings.Contains(log.String(), "all:all") {
		t.Errorf("said %d times that there is no server:\n%s", n, &log)
	}
	if up, reason := c.Connected(); up || reason == nil || value(t, o.Registerer, "prometheus_streams_stream_connected", o.Name) != 0 {
		t.Errorf("connected: %v, %v", up, reason)
	}
	s.start(t)
	if err := p.Ready(short(t)); err != nil {
		t.Fatal(err)
	}
	store(t, p, "demo.frames.edge.live", 1)
	if up, _ := c.Connected(); !up || value(t, o.Registerer, "prometheus_streams_stream_connected", o.Name) != 1 {
		t.Error("not connected")
	}
	s.stop(t)
	log.wait(t, "connection to NATS lost")
	s.start(t)
	if err := p.Ready(short(t)); err != nil {
		t.Fatal(err)
	}
	if n := value(t, o.Registerer, "prometheus_streams_stream_reconnects_total", o.Name); n != 1 {
		t.Errorf("%v reconnects counted", n)
	}
}

// A wrong password is tried on for ever: it may be mended.
func TestWrongPassword(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, contractConfig)
	var log logBuffer
	o := s.options("all")
	o.Password, o.Logger = "wrong", log.logger()
	c := connect(t, o)
	log.wait(t, "Authorization Violation")
	time.Sleep(500 * time.Millisecond) // several attempts
	if c.nc.IsClosed() {
		t.Error("the connection was given up")
	}
	if n := strings.Count(log.String(), "Authorization Violation"); n > 2 {
		t.Errorf("said %d times:\n%s", n, &log)
	}
}

// A server that takes connections and says nothing does not hold Connect beyond its context.
func TestConnectEndsWithContext(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err = Connect(ctx, Options{Topic: "demo", URLs: []string{"nats://" + l.Addr().String()}, RequestTimeout: 20 * time.Second})
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 10*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
}

// TLS that is asked for is not done without.
func TestTLSRequired(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, contractConfig)
	var log logBuffer
	o := s.options("all")
	o.TLS, o.Logger = &tls.Config{MinVersion: tls.VersionTLS12}, log.logger()
	connect(t, o)
	log.wait(t, "secure connection not available")
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	one, err := newMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	two, err := newMetrics(reg)
	if err != nil || one.connected != two.connected || one.published != two.published {
		t.Errorf("two connections do not share their metrics: %v", err)
	}
	one.connected.WithLabelValues("a").Set(1)
	one.reconnects.WithLabelValues("a").Inc()
	one.errors.WithLabelValues("a", "other").Inc()
	one.published.WithLabelValues("a", "stored").Inc()
	one.restarts.WithLabelValues("a", "c", "start").Inc()
	one.shared.WithLabelValues("a", "c").Inc()
	one.pending.WithLabelValues("a", "c").Set(1)
	families, err := reg.Gather()
	if err != nil || len(families) != 7 {
		t.Fatalf("%d metrics, %v", len(families), err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	other := prometheus.NewRegistry()
	other.MustRegister(prometheus.NewCounterVec(prometheus.CounterOpts{Name: "prometheus_streams_stream_connected", Help: "x"}, []string{"y"}))
	if _, err := newMetrics(other); err == nil {
		t.Error("a metric of the same name that is another one was taken for ours")
	}
}
