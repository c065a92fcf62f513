package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/stan.go"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

func startStreaming(t testing.TB) *harness.Streaming {
	t.Helper()
	return harness.StartStreaming(t, ports.Next(t))
}

// stan is a client of version 1.0's kind.
func stanClient(t testing.TB, server *harness.Streaming, id string) stan.Conn {
	t.Helper()
	sc, err := stan.Connect(harness.ClusterID, id, stan.NatsConn(server.Connect(t)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sc.Close() })
	return sc
}

// streamingYAML is a stream block.
func streamingYAML(role string, server *harness.Streaming, more string) string {
	return fmt.Sprintf("%s_stream:\n  urls: %s\n  cluster_id: %s\n  topic: prometheus\n%s", role, server.URL, harness.ClusterID, more)
}

func streamingPoller(server *harness.Streaming, identity, interval, jobs string) string {
	return fmt.Sprintf("identity: %s\nscrape_interval: %s\n%s\n%s", identity, interval, streamingYAML("poller", server, ""), jobs)
}

func streamingReceiver(t testing.TB, server *harness.Streaming, g *pushServer, more string) string {
	return fmt.Sprintf("identity: centre\n%s\nreceiver:\n  state_directory: %s\npush_gateway:\n  url: %s\n%s",
		streamingYAML("receiver", server, "  client_id: prometheus_receiver\n"), t.TempDir(), g.URL, more)
}

// oldMessage is a message as version 1.0 wrote it.
type oldMessage struct {
	Job       string `json:"job"`
	Instance  string `json:"instance"`
	Time      int64  `json:"time"`
	Publisher string `json:"publisher"`
	Scrape    []byte
}

func (m *oldMessage) body(t testing.TB) string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(m.Scrape))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// captured are the messages that were captured from version 1.0, as they were.
func captured(t testing.TB) [][]byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(harness.Root(), "internal", "frame", "testdata", "format1", "*.json"))
	if err != nil || len(files) < 4 {
		t.Fatal(files, err)
	}
	var out [][]byte
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, bytes.TrimSpace(b))
	}
	return out
}

// What version 1.0 published is delivered to a real Push Gateway: only the time is made that of now, in its place.
func TestStreamingCapturedMessages(t *testing.T) {
	eachPushGateway(t, func(t *testing.T, name string) {
		server, g := startStreaming(t), startPushServer(t, name)
		receiver := startReceiver(t, streamingReceiver(t, server, g, "  publisher_label: true\nmax_age: 80\n"))
		sc := stanClient(t, server, "old_poller")
		publish := func(msg []byte) {
			if err := sc.Publish("prometheus", msg); err != nil {
				t.Fatal(err)
			}
		}
		moment := regexp.MustCompile(`"time":[0-9]+`)
		var all []oldMessage
		for _, msg := range captured(t) {
			var m oldMessage
			if err := json.Unmarshal(msg, &m); err != nil {
				t.Fatal(err)
			}
			all = append(all, m)
			publish(msg) // too old by now
			publish(moment.ReplaceAll(msg, fmt.Appendf(nil, `"time":%d`, time.Now().Unix())))
		}
		for _, m := range all {
			group := harness.Labels{"job": m.Job, "instance": m.Instance, "publisher": m.Publisher}
			want := 0
			for line := range strings.Lines(m.body(t)) {
				if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "push_") {
					want++
				}
			}
			harness.Wait(t, 20*time.Second, fmt.Sprintf("group %v is there", group), func() error {
				page, err := harness.Scrape(g.URL + "/metrics")
				if err != nil {
					return err
				}
				// Besides them the group has the five series of the scrape and two of the gateway.
				if got := page.Count(group) - 7; got < 1 || m.Job == "demo" && got != want {
					return fmt.Errorf("%d series, want %d", got, want)
				}
				return nil
			})
		}
		page := receiver.Metrics(t)
		if aged := page.Sum("prometheus_streams_receiver_aged_discards", nil); aged != float64(len(all)) {
			t.Errorf("%v messages counted as aged, want %d", aged, len(all))
		}
		stopWell(t, receiver.Process)
	})
}

