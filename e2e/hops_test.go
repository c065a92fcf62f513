package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// hops are the blocks of docs/from-nats-streaming.md.
type hops struct {
	t    *testing.T
	text string
}

func readHops(t *testing.T) hops {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(harness.Root(), "docs", "from-nats-streaming.md"))
	if err != nil {
		t.Fatal(err)
	}
	return hops{t, string(b)}
}

// block is the only block of a language in which a pattern is found.
func (h hops) block(language, pattern string) string {
	h.t.Helper()
	var found []string
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(h.text, -1) {
		if regexp.MustCompile(pattern).MatchString(m[1]) {
			found = append(found, m[1])
		}
	}
	if len(found) != 1 {
		h.t.Fatalf("%d blocks of %s with %q", len(found), language, pattern)
	}
	return found[0]
}

// stream makes a stream as the page says, with the nats command.
func (h hops) stream(server *harness.NATS, name string) {
	h.t.Helper()
	text := h.block("json", `"name": "`+name+`"`)
	if !json.Valid([]byte(text)) {
		h.t.Fatalf("not JSON:\n%s", text)
	}
	file := filepath.Join(h.t.TempDir(), name+".json")
	write(h.t, file, text)
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, harness.Server(h.t, "nats"), "--server", server.URL, "stream", "add", name, "--config", file)
	cmd.Env = append(os.Environ(), "HOME="+h.t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		h.t.Fatalf("%v: %s", err, out)
	}
}

// leaf starts the two servers of the page: one at the centre and one in the data centre.
func (h hops) leaf() (centre, dc1 *harness.NATS) {
	h.t.Helper()
	port := fmt.Sprint(ports.Next(h.t))
	start := func(name string, pairs ...string) *harness.NATS {
		text := replaced(h.t, h.block("text", "^# nats-server: "+name), append(pairs, "store_dir: /var/lib/nats", "store_dir: "+h.t.TempDir())...)
		return startNATS(h.t, text)
	}
	centre = start("centre", "listen: 0.0.0.0:4222\n", "", "0.0.0.0:7422", "127.0.0.1:"+port)
	dc1 = start("dc1", "listen: 127.0.0.1:4222\n", "", "nats.dc2.example.net:7422", "127.0.0.1:"+port)
	return centre, dc1
}

func (h hops) poller(server *harness.NATS, all []*harness.Target) string {
	h.t.Helper()
	text := replaced(h.t, h.block("yaml", "(?s)^# role: poller.*identity: DC1\n"), "nats://127.0.0.1:4222", server.URL,
		`- {name: web1, url: "http://web1.example.net:9100/metrics"}`, fmt.Sprintf("- {name: web1, url: %q}", all[0].URL()), "scrape_interval: 60s", "scrape_interval: 1s")
	for _, target := range all[1:] {
		text = strings.TrimRight(text, "\n") + fmt.Sprintf("\n      - {name: %s, url: %q}\n", target.Name, target.URL())
	}
	return text
}

func (h hops) receiver(identity string, server *harness.NATS) string {
	h.t.Helper()
	return replaced(h.t, h.block("yaml", "(?s)^# role: receiver\nidentity: "+identity+"\n.*\ngateway:"), "nats://nats.dc2.example.net:4222", server.URL,
		"monitor_port: 9797\n", fmt.Sprintf("receiver:\n  state_directory: %s\n", h.t.TempDir()))
}

// webTargets are that of the page and two more.
func webTargets(t *testing.T) []*harness.Target {
	return []*harness.Target{targets.New(t, "web1", 10), targets.New(t, "web2", 10), targets.New(t, "web3", 10)}
}

