package manage

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// machine notes what it was told.
type machine struct {
	mu   sync.Mutex
	told string
}

func (m *machine) Pause()  { m.note("p") }
func (m *machine) Resume() { m.note("r") }

func (m *machine) note(s string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.told += s
}

func ops(via string) Request { return Request{Caller: "ops", Via: via} }

func TestBreaker(t *testing.T) {
	var log bytes.Buffer
	reg := prometheus.NewPedanticRegistry()
	b, err := New(Config{
		Identity: "DC1", Mode: "poller", Version: "1.2.3",
		Logger: slog.New(slog.NewTextHandler(&log, nil)), Registerer: reg,
	})
	if err != nil {
		t.Fatal(err)
	}
	first, second := &machine{}, &machine{}
	b.Manage(first)
	var seen []bool
	b.OnChange(func(s Status) { seen = append(seen, s.Paused) })
	do := func(f func(Request) (Status, error), via string, paused bool) {
		t.Helper()
		got, err := f(ops(via))
		if want := (Status{"DC1", "poller", "1.2.3", paused}); err != nil || got != want || b.Status() != want || b.Paused() != paused {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	}
	do(b.Resume, "micro", false)
	do(b.Pause, "micro", true)
	do(b.Pause, "http", true)
	b.Manage(second) // what comes later is paused at once
	do(b.Switch, "http", false)
	do(b.Switch, "choria", true)
	do(b.Resume, "", false)
	if first.told != "prpr" || second.told != "prpr" {
		t.Errorf("told %q and %q", first.told, second.told)
	}
	if len(seen) != 4 || !seen[0] || seen[1] || !seen[2] || seen[3] {
		t.Errorf("listeners saw %v", seen)
	}
	if n := strings.Count(log.String(), "asked for"); n != 4 {
		t.Errorf("%d changes in the log, want 4:\n%s", n, &log)
	}
	for _, want := range []string{`msg="pause asked for" mode=poller paused=true from="ops (micro)"`, `paused=false from="ops (http)"`, "from=ops\n"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %q in the log:\n%s", want, &log)
		}
	}
	const want = `
# HELP prometheus_streams_management_changes_total Changes that were asked for, by action (pause, resume, loglevel) and by the way the request came.
# TYPE prometheus_streams_management_changes_total counter
prometheus_streams_management_changes_total{action="pause",via="choria"} 1
prometheus_streams_management_changes_total{action="pause",via="micro"} 1
prometheus_streams_management_changes_total{action="resume",via="http"} 1
prometheus_streams_management_changes_total{action="resume",via="unknown"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

func TestSetLevel(t *testing.T) {
	set := ""
	var refuse error
	b, err := New(Config{SetLevel: func(l string) error { set = l; return refuse }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.SetLevel(ops("micro"), "DEBUG"); err != nil || set != "debug" {
		t.Errorf("level %q, %v", set, err)
	}
	if _, err := b.SetLevel(ops("micro"), "loud"); !errors.Is(err, ErrLevel) || set != "debug" {
		t.Errorf("level %q, %v", set, err)
	}
	refuse = errors.New("no log")
	if _, err := b.SetLevel(ops("micro"), "warn"); !errors.Is(err, ErrLevel) || !errors.Is(err, refuse) {
		t.Errorf("error %v", err)
	}
	fixed, _ := New(Config{})
	if _, err := fixed.SetLevel(ops("micro"), "warn"); !errors.Is(err, ErrLevel) {
		t.Errorf("error %v", err)
	}
}

func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var why error
		b, err := New(Config{Identity: "DC1", Ready: func() error { return why }})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if h := b.Health(); !h.Ready || h.Reason != "" || !h.Started.Equal(start) || !h.Since.IsZero() || h.Identity != "DC1" {
			t.Errorf("%+v", h)
		}
		time.Sleep(time.Minute)
		why = errors.New("no connection")
		_, _ = b.Pause(Request{})
		if h := b.Health(); h.Ready || h.Reason != "no connection" || !h.Since.Equal(start.Add(time.Minute)) || !h.Paused {
			t.Errorf("%+v", h)
		}
	})
}

func TestRemember(t *testing.T) {
	file := filepath.Join(t.TempDir(), "paused.json")
	start := func() (*Breaker, *machine) {
		t.Helper()
		b, err := New(Config{Mode: "receiver", File: file})
		if err != nil {
			t.Fatal(err)
		}
		m := &machine{}
		b.Manage(m)
		return b, m
	}
	b, m := start()
	if b.Paused() || m.told != "" {
		t.Fatal("paused at the first start")
	}
	if _, err := b.Pause(Request{Caller: strings.Repeat("x", 1<<20), Via: "micro"}); err != nil {
		t.Fatal(err)
	}
	since := b.Health().Since
	b, m = start()
	if !b.Paused() || m.told != "p" || !b.Health().Since.Equal(since) {
		t.Errorf("not paused after a restart: %q, since %v", m.told, b.Health().Since)
	}
	if _, err := b.Resume(ops("micro")); err != nil {
		t.Fatal(err)
	}
	if b, m = start(); b.Paused() || m.told != "" {
		t.Error("paused though it was resumed")
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), ".*")); len(left) != 0 {
		t.Errorf("files left: %q", left)
	}
	if err := os.RemoveAll(filepath.Dir(file)); err != nil {
		t.Fatal(err)
	}
	if s, err := b.Pause(ops("micro")); !errors.Is(err, ErrNotRemembered) || !s.Paused || m.told != "p" {
		t.Errorf("a pause that cannot be remembered: %+v, %v, told %q", s, err, m.told)
	}
}

func TestRememberedNonsense(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"empty": "", "text": "paused", "list": "[]", "huge": strings.Repeat(" ", maxMemory+1)} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := New(Config{File: file}); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if _, err := New(Config{File: dir}); err == nil {
		t.Error("a directory is taken for a file")
	}
}

func FuzzRecall(f *testing.F) {
	f.Add([]byte(`{"paused":true,"from":"ops (micro)","since":"2026-01-02T03:04:05Z"}`))
	f.Add([]byte(`{"paused":1}`))
	f.Add([]byte("\x00"))
	f.Fuzz(func(t *testing.T, content []byte) {
		file := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		past, err := recall(file)
		if err != nil {
			return
		}
		if err := remember(file, past); err != nil {
			return // a time that JSON cannot say
		}
		again, err := recall(file)
		if err != nil || again.Paused != past.Paused || again.From != past.From || !again.Since.Equal(past.Since) {
			t.Errorf("%+v became %+v, %v", past, again, err)
		}
	})
}

// Changes from all sides at once leave what is managed as the breaker says.
func TestChangesAtOnce(t *testing.T) {
	b, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{}
	b.Manage(m)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				_, _ = b.Switch(Request{})
				_ = b.Health()
			}
		})
	}
	wg.Wait()
	if b.Paused() || strings.Contains(m.told, "pp") || strings.Contains(m.told, "rr") || len(m.told) != 800 {
		t.Errorf("paused %v, told %d times", b.Paused(), len(m.told))
	}
}
