package e2e

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
	"github.com/choria-io/prometheus-streams/e2e/record"
)

// stopLimit is how long one of our processes may take to end after SIGTERM.
const stopLimit = 10 * time.Second

// stopWell ends a process with SIGTERM and checks that it ends well and in time.
func stopWell(t *testing.T, p *harness.Process) {
	t.Helper()
	if code, took := p.Stop(stopLimit); code != 0 {
		t.Errorf("%s ended with exit code %d after %v", p.Name, code, took)
	}
}

// pause is the time in which a poller was stopped: a scrape then under way may be given up.
type pause struct{ from, to time.Time }

// checkNumbers checks that all scrapes that targets served are in an account, each once and in order, but for those that
// were under way while the poller stopped, and those that a poller gave up and reported as failed: on a machine that stands
// still for a moment an answer comes too late.
func checkNumbers(t *testing.T, a *record.Account, publisher, job string, all []*harness.Target, pauses ...pause) {
	t.Helper()
	for _, g := range all {
		key := record.TargetKey(publisher, fmt.Sprintf(`{instance=%q, job=%q}`, g.Name, job))
		served := g.Served()
		failed := failures(a, key)
		for _, number := range harness.CheckTarget(t, a, key, g).Missing(len(served)) {
			asked := served[number-1].Asked
			excused := false
			for _, p := range append(pauses, failed...) {
				excused = excused || asked.After(p.from.Add(-100*time.Millisecond)) && asked.Before(p.to)
			}
			if !excused {
				t.Errorf("%s: scrape %d, asked for at %s, was never delivered", key, number, asked.Format(time.TimeOnly+".000"))
			}
		}
	}
}

// failures are the times in which scrapes of a target were reported as failed.
func failures(a *record.Account, key string) []pause {
	var all []pause
	for _, f := range a.Targets[key] {
		if f.Kind == record.KindDown {
			from := time.UnixMilli(f.Time)
			all = append(all, pause{from, from.Add(f.Duration + 100*time.Millisecond)})
		}
	}
	return all
}

// lastNumbers are the numbers that the targets have reached.
func lastNumbers(all []*harness.Target) map[*harness.Target]int {
	last := map[*harness.Target]int{}
	for _, g := range all {
		last[g] = g.Numbers()
	}
	return last
}

// The receiver is killed 20 times under load, the server once, and the poller is restarted: every scrape arrives, in order,
// twice only around a kill and then identical and counted.
func TestKills(t *testing.T) {
	t.Parallel()
	const kills, seed = 20, 2
	// With the receiver, the server is killed once: it does not remember then what it handed to whom.
	const withServer, withPoller = 6, 13
	random := rand.New(rand.NewPCG(seed, seed))
	server := startNATS(t, "")
	recorder := startRecorder(t, server, "kills", "-delay", "100ms")
	all := targets.Many(t, "node", 50, 40)
	poller := startPoller(t, pollerYAML(server, "site", "1s", harness.JobsYAML("edge", all...)))
	harness.Wait(t, 20*time.Second, "something is recorded", func() error {
		if n := len(recorder.Read(t).Frames); n < 100 {
			return fmt.Errorf("%d frames", n)
		}
		return nil
	})
	var restart pause
	for i := range kills {
		time.Sleep(100*time.Millisecond + time.Duration(random.Int64N(int64(time.Second))))
		recorder.Kill()
		switch i {
		case withServer:
			server.Kill()
			time.Sleep(700 * time.Millisecond)
			server.Restart(t)
		case withPoller:
			restart.from = time.Now()
			stopWell(t, poller.Process)
			restart.to = time.Now()
			poller.Restart(t)
		}
		recorder.Restart(t)
	}
	recorder.Ready(t)
	time.Sleep(3 * time.Second)
	end := pause{from: time.Now()}
	stopWell(t, poller.Process)
	end.to = time.Now()

	drained(t, server, recorder)
	recorder.CheckAlready(t)
	stopWell(t, recorder.Process)
	log := recorder.Read(t)
	a := recorder.Account(t)
	t.Logf("%d runs, %d frames, %d samples, %d frames repeated, %d bytes torn", log.Runs, a.Frames, a.Samples, a.Repeats, log.Torn)
	// A run may be killed before it has opened its log.
	if log.Runs > kills+1 || log.Runs < kills-5 {
		t.Errorf("%d runs recorded, want about %d", log.Runs, kills+1)
	}
	if a.Repeats == 0 {
		t.Error("no kill came between a delivery and its acknowledgement: this test has shown nothing")
	}
	if n := a.Missing(); n != 0 {
		t.Errorf("%d bundles missing: %v", n, a.Gaps)
	}
	checkNumbers(t, a, "site", "edge", all, restart, end)
	harness.CheckDelivered(t, harness.Bundles(t, server.JetStream(t), "PROMETHEUS"), a)
}

// drained waits until the recorder's durable has nothing left to acknowledge.
func drained(t *testing.T, server *harness.NATS, recorder *harness.Recorder) {
	t.Helper()
	js := server.JetStream(t)
	harness.Wait(t, 60*time.Second, "all is acknowledged", func() error {
		info, err := harness.Durable(t, js, "PROMETHEUS")
		if err != nil {
			return err
		}
		if info.NumPending > 0 || info.NumAckPending > 0 {
			return fmt.Errorf("%d messages to come, %d to be acknowledged", info.NumPending, info.NumAckPending)
		}
		return nil
	})
}

