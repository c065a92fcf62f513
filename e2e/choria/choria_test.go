//go:build choria

package choria

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

const (
	pollerName   = "poller.example.net"
	receiverName = "receiver.example.net"
)

// auth lets one person do everything and another look.
const auth = "  name: site\n  auth: {full: [me.mcollective], RO: [ro.mcollective]}\n"

// A whole site on a broker with TLS, in the order of a day: what people see, what they may do, what attackers can do, and the
// broker going away.
func TestBroker(t *testing.T) {
	n := newNetwork(t)
	hub := harness.StartNATS(t, ports.Next(t), "")
	target := targets.New(t, "target", 5)
	receiver := harness.StartProduct(t, builds, "receiver", ports.Next(t), receiverYAML(t, hub, n.management(receiverName, auth))).Ready(t)
	poller := harness.StartProduct(t, builds, "poller", ports.Next(t), pollerYAML(hub, target, n.management(pollerName, auth))).Ready(t)
	s := &site{t: t, network: n, poller: poller, receiver: receiver, target: target}

	s.step("data flows while there is no broker", func() {
		target.WaitShown(t, patience, receiver, harness.Labels{"job": "edge", "instance": "target"}, 0)
		poller.WaitOutput(patience, "Initial connection to the Broker failed")
	})
	n.Restart()
	s.step("found once the broker is there", func() { n.found("me.mcollective", pollerName, receiverName) })
	events := n.events()
	s.step("a restart is heard of", func() {
		for _, p := range []*harness.Product{poller, receiver} {
			p.Stop(patience)
			p.Restart(t)
			p.Ready(t)
		}
		for _, text := range []string{"[shutdown] " + pollerName + ": prometheus_streams_poller", "[startup] " + pollerName + ": prometheus_streams_poller version",
			"[shutdown] " + receiverName + ": prometheus_streams_receiver", "[startup] " + receiverName + ": prometheus_streams_receiver version"} {
			heard(t, events, text, 1)
		}
	})
	s.step("as the seed shows it", s.asTheSeed)
	s.step("pause and resume", s.pauseAndResume)
	s.step("backplane", s.backplane)
	s.step("facts", s.facts)
	s.step("rights", s.rights)
	s.step("attacks", s.attacks)
	s.step("broker killed and restarted", func() {
		n.Kill()
		seen := target.Numbers()
		harness.Wait(t, patience, "scrapes without a broker", func() error { return atLeast(target.Numbers(), seen+3) })
		n.Restart()
		events = n.events()
		n.found("me.mcollective", pollerName, receiverName)
		if got := strings.Count(events.Output(), "[startup]"); got != 0 {
			t.Errorf("startup again after a reconnect:\n%s", events.Output())
		}
	})
	s.step("metrics are ours alone", func() {
		for _, p := range []*harness.Product{poller, receiver} {
			for name := range p.Metrics(t) {
				if strings.HasPrefix(name, "choria") {
					t.Errorf("%s shows %s", p.Name, name)
				}
			}
			if strings.Contains(p.Output(), canary) {
				t.Errorf("%s logs a secret", p.Name)
			}
		}
		shown, err := receiver.Gateway("")
		if err != nil {
			t.Fatal(err)
		}
		for name := range shown {
			if strings.HasPrefix(name, "choria") {
				t.Errorf("%s was shipped", name)
			}
		}
	})
	s.step("stopped in good order, and without a broker", func() {
		if code, _ := receiver.Stop(patience); code != 0 {
			t.Errorf("exit code %d", code)
		}
		heard(t, events, "[shutdown] "+receiverName+": prometheus_streams_receiver", 1)
		n.Kill()
		poller.WaitOutput(patience, "disconnected")
		if code, took := poller.Stop(patience); code != 0 || took > 5*time.Second {
			t.Errorf("exit code %d after %v", code, took)
		}
	})
}

// site is what TestBroker goes through.
type site struct {
	t                *testing.T
	network          *network
	poller, receiver *harness.Product
	target           *harness.Target
}

// step is one part; the next ones need it.
func (s *site) step(name string, do func()) {
	s.t.Helper()
	begin := time.Now()
	do()
	if s.t.Failed() {
		s.t.Fatalf("failed: %s", name)
	}
	s.t.Logf("%s: %.1fs", name, time.Since(begin).Seconds())
}

