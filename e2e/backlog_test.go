package e2e

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// Half an hour in which nobody received is written in order and whole, at 20 times real time at least: to a server that only
// counts and looks at each sample, and to a Prometheus, whose CPU stands beside ours. BACKLOG_FULL=1 is 200 targets with
// 1000 series each; else it is the same with a twentieth of the samples.
func TestBacklog(t *testing.T) {
	const leastSpeed = 20
	b := &backlog{targets: 40, series: 250, scrapes: 120, interval: 15 * time.Second}
	full := os.Getenv("BACKLOG_FULL") != ""
	if full {
		b.targets, b.series = 200, 1000
	}
	b.first = time.Now().Add(-time.Duration(b.scrapes) * b.interval).Truncate(time.Second)
	server := startNATS(t, "")
	begin := time.Now()
	size := b.fill(t, server)
	t.Logf("%d targets with %d series each, %d scrapes in %v of their time: %d samples, %.2f bytes each, made in %v", b.targets, b.series,
		b.scrapes, time.Duration(b.scrapes)*b.interval, b.samples(), float64(size)/float64(b.samples()), time.Since(begin).Round(time.Second))

	counting := startBacklogSink(t, b)
	drain := func(name, url string, done func() error, other func() float64) (speed float64) {
		before, begin := other(), time.Now()
		receiver := startReceiver(t, fmt.Sprintf(`
identity: centre
receiver_stream:
  urls: %s
  topic: prometheus
  stream: PROMETHEUS
  client_id: %s
receiver:
  state_directory: %s
remote_write:
- url: %s
  name: %s
  protocol: 2
`, server.URL, name, t.TempDir(), url, name))
		harness.Wait(t, 20*time.Minute, name+" has it all", done)
		took := time.Since(begin)
		m := receiver.Metrics(t)
		ours := m.Sum("process_cpu_seconds_total", nil)
		millions := float64(b.samples()) / 1e6
		speed = (time.Duration(b.scrapes) * b.interval).Seconds() / took.Seconds()
		t.Logf("%s: %v, %.0f times real time; CPU seconds per million samples: receiver %.2f, server %.2f; receiver's memory %d MB", name,
			took.Round(10*time.Millisecond), speed, ours/millions, (other()-before)/millions, receiver.PeakMemory()>>20)
		for _, lost := range []string{"prometheus_streams_remote_write_dropped_samples_total", "prometheus_streams_receiver_rejected_samples_total",
			"prometheus_streams_receiver_lost_samples_total"} {
			if n := m.Sum(lost, nil); n != 0 {
				t.Errorf("%s: %s is %v", name, lost, n)
			}
		}
		if code, _ := receiver.Stop(15 * time.Second); code != 0 {
			t.Errorf("exit code %d", code)
		}
		return speed
	}

	if speed := drain("counting", counting.url, counting.whole, func() float64 { return 0 }); speed < leastSpeed {
		t.Errorf("%.1f times real time into a server that counts, want %d", speed, leastSpeed)
	}
	t.Logf("counting: %d requests with %.1f samples to a series, %.1f bytes for a sample", counting.requests,
		float64(counting.samples)/float64(counting.series), float64(counting.bytes)/float64(counting.samples))

	central := startWritten(t)
	cpu := func() float64 {
		m, err := harness.Scrape(central.URL + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		return m.Sum("process_cpu_seconds_total", nil)
	}
	var used float64
	begin = time.Now()
	speed := drain("prometheus", central.URL+"/api/v1/write", func() error {
		m, err := harness.Scrape(central.URL + "/metrics")
		if err != nil {
			return err
		}
		if n := m.Sum("prometheus_tsdb_head_samples_appended_total", harness.Labels{"type": "float"}); int(n) < b.samples()+5*b.targets*b.scrapes {
			return fmt.Errorf("%v of %d samples", n, b.samples()+5*b.targets*b.scrapes)
		}
		return nil
	}, func() float64 { used = cpu(); return used })
	took := time.Since(begin).Seconds()
	n, err := central.One(`sum(count_over_time({job="backlog",series!=""}[2h]))`)
	if err != nil || int(n) != b.samples() {
		t.Errorf("Prometheus has %v of %d samples: %v", n, b.samples(), err)
	}
	m, err := harness.Scrape(central.URL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	if n := m.Sum("prometheus_tsdb_out_of_order_samples_total", nil); n != 0 {
		t.Errorf("%v samples came out of order", n)
	}
	// A Prometheus that is busy all the time is the limit, whatever the speed.
	if speed < leastSpeed && used < 0.5*took {
		t.Errorf("%.1f times real time into Prometheus, which used %.0f s of CPU in %.0f s: want %d", speed, used, took, leastSpeed)
	}
}
