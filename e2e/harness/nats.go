package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// NATS is a real nats-server with JetStream on disk. After Kill or Stop, Restart starts it again on the same port and
// with the same files.
type NATS struct {
	*Process
	// URL to connect to.
	URL string

	binary, config string
	// base is the part of the configuration that stays.
	base string
	// before the command line, to run it elsewhere
	before []string
}

// StartNATS starts a nats-server on a port; more is added to its configuration file as it is (accounts, limits).
func StartNATS(t testing.TB, port int, more string) *NATS {
	t.Helper()
	dir := t.TempDir()
	n := &NATS{
		URL: fmt.Sprintf("nats://127.0.0.1:%d", port), binary: Server(t, "nats-server"), config: filepath.Join(dir, "nats.conf"),
		base: fmt.Sprintf("listen: 127.0.0.1:%d\njetstream { store_dir: %q }\n", port, filepath.Join(dir, "jetstream")),
	}
	n.Write(t, more)
	n.Restart(t)
	return n
}

// Write replaces what was added to the configuration file, for the next start or Reload.
func (n *NATS) Write(t testing.TB, more string) {
	t.Helper()
	if err := os.WriteFile(n.config, []byte(n.base+more+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Reload replaces what was added to the configuration file, while the server runs.
func (n *NATS) Reload(t testing.TB, more string) {
	t.Helper()
	before := strings.Count(n.Output(), reloaded)
	n.Write(t, more)
	n.Signal(syscall.SIGHUP)
	Wait(t, 20*time.Second, "the server has reloaded its configuration", func() error {
		if strings.Count(n.Output(), reloaded) > before {
			return nil
		}
		return errors.New("not yet")
	})
}

// reloaded is what the server says then.
const reloaded = "Reloaded server configuration"

// Store is the folder of its streams.
func (n *NATS) Store() string { return filepath.Join(filepath.Dir(n.config), "jetstream") }

// As is the server as a user connects to it.
func (n *NATS) As(user, password string) *NATS {
	as := *n
	as.URL = strings.Replace(n.URL, "nats://", "nats://"+user+":"+password+"@", 1)
	return &as
}

// Restart starts the server again after it was ended.
func (n *NATS) Restart(t testing.TB) {
	t.Helper()
	n.Process = Start(t, "nats-server", append(slices.Clone(n.before), n.binary, "-c", n.config)...)
	n.WaitOutput(20*time.Second, "Server is ready")
}

// Connect opens a raw connection that is closed when the test ends.
func (n *NATS) Connect(t testing.TB) *nats.Conn {
	t.Helper()
	conn, err := nats.Connect(n.URL, nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	if err != nil {
		t.Fatalf("connect to %s: %v", n.URL, err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// JetStream opens a connection for JetStream.
func (n *NATS) JetStream(t testing.TB) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(n.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// Durable is what the server says of a stream's only consumer.
func Durable(t testing.TB, js jetstream.JetStream, stream string) (*jetstream.ConsumerInfo, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), requestLimit)
	defer cancel()
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return nil, err
	}
	list := s.ListConsumers(ctx)
	var found *jetstream.ConsumerInfo
	for info := range list.Info() {
		if info.Config.Durable == "" {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("consumers %s and %s on stream %s, one expected", found.Name, info.Name, stream)
		}
		found = info
	}
	if err := list.Err(); err != nil {
		return nil, err
	}
	if found == nil {
		return nil, fmt.Errorf("no consumer on stream %s", stream)
	}
	return found, nil
}

// Delete takes one message out of a stream.
func Delete(t testing.TB, js jetstream.JetStream, stream string, sequence uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), requestLimit)
	defer cancel()
	s, err := js.Stream(ctx, stream)
	if err == nil {
		err = s.DeleteMsg(ctx, sequence)
	}
	if err != nil {
		t.Fatalf("delete message %d of stream %s: %v", sequence, stream, err)
	}
}
