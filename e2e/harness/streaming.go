package harness

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// ClusterID is that of the NATS Streaming servers of tests.
const ClusterID = "e2e_stream"

// Streaming is a real nats-streaming-server with its own NATS and its messages on disk. After Kill or Stop, Restart starts
// it again on the same port and with the same files.
type Streaming struct {
	*Process
	// URL to connect to.
	URL string

	argv  []string
	ready string // what it prints last when it starts
}

// The versions of NATS Streaming that there are: the last one, and the oldest that version 1.0 is to be used with.
const (
	LastStreaming   = "nats-streaming-server"
	OldestStreaming = "nats-streaming-server-oldest"
)

// StartStreaming starts a nats-streaming-server on a port; flags are added to its command line.
func StartStreaming(t testing.TB, port int, flags ...string) *Streaming {
	t.Helper()
	return StartStreamingVersion(t, LastStreaming, port, flags...)
}

// StartStreamingVersion starts one of a version.
func StartStreamingVersion(t testing.TB, version string, port int, flags ...string) *Streaming {
	t.Helper()
	s := &Streaming{URL: fmt.Sprintf("nats://127.0.0.1:%d", port), ready: "Streaming Server is ready"}
	if version == OldestStreaming {
		s.ready = "STREAM: -{34}$"
	}
	s.argv = append([]string{Server(t, version), "-a", "127.0.0.1", "-p", fmt.Sprint(port), "-cid", ClusterID,
		"-st", "file", "-dir", filepath.Join(t.TempDir(), "streaming")}, flags...)
	s.Restart(t)
	return s
}

// Restart starts the server again after it was ended.
func (s *Streaming) Restart(t testing.TB) {
	t.Helper()
	s.Process = Start(t, "nats-streaming-server", s.argv...)
	s.WaitOutput(20*time.Second, s.ready)
}

// Connect opens a raw connection to its NATS that is closed when the test ends.
func (s *Streaming) Connect(t testing.TB) *nats.Conn {
	t.Helper()
	conn, err := nats.Connect(s.URL, nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	if err != nil {
		t.Fatalf("connect to %s: %v", s.URL, err)
	}
	t.Cleanup(conn.Close)
	return conn
}
