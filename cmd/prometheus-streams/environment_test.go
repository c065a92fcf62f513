package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/choria-io/prometheus-streams/internal/config"
)

const pollerFile = `identity: edge
monitor_port: 9797
poller_stream: {urls: nats://127.0.0.1:4222}
`

// start runs a poller with the body on a configuration and gives its exit code when it ends, and its stderr.
func start(t *testing.T, file string, flags *Flags, body runBody) (code <-chan int, stderr *strings.Builder) {
	t.Helper()
	flags.config = file
	stderr = &strings.Builder{}
	c := &cli{flags: flags, stdout: stderr, stderr: stderr}
	done := make(chan int, 1)
	go func() { done <- c.runRole(config.PollerRole, body) }()
	return done, stderr
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func signalSelf(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), s); err != nil {
		t.Fatal(err)
	}
}

func receive[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("waited too long for %s", what)
		panic("unreachable")
	}
}

func TestRunAndStop(t *testing.T) {
	dir := t.TempDir()
	file, pid := filepath.Join(dir, "c.yaml"), filepath.Join(dir, "pid")
	write(t, file, pollerFile)
	running := make(chan *environment, 1)
	code, stderr := start(t, file, &Flags{PIDFile: pid}, func(ctx context.Context, env *environment) error {
		running <- env
		<-ctx.Done()
		return nil
	})
	env := receive(t, "start", running)
	if env.Config.Identity != "edge" || env.Config.ListenAddress() != ":9797" || env.ConfigPath != file {
		t.Errorf("environment %+v", env)
	}
	if got, err := os.ReadFile(pid); err != nil || strings.TrimSpace(string(got)) != strconv.Itoa(os.Getpid()) {
		t.Errorf("pid file %q, %v", got, err)
	}
	signalSelf(t, syscall.SIGTERM)
	if got := receive(t, "end", code); got != exitOK {
		t.Errorf("exit code %d, want 0\n%s", got, stderr)
	}
	if _, err := os.Stat(pid); !os.IsNotExist(err) {
		t.Errorf("the pid file is still there: %v", err)
	}
	if !strings.Contains(stderr.String(), "msg=starting mode=poller publisher=edge") {
		t.Errorf("log:\n%s", stderr)
	}
}

func TestFailureIsExitCode1(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	write(t, file, pollerFile)
	code, stderr := start(t, file, &Flags{}, func(context.Context, *environment) error { return errors.New("the port is taken") })
	if got := receive(t, "end", code); got != exitFailed || !strings.Contains(stderr.String(), `error="the port is taken"`) {
		t.Errorf("exit code %d\n%s", got, stderr)
	}
}

func TestForeignPIDFileStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	p, err := writePID(path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, "1\n")
	p.remove()
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the pid file of another process was removed: %v", err)
	}
}

// TestHangup rotates the log file and changes the configuration: one SIGHUP takes both over.
func TestHangup(t *testing.T) {
	dir := t.TempDir()
	file, log := filepath.Join(dir, "c.yaml"), filepath.Join(dir, "log")
	text := pollerFile + "logfile: " + log + "\n"
	write(t, file, text)
	running, reloaded := make(chan *environment, 1), make(chan *config.Config, 1)
	code, _ := start(t, file, &Flags{}, func(ctx context.Context, env *environment) error {
		env.OnReload(func(c *config.Config) error { reloaded <- c; return nil })
		running <- env
		<-ctx.Done()
		return nil
	})
	env := receive(t, "start", running)
	if err := os.Rename(log, log+".1"); err != nil {
		t.Fatal(err)
	}
	write(t, file, text+"debug: true\njobs: {a: {targets: [{url: 'http://127.0.0.1:1'}]}}\n")
	signalSelf(t, syscall.SIGHUP)
	if c := receive(t, "reload", reloaded); len(c.Jobs) != 1 {
		t.Errorf("reloaded %+v", c)
	}
	if err := env.Reload(); err != nil { // also waits for the first one to end
		t.Error(err)
	}
	<-reloaded
	env.Logger.Debug("now seen")
	signalSelf(t, syscall.SIGTERM)
	if got := receive(t, "end", code); got != exitOK {
		t.Errorf("exit code %d", got)
	}

	var messages []string
	for _, name := range []string{log + ".1", log} {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			var entry struct{ Time, Level, Msg string }
			if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Level == "" || entry.Time == "" {
				t.Fatalf("%s: no JSON line of a log: %q, %v", name, line, err)
			}
			messages = append(messages, filepath.Base(name)+": "+entry.Msg)
		}
	}
	got := strings.Join(messages, "\n")
	for _, want := range []string{"log.1: starting", "log: configuration reloaded", "log: now seen", "log: stopped"} {
		if !strings.Contains(got, want) {
			t.Errorf("logs lack %q:\n%s", want, got)
		}
	}
}

func TestReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	write(t, file, pollerFile)
	flags := &Flags{config: file}
	cfg, _, err := flags.loadRole(config.PollerRole)
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	env, err := newEnvironment(&cli{flags: flags, stderr: &stderr}, config.PollerRole, cfg)
	if err != nil {
		t.Fatal(err)
	}
	var hookError error
	calls := 0
	env.OnReload(func(*config.Config) error { calls++; return hookError })
	successful := func() float64 { return testutil.ToFloat64(env.metrics.successful) }

	for _, c := range []struct {
		text, want string
		hookError  error
		calls      int
	}{
		{text: pollerFile + "scrape_interval: 5s\n", calls: 1},
		{text: "jobs: [", want: "not YAML", calls: 1},
		{text: strings.Replace(pollerFile, "edge", "other", 1), want: "identity, poller_stream changed, which needs a restart", calls: 1},
		{text: strings.Replace(pollerFile, "9797", "9798", 1), want: "monitor_port changed", calls: 1},
		{text: pollerFile, hookError: errors.New("no such sink"), want: "no such sink", calls: 2},
		{text: pollerFile, calls: 3},
	} {
		write(t, file, c.text)
		hookError = c.hookError
		err := env.Reload()
		if c.want == "" && (err != nil || successful() != 1) {
			t.Errorf("reload of %q: %v, metric %v", c.text, err, successful())
		}
		if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || successful() != 0) {
			t.Errorf("reload of %q: %v, metric %v; want %q and 0", c.text, err, successful(), c.want)
		}
		if calls != c.calls {
			t.Errorf("after the reload of %q the hook ran %d times, want %d", c.text, calls, c.calls)
		}
	}
}

func TestLogLevels(t *testing.T) {
	for _, c := range []struct {
		flags Flags
		debug bool
		want  string
	}{
		{Flags{}, false, "INFO"},
		{Flags{}, true, "DEBUG"},
		{Flags{Debug: true}, false, "DEBUG"},
		{Flags{Debug: true, LogLevel: "warn"}, true, "WARN"},
		{Flags{LogLevel: "info"}, true, "INFO"},
		{Flags{LogLevel: "error"}, false, "ERROR"},
		{Flags{LogLevel: "debug"}, false, "DEBUG"},
	} {
		if got := logLevel(&c.flags, &config.Config{Debug: c.debug}).String(); got != c.want {
			t.Errorf("%+v, debug %t: level %s, want %s", c.flags, c.debug, got, c.want)
		}
	}
}

func TestLogFormats(t *testing.T) {
	for format, want := range map[string]string{"": "level=INFO msg=hello", "logfmt": "level=INFO msg=hello", "json": `"msg":"hello"`} {
		var out strings.Builder
		l, err := newLogging(&Flags{LogFormat: format}, &config.Config{}, &out)
		if err != nil {
			t.Fatal(err)
		}
		l.logger.Info("hello")
		if !strings.Contains(out.String(), want) {
			t.Errorf("format %q logs %q", format, out.String())
		}
	}
	if _, err := newLogging(&Flags{}, &config.Config{Logfile: filepath.Join(t.TempDir(), "none", "log")}, os.Stderr); err == nil {
		t.Error("a logfile in a directory that is not there is no error")
	}
}

func TestOwnMetrics(t *testing.T) {
	env, err := newEnvironment(&cli{flags: &Flags{}, stderr: os.Stderr}, config.PollerRole, &config.Config{})
	if err != nil {
		t.Fatal(err)
	}
	problems, err := testutil.GatherAndLint(env.Registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v %v", problems, err)
	}
	for _, name := range []string{"prometheus_streams_build_info", "go_goroutines", "process_open_fds", "prometheus_streams_config_last_reload_successful"} {
		if n, err := testutil.GatherAndCount(env.Registry, name); n != 1 || err != nil {
			t.Errorf("%d series of %s, %v", n, name, err)
		}
	}
}

func TestRoutePrefix(t *testing.T) {
	for _, c := range []struct{ external, prefix, want string }{
		{"", "", ""},
		{"", "/", ""},
		{"", "streams/", "/streams"},
		{"https://a.example/x/y/", "", "/x/y"},
		{"https://a.example/x", "/", ""},
	} {
		f := Flags{Web: WebFlags{ExternalURL: c.external, RoutePrefix: c.prefix}}
		if err := f.check(); err != nil || f.Web.RoutePrefix != c.want {
			t.Errorf("%+v: route prefix %q, %v", c, f.Web.RoutePrefix, err)
		}
	}
}
