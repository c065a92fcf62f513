package e2e

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// ownCPU is the CPU time of the test itself, which is the server that counts, in seconds.
func ownCPU() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

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
	var ours float64 // seconds of CPU of the receiver
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
		ours = m.Sum("process_cpu_seconds_total", nil)
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

	if speed := drain("counting", counting.url, counting.whole, ownCPU); speed < leastSpeed {
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
	for i := range b.targets {
		n, err := central.One(fmt.Sprintf(`sum(count_over_time({job="backlog",instance="host-%d",series!=""}[2h]))`, i))
		if err != nil || int(n) != b.series*b.scrapes {
			t.Errorf("Prometheus has %v of %d samples of target %d: %v", n, b.series*b.scrapes, i, err)
		}
	}
	m, err := harness.Scrape(central.URL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	if n := m.Sum("prometheus_tsdb_out_of_order_samples_total", nil); n != 0 {
		t.Errorf("%v samples came out of order", n)
	}
	// A Prometheus that needs several times the CPU that we need is the limit, whatever the speed.
	if speed < leastSpeed && used < 3*ours {
		t.Errorf("%.1f times real time into Prometheus, which used %.1f s of CPU, the receiver %.1f: want %d", speed, used, ours, leastSpeed)
	}
}