// What our poller publishes is a message as version 1.0 wrote it, and it announces itself on the subject that 1.0 used.
func TestStreamingPollerSpeaksFormat1(t *testing.T) {
	t.Parallel()
	server := startStreaming(t)
	events := make(chan *nats.Msg, 8)
	if _, err := server.Connect(t).ChanSubscribe("choria.lifecycle.event.>", events); err != nil {
		t.Fatal(err)
	}
	messages := make(chan *stan.Msg, 64)
	if _, err := stanClient(t, server, "old_receiver").Subscribe("prometheus", func(m *stan.Msg) { messages <- m }, stan.DeliverAllAvailable()); err != nil {
		t.Fatal(err)
	}
	next := func() (raw []byte, m oldMessage) {
		t.Helper()
		for {
			select {
			case got := <-messages:
				m = oldMessage{}
				d := json.NewDecoder(bytes.NewReader(got.Data))
				d.DisallowUnknownFields()
				if err := d.Decode(&m); err != nil {
					t.Fatalf("%v in %s", err, got.Data)
				}
				if m.Job == "edge" { // not the poller itself
					return got.Data, m
				}
			case <-time.After(20 * time.Second):
				t.Fatal("no message")
			}
		}
	}
	target := targets.New(t, "a", 3)
	poller := startPoller(t, streamingPoller(server, "DC1", "1s", harness.JobsYAML("edge", target)))
	raw, m := next()
	if age := time.Now().Unix() - m.Time; m.Job != "edge" || m.Instance != "a" || m.Publisher != "DC1" || age < 0 || age > 5 {
		t.Errorf("message %s", raw)
	}
	shape := regexp.MustCompile(`^\{"job":"[^"]*","instance":"[^"]*","time":[0-9]{10},"publisher":"[^"]*","Scrape":"H4sI[A-Za-z0-9+/]*=*"\}$`)
	for _, msg := range append(captured(t), raw) {
		if !shape.Match(msg) {
			t.Errorf("not the shape of a message of version 1.0: %s", msg)
		}
	}
	rest, found := strings.CutPrefix(m.body(t), target.Served()[0].Page)
	report := regexp.MustCompile(`^up 1\nscrape_duration_seconds [0-9.e-]+\nscrape_samples_scraped 4\nscrape_samples_post_metric_relabeling 4\nscrape_series_added 4\n$`)
	if !found || !report.MatchString(rest) {
		t.Errorf("the body is not the target's page and a report: %s", m.body(t))
	}
	target.Down()
	harness.Wait(t, 20*time.Second, "a message says that the target is down", func() error {
		if _, m := next(); !strings.HasPrefix(m.body(t), "up 0\n") {
			return fmt.Errorf("it says %s", m.body(t))
		}
		return nil
	})
	select {
	case e := <-events:
		var event struct{ Data map[string]any }
		if err := json.Unmarshal(e.Data, &event); err != nil || e.Subject != "choria.lifecycle.event.startup.prometheus_streams_poller" ||
			event.Data["protocol"] != "io.choria.lifecycle.v1.startup" || event.Data["identity"] != "DC1" || event.Data["component"] != "prometheus_streams_poller" {
			t.Errorf("event on %s: %s", e.Subject, e.Data)
		}
	case <-time.After(time.Second):
		t.Error("no event announces the poller")
	}
	// A second one with the same identity is told why it waits.
	other := startPoller(t, streamingPoller(server, "DC1", "1s", harness.JobsYAML("edge", target)))
	other.WaitOutput(20*time.Second, "another process is connected with the same client id")
	stopWell(t, poller.Process)
	other.WaitOutput(30*time.Second, "connected to NATS Streaming")
	stopWell(t, other.Process)
}

// The server is killed and frozen, twice each, and both ends are restarted: every scrape arrives, in order, once.
func TestStreamingFaults(t *testing.T) {
	t.Parallel()
	server := startStreaming(t)
	recorder := harness.StartRecorder(t, builds, ports.Next(t), &harness.NATS{URL: server.URL}, "faults", "-cluster-id", harness.ClusterID, "-delay", "100ms").Ready(t)
	all := targets.Many(t, "node", 5, 10)
	// Two scrapes within a second would be of one time.
	poller := startPoller(t, streamingPoller(server, "site", "2s", harness.JobsYAML("edge", all...)))
	recorder.WaitNumbers(t, 30*time.Second, map[*harness.Target]int{all[0]: 1})
	var restarts []pause
	for round := range 2 {
		server.Kill()
		time.Sleep(6 * time.Second)
		server.Restart(t)
		recorder.WaitNumbers(t, 60*time.Second, lastNumbers(all))
		server.Freeze()
		time.Sleep(20 * time.Second)
		server.Thaw()
		recorder.WaitNumbers(t, 60*time.Second, lastNumbers(all))
		if round > 0 {
			break
		}
		at := pause{from: time.Now()}
		stopWell(t, poller.Process)
		at.to = time.Now()
		restarts = append(restarts, at)
		recorder.Kill()
		poller.Restart(t)
		time.Sleep(4 * time.Second)
		recorder.Restart(t)
		recorder.Ready(t)
	}
	if !poller.Running() || !recorder.Running() {
		t.Fatal("one of our processes ended")
	}
	end := pause{from: time.Now()}
	stopWell(t, poller.Process)
	end.to = time.Now()
	recorder.WaitNumbers(t, 30*time.Second, lastNumbers(all))
	time.Sleep(2 * time.Second)
	stopWell(t, recorder.Process)
	// A server that is killed does not remember what it handed out, so what the second run is given again may look new.
	a := recorder.Account(t, 2)
	t.Logf("%d frames, %d samples, %d frames repeated", a.Frames, a.Samples, a.Repeats)
	checkNumbers(t, a, "site", "edge", all, append(restarts, end)...)
}

// A poller on JetStream and one on NATS Streaming feed one receiver, the same target name at both: they do not mix.
func TestStreamingBesideJetStream(t *testing.T) {
	t.Parallel()
	old, server, g := startStreaming(t), startNATS(t, ""), startPushServer(t, "pushgateway")
	one, two := targets.New(t, "a", 5), targets.New(t, "a", 5)
	startReceiver(t, fmt.Sprintf(`
identity: centre
receiver_stream:
  - {urls: %s, cluster_id: %s, topic: prometheus}
  - {urls: %s, topic: prometheus, stream: PROMETHEUS}
receiver:
  state_directory: %s
push_gateway:
  url: %s
  publisher_label: true
`, old.URL, harness.ClusterID, server.URL, t.TempDir(), g.URL))
	startPoller(t, streamingPoller(old, "old", "1s", harness.JobsYAML("edge", one)))
	startPoller(t, pollerYAML(server, "new", "1s", harness.JobsYAML("edge", two)))
	last := 0
	for range 3 {
		last = waitPushed(t, 30*time.Second, g, one, harness.Labels{"job": "edge", "instance": "a", "publisher": "old"}, last)
		waitPushed(t, 30*time.Second, g, two, harness.Labels{"job": "edge", "instance": "a", "publisher": "new"}, 0)
	}
}