// The page's mirror over a leaf node and its sources with transformed subjects: both receivers show what the targets at the edge
// showed, under its publisher, and get all that was published, though the centre is killed and is away for a while.
func TestHops(t *testing.T) {
	t.Parallel()
	h := readHops(t)
	centre, dc1 := h.leaf()
	all := webTargets(t)
	config := h.poller(dc1, all)
	file := filepath.Join(t.TempDir(), "poller.yaml")
	write(t, file, config)
	if r := harness.Run(t, builds, time.Minute, nil, "check", "stream", "--create", "--config", file); r.Code != 0 {
		t.Fatalf("exit code %d:\n%s", r.Code, r.Output)
	}
	for _, name := range []string{"DC1", "DC1_SCHEMAS", "GLOBAL", "GLOBAL_SCHEMAS"} {
		h.stream(centre, name)
	}
	mirror, global := startReceiver(t, h.receiver("centre", centre)), startReceiver(t, h.receiver("global", centre))
	poller := startPoller(t, config).Ready(t)
	shown := func() {
		t.Helper()
		for _, target := range all {
			before, want := target.Numbers(), harness.Labels{"job": "node", "instance": target.Name, "publisher": "DC1"}
			target.WaitShown(t, 60*time.Second, mirror, want, before)
			target.WaitShown(t, 60*time.Second, global, want, before)
		}
	}
	shown()
	centre.Kill()
	time.Sleep(8 * time.Second)
	centre.Restart(t)
	shown()
	stopWell(t, poller.Process)
	for name, p := range map[string]*harness.Product{"mirror": mirror, "global": global} {
		served := 0
		for _, target := range all {
			served += target.Numbers()
		}
		harness.Wait(t, 60*time.Second, name+" gets all", func() error {
			page, err := harness.Scrape(p.URL + "/metrics")
			if err != nil {
				return err
			}
			// A scrape may have been under way when the poller stopped; then nothing was sent of it.
			if got := int(page.Sum("prometheus_streams_receiver_delivered_frames_total", nil)); got < served-len(all) {
				return fmt.Errorf("%d frames of %d", got, served)
			}
			return nil
		})
		page := p.Metrics(t)
		for _, lost := range []string{"dropped_frames", "rejected_frames", "missing_bundles", "lost_samples", "concurrent_epochs"} {
			if n := page.Sum("prometheus_streams_receiver_"+lost+"_total", nil); n != 0 {
				t.Errorf("%s: %s_total is %v", name, lost, n)
			}
		}
		stopWell(t, p.Process)
	}
}

// The page's leaf node without a copy: the poller publishes through it into the stream at the centre, and its spool keeps what the
// link does not take.
func TestLeafWithoutCopy(t *testing.T) {
	t.Parallel()
	h := readHops(t)
	centre, dc1 := h.leaf()
	recorder := startRecorder(t, centre, "leaf")
	all := webTargets(t)
	poller := startPoller(t, h.poller(dc1, all))
	recorder.WaitNumbers(t, 60*time.Second, map[*harness.Target]int{all[0]: 2, all[1]: 2, all[2]: 2})
	centre.Kill()
	time.Sleep(8 * time.Second)
	centre.Restart(t)
	recorder.WaitNumbers(t, 60*time.Second, lastNumbers(all))
	end := pause{from: time.Now()}
	stopWell(t, poller.Process)
	end.to = time.Now()
	recorder.WaitNumbers(t, 60*time.Second, lastNumbers(all))
	stopWell(t, recorder.Process)
	a := recorder.Account(t, 1)
	if n := a.Missing(); n != 0 {
		t.Errorf("%d bundles missing: %v", n, a.Gaps)
	}
	checkNumbers(t, a, "DC1", "node", all, end)
}

// The page's receiver with both carriers: a poller that is moved from NATS Streaming to JetStream, and back again, goes on in the
// same groups of the Push Gateway, and another one does not notice.
func TestStreamingToJetStream(t *testing.T) {
	t.Parallel()
	h := readHops(t)
	old := harness.StartStreaming(t, ports.Next(t), "-cid", "global_stream")
	server, g := startNATS(t, ""), startPushServer(t, "pushgateway")
	receiver := startReceiver(t, replaced(t, h.block("yaml", "(?s)^# role: receiver\nidentity: centre\n.*\npush_gateway:"),
		"nats://old.dc2.example.net:4222", old.URL, "nats://nats.dc2.example.net:4222", server.URL, "http://prometheus.dc2.example.net:9091", g.URL,
		"push_gateway:\n", fmt.Sprintf("receiver:\n  state_directory: %s\npush_gateway:\n", t.TempDir())))
	moved, other := targets.New(t, "a", 5), targets.New(t, "a", 5)
	onOld := func(identity string, target *harness.Target) string {
		return replaced(t, streamingPoller(old, identity, "1s", harness.JobsYAML("edge", target)), harness.ClusterID, "global_stream")
	}
	poller := startPoller(t, onOld("DC1", moved))
	startPoller(t, onOld("DC2", other))
	group := func(publisher string) harness.Labels {
		return harness.Labels{"job": "edge", "instance": "a", "publisher": publisher}
	}
	goesOn := func() {
		t.Helper()
		last := waitPushed(t, 30*time.Second, g, moved, group("DC1"), moved.Numbers())
		waitPushed(t, 30*time.Second, g, moved, group("DC1"), last+1)
		waitPushed(t, 30*time.Second, g, other, group("DC2"), other.Numbers())
	}
	goesOn()
	for _, config := range []string{pollerYAML(server, "DC1", "1s", harness.JobsYAML("edge", moved)), onOld("DC1", moved)} {
		stopWell(t, poller.Process)
		poller.Write(t, config)
		poller.Restart(t)
		goesOn()
	}
	page := receiver.Metrics(t)
	for _, none := range []string{"dropped_frames", "missing_bundles", "lost_samples"} {
		if n := page.Sum("prometheus_streams_receiver_"+none+"_total", nil); n != 0 {
			t.Errorf("%s_total is %v", none, n)
		}
	}
}
