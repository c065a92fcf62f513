//go:build fidelity

package fidelity

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

var (
	builds *harness.Builds
	ports  harness.Ports
)

func TestMain(m *testing.M) { harness.Main(m, &builds) }

// number reads a number from the environment.
func number(t *testing.T, name string, otherwise int) int {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// selected leaves of the targets those whose names match FIDELITY_TARGETS, for a look at some; not all checks hold for these.
func selected(t *testing.T, s *fleet) *fleet {
	text := os.Getenv("FIDELITY_TARGETS")
	if text == "" {
		return s
	}
	only, err := regexp.Compile("^(relabelled|removed-.*|returning|slower|refused|" + text + ")$") // which the test does something to
	if err != nil {
		t.Fatalf("FIDELITY_TARGETS: %v", err)
	}
	s.jobs = slices.DeleteFunc(s.jobs, func(j *job) bool { return !only.MatchString(j.name) })
	maps.DeleteFunc(s.all, func(name string, _ *exporter) bool { return !only.MatchString(name) })
	s.part = true
	return s
}

// Over remote write 2.0, with all that goes wrong meanwhile.
func TestFidelity(t *testing.T) {
	seed, last := number(t, "FIDELITY_SEED", 1), number(t, "FIDELITY_SCRAPES", 100)
	if last < 94 {
		t.Fatalf("FIDELITY_SCRAPES is %d: what is done takes 94 scrapes", last)
	}
	t.Logf("seed %d, %d scrapes", seed, last)
	w := &world{seed: uint64(seed), begin: time.Now().Truncate(time.Second), last: last, version: 2}
	s := selected(t, newFleet(t, w, number(t, "FIDELITY_SERIES", 1700)))
	x := startSite(t, s, builds, &ports)
	term := func(p *harness.Product) func() {
		return func() {
			if code, _ := p.Stop(30 * time.Second); code != 0 {
				t.Errorf("%s exits with %d", p.Name, code)
			}
		}
	}
	for _, step := range []struct {
		scrape int
		what   string
		do     func()
	}{
		{25, "two targets are removed, one gets other labels", x.reload},
		{33, "a target returns", x.giveBack},
		{38, "the poller is stopped with SIGTERM", func() { x.restartPoller(false, term(x.poller)) }},
		{48, "the receiver is stopped with SIGTERM", func() { x.restartReceiver(term(x.receiver)) }},
		{quietFrom + 2, "a target refuses connections", func() {
			s.all["refused"].close()
			time.Sleep(3500 * time.Millisecond)
			s.all["refused"].open()
		}},
		{70, "the receiver is killed", func() { x.restartReceiver(x.receiver.Kill) }},
		{78, "the receiver is killed once more", func() { x.restartReceiver(x.receiver.Kill) }},
		{84, "the poller is killed", func() { x.restartPoller(true, x.poller.Kill) }},
		{last + 2, "the end", func() {}},
	} {
		x.reach(step.scrape)
		t.Logf("scrape %d: %s", step.scrape, step.what)
		step.do()
	}
	x.judge()
}

// Over remote write 1.0, undisturbed.
func TestFidelityVersion1(t *testing.T) {
	w := &world{seed: uint64(number(t, "FIDELITY_SEED", 1)), begin: time.Now().Truncate(time.Second), last: number(t, "FIDELITY_SCRAPES_1", 20), version: 1}
	x := startSite(t, newFleet(t, w, 50), builds, &ports)
	x.reach(w.last + 2)
	x.judge()
	x.account()
}

// account compares, when all is at rest, what the receiver counts with what the strict server was sent: all that this took, and each
// histogram that version 1.0 has no form for as one that was dropped of the other.
func (x *site) account() {
	x.t.Helper()
	if code, _ := x.poller.Stop(30 * time.Second); code != 0 {
		x.t.Errorf("the poller exits with %d", code)
	}
	harness.Wait(x.t, 30*time.Second, "the receiver has counted what the strict server took", func() error {
		m := x.receiver.Metrics(x.t)
		count := func(name, sink, reason string) int {
			want := harness.Labels{"sink": "remote_write-" + sink}
			if reason != "" {
				want["reason"] = reason
			}
			return int(m.Sum("prometheus_streams_remote_write_"+name+"_total", want))
		}
		x.strict.mu.Lock()
		defer x.strict.mu.Unlock()
		for _, c := range []struct {
			what      string
			got, want int
		}{
			{"samples written", count("samples", "strict", ""), x.strict.samples},
			{"exemplars written", count("exemplars", "strict", ""), x.strict.exemplars},
			{"samples dropped", count("dropped_samples", "strict", ""), 0},
			{"histograms without a form", count("dropped_samples", "fed", "nhcb_in_rw1_not_supported"), x.strict.custom},
		} {
			if c.got != c.want {
				return fmt.Errorf("%s: %d counted, %d there", c.what, c.got, c.want)
			}
		}
		x.t.Logf("%d samples and %d exemplars written, %d histograms without a form in version 1.0", x.strict.samples, x.strict.exemplars, x.strict.custom)
		return nil
	})
}

// judge waits until everything has arrived and compares.
func (x *site) judge() {
	t := x.t
	harness.Wait(t, 60*time.Second, "the last scrape has arrived", func() error {
		for name := range x.fleet.all {
			if fewer(name) {
				continue
			}
			all, err := x.fed.Raw(harness.Labels{"who": name, "__name__": "scrape_number"})
			if err != nil {
				return err
			}
			arrived := false
			for _, s := range all {
				for _, v := range s.Samples {
					arrived = arrived || v.Value >= float64(x.fleet.w.last)
				}
			}
			if !arrived {
				return fmt.Errorf("that of %s has not", name)
			}
		}
		return nil
	})
	time.Sleep(2 * time.Second) // for those that fail and have no number
	a, b := holding(t, x.direct, direct, x.fleet), holding(t, x.fed, fed, x.fleet)
	r := newReport(x)
	for _, name := range slices.Sorted(maps.Keys(a)) {
		e := x.fleet.all[strings.Fields(name)[0]]
		if b[name] == nil {
			t.Errorf("%s: nothing there", name)
			continue
		}
		r.add(x.fleet.w.compare(a[name], b[name], e.requests(fed), e.answers, x.disturbed))
		r.headers(name, e)
	}
	for name := range b {
		if a[name] == nil {
			t.Errorf("%s: only the fed one has it", name)
		}
	}
	r.metadata(x)
	if !x.fleet.part {
		r.starts(x)
	}
	r.print()
	if len(x.disturbed.restarted) > 0 && !x.fleet.part && r.samples < 1_000_000 {
		t.Errorf("%d samples compared, a million wanted", r.samples)
	}
}
