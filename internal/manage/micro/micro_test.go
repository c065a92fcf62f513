package micro

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/choria-io/prometheus-streams/internal/manage"
	"github.com/choria-io/prometheus-streams/internal/stream/embedded"
)

// permissions are the least with which the tests of this file, and people, get by.
const permissions = `
accounts { A { users: [
  { user: DC1, password: x, permissions {
    publish: ["prometheus.frames.DC1.>"]
    subscribe: ["_INBOX.DC1.>", "prometheus.control.DC1.*", "$SRV.*", "$SRV.*.prometheus-streams", "$SRV.*.prometheus-streams.*"]
    allow_responses: { max: 1, expires: "1m" } } }
  { user: hidden, password: x, permissions {
    subscribe: ["_INBOX.hidden.>", "prometheus.control.hidden.*"], publish: { deny: ">" }
    allow_responses: { max: 1, expires: "1m" } } }
  { user: mute, password: x, permissions { subscribe: ["_INBOX.mute.>"], publish: { deny: ">" } } }
  { user: dumb, password: x, permissions { subscribe: ["_INBOX.dumb.>", "prometheus.control.dumb.*", "$SRV.>"], publish: { deny: ">" } } }
  { user: ops, password: x, permissions {
    publish: ["prometheus.control.*.*", "$SRV.INFO.prometheus-streams"], subscribe: ["_INBOX.ops.>"] } }
  { user: stranger, password: x, permissions { publish: ["other"], subscribe: ["_INBOX.stranger.>"] } }
] } }
`

