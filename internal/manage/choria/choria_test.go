package choria

import (
	"bufio"
	"errors"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/go-choria/lifecycle"

	"github.com/choria-io/prometheus-streams/internal/manage"
	ours "github.com/choria-io/prometheus-streams/internal/manage/lifecycle"
)

// The actions of the agent, on a NATS server without TLS.
func TestActions(t *testing.T) {
	w := newWorld(t, false)
	w.run(w.config())
	if !strings.Contains(w.log.String(), "level=WARN msg=\"management without tls: callers are not authenticated") {
		t.Errorf("not said that callers are not authenticated:\n%s", w.log)
	}
	for _, step := range []struct {
		action string
		paused bool
	}{
		{"info", false}, {"ping", false}, {"switch", true}, {"info", true}, {"pause", true}, {"switch", false}, {"resume", false}, {"pause", true}, {"resume", false},
	} {
		a := w.must(call{agent: "prometheus_streams", action: step.action, caller: "me.mcollective"})
		want := map[string]any{"mode": "poller", "paused": step.paused, "version": "2.1.0"}
		if a.Statuscode != 0 || !maps.Equal(a.Data, want) {
			t.Errorf("%s: status %d %s, %v; want %v", step.action, a.Statuscode, a.Statusmsg, a.Data, want)
		}
		if w.breaker.Paused() != step.paused {
			t.Errorf("%s: paused %t", step.action, w.breaker.Paused())
		}
	}
	if a := w.must(call{agent: "prometheus_streams", action: "health", caller: "me.mcollective"}); a.Data["ready"] != true || a.Data["mode"] != "poller" {
		t.Errorf("health: %+v", a)
	}
	if a := w.must(call{agent: "prometheus_streams", action: "loglevel", caller: "me.mcollective", data: map[string]any{"level": "loud"}}); a.Statuscode == 0 {
		t.Errorf("loglevel loud: %+v", a)
	}
	if a := w.must(call{agent: "prometheus_streams", action: "loglevel", caller: "me.mcollective", data: map[string]any{"level": "info"}}); a.Statuscode != 1 ||
		!strings.Contains(a.Statusmsg, "cannot be changed in this process") || a.Data["version"] != "2.1.0" {
		t.Errorf("loglevel where it cannot be set: %+v", a)
	}
	if a := w.must(call{agent: "prometheus_streams", action: "explode", caller: "me.mcollective"}); a.Statuscode != 2 {
		t.Errorf("unknown action: %+v", a)
	}
	if !strings.Contains(w.log.String(), `from="choria=me.mcollective (choria)"`) {
		t.Errorf("the log does not say who paused:\n%s", w.log)
	}
}

// Facts are there for get_fact and for filters, fresh after each change, and in a directory that is ours alone.
func TestFacts(t *testing.T) {
	w := newWorld(t, false)
	w.run(w.config())
	fact := func(name string) any {
		t.Helper()
		a := w.must(call{agent: "rpcutil", action: "get_fact", caller: "me.mcollective", data: map[string]any{"fact": name}})
		return a.Data["value"]
	}
	for name, want := range map[string]any{
		"identity": "prom.example.net", "mode": "poller", "paused": false, "version": "2.1.0", "jobs": "app,node", "poller_mode": true, "node_job": true,
		"app_job": true, "config.scrape_interval": "1m", "receiver_mode": nil,
	} {
		if got := fact(name); got != want {
			t.Errorf("fact %s is %v, want %v", name, got, want)
		}
	}
	if nested, ok := fact("config").(map[string]any); !ok || nested["poller_stream"].(map[string]any)["password"] != "<secret>" {
		t.Errorf("fact config is %v", nested)
	}
	info, err := os.Stat(w.server.dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory %v, %v", info.Mode(), err)
	}
	if info, err = os.Stat(w.server.factsFile()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("facts %v, %v", info.Mode(), err)
	}
	ping := func(fact, value string) error {
		filter := map[string]any{"fact": []any{map[string]any{"fact": fact, "operator": "==", "value": value}}}
		a, err := w.ask(call{agent: "discovery", caller: "me.mcollective", raw: "ping", filter: filter}, 500*time.Millisecond)
		if err == nil && a.raw != "pong" {
			t.Errorf("discovery answers %q", a.raw)
		}
		return err
	}
	if _, err := w.breaker.Pause(manage.Request{Caller: "me", Via: "http"}); err != nil {
		t.Fatal(err)
	}
	if err := ping("paused", "false"); !errors.Is(err, errSilence) {
		t.Errorf("the filter paused=false matches after a pause: %v", err)
	}
	w.wait("paused=true", func() bool { return ping("paused", "true") == nil })
	w.end()
	if _, err := os.Stat(w.server.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory is left behind: %v", err)
	}
	w.server.Refresh() // a reload that comes late
	if strings.Contains(w.log.String(), "not up to date") {
		t.Error("complains about facts after its end")
	}
}

