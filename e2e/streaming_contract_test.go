package e2e

import (
	"log/slog"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/choria-io/prometheus-streams/internal/stream/access"
	"github.com/choria-io/prometheus-streams/internal/stream/streaming"
	"github.com/choria-io/prometheus-streams/internal/stream/streamtest"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// What forwarder and receiver rely on, against a real NATS Streaming server that is killed.
func TestStreamingContract(t *testing.T) {
	t.Parallel()
	for _, version := range []string{harness.LastStreaming, harness.OldestStreaming} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			streamingContract(t, version)
		})
	}
}

func streamingContract(t *testing.T, version string) {
	streamtest.Contract(t, func(t *testing.T) *streamtest.Carrier {
		server := harness.StartStreamingVersion(t, version, ports.Next(t))
		return &streamtest.Carrier{
			Subjects: stream.Subjects{Topic: "demo"}, OneSubject: "demo", NoFloor: true, Prefetch: 512,
			Stop: func(*testing.T) { server.Kill() }, Restart: func(t *testing.T) { server.Restart(t) },
			Start: func(t *testing.T) *streamtest.Process {
				c, err := streaming.Connect(t.Context(), streaming.Options{
					Server: access.Server{
						URLs: []string{server.URL}, ReconnectWait: 50 * time.Millisecond, PublishTimeout: 15 * time.Second,
						Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
					},
					ClusterID: harness.ClusterID, ClientID: "contract", Topic: "demo", SessionPings: time.Second,
				})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(c.Close)
				return &streamtest.Process{
					Publisher: func(*testing.T, ...string) streamtest.Publisher { return c.Publisher() },
					Consumer: func(_ *testing.T, durable string) streamtest.Consumer {
						return c.Consumer(streaming.ConsumerOptions{Durable: durable, AckWait: 3 * time.Second})
					},
					Follow: func(_ *testing.T, from time.Time) streamtest.Consumer {
						return c.Consumer(streaming.ConsumerOptions{From: from})
					},
					Die: c.Close,
				}
			},
		}
	})
}