// asTheSeed runs the commands that the seed's readme shows and reads what a person reads.
func (s *site) asTheSeed() {
	out := s.network.must("me.mcollective", "req", "prometheus_streams", "switch", "-T", "prometheus", "--np", "-F", "mode=poller")
	for _, want := range []string{pollerName, "Mode: poller", "Paused: true", "Summary of Mode:", "poller: 1", "Summary of Paused:", "true: 1", "Finished processing 1 / 1 hosts"} {
		if !strings.Contains(out, want) {
			s.t.Errorf("switch prints no %q:\n%s", want, out)
		}
	}
	out = s.network.must("me.mcollective", "req", "prometheus_streams", "switch", "-T", "prometheus", "--np", "-F", "mode=poller")
	if !strings.Contains(out, "Paused: false") || !strings.Contains(out, "false: 1") {
		s.t.Errorf("switch back prints\n%s", out)
	}
	out = s.network.must("me.mcollective", "ping", "-T", "prometheus")
	if !strings.Contains(out, pollerName) || !strings.Contains(out, "2 replies") {
		s.t.Errorf("ping prints\n%s", out)
	}
}

// state checks the answers of all to an action of prometheus_streams.
func (s *site) state(action string, paused map[string]bool, args ...string) {
	s.t.Helper()
	got, raw := s.network.ask("me.mcollective", append([]string{"prometheus_streams", action, "-T", "prometheus"}, args...)...)
	modes := map[string]string{pollerName: "poller", receiverName: "receiver"}
	if len(got) != len(paused) {
		s.t.Fatalf("%s: %+v", action, raw)
	}
	for name, p := range paused {
		if got[name]["paused"] != p || got[name]["mode"] != modes[name] || got[name]["version"] == "" {
			s.t.Errorf("%s: %s answers %v", action, name, got[name])
		}
	}
	if !strings.Contains(string(raw.Summaries), "mode") && !strings.Contains(string(raw.Summaries), "Mode") {
		s.t.Errorf("%s: no summary of the mode: %s", action, raw.Summaries)
	}
}

func (s *site) pauseAndResume() {
	both := func(p bool) map[string]bool { return map[string]bool{pollerName: p, receiverName: p} }
	for action, want := range map[string]bool{"info": false, "ping": false} {
		s.state(action, both(want))
	}
	s.state("health", both(false))
	s.state("pause", both(true))
	before := s.target.Numbers()
	harness.Holds(s.t, 3*time.Second, "no scrape while paused", func() error {
		if now := s.target.Numbers(); now > before+1 { // one may have been under way
			return fmt.Errorf("%d scrapes since the pause", now-before)
		}
		return nil
	})
	s.poller.WaitOutput(patience, `pause asked for.*choria=me.mcollective`)
	s.state("info", map[string]bool{pollerName: true}, "-F", "paused=true", "-F", "poller_mode=true")
	s.state("switch", map[string]bool{receiverName: false}, "-F", "mode=receiver")
	s.state("resume", both(false))
	harness.Wait(s.t, patience, "scrapes after the resume", func() error { return atLeast(s.target.Numbers(), before+3) })
	s.state("loglevel", map[string]bool{pollerName: false}, "level=debug", "-F", "mode=poller")
	s.poller.WaitOutput(patience, "level=DEBUG")
	s.state("loglevel", both(false), "level=info")
}

// backplane is what version 1.0 answered.
func (s *site) backplane() {
	got, raw := s.network.ask("me.mcollective", "backplane", "info", "-T", "site_backplane")
	if len(got) != 2 || got[pollerName]["paused"] != false || got[pollerName]["pause_feature"] != true {
		s.t.Errorf("info: %+v", raw)
	}
	for _, want := range []bool{true, false} {
		if got, raw = s.network.ask("me.mcollective", "backplane", "flip", "-T", "site_backplane"); len(got) != 2 || got[pollerName]["paused"] != want {
			s.t.Errorf("flip: %+v", raw)
		}
	}
}

