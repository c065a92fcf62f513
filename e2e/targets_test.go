package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
	"github.com/choria-io/prometheus-streams/e2e/record"
)

// A target that fails shows up 0 and nothing else of its own; one that is healthy is not touched by it; one that comes back
// is whole again.
func TestTargetFails(t *testing.T) {
	t.Parallel()
	server := startNATS(t, "")
	receiver := startReceiver(t, receiverYAML(t, server, "  publisher_label: true"))
	bad, good := targets.New(t, "bad", 10), targets.New(t, "good", 10)
	startPoller(t, pollerYAML(server, "site", "1s", "scrape_timeout: 500ms\n"+harness.JobsYAML("edge", bad, good)))
	shown := harness.Labels{"job": "edge", "instance": "bad"}
	ways := []struct {
		name string
		fail func()
	}{
		{"is down", bad.Down},
		{"hangs", bad.Hang},
		{"answers 500", func() { bad.Answer(500, "text/plain", harness.NumberMetric+" 1\n") }},
		{"serves junk", func() { bad.Answer(200, "text/plain; version=0.0.4", "e2e_value{series=\"1\" 7\n\x00\xff") }},
		{"serves a page cut short", func() { bad.Answer(200, "text/plain; version=0.0.4", "e2e_value{series=\"1\"} 7\ne2e_val") }},
	}
	for _, way := range ways {
		before := bad.WaitShown(t, 15*time.Second, receiver, shown, 0)
		way.fail()
		harness.Wait(t, 10*time.Second, "a target that "+way.name+" is shown as down", func() error { return downAlone(receiver, shown) })
		if now := bad.Numbers(); now > before+30 {
			t.Errorf("%s: %d scrapes more", way.name, now-before)
		}
		good.WaitShown(t, 5*time.Second, receiver, harness.Labels{"job": "edge", "instance": "good"}, good.Numbers()-1)
		bad.Up(t)
	}
	bad.WaitShown(t, 15*time.Second, receiver, shown, 0)
}

// downAlone checks that a target is shown with up 0 and the other series that every scrape has, and without its own.
func downAlone(p *harness.Product, want harness.Labels) error {
	page, err := p.Gateway("")
	if err != nil {
		return err
	}
	up, err := page.Up(want)
	if err != nil {
		return err
	}
	if up != 0 {
		return fmt.Errorf("up is %v", up)
	}
	if n := len(page.Values(harness.ValueMetric, want)) + len(page.Values(harness.NumberMetric, want)); n != 0 {
		return fmt.Errorf("%d of its own series are still shown", n)
	}
	if n := len(page.Values("scrape_duration_seconds", want)); n != 1 {
		return fmt.Errorf("%d series scrape_duration_seconds", n)
	}
	return nil
}

// A target that a reload takes out of the configuration vanishes; one that it brings in appears; a bad file changes nothing.
func TestReload(t *testing.T) {
	t.Parallel()
	server := startNATS(t, "")
	receiver := startReceiver(t, receiverYAML(t, server, "  publisher_label: false"))
	stays, goes, comes := targets.New(t, "stays", 5), targets.New(t, "goes", 5), targets.New(t, "comes", 5)
	poller := startPoller(t, pollerYAML(server, "site", "1s", harness.JobsYAML("edge", stays, goes)))
	of := func(g *harness.Target) harness.Labels { return harness.Labels{"job": "edge", "instance": g.Name} }
	stays.WaitShown(t, 15*time.Second, receiver, of(stays), 0)
	goes.WaitShown(t, 15*time.Second, receiver, of(goes), 0)

	poller.Reload(t, "scrape_interval: [\n")
	poller.WaitOutput(5*time.Second, "level=ERROR")
	stays.WaitShown(t, 5*time.Second, receiver, of(stays), stays.Numbers())

	poller.Reload(t, pollerYAML(server, "site", "1s", harness.JobsYAML("edge", stays, comes)))
	harness.Wait(t, 10*time.Second, "a removed target vanishes", func() error {
		page, err := receiver.Gateway("")
		if err != nil {
			return err
		}
		if n := page.Count(of(goes)); n != 0 {
			return fmt.Errorf("%d of its series are shown", n)
		}
		return nil
	})
	comes.WaitShown(t, 10*time.Second, receiver, of(comes), 0)
	stays.WaitShown(t, 10*time.Second, receiver, of(stays), stays.Numbers())
}

// A poller that is stopped again and again while scrapes are under way never says that a target was down.
func TestStopIsNotDown(t *testing.T) {
	t.Parallel()
	server := startNATS(t, "")
	recorder := startRecorder(t, server, "stops")
	all := targets.Many(t, "node", 20, 3)
	for _, g := range all {
		g.Slow(300 * time.Millisecond)
	}
	poller := startPoller(t, pollerYAML(server, "site", "2s", harness.JobsYAML("edge", all...)))
	var pauses []pause
	for range 8 {
		time.Sleep(2200 * time.Millisecond)
		p := pause{from: time.Now()}
		stopWell(t, poller.Process)
		p.to = time.Now()
		pauses = append(pauses, p)
		poller.Restart(t)
	}
	time.Sleep(3 * time.Second)
	end := pause{from: time.Now()}
	stopWell(t, poller.Process)
	end.to = time.Now()
	drained(t, server, recorder)
	stopWell(t, recorder.Process)

	a := recorder.Account(t)
	if n := a.Missing(); n != 0 {
		t.Errorf("%d bundles missing: %v", n, a.Gaps)
	}
	checkNumbers(t, a, "site", "edge", all, append(pauses, end)...)
	scrapes, epochs := 0, map[uint64]bool{}
	for _, f := range recorder.Read(t).Frames {
		epochs[f.Entry.Epoch] = true
		switch f.Kind {
		case record.KindDown:
			t.Errorf("%s: down at %d", f.Target, f.Time)
		case record.KindScraped:
			scrapes++
		}
	}
	if scrapes < 100 || len(epochs) != len(pauses)+1 {
		t.Errorf("%d scrapes in %d epochs recorded, want at least 100 in %d", scrapes, len(epochs), len(pauses)+1)
	}
}

// Every process ends well on SIGTERM with work under way: a scrape that hangs, a server that is gone.
func TestStopsInTime(t *testing.T) {
	t.Parallel()
	server := startNATS(t, "")
	hangs, good := targets.New(t, "hangs", 5), targets.New(t, "good", 5)
	hangs.Hang()
	config := pollerYAML(server, "site", "30s", harness.JobsYAML("edge", hangs, good))
	receiver := startReceiver(t, receiverYAML(t, server, "  publisher_label: true"))
	poller := startPoller(t, config).Ready(t)
	standalone := startStandalone(t, standaloneYAML(t, "alone", "1s", harness.JobsYAML("edge", hangs, good)))
	good.WaitShown(t, 15*time.Second, standalone, harness.Labels{"job": "edge", "instance": "good"}, 0)
	stopWell(t, standalone.Process)
	stopWell(t, poller.Process)

	poller.Restart(t)
	poller.Ready(t)
	server.Kill()
	time.Sleep(500 * time.Millisecond)
	stopWell(t, poller.Process)
	stopWell(t, receiver.Process)
}
