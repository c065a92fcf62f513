// Package e2e tests the whole product as a user runs it: our binary, a real nats-server and a real Prometheus as separate
// processes, against targets that number their scrapes. Nothing is skipped: a server that is missing fails its tests.
package e2e

import (
	"fmt"
	"testing"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// What the tests of one process share.
var (
	builds  *harness.Builds
	ports   harness.Ports
	targets harness.Targets
)

func TestMain(m *testing.M) { harness.Main(m, &builds) }

// pollerYAML is a poller's configuration; jobs are made by harness.JobsYAML.
func pollerYAML(server *harness.NATS, identity, interval, jobs string) string {
	return fmt.Sprintf(`
identity: %s
scrape_interval: %s
poller_stream:
  urls: %s
  topic: prometheus
  stream: PROMETHEUS
%s`, identity, interval, server.URL, jobs)
}

// receiverYAML is a receiver's configuration; the gateway's keys are indented by two.
func receiverYAML(t testing.TB, server *harness.NATS, gateway string) string {
	return fmt.Sprintf(`
identity: centre
receiver_stream:
  urls: %s
  topic: prometheus
  stream: PROMETHEUS
receiver:
  state_directory: %s
gateway:
%s
`, server.URL, t.TempDir(), gateway)
}

// standaloneYAML is the configuration of everything in one process.
func standaloneYAML(t testing.TB, identity, interval, jobs string) string {
	return fmt.Sprintf(`
identity: %s
scrape_interval: %s
embedded:
  directory: %s
receiver:
  state_directory: %s
%s`, identity, interval, t.TempDir(), t.TempDir(), jobs)
}

func startNATS(t testing.TB, more string) *harness.NATS {
	t.Helper()
	return harness.StartNATS(t, ports.Next(t), more)
}

func startPoller(t testing.TB, config string) *harness.Product {
	t.Helper()
	return harness.StartProduct(t, builds, "poller", ports.Next(t), config)
}

func startReceiver(t testing.TB, config string) *harness.Product {
	t.Helper()
	return harness.StartProduct(t, builds, "receiver", ports.Next(t), config).Ready(t)
}

func startStandalone(t testing.TB, config string) *harness.Product {
	t.Helper()
	return harness.StartProduct(t, builds, "standalone", ports.Next(t), config).Ready(t)
}

func startRecorder(t testing.TB, server *harness.NATS, client string, flags ...string) *harness.Recorder {
	t.Helper()
	return harness.StartRecorder(t, builds, ports.Next(t), server, client, flags...).Ready(t)
}