// With a name there is what version 1.0 had.
func TestBackplane(t *testing.T) {
	w := newWorld(t, false)
	c := w.config()
	c.Name = "metrics"
	w.run(c)
	to := "metrics_backplane.broadcast.agent.backplane"
	for _, step := range []struct {
		action string
		want   map[string]any
	}{
		{"ping", map[string]any{"version": "2.1.0"}}, {"pause", map[string]any{"paused": true}}, {"flip", map[string]any{"paused": false}},
		{"flip", map[string]any{"paused": true}}, {"resume", map[string]any{"paused": false}},
	} {
		if a := w.must(call{agent: "backplane", action: step.action, caller: "me.mcollective", to: to}); !maps.Equal(a.Data, step.want) {
			t.Errorf("%s: %v, want %v", step.action, a.Data, step.want)
		}
	}
	a := w.must(call{agent: "backplane", action: "info", caller: "me.mcollective", to: to})
	if a.Data["version"] != "2.1.0" || a.Data["paused"] != false || a.Data["pause_feature"] != true || a.Data["facts"].(map[string]any)["mode"] != "poller" {
		t.Errorf("info: %v", a.Data)
	}
	if got := w.server.fw.Configuration().Collectives; !slices.Equal(got, []string{"prometheus", "metrics_backplane"}) {
		t.Errorf("collectives %v", got)
	}
}

