package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// managementUsers gives the processes what docs/management.md says they need beside their streams, a person what ctl needs,
// another one the right to look alone, and a stranger nothing of it.
const managementUsers = `
accounts { A { jetstream: enabled, users: [
  { user: setup, password: x }
  { user: DC1, password: x, permissions {
    publish: ["prometheus.frames.DC1.>", "prometheus.schemas.DC1.>"]
    subscribe: ["_INBOX.DC1.>", "prometheus.control.DC1.*", "$SRV.*", "$SRV.*.prometheus-streams", "$SRV.*.prometheus-streams.*"]
    allow_responses: { max: 1, expires: "1m" } } }
  { user: DC2, password: x, permissions {
    publish: ["prometheus.frames.DC2.>", "prometheus.schemas.DC2.>"]
    subscribe: ["_INBOX.DC2.>", "prometheus.control.DC2.*", "$SRV.*", "$SRV.*.prometheus-streams", "$SRV.*.prometheus-streams.*"]
    allow_responses: { max: 1, expires: "1m" } } }
  { user: hub, password: x, permissions {
    publish: ["$JS.>"]
    subscribe: ["_INBOX.hub.>", "prometheus.control.hub.*", "$SRV.*", "$SRV.*.prometheus-streams", "$SRV.*.prometheus-streams.*"]
    allow_responses: { max: 1, expires: "1m" } } }
  { user: ops, password: x, permissions {
    publish: ["prometheus.control.*.*", "$SRV.>"], subscribe: ["_INBOX.ops.>"] } }
  { user: look, password: x, permissions {
    publish: ["prometheus.control.*.info", "$SRV.INFO.prometheus-streams"], subscribe: ["_INBOX.look.>"] } }
  { user: stranger, password: x, permissions { publish: ["other.>"], subscribe: ["_INBOX.stranger.>"] } }
] } }
`

// natsCommand runs the nats command as a user and gives what it prints, both streams together.
func natsCommand(t testing.TB, server *harness.NATS, user string, args ...string) (string, error) {
	t.Helper()
	argv := append([]string{"--server", server.URL, "--user", user, "--password", "x", "--inbox-prefix", "_INBOX." + user, "--timeout", "4s"}, args...)
	cmd := exec.CommandContext(t.Context(), harness.Server(t, "nats"), argv...)
	home := t.TempDir()
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+home)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// control runs ctl as a user: see controlOver.
func control(t testing.TB, server *harness.NATS, user string, args ...string) (answers, complaint string, code int) {
	t.Helper()
	return controlOver(t, fmt.Sprintf("urls: '%s', user: %s, password: x, inbox_prefix: _INBOX.%s", server.URL, user, user), args...)
}

// controlOver runs ctl with a stream block and gives its answers on one line, what it complains of and its exit code.
func controlOver(t testing.TB, block string, args ...string) (answers, complaint string, code int) {
	t.Helper()
	config := filepath.Join(t.TempDir(), "ctl.yaml")
	text := "identity: me\npoller_stream: {" + block + "}\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), builds.Product(t), slices.Concat([]string{"ctl"}, args, []string{"--config", config, "--json"})...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			t.Fatal(err)
		}
		code = exit.ExitCode()
	}
	var list []struct {
		Identity, Mode, Version, Error string
		Paused                         bool
	}
	if err := json.Unmarshal(out.Bytes(), &list); err != nil {
		t.Fatalf("ctl %q printed %q, %s: %v", args, &out, &said, err)
	}
	for _, a := range list {
		answers += fmt.Sprintf("%s/%s/%v%s ", a.Identity, a.Mode, a.Paused, a.Error)
	}
	return strings.TrimSpace(answers), said.String(), code
}

