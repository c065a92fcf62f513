package e2e

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/stan.go"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// streamCount counts what a NATS Streaming server has stored on the topic, and how much of it more than once.
func streamCount(t *testing.T, server *harness.Streaming) (messages, repeated int) {
	t.Helper()
	var mu sync.Mutex
	seen := map[string]bool{}
	newest := uint64(0)
	_, err := stanClient(t, server, "count").Subscribe("prometheus", func(m *stan.Msg) {
		mu.Lock()
		defer mu.Unlock()
		messages++
		newest = max(newest, m.Sequence)
		if seen[string(m.Data)] {
			repeated++
		}
		seen[string(m.Data)] = true
	}, stan.DeliverAllAvailable())
	if err != nil {
		t.Fatal(err)
	}
	last := -1
	harness.Wait(t, 30*time.Second, "all stored messages are counted", func() error {
		time.Sleep(500 * time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		if before := last; messages == 0 || messages != before || uint64(messages) != newest {
			last = messages
			return fmt.Errorf("%d so far, the newest is %d", messages, newest)
		}
		return nil
	})
	mu.Lock()
	defer mu.Unlock()
	return messages, repeated
}

// The NATS Streaming server is killed for 30 s and frozen for 20 s, twice each. Poller and receiver run on and are never restarted;
// every scrape arrives, in order, and what the server stored twice is delivered once.
func TestStreamingOutages(t *testing.T) {
	for _, version := range []string{harness.LastStreaming, harness.OldestStreaming} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			streamingOutages(t, version)
		})
	}
}

func streamingOutages(t *testing.T, version string) {
	server := harness.StartStreamingVersion(t, version, ports.Next(t))
	g := startPushServer(t, "pushgateway")
	receiver := startReceiver(t, streamingReceiver(t, server, g, ""))
	recorder := harness.StartRecorder(t, builds, ports.Next(t), &harness.NATS{URL: server.URL}, "outages", "-cluster-id", harness.ClusterID).Ready(t)
	all := targets.Many(t, "node", 5, 10)
	poller := startPoller(t, streamingPoller(server, "site", "2s", harness.JobsYAML("edge", all...)))
	arrived := func() {
		t.Helper()
		recorder.WaitNumbers(t, 90*time.Second, lastNumbers(all))
		for _, target := range all {
			waitPushed(t, 90*time.Second, g, target, edge(target), target.Numbers()-1)
		}
	}
	arrived()
	for range 2 {
		server.Kill()
		time.Sleep(30 * time.Second)
		server.Restart(t)
		arrived()
		server.Freeze()
		time.Sleep(20 * time.Second)
		server.Thaw()
		arrived()
	}
	for _, p := range []*harness.Process{poller.Process, receiver.Process, recorder.Process} {
		if !p.Running() {
			t.Fatalf("%s ended", p.Name)
		}
	}
	end := pause{from: time.Now()}
	stopWell(t, poller.Process)
	end.to = time.Now()
	recorder.WaitNumbers(t, 30*time.Second, lastNumbers(all))
	time.Sleep(2 * time.Second)
	messages, repeated := streamCount(t, server)
	page := harness.MustScrape(t, recorder.URL+"/metrics")
	late := page.Sum("prometheus_streams_receiver_dropped_frames_total", nil)
	twice := page.Sum("prometheus_streams_receiver_duplicate_bundles_total", nil)
	stopWell(t, receiver.Process)
	stopWell(t, recorder.Process)
	a := recorder.Account(t) // each delivered once, and in order
	t.Logf("%d messages stored, %d of them again; %d frames delivered, %v duplicates and %v dropped", messages, repeated, a.Frames, twice, late)
	if a.Frames+a.Repeats != messages-repeated {
		t.Errorf("%d frames delivered, %d of them again, of %d different messages", a.Frames+a.Repeats, a.Repeats, messages-repeated)
	}
	if late != 0 || int(twice) < repeated {
		t.Errorf("%v messages dropped, %v duplicates of %d", late, twice, repeated)
	}
	checkNumbers(t, a, "site", "edge", all, end)
}
