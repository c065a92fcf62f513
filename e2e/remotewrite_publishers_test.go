package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
	"github.com/choria-io/prometheus-streams/internal/receiver"
)

// What a receiver knows of its publishers is written too: 1 while one is heard of, 0 and not nothing once it is silent, and
// stale markers when it is forgotten.
func TestRemoteWriteOfPublishers(t *testing.T) {
	t.Parallel()
	server, central, state := startNATS(t, ""), startWritten(t), t.TempDir()
	startReceiver(t, fmt.Sprintf(`
identity: centre
receiver_stream:
  urls: %s
  topic: prometheus
  stream: PROMETHEUS
receiver:
  state_directory: %s
%s`, server.URL, state, remoteWriteYAML(central, "  publisher_label: site\n  publisher_metrics: 1s\n")))
	g := targets.New(t, "alpha", 20)
	poller := startPoller(t, pollerYAML(server, "site-1", "1s", harness.JobsYAML("edge", g))).Ready(t)
	samples := func(name string) ([]harness.RawSample, error) {
		return central.OneRaw(harness.Labels{"__name__": "prometheus_streams_publisher_" + name, "site": "site-1", "instance": "centre",
			"job": "prometheus_streams_receiver"})
	}
	newest := func(name string, good func(harness.RawSample) bool) {
		t.Helper()
		harness.Wait(t, 60*time.Second, name+" is written", func() error {
			all, err := samples(name)
			if err == nil && !good(all[len(all)-1]) {
				err = fmt.Errorf("the newest is %+v", all[len(all)-1])
			}
			return err
		})
	}
	newest("up", func(s harness.RawSample) bool { return s.Value == 1 })
	newest("lag_seconds", func(s harness.RawSample) bool { return s.Value > -1 && s.Value < 10 })
	newest("clock_skew_seconds", func(s harness.RawSample) bool { return s.Value > -10 && s.Value < 1 })
	newest("gaps_total", func(s harness.RawSample) bool { return s.Value == 0 })
	newest("last_seen_timestamp_seconds", func(s harness.RawSample) bool { return s.Time.Unix()-int64(s.Value) < 10 })

	poller.Kill()
	newest("up", func(s harness.RawSample) bool { return s.Value == 0 })
	newest("lag_seconds", func(s harness.RawSample) bool { return s.Value > 30 })
	if err := receiver.Forget(state, []string{"site-1"}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"up", "lag_seconds", "clock_skew_seconds", "gaps_total", "last_seen_timestamp_seconds"} {
		newest(name, func(s harness.RawSample) bool { return s.Stale })
	}
	all, err := samples("up")
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range all[1:] {
		if d := s.Time.Sub(all[i].Time); d < 500*time.Millisecond || d > 3*time.Second {
			t.Errorf("sample %d is %v after the one before", i+1, d)
		}
		if want := i == len(all)-2; s.Stale != want {
			t.Errorf("sample %d of %d: %+v", i+1, len(all), s)
		}
	}
	if own, err := central.OneRaw(harness.Labels{"__name__": "up", "instance": "centre", "job": "prometheus_streams_receiver"}); err != nil || own[0].Value != 1 {
		t.Errorf("up of the receiver: %v, %v", own, err)
	}
}