// Two pollers and a receiver with the least permissions, listed and driven by the nats command and by ctl.
func TestManagementOverMicro(t *testing.T) {
	t.Parallel()
	server := startNATS(t, managementUsers)
	create := filepath.Join(t.TempDir(), "setup.yaml")
	if err := os.WriteFile(create, fmt.Appendf(nil, "receiver_stream: {urls: '%s', user: setup, password: x}\n", server.URL), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), builds.Product(t), "check", "stream", "--create", "--config", create).CombinedOutput(); err != nil {
		t.Fatalf("check stream --create: %v\n%s", err, out)
	}
	block := func(user string) string {
		return fmt.Sprintf("{urls: '%s', user: %s, password: x, inbox_prefix: _INBOX.%s}", server.URL, user, user)
	}
	managed := "management: {micro: true}\n"
	one, two := targets.New(t, "one", 3), targets.New(t, "two", 3)
	start := func(name string, g *harness.Target) *harness.Product {
		return startPoller(t, fmt.Sprintf("identity: %s\nscrape_interval: 1s\npoller_stream: %s\n%s%s", name, block(name), managed, harness.JobsYAML("edge", g))).Ready(t)
	}
	start("DC1", one)
	start("DC2", two)
	startReceiver(t, fmt.Sprintf("identity: hub\nreceiver_stream: %s\nreceiver: {state_directory: %s}\ngateway: {}\n%s", block("hub"), t.TempDir(), managed))

	all := "DC1/poller/false DC2/poller/false hub/receiver/false"
	harness.Wait(t, 30*time.Second, "ctl finds all three", func() error {
		if got, said, code := control(t, server, "ops", "info", "--all"); got != all || code != 0 {
			return fmt.Errorf("%s, code %d\n%s", got, code, said)
		}
		return nil
	})
	// The nats command.
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"micro", "ls"}, []string{"prometheus-streams poller DC1", "prometheus-streams poller DC2", "prometheus-streams receiver hub"}},
		{[]string{"micro", "info", "prometheus-streams"}, []string{"Description: prometheus-streams ", "Subject: prometheus.control.", ".pause", "mode: "}},
		{[]string{"micro", "stats", "prometheus-streams"}, []string{"info", "pause"}},
		{[]string{"req", "prometheus.control.DC1.pause", ""}, []string{`"identity":"DC1"`, `"mode":"poller"`, `"paused":true`}},
		{[]string{"req", "prometheus.control.hub.info", ""}, []string{`"mode":"receiver"`, `"paused":false`}},
		{[]string{"req", "prometheus.control.DC2.health", ""}, []string{`"ready":true`}},
	} {
		out, err := natsCommand(t, server, "ops", c.args...)
		for _, want := range c.want {
			if err != nil || !strings.Contains(out, want) {
				t.Errorf("nats %q: no %s, %v, in\n%s", c.args, want, err, out)
			}
		}
	}
	before := one.Numbers()
	harness.Wait(t, 10*time.Second, "the other poller scrapes", func() error {
		if two.Numbers() < before+3 {
			return errors.New("not yet")
		}
		return nil
	})
	if after := one.Numbers(); after > before+1 { // one may have been under way
		t.Errorf("paused by nats req, and yet %d scrapes", after-before)
	}
	// ctl.
	for _, c := range []struct {
		user       string
		args       []string
		want, said string
		code       int
	}{
		{"ops", []string{"info", "--all"}, "DC1/poller/true DC2/poller/false hub/receiver/false", "", 0},
		{"ops", []string{"switch", "--all", "--mode", "poller"}, "DC1/poller/false DC2/poller/true", "", 0},
		{"ops", []string{"pause", "--publisher", "hub"}, "hub/receiver/true", "", 0},
		{"ops", []string{"resume", "--all"}, all, "", 0},
		{"ops", []string{"pause", "--publisher", "hub", "--mode", "poller", "--timeout", "2s"}, "", "nobody answers", 1},
		{"look", []string{"info", "--all"}, all, "", 0},
		{"look", []string{"pause", "--publisher", "DC1", "--timeout", "2s"}, "", `Permissions Violation for Publish to "prometheus.control.DC1.pause"`, 1},
		{"stranger", []string{"info", "--publisher", "DC1", "--timeout", "2s"}, "", "management: {micro: true}", 1},
		{"stranger", []string{"switch", "--all", "--timeout", "2s"}, "", "and to $SRV.INFO.prometheus-streams", 1},
		{"ops", []string{"info", "--all"}, all, "", 0}, // and nothing of that was done
	} {
		got, said, code := control(t, server, c.user, c.args...)
		if got != c.want || code != c.code || !strings.Contains(said, c.said) {
			t.Errorf("%s: ctl %q: %s, want %s; code %d, want %d; it said\n%s", c.user, c.args, got, c.want, code, c.code, said)
		}
	}
	if out, err := natsCommand(t, server, "stranger", "req", "prometheus.control.DC1.pause", ""); err == nil && strings.Contains(out, "paused") {
		t.Errorf("a stranger's request is answered:\n%s", out)
	}
	if got, _, _ := control(t, server, "ops", "info", "--all"); got != all {
		t.Errorf("after a stranger's request: %s", got)
	}
}

