//go:build fidelity

package fidelity

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// site is the two Prometheus servers and what lies between the targets and the second.
type site struct {
	t      *testing.T
	fleet  *fleet
	direct *harness.Prometheus
	fed    *harness.Prometheus
	poller *harness.Product
	// receiver writes to fed and to the strict server.
	receiver  *harness.Product
	strict    *strict
	nats      *harness.NATS
	disturbed disturbed
}

// interval is how often targets are asked, limit how long they may take.
const interval, limit = 1500 * time.Millisecond, 1500 * time.Millisecond

const globals = "global: {scrape_interval: 1500ms, scrape_timeout: 1500ms}\nstorage: {exemplars: {max_exemplars: 1000000}}\n"

func startSite(t *testing.T, s *fleet, builds *harness.Builds, ports *harness.Ports) *site {
	t.Helper()
	x := &site{t: t, fleet: s, strict: startStrict(t)}
	for _, j := range s.jobs {
		if j.file {
			x.writeTargets(j, true)
		}
	}
	x.nats = harness.StartNATS(t, ports.Next(t), "")
	x.fed = harness.StartPrometheus(t, ports.Next(t), globals, "--web.enable-remote-write-receiver", "--enable-feature=exemplar-storage")
	receiver := fmt.Sprintf(`
identity: centre
receiver_stream:
  urls: %s
receiver:
  state_directory: %s
remote_write:
- {name: fed, url: %s/api/v1/write, protocol: %d, send_exemplars: true, send_native_histograms: true}
- {name: strict, url: %s, protocol: 2, send_exemplars: true, send_native_histograms: true}
`, x.nats.URL, t.TempDir(), x.fed.URL, s.w.version, x.strict.url)
	x.receiver = harness.StartProduct(t, builds, "receiver", ports.Next(t), receiver).Ready(t)
	x.poller = harness.StartProduct(t, builds, "poller", ports.Next(t), x.pollerYAML())
	x.direct = harness.StartPrometheus(t, ports.Next(t), x.directYAML(), "--enable-feature=exemplar-storage")
	x.poller.Ready(t)
	return x
}

func (x *site) pollerYAML(without ...string) string {
	return fmt.Sprintf("identity: edge\nscrape_interval: 1500ms\nscrape_timeout: 1500ms\npoller_stream:\n  urls: %s\n%s", x.nats.URL, x.fleet.yaml(without...))
}

func (x *site) directYAML(without ...string) string {
	return globals + x.fleet.yaml(without...)
}

func (x *site) writeTargets(j *job, there bool) {
	x.t.Helper()
	text := "[]\n"
	if there {
		text = fmt.Sprintf("- targets: [%q]\n  labels: {who: %s, site: here}\n", j.targets[0].address, j.targets[0].name)
	}
	path := x.fleet.path(j.name)
	err := os.WriteFile(path+".new", []byte(text), 0o644)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		x.t.Fatal(err)
	}
}

// reload takes targets away: one by its file, one by a reload of both; and gives one other labels.
func (x *site) reload() {
	x.t.Helper()
	for _, j := range x.fleet.jobs {
		if j.file {
			x.writeTargets(j, false)
		}
	}
	change := func(config string) string {
		head, tail, ok := strings.Cut(config, "labels: {who: relabelled, site: here}")
		if !ok {
			x.t.Fatal("no target relabelled")
		}
		return strings.Replace(head+"labels: {who: relabelled, site: there}"+tail, slowerConfig, slowerLater, 1)
	}
	x.disturbed.reloaded = time.Now()
	x.direct.Rewrite(x.t, change(x.directYAML("removed-reload")))
	x.direct.Signal(syscall.SIGHUP)
	x.poller.Reload(x.t, change(x.pollerYAML("removed-reload")))
}

// giveBack lets the target that went away by its file return.
func (x *site) giveBack() {
	for _, j := range x.fleet.jobs {
		if j.name == "returning" {
			x.writeTargets(j, true)
		}
	}
}

// restartPoller ends it in a way, waits and starts it again.
func (x *site) restartPoller(killed bool, end func()) {
	r := restart{told: time.Now(), killed: killed}
	end()
	r.ended = time.Now()
	x.disturbed.restarted = append(x.disturbed.restarted, r)
	time.Sleep(500 * time.Millisecond)
	x.poller.Restart(x.t)
	x.poller.Ready(x.t)
}

// restartReceiver is the same of the receiver.
func (x *site) restartReceiver(end func()) {
	end()
	time.Sleep(500 * time.Millisecond)
	x.receiver.Restart(x.t)
	x.receiver.Ready(x.t)
}

// fewer tells of which targets there are fewer scrapes than of the others.
func fewer(name string) bool {
	return strings.HasPrefix(name, "removed-") || strings.HasPrefix(name, "fails-") || name == "returning" || name == "slower"
}

// least is the number of scrapes of the target that was asked least, of those that last.
func (x *site) least(of asker) (int, string) {
	least, name := 1<<30, ""
	for n, e := range x.fleet.all {
		if fewer(n) {
			continue
		}
		if c := e.count(of); c < least {
			least, name = c, n
		}
	}
	return least, name
}

// reach waits until the poller has asked each target for so many scrapes, which takes an interval each.
func (x *site) reach(number int) {
	x.t.Helper()
	from, _ := x.least(fed)
	within := time.Duration(number-from+5)*2*interval + 30*time.Second
	harness.Wait(x.t, within, fmt.Sprint("scrape ", number), func() error {
		for _, who := range []asker{direct, fed} {
			if n, name := x.least(who); n < number {
				return fmt.Errorf("%s has %d, for %s", name, n, who)
			}
		}
		return nil
	})
}