func (s *site) facts() {
	got, raw := s.network.ask("me.mcollective", "rpcutil", "get_fact", "fact=config", "-T", "prometheus")
	config, ok := got[pollerName]["value"].(map[string]any)
	if !ok {
		s.t.Fatalf("fact config: %+v", raw)
	}
	block, _ := config["poller_stream"].(map[string]any)
	if config["scrape_interval"] != "1s" || block["password"] == nil || block["topic"] != "prometheus" {
		s.t.Errorf("fact config: %v", config)
	}
	if text := fmt.Sprint(raw); strings.Contains(text, canary) {
		s.t.Errorf("fact config shows a secret: %s", text)
	}
	for fact, want := range map[string]any{"identity": pollerName, "jobs": "edge", "edge_job": true, "poller_mode": true} {
		if got, _ = s.network.ask("me.mcollective", "rpcutil", "get_fact", "fact="+fact, "-T", "prometheus", "-I", pollerName); !reflect.DeepEqual(got[pollerName]["value"], want) {
			s.t.Errorf("fact %s: %v, want %v", fact, got, want)
		}
	}
	if out := s.network.must("me.mcollective", "facts", "mode", "-T", "prometheus"); !strings.Contains(out, "poller") || !strings.Contains(out, "receiver") {
		s.t.Errorf("facts mode prints\n%s", out)
	}
	out := s.network.must("me.mcollective", "inventory", pollerName)
	if !strings.Contains(out, "prometheus_streams") || strings.Contains(out, canary) {
		s.t.Errorf("inventory prints\n%s", out)
	}
}

// rights: one may look and not switch, and one who is not on Choria's list is not answered.
func (s *site) rights() {
	got, raw := s.network.ask("ro.mcollective", "prometheus_streams", "info", "-T", "prometheus")
	if len(got) != 2 {
		s.t.Errorf("read-only info: %+v", raw)
	}
	for _, args := range [][]string{{"prometheus_streams", "switch"}, {"backplane", "flip"}} {
		got, raw = s.network.ask("ro.mcollective", append(args, "-T", "prometheus")...)
		if len(got) != 0 || len(raw.Replies) != 2 {
			s.t.Fatalf("read-only %v: %+v", args, raw)
		}
		for _, r := range raw.Replies {
			if r.Statuscode != 1 || !strings.Contains(r.Statusmsg, "not authorized") {
				s.t.Errorf("read-only %v: %+v", args, r)
			}
		}
	}
	s.state("info", map[string]bool{pollerName: false, receiverName: false})
	if out, err := s.network.choria("stranger.example.net", "ping", "-T", "prometheus", "--names"); len(strings.Fields(out)) != 0 {
		s.t.Errorf("a stranger finds %s, %v", out, err)
	}
	s.poller.WaitOutput(patience, "stranger.example.net.*not on allow list|not on allow list|not in management.auth")
}

func atLeast(got, want int) error {
	if got < want {
		return fmt.Errorf("%d, want %d", got, want)
	}
	return nil
}

// Without TLS any NATS server does, and it is said that callers are whoever they say.
func TestPlainNATS(t *testing.T) {
	n := newPlainNetwork(t)
	n.Restart()
	hub := harness.StartNATS(t, ports.Next(t), "")
	target := targets.New(t, "target", 5)
	poller := harness.StartProduct(t, builds, "poller", ports.Next(t), pollerYAML(hub, target, n.management(pollerName, ""))).Ready(t)
	poller.WaitOutput(patience, "level=WARN.*callers are not authenticated")
	n.found("me.mcollective", pollerName)
	s := &site{t: t, network: n, poller: poller, target: target}
	s.state("switch", map[string]bool{pollerName: true})
	s.state("resume", map[string]bool{pollerName: false})
	if code, took := poller.Stop(patience); code != 0 || took > 5*time.Second {
		t.Errorf("exit code %d after %v", code, took)
	}
	poller.Write(t, pollerYAML(hub, target, n.management(pollerName, auth)))
	poller.Restart(t)
	if code := poller.ExitCode(patience); code != 1 || !strings.Contains(poller.Output(), "without tls anybody can claim any name") {
		t.Errorf("auth without tls: exit code %d\n%s", code, poller.Output())
	}
}