// A startup and a shutdown event, one each, whatever the connection does between them.
func TestEvents(t *testing.T) {
	w := newWorld(t, false)
	w.connect()
	events, err := w.nc.SubscribeSync(ours.Prefix + ">")
	if err != nil {
		t.Fatal(err)
	}
	_ = w.nc.Flush()
	w.begin(w.config())
	next := func() lifecycle.Event {
		t.Helper()
		m, err := events.NextMsg(patience)
		if err != nil {
			t.Fatalf("no event: %v\n%s", err, w.log)
		}
		e, err := lifecycle.NewFromJSON(m.Data)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	if e := next(); e.Type() != lifecycle.Startup || e.Component() != "prometheus_streams_poller" || e.Identity() != "prom.example.net" ||
		e.(*lifecycle.StartupEvent).Version != "2.1.0" {
		t.Errorf("first event: %v", e)
	}
	w.logs("connected to the Choria network")
	w.nats.Shutdown()
	w.startNATS()
	w.wait("an answer after the restart", func() bool {
		_, err := w.ask(call{agent: "rpcutil", action: "ping", caller: "me.mcollective"}, time.Second)
		return err == nil
	})
	w.end()
	if e := next(); e.Type() != lifecycle.Shutdown || e.Component() != "prometheus_streams_poller" {
		t.Errorf("second event: %v", e)
	}
	if m, err := events.NextMsg(200 * time.Millisecond); err == nil {
		t.Errorf("one event more: %s", m.Data)
	}
}

// What the room lifecycle makes is what Choria reads, which the form that version 1.0 published is not any more.
func TestOwnEvents(t *testing.T) {
	old := `{"protocol":"choria:lifecycle:startup:1","identity":"DC1","component":"prometheus_streams_poller","timestamp":1795375639,"version":"1.0.0"}`
	if e, err := lifecycle.NewFromJSON([]byte(old)); err == nil {
		t.Errorf("Choria reads the events of version 1.0: %v", e)
	}
	p := ours.Process{Identity: "DC1", Component: Component("receiver"), Version: "2.1.0"}
	for kind, make := range map[lifecycle.Type]func() (string, []byte){lifecycle.Startup: p.Startup, lifecycle.Shutdown: p.Shutdown} {
		subject, data := make()
		e, err := lifecycle.NewFromJSON(data)
		if err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		target, err := e.Target()
		if err != nil || target != subject || e.Type() != kind || e.Identity() != "DC1" || e.Component() != "prometheus_streams_receiver" ||
			time.Since(e.TimeStamp()) > time.Minute || e.ID() == "" {
			t.Errorf("%s on %s: %v, %v", data, subject, e, err)
		}
		if s, ok := e.(*lifecycle.StartupEvent); ok && s.Version != "2.1.0" {
			t.Errorf("version %q", s.Version)
		}
	}
}

// However the broker is away, the end takes less than two seconds.
func TestEndWithoutBroker(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = gone.Close()
	stalled := newStall(t)
	for name, c := range map[string]struct {
		broker string
		after  func(w *world)
	}{
		"never there":     {gone.Addr().String(), func(*world) {}},
		"never answers":   {silent.Addr().String(), func(*world) { time.Sleep(100 * time.Millisecond) }},
		"went away":       {"", func(w *world) { w.logs("connected to the Choria network"); w.nats.Shutdown(); w.logs("disconnected") }},
		"answers no more": {stalled.address(), func(w *world) { w.logs("connected to the Choria network"); stalled.stall() }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, false)
			config := w.config()
			if c.broker != "" {
				config.Brokers = []string{c.broker}
			}
			stalled.to(w.address())
			w.begin(config)
			c.after(w)
			if took := w.end(); took > 2*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// stall passes on what comes until it does no more, and keeps connections open then.
type stall struct {
	l       net.Listener
	where   chan string
	stopped chan struct{}
}

func newStall(t *testing.T) *stall {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &stall{l: l, where: make(chan string, 8), stopped: make(chan struct{})}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			here, err := l.Accept()
			if err != nil {
				return
			}
			address := ""
			for len(s.where) > 0 {
				address = <-s.where
			}
			there, err := net.Dial("tcp", address)
			if err != nil {
				_ = here.Close()
				continue
			}
			t.Cleanup(func() { _ = here.Close(); _ = there.Close() })
			go s.pass(here, there)
			go s.pass(there, here)
		}
	}()
	return s
}

func (s *stall) address() string   { return s.l.Addr().String() }
func (s *stall) to(address string) { s.where <- address }
func (s *stall) stall()            { close(s.stopped) }

func (s *stall) pass(from, to net.Conn) {
	r := bufio.NewReader(from)
	for {
		b, err := r.ReadByte()
		if err != nil {
			return
		}
		select {
		case <-s.stopped:
			return
		default:
		}
		if _, err := to.Write([]byte{b}); err != nil {
			return
		}
	}
}

// A broker that comes later is found.
func TestBrokerComesLater(t *testing.T) {
	w := newWorld(t, false)
	w.nats.Shutdown()
	w.nats.WaitForShutdown()
	w.begin(w.config())
	w.logs("Initial connection to the Broker failed")
	w.startNATS()
	w.logs("connected to the Choria network")
	if n := strings.Count(w.log.String(), "level=WARN msg=\"choria: Initial connection"); n != 1 {
		t.Errorf("%d warnings that it is not there:\n%s", n, w.log)
	}
}

func TestBadConfig(t *testing.T) {
	w := newWorld(t, true)
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no brokers":     {func(c *Config) { c.Brokers = nil }, "no brokers"},
		"identity":       {func(c *Config) { c.Identity = "a\nlogfile = /etc/passwd" }, `identity "a\nlogfile`},
		"collective":     {func(c *Config) { c.Collective = "a.>" }, `collective "a.>"`},
		"name":           {func(c *Config) { c.Name = "My App" }, `name "My App"`},
		"broker":         {func(c *Config) { c.Brokers = []string{"there"} }, "could not parse host there"},
		"auth, no tls":   {func(c *Config) { c.TLS, c.Auth = nil, &Auth{Full: []string{"a"}} }, "without tls anybody can claim any name"},
		"auth":           {func(c *Config) { c.Auth = &Auth{ReadOnly: []string{"("}} }, "auth: read_only: error parsing regexp"},
		"no key":         {func(c *Config) { c.TLS.Key = "" }, "tls: ca, cert and key are all needed"},
		"no such file":   {func(c *Config) { c.TLS.Cert = "/nonexistent.pem" }, "/nonexistent.pem does not exist"},
		"scheme":         {func(c *Config) { c.TLS.Scheme = "magic" }, `scheme "magic"`},
		"level":          {func(c *Config) { c.Level = "loud" }, `loglevel "loud"`},
		"tls identity":   {func(c *Config) { c.TLS.Identity = "" }, "tls: identity"},
		"no such ssldir": {func(c *Config) { c.TLS = &TLS{Scheme: Puppet, SSLDir: "/nonexistent", Identity: "a"} }, "/nonexistent"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir())
			config := w.config()
			c.change(&config)
			b, err := manage.New(manage.Config{})
			if err != nil {
				t.Fatal(err)
			}
			s, err := New(config, b)
			if err == nil {
				s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}