// NATS Streaming has a NATS below it: a poller and a receiver of one identity there are asked in the same way.
func TestManagementOverStreaming(t *testing.T) {
	t.Parallel()
	server, push := startStreaming(t), startPushServer(t, "pushgateway")
	managed := "management: {micro: true}\n"
	g := targets.New(t, "alpha", 3)
	startReceiver(t, strings.Replace(streamingReceiver(t, server, push, managed), "identity: centre", "identity: site", 1)+
		fmt.Sprintf("spool: {directory: %s}\n", t.TempDir()))
	startPoller(t, streamingPoller(server, "site", "1s", harness.JobsYAML("edge", g)+managed)).Ready(t)
	waitPushed(t, 20*time.Second, push, g, edge(g), 1)
	block := fmt.Sprintf("urls: '%s', cluster_id: %s", server.URL, harness.ClusterID)
	want := func(answers string, args ...string) {
		t.Helper()
		if got, said, code := controlOver(t, block, args...); got != answers || code != 0 {
			t.Errorf("ctl %q: %s, want %s; code %d\n%s", args, got, answers, code, said)
		}
	}
	want("site/poller/false site/receiver/false", "info", "--publisher", "site")
	want("site/receiver/true", "pause", "--publisher", "site", "--mode", "receiver")
	time.Sleep(time.Second)
	shown := func() string {
		return fmt.Sprint(harness.MustScrape(t, push.URL+"/metrics").Values(harness.ValueMetric, edge(g)))
	}
	before, asked := shown(), g.Numbers()
	harness.Holds(t, 4*time.Second, "the Push Gateway sees nothing", func() error {
		if now := shown(); now != before {
			return fmt.Errorf("it had %s and has %s", before, now)
		}
		return nil
	})
	if g.Numbers() < asked+2 {
		t.Error("the poller is paused too")
	}
	want("site/poller/true site/receiver/false", "switch", "--all")
	time.Sleep(time.Second)
	asked = g.Numbers()
	time.Sleep(3 * time.Second)
	if n := g.Numbers(); n != asked {
		t.Errorf("a paused poller asked %d times", n-asked)
	}
	want("site/poller/false site/receiver/false", "resume", "--publisher", "site")
	waitPushed(t, 20*time.Second, push, g, edge(g), asked)
}

// act sends a POST to a process and wants it to be paused or not.
func act(t testing.TB, p *harness.Product, action string, paused bool) {
	t.Helper()
	resp, err := http.Post(p.URL+"/-/"+action, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), fmt.Sprintf(`"paused":%v`, paused)) {
		t.Fatalf("POST /-/%s: %s %s, %v", action, resp.Status, body, err)
	}
}

// centre is a receiver with all sinks, behind which are a real Push Gateway and a real Prometheus.
type centre struct {
	*harness.Product
	push    *pushServer
	written *harness.Prometheus
}

func startCentre(t testing.TB, server *harness.NATS, pushKeys, more string) *centre {
	t.Helper()
	c := &centre{push: startPushServer(t, "pushgateway"), written: startWritten(t)}
	c.Product = harness.StartProduct(t, builds, "receiver", ports.Next(t),
		pushYAML(server, c.push.URL, t.TempDir(), pushKeys, remoteWriteYAML(c.written, "")+"gateway: {}\n"+more), "--web.enable-lifecycle").Ready(t)
	return c
}

