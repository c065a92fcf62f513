package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/stan.go"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// seedConfig is the sample of the first readme with nothing but host names, ports and paths changed: pairs of what to
// change and to what.
func seedConfig(t *testing.T, pairs ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(harness.Root(), "internal", "config", "testdata", "seed.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(pairs); i += 2 {
		if strings.Count(string(b), pairs[i]) != 1 {
			t.Fatalf("the sample does not have %q once", pairs[i])
		}
	}
	text := strings.NewReplacer(pairs...).Replace(string(b))
	if strings.Contains(text, "example.net:") {
		t.Fatalf("an address of the sample is left:\n%s", text)
	}
	return text
}

// replicate copies a topic from one cluster to the other, message by message, as the Stream Replicator does.
func replicate(t *testing.T, from, to stan.Conn, topic string) {
	t.Helper()
	_, err := from.Subscribe(topic, func(m *stan.Msg) {
		if err := to.Publish(topic, m.Data); err == nil {
			_ = m.Ack()
		}
	}, stan.DurableName("replicator"), stan.DeliverAllAvailable(), stan.SetManualAckMode(), stan.MaxInflight(1))
	if err != nil {
		t.Fatal(err)
	}
}

// The sample of the first readme runs poller and receiver as it is: a cluster in a data centre, another at the centre with
// the topic replicated to it, a Push Gateway, and no Choria broker within reach. Both versions of NATS Streaming.
func TestStreamingSeedConfig(t *testing.T) {
	for _, version := range []string{harness.LastStreaming, harness.OldestStreaming} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			seedSite(t, version)
		})
	}
}

func seedSite(t *testing.T, version string) {
	dc := harness.StartStreamingVersion(t, version, ports.Next(t), "-cid", "dc1_stream")
	hub := harness.StartStreamingVersion(t, version, ports.Next(t), "-cid", "global_stream")
	out, err := stan.Connect("global_stream", "replicator", stan.NatsConn(hub.Connect(t)))
	if err != nil {
		t.Fatal(err)
	}
	in, err := stan.Connect("dc1_stream", "replicator", stan.NatsConn(dc.Connect(t)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); out.Close() })
	replicate(t, in, out, "prometheus")
	g := startPushServer(t, "pushgateway")
	all := targets.Many(t, "choria", 3, 5)
	pairs := []string{
		"/var/log/prometheus-streams.log", filepath.Join(t.TempDir(), "log"),
		"nats://nats.dc1.example.net:4222", dc.URL, "nats://nats.dc2.example.net:4222", hub.URL,
		"http://prometheus.dc2.example.net:9091", g.URL, "10000\n", fmt.Sprintln(ports.Next(t)),
		"choria.example.net:4222", fmt.Sprintf("127.0.0.1:%d", ports.Next(t)), // where nobody listens
	}
	for i, target := range all {
		pairs = append(pairs, fmt.Sprintf("http://choria%d.dc1.example.net:8222/choria/prometheus", i+1), target.URL())
	}
	config := seedConfig(t, pairs...)
	// Spool and state are not where they are by default: other tests run on this machine too.
	receiver := startReceiver(t, config+fmt.Sprintf("\nreceiver:\n  state_directory: %s\n", t.TempDir()))
	poller := startPoller(t, config).Ready(t)
	for i, target := range all {
		group := harness.Labels{"job": "choria", "instance": fmt.Sprintf("choria%d", i+1), "publisher": "USDC1"}
		waitPushed(t, 100*time.Second, g, target, group, 0)
	}
	harness.Wait(t, 100*time.Second, "the poller's own metrics are pushed", func() error {
		page, err := harness.Scrape(g.URL + "/metrics")
		if err == nil && page.Count(harness.Labels{"job": "prometheus_streams", "instance": "USDC1", "publisher": "USDC1"}) == 0 {
			err = fmt.Errorf("they are not there")
		}
		return err
	})
	stopWell(t, poller.Process)
	stopWell(t, receiver.Process)
}
