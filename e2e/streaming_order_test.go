package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/stan.go"

	"github.com/choria-io/prometheus-streams/e2e/harness"
	"github.com/choria-io/prometheus-streams/internal/frame"
)

// A receiver that takes the place of one of version 1.0 goes on where that one stopped: the durable is its client id.
func TestStreamingReceiverTakesOver(t *testing.T) {
	t.Parallel()
	server, g := startStreaming(t), startPushServer(t, "pushgateway")
	const count, done = 6, 3
	sc := stanClient(t, server, "old_poller")
	for i := range count {
		msg, err := frame.AppendFormat1(nil, &frame.Format1{
			Job: "j", Instance: fmt.Sprint(i), Time: time.Now().Unix(), Publisher: "DC1", Body: fmt.Appendf(nil, "a %d\n", i),
		})
		if err == nil {
			err = sc.Publish("prometheus", msg)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	got := make(chan uint64, count)
	old := stanClient(t, server, "prometheus_receiver")
	_, err := old.Subscribe("prometheus", func(m *stan.Msg) {
		if m.Sequence <= done {
			if err := m.Ack(); err != nil {
				t.Error(err)
			}
		}
		got <- m.Sequence
	}, stan.DurableName("prometheus_receiver"), stan.DeliverAllAvailable(), stan.SetManualAckMode(), stan.MaxInflight(10))
	if err != nil {
		t.Fatal(err)
	}
	for range count {
		<-got
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	receiver := startReceiver(t, streamingReceiver(t, server, g, ""))
	harness.Wait(t, 20*time.Second, "the rest is pushed", func() error {
		page, err := harness.Scrape(g.URL + "/metrics")
		for i := range count {
			n := page.Count(harness.Labels{"job": "j", "instance": fmt.Sprint(i)})
			switch {
			case i < done && n > 0:
				t.Fatalf("instance %d was pushed again", i)
			case i >= done && n == 0 && err == nil:
				err = fmt.Errorf("instance %d is not there", i)
			}
		}
		return err
	})
	if n := receiver.Metrics(t).Sum("prometheus_streams_receiver_received", nil); n != count-done {
		t.Errorf("%v messages received, want %d", n, count-done)
	}
}

// Messages that come over another server in any order and twice: nothing older is delivered over something newer.
func TestStreamingShuffled(t *testing.T) {
	t.Parallel()
	from, to := startStreaming(t), startStreaming(t)
	recorder := harness.StartRecorder(t, builds, ports.Next(t), &harness.NATS{URL: to.URL}, "shuffled", "-cluster-id", harness.ClusterID).Ready(t)
	all := targets.Many(t, "node", 3, 5)
	messages := make(chan []byte, 1000)
	_, err := stanClient(t, from, "replicator").Subscribe("prometheus", func(m *stan.Msg) { messages <- m.Data }, stan.DeliverAllAvailable())
	if err != nil {
		t.Fatal(err)
	}
	out := stanClient(t, to, "replicator")
	poller := startPoller(t, streamingPoller(from, "site", "1s", harness.JobsYAML("edge", all...)))
	random := rand.New(rand.NewPCG(1, 1))
	for range 6 {
		var batch [][]byte
		for len(batch) < 20 {
			batch = append(batch, <-messages)
		}
		batch = append(batch, batch[:10]...)
		random.Shuffle(len(batch), func(i, j int) { batch[i], batch[j] = batch[j], batch[i] })
		for _, msg := range batch {
			if err := out.Publish("prometheus", msg); err != nil {
				t.Fatal(err)
			}
		}
	}
	stopWell(t, poller.Process)
	time.Sleep(time.Second)
	for len(messages) > 0 {
		if err := out.Publish("prometheus", <-messages); err != nil {
			t.Fatal(err)
		}
	}
	recorder.WaitNumbers(t, 30*time.Second, lastNumbers(all))
	page := harness.MustScrape(t, recorder.URL+"/metrics")
	late := page.Sum("prometheus_streams_receiver_dropped_frames_total", harness.Labels{"reason": "late"})
	twice := page.Sum("prometheus_streams_receiver_duplicate_bundles_total", nil)
	received := page.Sum("prometheus_streams_receiver_received", nil)
	stopWell(t, recorder.Process)
	a := recorder.Account(t) // it checks the order
	t.Logf("%v received, %d delivered, %v late, %v duplicates", received, a.Frames, late, twice)
	if late == 0 || twice == 0 || float64(a.Frames)+late+twice != received {
		t.Errorf("%v received, %d delivered, %v late, %v duplicates", received, a.Frames, late, twice)
	}
}

// Our own scrape endpoint follows the topic without a durable; and what is too large for the server is set aside.
func TestStreamingGatewayAndTooLarge(t *testing.T) {
	t.Parallel()
	server := startStreaming(t)
	receiver := startReceiver(t, fmt.Sprintf("identity: centre\n%s\nreceiver:\n  state_directory: %s\ngateway: {}\n",
		streamingYAML("receiver", server, ""), t.TempDir()))
	a, large := targets.New(t, "a", 5), targets.New(t, "large", 1)
	random := rand.New(rand.NewPCG(1, 1))
	var page strings.Builder
	for i := range 150_000 {
		fmt.Fprintf(&page, "a%d %v\n", i, random.Float64())
	}
	large.Answer(200, "text/plain", page.String())
	poller := startPoller(t, streamingPoller(server, "site", "2s", harness.JobsYAML("edge", a, large)))
	harness.Wait(t, 30*time.Second, "the gateway shows the target", func() error {
		page, err := receiver.Gateway("")
		if err == nil {
			_, err = a.Shown(page, edge(a))
		}
		return err
	})
	poller.WaitOutput(30*time.Second, "set aside a message.*too large.*the server takes at most 1048576")
	before := a.Numbers()
	harness.Wait(t, 30*time.Second, "the gateway goes on", func() error {
		page, err := receiver.Gateway("")
		if err != nil {
			return err
		}
		if number, err := a.Shown(page, edge(a)); err != nil || number <= before {
			return fmt.Errorf("scrape %d, %v", number, err)
		}
		return nil
	})
}

// A server that keeps its messages in memory forgets everything with its end, us too: both ends go on with it.
func TestStreamingServerForgets(t *testing.T) {
	t.Parallel()
	server := harness.StartStreaming(t, ports.Next(t), "-st", "memory")
	recorder := harness.StartRecorder(t, builds, ports.Next(t), &harness.NATS{URL: server.URL}, "forgets", "-cluster-id", harness.ClusterID).Ready(t)
	all := targets.Many(t, "node", 2, 3)
	poller := startPoller(t, streamingPoller(server, "site", "1s", harness.JobsYAML("edge", all...)))
	for range 2 {
		before := lastNumbers(all)
		for _, g := range all {
			before[g] += 3
		}
		recorder.WaitNumbers(t, 60*time.Second, before)
		server.Kill()
		server.Restart(t)
	}
	recorder.WaitNumbers(t, 60*time.Second, lastNumbers(all))
	stopWell(t, poller.Process)
	stopWell(t, recorder.Process)
	recorder.Account(t)
}

// The Push Gateway is away for longer than the server waits for acknowledgements: what it redelivers meanwhile is what is
// held already, and once the gateway is back all of it is acknowledged.
func TestStreamingPushGatewayAway(t *testing.T) {
	t.Parallel()
	server, g := startStreaming(t), startPushServer(t, "pushgateway")
	receiver := startReceiver(t, streamingReceiver(t, server, g, ""))
	all := targets.Many(t, "node", 2, 5)
	poller := startPoller(t, streamingPoller(server, "site", "2s", harness.JobsYAML("edge", all...)))
	for _, target := range all {
		waitPushed(t, 20*time.Second, g, target, edge(target), 0)
	}
	g.Kill()
	time.Sleep(4 * time.Second)
	stopWell(t, poller.Process) // else the newest scrape would take the place of the one that is held
	time.Sleep(35 * time.Second)
	g.Restart(t)
	for _, target := range all {
		waitPushed(t, 60*time.Second, g, target, edge(target), target.Numbers()-1)
	}
	harness.Wait(t, 45*time.Second, "nothing is held any more", func() error {
		page, err := harness.Scrape(receiver.URL + "/metrics")
		if held := page.Sum("prometheus_streams_receiver_held_bytes", nil); err == nil && held > 0 {
			err = fmt.Errorf("%v bytes", held)
		}
		return err
	})
	published := harness.Labels{"publisher": "site"}
	page := receiver.Metrics(t)
	received, delivered := page.Sum("prometheus_streams_receiver_received", nil), page.Sum("prometheus_streams_receiver_delivered_frames_total", published)
	if received <= delivered {
		t.Errorf("%v messages received, %v delivered: nothing was redelivered, this test has shown nothing", received, delivered)
	}
	if dropped := page.Sum("prometheus_streams_receiver_dropped_frames_total", nil); dropped != 0 {
		t.Errorf("%v dropped", dropped)
	}
	stopWell(t, receiver.Process)
	receiver.Restart(t)
	receiver.Ready(t)
	time.Sleep(3 * time.Second)
	if left := receiver.Metrics(t).Sum("prometheus_streams_receiver_received", nil); left != 0 {
		t.Errorf("%v messages were not acknowledged", left)
	}
}
