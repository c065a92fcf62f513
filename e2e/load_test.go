package e2e

import (
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// 100 targets with 1000 series each every 5 s for a minute: nothing is lost. Alone, so that the minute is a fair one.
func TestLoad(t *testing.T) {
	const count, series, interval, during = 100, 1000, 5 * time.Second, time.Minute
	server := startNATS(t, "")
	recorder := startRecorder(t, server, "load")
	all := targets.Many(t, "node", count, series)
	poller := startPoller(t, pollerYAML(server, "site", interval.String(), harness.JobsYAML("edge", all...)))
	time.Sleep(during)
	end := pause{from: time.Now()}
	stopWell(t, poller.Process)
	end.to = time.Now()
	drained(t, server, recorder)
	t.Logf("peak memory: recorder %d MiB, nats-server %d MiB", recorder.PeakMemory()>>20, server.PeakMemory()>>20)
	stopWell(t, recorder.Process)

	a := recorder.Account(t)
	if n := a.Missing(); n != 0 || a.Repeats != 0 {
		t.Errorf("%d bundles missing, %d frames repeated", n, a.Repeats)
	}
	checkNumbers(t, a, "site", "edge", all, end)
	scrapes := int(during / interval)
	if want := count * (scrapes - 1) * (series + 1); a.Samples < want {
		t.Errorf("%d samples recorded, want at least %d", a.Samples, want)
	}
	t.Logf("%d frames with %d samples recorded", a.Frames, a.Samples)
}
