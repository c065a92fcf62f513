package jetstream

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/choria-io/prometheus-streams/internal/stream/access"
	"github.com/choria-io/prometheus-streams/internal/stream/embedded"
	"github.com/choria-io/prometheus-streams/internal/stream/streamtest"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
)

// testServer is an embedded server that can be stopped and started at the same place.
type testServer struct {
	dir, config, listen string
	payload             int32

	mu  sync.Mutex
	s   *embedded.Server
	url string
}

// newTestServer starts a server; config is the text of a nats-server configuration, or empty.
func newTestServer(t *testing.T, config string) *testServer {
	t.Helper()
	s := &testServer{dir: t.TempDir(), listen: "127.0.0.1:0"}
	if config != "" {
		s.config = filepath.Join(t.TempDir(), "nats.conf")
		if err := os.WriteFile(s.config, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.start(t)
	t.Cleanup(func() { s.stop(t) })
	return s
}

func (s *testServer) start(t *testing.T) {
	t.Helper()
	e, err := embedded.Start(embedded.Options{Directory: s.dir, Listen: s.listen, ConfigFile: s.config, MaxPayload: s.payload})
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.s, s.url = e, e.URL()
	s.listen = strings.TrimPrefix(s.url, "nats://")
}

func (s *testServer) stop(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	e := s.s
	s.s = nil
	s.mu.Unlock()
	if e != nil {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
}

// InProcessConn connects to the server that runs now.
func (s *testServer) InProcessConn() (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.s == nil {
		return nil, fmt.Errorf("the server is stopped")
	}
	return s.s.InProcessConn()
}

// options are quick ones.
func (s *testServer) options(user string) Options {
	return Options{
		Server: access.Server{
			URLs: []string{s.url}, UserInfo: func() (string, string) { return user, user }, Name: "test-" + user,
			ReconnectWait: 50 * time.Millisecond, PingInterval: time.Second, RequestTimeout: 5 * time.Second, PublishTimeout: 15 * time.Second,
			Registerer: prometheus.NewRegistry(), Logger: testLog(),
		},
		Topic: "demo",
	}
}

// testLog shows what is logged when tests are run with -v.
func testLog() *slog.Logger {
	if !testing.Verbose() {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func connect(t *testing.T, o Options) *Conn {
	t.Helper()
	c, err := Connect(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func ensure(t *testing.T, c *Conn) {
	t.Helper()
	problems, err := c.EnsureStreams(t.Context(), StreamConfig{Create: true})
	if err != nil || len(problems) > 0 {
		t.Fatal(problems, err)
	}
}

const contractConfig = `
accounts { PROM { jetstream: enabled, users: [
  { user: all, password: all, permissions { publish { deny: ["demo.frames.denied.>"] } } }
  { user: noreset, password: noreset, permissions { publish { deny: ["demo.frames.denied.>", "$JS.API.CONSUMER.RESET.>"] } } }
  { user: bound, password: bound, permissions { publish { deny: ["demo.frames.denied.>", "$JS.API.CONSUMER.RESET.>", "$JS.API.CONSUMER.DELETE.>"] } } }
] } }`

// carrier makes the factory of a contract for a user, over TCP or inside the process.
func carrier(user string, inProcess bool) func(t *testing.T) *streamtest.Carrier {
	return func(t *testing.T) *streamtest.Carrier {
		s := newTestServer(t, contractConfig)
		ensure(t, connect(t, s.options("all")))
		return &streamtest.Carrier{
			Subjects: stream.Subjects{Topic: "demo"}, Largest: 1 << 20, Denied: "denied", Prefetch: 600,
			Stop: s.stop, Restart: s.start,
			Start: func(t *testing.T) *streamtest.Process {
				o := s.options(user)
				if inProcess {
					o.URLs, o.InProcess = nil, s
				}
				return process(connect(t, o))
			},
		}
	}
}

func process(c *Conn) *streamtest.Process {
	return &streamtest.Process{
		Publisher: func(t *testing.T, subjects ...string) streamtest.Publisher {
			p, err := c.Publisher(PublisherOptions{Subjects: subjects})
			if err != nil {
				t.Fatal(err)
			}
			return p
		},
		Consumer: func(t *testing.T, durable string) streamtest.Consumer { return durableOf(t, c, durable) },
		Follow:   func(_ *testing.T, from time.Time) streamtest.Consumer { return c.Follow(from, "") },
		Schema:   c.Schema, Read: c.Read,
		Unacknowledged: func(t *testing.T, durable string) int {
			info, err := c.consumerInfo(t.Context(), durable)
			if err != nil {
				t.Fatal(err)
			}
			return info.NumAckPending
		},
		Die: c.Close,
	}
}

func durableOf(t *testing.T, c *Conn, durable string) *Consumer {
	t.Helper()
	r, err := c.Consumer(ConsumerOptions{Durable: durable, Create: true, AckWait: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestContractTCP(t *testing.T) {
	t.Parallel()
	streamtest.Contract(t, carrier("all", false))
}

func TestContractInProcess(t *testing.T) {
	t.Parallel()
	streamtest.Contract(t, carrier("all", true))
}

// Without the right to reset a consumer it is made anew.
func TestContractWithoutReset(t *testing.T) {
	t.Parallel()
	streamtest.Contract(t, carrier("noreset", false))
}

// Without the right to make it anew either, what is pending is waited for.
func TestContractBound(t *testing.T) {
	t.Parallel()
	streamtest.Contract(t, carrier("bound", false))
}

// A server of 2.10 knows no reset, no batches and no start times of direct gets.
func TestContractOldServer(t *testing.T) {
	t.Parallel()
	streamtest.Contract(t, func(t *testing.T) *streamtest.Carrier {
		s := newTestServer(t, contractConfig)
		ensure(t, connect(t, s.options("all")))
		old := oldServer(t, s)
		return &streamtest.Carrier{
			Subjects: stream.Subjects{Topic: "demo"}, Largest: 1 << 20, Denied: "denied", Prefetch: 600,
			Stop: s.stop, Restart: s.start,
			Start: func(t *testing.T) *streamtest.Process {
				o := s.options("all")
				o.Domain, o.RequestTimeout = old, 500*time.Millisecond
				return process(connect(t, o))
			},
		}
	})
}

// oldServer gives the name of a domain in which JetStream's API is that of an old server: what it does not know it does
// not answer, or ignores. It is made of the real one.
func oldServer(t *testing.T, s *testServer) (domain string) {
	t.Helper()
	nc, err := nats.Connect(s.url, nats.UserInfo("all", "all"), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	const prefix = "$JS.OLD.API."
	_, err = nc.Subscribe(prefix+">", func(m *nats.Msg) {
		verb := strings.TrimPrefix(m.Subject, prefix)
		switch {
		case strings.HasPrefix(verb, "CONSUMER.RESET."):
			return
		case strings.HasPrefix(verb, "DIRECT.GET.") && len(m.Data) > 0:
			var request map[string]any
			if err := json.Unmarshal(m.Data, &request); err != nil {
				t.Error(err)
				return
			}
			for _, unknown := range []string{"batch", "max_bytes", "start_time"} {
				delete(request, unknown)
			}
			m.Data, _ = json.Marshal(request)
		}
		if err := nc.PublishRequest("$JS.API."+verb, m.Reply, m.Data); err != nil && nc.IsConnected() {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return "OLD"
}