// arrived waits until all sinks show a scrape of the target that is later than after.
func (c *centre) arrived(t testing.TB, g *harness.Target, after int) {
	t.Helper()
	waitPushed(t, 30*time.Second, c.push, g, edge(g), after)
	harness.Wait(t, 30*time.Second, "remote write and the gateway have it too", func() error {
		samples, err := samplesOf(c.written, g, 0)
		if err != nil {
			return err
		}
		if newest := newestOf(samples); newest <= after {
			return fmt.Errorf("written: scrape %d, later than %d wanted", newest, after)
		}
		page, err := c.Gateway("")
		if err != nil {
			return err
		}
		number, err := g.Shown(page, edge(g))
		if err == nil && number <= after {
			err = fmt.Errorf("the gateway shows scrape %d, later than %d wanted", number, after)
		}
		return err
	})
}

func newestOf(samples []harness.RawSample) (number int) {
	for _, s := range samples {
		if !s.Stale {
			_, n := harness.Of(s.Value)
			number = max(number, n)
		}
	}
	return number
}

// A paused poller asks no target, ends its series, and goes on telling of itself.
func TestPausedPoller(t *testing.T) {
	t.Parallel()
	server := startNATS(t, "")
	c := startCentre(t, server, "", "")
	g := targets.New(t, "alpha", 5)
	p := harness.StartProduct(t, builds, "poller", ports.Next(t), pollerYAML(server, "site", "1s", harness.JobsYAML("edge", g)), "--web.enable-lifecycle").Ready(t)
	c.arrived(t, g, 2)

	act(t, p, "pause", true)
	time.Sleep(time.Second) // for a scrape that was under way
	asked := g.Numbers()
	own := harness.Labels{"__name__": "prometheus_streams_poller_paused", "job": "prometheus_streams", "instance": "site"}
	harness.Wait(t, 20*time.Second, "it is told at the centre that it is paused", func() error {
		samples, err := c.written.OneRaw(own)
		if err == nil && (samples[len(samples)-1].Value != 1 || samples[len(samples)-1].Stale) {
			err = fmt.Errorf("the last sample is %+v", samples[len(samples)-1])
		}
		return err
	})
	harness.Wait(t, 30*time.Second, "its series end with a stale marker", func() error {
		for i := range 5 {
			samples, err := samplesOf(c.written, g, i)
			if err != nil {
				return err
			}
			if last := samples[len(samples)-1]; !last.Stale {
				return fmt.Errorf("series %d ends with %+v", i, last)
			}
		}
		page, err := c.Gateway("")
		if err == nil && page.Count(edge(g)) > 0 {
			err = errors.New("the gateway shows them")
		}
		return err
	})
	harness.Holds(t, 5*time.Second, "the target is left alone and its group stays", func() error {
		if n := g.Numbers(); n != asked {
			return fmt.Errorf("%d scrapes", n-asked)
		}
		page, err := harness.Scrape(c.push.URL + "/metrics")
		if err == nil && page.Count(edge(g)) == 0 {
			err = errors.New("the group is gone")
		}
		return err
	})
	act(t, p, "switch", false)
	c.arrived(t, g, asked+2)
	samples, err := samplesOf(c.written, g, 0)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(slices.DeleteFunc(samples, func(s harness.RawSample) bool { return !s.Stale })); n != 1 {
		t.Errorf("%d stale markers, want 1", n)
	}
	for _, name := range []string{"missing_bundles_total", "lost_samples_total"} {
		if n := c.Metrics(t).Sum("prometheus_streams_receiver_"+name, nil); n != 0 {
			t.Errorf("%s is %v", name, n)
		}
	}
}

