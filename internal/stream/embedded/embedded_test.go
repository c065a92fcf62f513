package embedded

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func begin(t *testing.T, o Options) *Server {
	t.Helper()
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.s.Shutdown() })
	return s
}

func client(t *testing.T, s *Server, url string, opts ...nats.Option) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func TestInProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "one")
	s := begin(t, Options{Directory: dir})
	if s.URL() != "" {
		t.Errorf("it listens on %s though it was given no address", s.URL())
	}
	js := client(t, s, "", s.ClientOptions()...)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "KEPT", Subjects: []string{"kept"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "kept", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = begin(t, Options{Directory: dir, Listen: "127.0.0.1:0"})
	info, err := client(t, s, s.URL()).Stream(t.Context(), "KEPT")
	if err != nil || info.CachedInfo().State.Msgs != 1 {
		t.Errorf("after a restart: %v, %+v", err, info)
	}
}

func TestMaxBytes(t *testing.T) {
	s := begin(t, Options{Directory: t.TempDir(), MaxBytes: 1 << 20})
	_, err := client(t, s, "", s.ClientOptions()...).CreateStream(t.Context(), jetstream.StreamConfig{Name: "BIG", MaxBytes: 2 << 20})
	if err == nil {
		t.Error("a stream larger than the limit was created")
	}
}

func TestStartErrors(t *testing.T) {
	used := t.TempDir()
	begin(t, Options{Directory: used})
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	tests := []struct {
		name   string
		o      Options
		want   error
		naming string
	}{
		{"no directory", Options{}, ErrDirectory, "no directory"},
		{"directory in use", Options{Directory: used}, ErrInUse, used},
		{"a file", Options{Directory: file}, ErrDirectory, file},
		{"below a file", Options{Directory: filepath.Join(file, "x")}, ErrDirectory, file},
		{"port taken", Options{Directory: t.TempDir(), Listen: taken.Addr().String()}, ErrListen, taken.Addr().String()},
		{"no port", Options{Directory: t.TempDir(), Listen: "localhost"}, ErrListen, "localhost"},
		{"bad port", Options{Directory: t.TempDir(), Listen: "localhost:x"}, ErrListen, "localhost:x"},
		{"bad configuration", Options{Directory: t.TempDir(), ConfigFile: filepath.Join(used, "none.conf")}, os.ErrNotExist, "none.conf"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := Start(tt.o)
			if err == nil {
				s.Close()
			}
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.naming) {
				t.Errorf("got %v, want an error that is %q and names %s", err, tt.want, tt.naming)
			}
		})
	}
	// A directory whose server failed to start is free again.
	if _, err := Start(Options{Directory: tests[4].o.Directory, Listen: taken.Addr().String()}); !errors.Is(err, ErrListen) {
		t.Error(err)
	}
	begin(t, Options{Directory: tests[4].o.Directory})
}

// A directory of which only the file's owner could write is told apart from one in use. Root may write anywhere, so the
// lock file is a directory here.
func TestUnwritable(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "lock"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(Options{Directory: dir}); !errors.Is(err, ErrDirectory) || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v", err)
	}
}

func TestLog(t *testing.T) {
	var buf bytes.Buffer
	l := &serverLog{log: slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	l.Noticef("notice %d", 1)
	l.Warnf("warning %d", 2)
	l.Errorf("error %d", 3)
	for _, want := range []string{`level=DEBUG msg="NATS server: notice 1"`, `level=WARN msg="NATS server: warning 2"`, `level=ERROR msg="NATS server: error 3"`} {
		if !strings.Contains(buf.String(), want) {
			t.Errorf("the log lacks %s:\n%s", want, &buf)
		}
	}
	l.Fatalf("fatal %d", 4)
	if err := l.fatal(); err == nil || err.Error() != "fatal 4" {
		t.Errorf("fatal error: %v", err)
	}
}

func TestSync(t *testing.T) {
	o := Options{Directory: "x"}
	if opts, err := o.server(); err != nil || opts.SyncInterval != 10*time.Second || !opts.DontListen {
		t.Errorf("%+v, %v", opts, err)
	}
	o = Options{Directory: "x", SyncInterval: time.Second, SyncAlways: true, Listen: "127.0.0.1:0"}
	if opts, err := o.server(); err != nil || opts.SyncInterval != time.Second || !opts.SyncAlways || opts.DontListen || opts.Port != -1 {
		t.Errorf("%+v, %v", opts, err)
	}
}
