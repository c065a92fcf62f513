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
	"github.com/choria-io/prometheus-streams/internal/stream/access"
)

func TestConnectErrors(t *testing.T) {
	somewhere := access.Server{URLs: []string{"nats://127.0.0.1:1"}}
	tests := []struct {
		name string
		o    Options
		want string
	}{
		{"no topic", Options{Server: somewhere}, "topic is empty"},
		{"no URL", Options{Topic: "demo", Server: access.Server{URLs: []string{" , "}}}, "no server URLs"},
		{"bad URL", Options{Topic: "demo", Server: access.Server{URLs: []string{"nats://a b:c"}}}, "nats://a b:c"},
		{"bad stream", Options{Topic: "demo", Stream: "a.b", Server: somewhere}, `stream name "a.b"`},
		{"no nkey file", Options{Topic: "demo", Server: access.Server{NKeySeedFile: "/nowhere/seed", URLs: somewhere.URLs}}, "/nowhere/seed"},
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
	o := Options{Topic: "prometheus", Server: access.Server{URLs: []string{"nats://a:1, nats://b:2", "nats://c:3"}}}
	if err := o.setDefaults(); err != nil || o.Stream != "PROMETHEUS" || o.SchemasStream != "PROMETHEUS_SCHEMAS" || o.Filter != "prometheus.frames.*.*" {
		t.Errorf("%+v, %v", o, err)
	}
	if got := o.Shown(); got != "nats://a:1,nats://b:2,nats://c:3" {
		t.Errorf("servers %q", got)
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
	o.UserInfo = nil
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
	o.UserInfo, o.Logger = func() (string, string) { return "all", "wrong" }, log.logger()
	c := connect(t, o)
	log.wait(t, "Authorization Violation")
	time.Sleep(500 * time.Millisecond) // several attempts
	if c.nats().IsClosed() {
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
	_, err = Connect(ctx, Options{Topic: "demo", Server: access.Server{URLs: []string{"nats://" + l.Addr().String()}, RequestTimeout: 20 * time.Second}})
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