func server(t *testing.T, config string) *embedded.Server {
	t.Helper()
	file := ""
	if config != "" {
		file = filepath.Join(t.TempDir(), "nats.conf")
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := embedded.Start(embedded.Options{Directory: t.TempDir(), Listen: "127.0.0.1:0", ConfigFile: file})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func connect(t *testing.T, s *embedded.Server, user string) *nats.Conn {
	t.Helper()
	opts := []nats.Option{nats.MaxReconnects(-1), nats.ReconnectWait(50 * time.Millisecond), nats.ReconnectBufSize(-1),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})}
	if user != "" {
		opts = append(opts, nats.UserInfo(user, "x"), nats.CustomInboxPrefix("_INBOX."+user))
	}
	nc, err := nats.Connect(s.URL(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// process is one breaker with its service.
type process struct {
	*manage.Breaker
	log  *logBuffer
	stop func()
}

func start(t *testing.T, nc *nats.Conn, identity, mode string, change ...func(*manage.Config)) *process {
	t.Helper()
	p := &process{log: &logBuffer{}}
	logger := slog.New(slog.NewTextHandler(p.log, nil))
	c := manage.Config{Identity: identity, Mode: mode, Version: "1.2.3", Logger: logger}
	for _, f := range change {
		f(&c)
	}
	b, err := manage.New(c)
	if err != nil {
		t.Fatal(err)
	}
	p.Breaker = b
	s := New(Options{Conn: nc, Subject: "prometheus.control." + identity, Breaker: b, Logger: logger})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(p.stop)
	return p
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not so: %s", what)
		}
	}
}

func short(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// say asks and gives the answers on one line each, in the order of their modes.
func say(t *testing.T, a *Asker, subject, verb string, q Query) string {
	t.Helper()
	answers, err := a.Ask(short(t), "prometheus.control."+subject, verb, q)
	if err != nil {
		return err.Error()
	}
	byMode := map[string]string{}
	for _, one := range answers {
		byMode[one.Mode] += fmt.Sprintf("%s %s %s %v %s;", one.Identity, one.Mode, one.Version, one.Paused, one.Error)
	}
	return byMode["poller"] + byMode["receiver"]
}

func TestService(t *testing.T) {
	s := server(t, permissions)
	first := start(t, connect(t, s, "DC1"), "DC1", "poller", func(c *manage.Config) {
		c.SetLevel = func(string) error { return nil }
	})
	second := start(t, connect(t, s, "DC1"), "DC1", "receiver")
	ops := &Asker{Conn: connect(t, s, "ops"), Caller: "ops@here"}
	eventually(t, "both are found", func() bool {
		found, _ := ops.Find(short(t))
		return len(found) == 2 && found[0] == Found{"DC1", "poller", "prometheus.control.DC1"} && found[1].Mode == "receiver"
	})
	for _, c := range []struct {
		verb string
		q    Query
		want string
	}{
		{Info, Query{}, "DC1 poller 1.2.3 false ;DC1 receiver 1.2.3 false ;"},
		{Pause, Query{}, "DC1 poller 1.2.3 true ;DC1 receiver 1.2.3 true ;"},
		{Resume, Query{Mode: "poller"}, "DC1 poller 1.2.3 false ;"},
		{Switch, Query{}, "DC1 poller 1.2.3 true ;DC1 receiver 1.2.3 false ;"},
		{Switch, Query{Mode: "receiver"}, "DC1 receiver 1.2.3 true ;"},
		{Ping, Query{Mode: "standalone"}, "nobody answers on prometheus.control.DC1.ping"},
		{Health, Query{Mode: "poller"}, "DC1 poller 1.2.3 true ;"},
		{LogLevel, Query{Mode: "poller", Level: "debug"}, "DC1 poller 1.2.3 true ;"},
		{LogLevel, Query{Mode: "poller", Level: "loud"}, `DC1 poller 1.2.3 true no such log level: "loud" is not debug, info, warn or error;`},
		{LogLevel, Query{Mode: "receiver", Level: "debug"}, "DC1 receiver 1.2.3 true no such log level: it cannot be changed in this process;"},
		{"explode", Query{}, "nobody answers on prometheus.control.DC1.explode"},
	} {
		if got := say(t, ops, "DC1", c.verb, c.q); got != c.want {
			t.Errorf("%s %+v: %s\nwant %s", c.verb, c.q, got, c.want)
		}
	}
	if !first.Paused() || !second.Paused() {
		t.Error("the breakers are not as the answers said")
	}
	if !strings.Contains(first.log.String(), `from="ops@here (micro)"`) {
		t.Errorf("who asked is not in the log:\n%s", first.log)
	}
	second.stop()
	eventually(t, "one that stopped is gone", func() bool { return say(t, ops, "DC1", Info, Query{}) == "DC1 poller 1.2.3 true ;" })

	stranger := &Asker{Conn: connect(t, s, "stranger")}
	_, err := stranger.Ask(short(t), "prometheus.control.DC1", Resume, Query{})
	if !errors.Is(err, ErrNobody) || !errors.Is(err, nats.ErrPermissionViolation) {
		t.Errorf("one without the right to ask got %v", err)
	}
	if !first.Paused() {
		t.Error("and yet it was done")
	}
}

// Requests as the nats command sends them: without headers, and with whatever a person types.
func TestPlainRequests(t *testing.T) {
	s := server(t, "")
	full := errors.New("disk full")
	p := start(t, connect(t, s, ""), "DC1", "poller", func(c *manage.Config) {
		c.Ready = func() error { return full }
		c.File = filepath.Join(t.TempDir(), "missing", "paused.json")
	})
	nc := connect(t, s, "")
	ask := func(verb, body string) *nats.Msg {
		t.Helper()
		var m *nats.Msg
		eventually(t, "an answer to "+verb, func() (ok bool) {
			var err error
			m, err = nc.Request("prometheus.control.DC1."+verb, []byte(body), 5*time.Second)
			return err == nil
		})
		return m
	}
	if m := ask("info", ""); string(m.Data) != `{"identity":"DC1","mode":"poller","version":"1.2.3","paused":false}` {
		t.Errorf("info: %s", m.Data)
	}
	var h manage.Health
	if m := ask("health", " \n"); json.Unmarshal(m.Data, &h) != nil || h.Ready || h.Reason != "disk full" || h.Started.IsZero() {
		t.Errorf("health: %s", m.Data)
	}
	for body, want := range map[string]string{
		"yes":                                 "a request is empty or JSON",
		`{"modus":"x"}`:                       `unknown field "modus"`,
		`{} {}`:                               "one JSON object",
		`{"mode":["x"]}`:                      "a request is empty or JSON",
		`"` + strings.Repeat("x", maxRequest): "the limit is 16384",
	} {
		m := ask("pause", body)
		if code, why := m.Header.Get(micro.ErrorCodeHeader), m.Header.Get(micro.ErrorHeader); code != badRequest || !strings.Contains(why, want) {
			t.Errorf("%.20q: %s %s", body, code, why)
		}
	}
	if p.Paused() {
		t.Error("a request that is not understood paused")
	}
	m := ask("pause", `{"mode":"poller"}`)
	if code, why := m.Header.Get(micro.ErrorCodeHeader), m.Header.Get(micro.ErrorHeader); code != failed || !strings.Contains(why, "not remembered over a restart") || !strings.Contains(string(m.Data), `"paused":true`) {
		t.Errorf("a pause that cannot be remembered: %s %s %s", code, why, m.Data)
	}
	if !p.Paused() || !strings.Contains(p.log.String(), `from="unknown (micro)"`) {
		t.Errorf("paused %v\n%s", p.Paused(), p.log)
	}
}

// A service that may not subscribe says which subjects it lacks, once, and one that may only be asked can be asked.
func TestDenied(t *testing.T) {
	s := server(t, permissions)
	mute, hidden := start(t, connect(t, s, "mute"), "mute", "poller"), start(t, connect(t, s, "hidden"), "hidden", "poller")
	eventually(t, "what is missing is in the log", func() bool {
		return strings.Contains(mute.log.String(), "subject=prometheus.control.mute.*") && strings.Contains(hidden.log.String(), "$SRV.*.prometheus-streams")
	})
	if n := strings.Count(mute.log.String(), "\n"); n != 1 {
		t.Errorf("%d lines about it:\n%s", n, mute.log)
	}
	ops := &Asker{Conn: connect(t, s, "ops")}
	if _, err := ops.Find(short(t)); !errors.Is(err, ErrNobody) {
		t.Errorf("found: %v", err)
	}
	if got := say(t, ops, "hidden", Pause, Query{}); got != "hidden poller 1.2.3 true ;" {
		t.Errorf("one that may not be found: %s", got)
	}
	if got := say(t, ops, "mute", Pause, Query{}); got != "nobody answers on prometheus.control.mute.pause" {
		t.Errorf("one that may not be asked: %s", got)
	}
	dumb := start(t, connect(t, s, "dumb"), "dumb", "poller")
	eventually(t, "one that may not answer says so", func() bool {
		if got := say(t, ops, "dumb", Info, Query{}); strings.HasPrefix(got, "dumb") {
			t.Fatalf("it answered %s", got)
		}
		return strings.Contains(dumb.log.String(), "allow_responses")
	})
}

// A connection that comes later, or again, needs no care: the service is there when it is.
func TestReconnect(t *testing.T) {
	dir := t.TempDir()
	s, err := embedded.Start(embedded.Options{Directory: dir, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	nc, asking := connect(t, s, ""), connect(t, s, "")
	p := start(t, nc, "DC1", "poller")
	ops := &Asker{Conn: asking}
	eventually(t, "an answer", func() bool { return strings.HasPrefix(say(t, ops, "DC1", Info, Query{}), "DC1") })
	listen := strings.TrimPrefix(s.URL(), "nats://")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := say(t, ops, "DC1", Pause, Query{}); strings.HasPrefix(got, "DC1") {
		t.Errorf("an answer without a server: %s", got)
	}
	if s, err = embedded.Start(embedded.Options{Directory: dir, Listen: listen}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	eventually(t, "an answer after the server came back", func() bool {
		return say(t, ops, "DC1", Pause, Query{}) == "DC1 poller 1.2.3 true ;"
	})
	if !p.Paused() {
		t.Error("not paused")
	}
}

func TestSemantic(t *testing.T) {
	for version, want := range map[string]string{
		"1.2.3": "1.2.3", "v1.2.3-rc.1+abc": "1.2.3-rc.1+abc", "dev": "0.0.0", "": "0.0.0", "1.2": "0.0.0",
	} {
		if got := semantic(version); got != want {
			t.Errorf("%q: %q, want %q", version, got, want)
		}
	}
}

func FuzzQuery(f *testing.F) {
	f.Add([]byte(`{"mode":"poller","level":"debug"}`))
	f.Add([]byte(" "))
	f.Add([]byte(`{"mode":`))
	f.Fuzz(func(t *testing.T, data []byte) {
		q, err := parseQuery(data)
		if err != nil {
			if q != (Query{}) {
				t.Errorf("an error and %+v", q)
			}
			return
		}
		b, err := json.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := parseQuery(b); err != nil || again != q {
			t.Errorf("%+v became %+v, %v", q, again, err)
		}
	})
}

// FuzzAnswers reads what processes answer, whatever it is: where they say that they are can be asked.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"mode":"poller","identity":"a","paused":true}`), "")
	f.Add([]byte(`{"metadata":{"identity":"a","mode":"poller"},"endpoints":[{"name":"info","subject":"prometheus.control.a.info"},{"name":"info","subject":"a b.info"}]}`), "why")
	f.Add([]byte(`[1]`), "")
	f.Fuzz(func(t *testing.T, data []byte, why string) {
		m := &nats.Msg{Header: nats.Header{}, Data: data}
		if why != "" {
			m.Header.Set(micro.ErrorHeader, why)
		}
		if a := readAnswer(m); why != "" && a.Error != why {
			t.Errorf("%+v", a)
		}
		for _, found := range readInfo(data) {
			if found.Subject == "" || strings.ContainsAny(found.Subject, " \r\n*>") || strings.HasSuffix(found.Subject, ".") {
				t.Errorf("nobody can be asked on %q", found.Subject)
			}
		}
	})
}