// A Choria broker lets nobody in without TLS: that is told, and nothing else suffers.
func TestBrokerRefusesPlain(t *testing.T) {
	n := newNetwork(t)
	n.Restart()
	hub := harness.StartNATS(t, ports.Next(t), "")
	target := targets.New(t, "target", 5)
	plain := fmt.Sprintf("management: {identity: %s, brokers: [\"localhost:%d\"]}\n", pollerName, n.port)
	poller := harness.StartProduct(t, builds, "poller", ports.Next(t), pollerYAML(hub, target, plain)).Ready(t)
	poller.WaitOutput(patience, "level=WARN.*Initial connection to the Broker failed")
	harness.Wait(t, patience, "scrapes", func() error { return atLeast(target.Numbers(), 3) })
}

// Without management the events go where the stream is, as in version 1.0; where that is denied, nobody is bothered.
func TestEventsOnTheStream(t *testing.T) {
	port := ports.Next(t)
	hub := harness.StartNATS(t, port, "")
	n := newPlainNetwork(t)
	n.port = port
	events := n.events()
	target := targets.New(t, "target", 5)
	receiver := harness.StartProduct(t, builds, "receiver", ports.Next(t), receiverYAML(t, hub, "")).Ready(t)
	poller := harness.StartProduct(t, builds, "poller", ports.Next(t), pollerYAML(hub, target, "")).Ready(t)
	heard(t, events, "[startup] DC1: prometheus_streams_poller version", 1)
	heard(t, events, "[startup] centre: prometheus_streams_receiver version", 1)
	poller.Stop(patience)
	receiver.Stop(patience)
	heard(t, events, "[shutdown] DC1: prometheus_streams_poller", 1)
	heard(t, events, "[shutdown] centre: prometheus_streams_receiver", 1)

	poller.Write(t, pollerYAML(hub, target, "management: {lifecycle_events: false}\n"))
	poller.Restart(t)
	poller.Ready(t)
	harness.Wait(t, patience, "scrapes", func() error { return atLeast(target.Numbers(), 3) })
	poller.Stop(patience)
	heard(t, events, "[startup] DC1: prometheus_streams_poller version", 1)

	denied := harness.StartNATS(t, ports.Next(t), fmt.Sprintf(`authorization { users: [{user: u, password: %s, permissions: {publish: {deny: ["choria.>"]}}}] }`, canary))
	quiet := harness.StartProduct(t, builds, "poller", ports.Next(t), pollerYAML(denied, target, ""), "--log.level", "debug").Ready(t)
	quiet.WaitOutput(patience, "level=DEBUG.*denied, and not needed.*choria.lifecycle.event.startup.prometheus_streams_poller")
	if out := quiet.Output(); strings.Count(out, "choria.lifecycle") != 1 {
		t.Errorf("more than a line about it:\n%s", out)
	}
	if got := quiet.Metrics(t).Sum("prometheus_streams_nats_errors_total", harness.Labels{"kind": "permission"}); got != 0 {
		t.Errorf("counted as %v errors", got)
	}
}

// A build without Choria says so where there are brokers, and has everything else.
func TestBuildWithoutChoria(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "prometheus-streams")
	build := exec.Command("go", "build", "-C", harness.Root(), "-tags", "nochoria", "-o", binary, "./cmd/prometheus-streams")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text, err := exec.Command("go", "version", "-m", binary).CombinedOutput()
	if err != nil || strings.Contains(string(text), "choria-io/go-choria") {
		t.Errorf("go-choria is in it: %v\n%s", err, text)
	}
	hub := harness.StartNATS(t, ports.Next(t), "")
	target := targets.New(t, "target", 5)
	for management, want := range map[string]string{
		"management: {brokers: [\"localhost:4222\"]}\n": "this build is without Choria",
		"management: {micro: true}\n":                   "",
	} {
		config := filepath.Join(t.TempDir(), "poller.yaml")
		yaml := pollerYAML(hub, target, management) + fmt.Sprintf("\nspool: {directory: %s}\n", t.TempDir())
		if err := os.WriteFile(config, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		before := target.Numbers()
		p := harness.Start(t, "nochoria", binary, "poller", "--config", config)
		if want == "" {
			harness.Wait(t, patience, "scrapes", func() error { return atLeast(target.Numbers(), before+3) })
			continue
		}
		if code := p.ExitCode(patience); code != 1 || !strings.Contains(p.Output(), want) {
			t.Errorf("exit code %d:\n%s", code, p.Output())
		}
	}
}
