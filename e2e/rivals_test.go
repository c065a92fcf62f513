package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

const concurrentEpochs = "prometheus_streams_receiver_concurrent_epochs_total"

// Two pollers with one identity on JetStream are noticed soon, and a poller that is stopped or killed and started again is not
// taken for two.
func TestTwoPollersOneIdentity(t *testing.T) {
	t.Parallel()
	server := startNATS(t, "")
	receiver := startReceiver(t, receiverYAML(t, server, "  publisher_label: true"))
	one, two := targets.New(t, "a", 5), targets.New(t, "b", 5)
	poller := startPoller(t, pollerYAML(server, "site", "1s", harness.JobsYAML("edge", one)))
	shown := func(target *harness.Target) {
		t.Helper()
		target.WaitShown(t, 30*time.Second, receiver, harness.Labels{"job": "edge", "instance": target.Name, "publisher": "site"}, target.Numbers())
	}
	for i := range 4 {
		shown(one)
		time.Sleep(4 * time.Second)
		if i%2 == 0 {
			stopWell(t, poller.Process)
		} else {
			poller.Kill()
		}
		poller.Restart(t)
	}
	shown(one)
	time.Sleep(15 * time.Second)
	if n := receiver.Metrics(t).Sum(concurrentEpochs, nil); n != 0 || strings.Contains(receiver.Output(), "two pollers run") {
		t.Errorf("restarts are taken for two pollers, %v times", n)
	}
	begun := time.Now()
	other := startPoller(t, pollerYAML(server, "site", "1s", harness.JobsYAML("edge", two)))
	receiver.WaitOutput(60*time.Second, "level=ERROR.*two pollers run with one identity.*publisher=site")
	t.Logf("noticed after %v", time.Since(begun))
	if n := receiver.Metrics(t).Sum(concurrentEpochs, harness.Labels{"publisher": "site", "sink": "gateway"}); n == 0 {
		t.Error("not counted")
	}
	shown(one)
	shown(two)
	stopWell(t, other.Process)
	time.Sleep(3 * time.Second)
	before := receiver.Metrics(t).Sum(concurrentEpochs, nil)
	shown(one)
	time.Sleep(5 * time.Second)
	if after := receiver.Metrics(t).Sum(concurrentEpochs, nil); after != before {
		t.Errorf("counted %v, then %v after the second poller had ended", before, after)
	}
}