// A paused receiver shows its sinks nothing and deletes no group; what it received meanwhile is counted, and nothing that
// comes after it is missing.
func TestPausedReceiverDiscards(t *testing.T) {
	t.Parallel()
	server := startNATS(t, "")
	c := startCentre(t, server, "  stale_after: 4s", "")
	g := targets.New(t, "alpha", 5)
	startPoller(t, pollerYAML(server, "site", "1s", harness.JobsYAML("edge", g))).Ready(t)
	c.arrived(t, g, 2)

	act(t, c.Product, "pause", true)
	time.Sleep(time.Second) // for a push and a write that were under way
	pushed := func() string {
		page := harness.MustScrape(t, c.push.URL+"/metrics")
		return fmt.Sprint(page.Values("push_time_seconds", nil), page.Values(harness.ValueMetric, edge(g)))
	}
	written := func() int {
		samples, err := samplesOf(c.written, g, 0)
		if err != nil {
			t.Fatal(err)
		}
		return len(samples)
	}
	beforePush, beforeWrite, asked := pushed(), written(), g.Numbers()
	harness.Holds(t, 8*time.Second, "Push Gateway and Prometheus see nothing", func() error {
		if now := pushed(); now != beforePush {
			return fmt.Errorf("the groups were\n%s and are\n%s", beforePush, now)
		}
		if now := written(); now != beforeWrite {
			return fmt.Errorf("%d samples more", now-beforeWrite)
		}
		return nil
	})
	own := c.Metrics(t)
	if got := own.Sum("prometheus_streams_receiver_paused", nil); got != 1 {
		t.Errorf("prometheus_streams_receiver_paused is %v", got)
	}
	if got := own.Sum("prometheus_streams_receiver_dropped_frames_total", harness.Labels{"reason": "paused", "sink": "push_gateway", "publisher": "site"}); got < 5 {
		t.Errorf("%v frames counted as discarded for the Push Gateway", got)
	}
	if now := g.Numbers(); now < asked+5 {
		t.Errorf("the poller asked %d times only: it was not to be paused", now-asked)
	}
	act(t, c.Product, "resume", false)
	c.arrived(t, g, g.Numbers())
	own = c.Metrics(t)
	for _, name := range []string{"missing_bundles_total", "lost_samples_total", "rejected_frames_total", "paused"} {
		if n := own.Sum("prometheus_streams_receiver_"+name, nil); n != 0 {
			t.Errorf("%s is %v", name, n)
		}
	}
	all := own.Sum("prometheus_streams_receiver_dropped_frames_total", nil)
	if paused := own.Sum("prometheus_streams_receiver_dropped_frames_total", harness.Labels{"reason": "paused"}); paused != all {
		t.Errorf("%v frames dropped, %v of them for the pause", all, paused)
	}
}

// A receiver that holds leaves everything in the stream: after a resume, and a restart while paused, Prometheus has every
// scrape.
func TestPausedReceiverHolds(t *testing.T) {
	t.Parallel()
	server := startNATS(t, "")
	c := startCentre(t, server, "", "management: {when_paused: hold, remember: true}\n")
	g := targets.New(t, "alpha", 5)
	startPoller(t, pollerYAML(server, "site", "1s", harness.JobsYAML("edge", g))).Ready(t)
	c.arrived(t, g, 2)

	act(t, c.Product, "pause", true)
	time.Sleep(time.Second)
	before, err := samplesOf(c.written, g, 0)
	if err != nil {
		t.Fatal(err)
	}
	quiet := func(during time.Duration) {
		t.Helper()
		harness.Holds(t, during, "nothing is written", func() error {
			samples, err := samplesOf(c.written, g, 0)
			if err == nil && len(samples) != len(before) {
				err = fmt.Errorf("%d samples more", len(samples)-len(before))
			}
			return err
		})
	}
	quiet(5 * time.Second)
	c.Kill()
	c.Restart(t)
	c.Ready(t)
	quiet(5 * time.Second)
	if got := c.Metrics(t).Sum("prometheus_streams_receiver_paused", nil); got != 1 {
		t.Errorf("after a restart prometheus_streams_receiver_paused is %v", got)
	}
	act(t, c.Product, "resume", false)
	asked := g.Numbers()
	c.arrived(t, g, asked)
	harness.Wait(t, 30*time.Second, "Prometheus has every scrape", func() error {
		markers, err := checkSamples(c.written, g, 0, asked)
		if err == nil && markers != 0 {
			err = fmt.Errorf("%d stale markers", markers)
		}
		return err
	})
	if n := c.Metrics(t).Sum("prometheus_streams_receiver_dropped_frames_total", nil); n != 0 {
		t.Errorf("%v frames dropped", n)
	}
}