// The server is killed and comes back while a poller and a receiver go on: nothing is missing.
func TestServerKilled(t *testing.T) {
	t.Parallel()
	server := startNATS(t, "")
	recorder := startRecorder(t, server, "server")
	all := targets.Many(t, "node", 15, 20)
	poller := startPoller(t, pollerYAML(server, "site", "1s", harness.JobsYAML("edge", all...)))
	for range 3 {
		time.Sleep(2 * time.Second)
		server.Kill()
		time.Sleep(time.Second)
		server.Restart(t)
	}
	time.Sleep(2 * time.Second)
	recorder.WaitNumbers(t, 30*time.Second, lastNumbers(all))
	end := pause{from: time.Now()}
	stopWell(t, poller.Process)
	end.to = time.Now()
	drained(t, server, recorder)
	stopWell(t, recorder.Process)
	a := recorder.Account(t)
	if n := a.Missing(); n != 0 {
		t.Errorf("%d bundles missing: %v", n, a.Gaps)
	}
	checkNumbers(t, a, "site", "edge", all, end)
	harness.CheckDelivered(t, harness.Bundles(t, server.JetStream(t), "PROMETHEUS"), a)
}

// The server hangs without closing its connections, longer than pings are waited for.
func TestServerFrozen(t *testing.T) {
	t.Parallel()
	server := startNATS(t, "")
	recorder := startRecorder(t, server, "frozen")
	all := targets.Many(t, "node", 3, 10)
	poller := startPoller(t, pollerYAML(server, "site", "500ms", harness.JobsYAML("edge", all...)))
	time.Sleep(3 * time.Second)
	server.Freeze()
	time.Sleep(15 * time.Second)
	server.Thaw()
	recorder.WaitNumbers(t, 45*time.Second, lastNumbers(all))
	end := pause{from: time.Now()}
	stopWell(t, poller.Process)
	end.to = time.Now()
	drained(t, server, recorder)
	stopWell(t, recorder.Process)
	a := recorder.Account(t)
	if n := a.Missing(); n != 0 {
		t.Errorf("%d bundles missing: %v", n, a.Gaps)
	}
	checkNumbers(t, a, "site", "edge", all, end)
}

// A message that is gone from the stream is a gap: counted, and only it is missing and what cannot be decoded without it.
func TestHole(t *testing.T) {
	t.Parallel()
	server := startNATS(t, "")
	recorder := startRecorder(t, server, "hole")
	all := targets.Many(t, "node", 40, 5)
	poller := startPoller(t, pollerYAML(server, "site", "1s", harness.JobsYAML("edge", all...)))
	recorder.WaitNumbers(t, 30*time.Second, map[*harness.Target]int{all[0]: 2})
	stopWell(t, recorder.Process)
	// What follows the hole is so much that the receiver gives it up at once, not after its time.
	const behind = 150
	js := server.JetStream(t)
	harness.Wait(t, 60*time.Second, "enough waits in the stream", func() error {
		info, err := harness.Durable(t, js, "PROMETHEUS")
		if err == nil && info.NumPending < 2*behind {
			err = fmt.Errorf("%d messages", info.NumPending)
		}
		return err
	})
	stopWell(t, poller.Process)
	stored := harness.Bundles(t, js, "PROMETHEUS")
	hole := stored[len(stored)-behind]
	harness.Delete(t, js, "PROMETHEUS", hole.Sequence)
	recorder.Restart(t)
	recorder.Ready(t)
	drained(t, server, recorder)
	page := harness.MustScrape(t, recorder.URL+"/metrics")
	if got := page.Sum("prometheus_streams_receiver_missing_bundles_total", harness.Labels{"publisher": "site"}); got != 1 {
		t.Errorf("%v bundles counted as missing, want 1", got)
	}
	stopWell(t, recorder.Process)

	a := recorder.Account(t)
	lost := map[uint64]bool{}
	for _, f := range hole.Frames {
		lost[f.Target] = true
		if a.Delivered[f] {
			t.Errorf("frame %+v was delivered though its bundle is gone", f)
		}
	}
	undecodable := harness.Undelivered(t, harness.Bundles(t, js, "PROMETHEUS"), a)
	for _, f := range undecodable {
		if !lost[f.Target] || f.Seq <= hole.Header.Seq {
			t.Errorf("frame %+v was never delivered; the hole is sequence %d, with targets %v", f, hole.Header.Seq, lost)
		}
	}
	counted := page.Sum("prometheus_streams_receiver_dropped_frames_total", harness.Labels{"publisher": "site"})
	if int(counted) != len(undecodable) {
		t.Errorf("%v frames counted as dropped, %d are missing behind the hole", counted, len(undecodable))
	}
}

// Two receivers with one durable take messages from each other: noticed, counted and explained.
func TestTwoReceiversOnOneDurable(t *testing.T) {
	t.Parallel()
	server := startNATS(t, "")
	one := startRecorder(t, server, "shared")
	all := targets.Many(t, "node", 5, 5)
	startPoller(t, pollerYAML(server, "site", "1s", harness.JobsYAML("edge", all...)))
	one.WaitNumbers(t, 20*time.Second, map[*harness.Target]int{all[0]: 2})
	other := startRecorder(t, server, "shared")
	harness.Wait(t, 40*time.Second, "one of two receivers notices the other", func() error {
		for _, r := range []*harness.Recorder{one, other} {
			page, err := harness.Scrape(r.URL + "/metrics")
			if err != nil {
				return err
			}
			if page.Sum("prometheus_streams_consumer_shared_total", nil) > 0 {
				r.WaitOutput(time.Second, "another receiver uses the same consumer.*client_id")
				return nil
			}
		}
		return fmt.Errorf("neither does")
	})
}
