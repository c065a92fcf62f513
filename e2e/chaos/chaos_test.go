//go:build chaos

package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/choria-io/prometheus-streams/e2e/harness"
	"github.com/choria-io/prometheus-streams/e2e/record"
)

// ports are those that no test of the package has.
var ports harness.Ports

// hub is the server of a site, or the servers.
type hub struct {
	nodes []*harness.NATS
	js    func(testing.TB) jetstream.JetStream
	// settle waits until it is well again; nil is at once.
	settle func()
}

// site is what the faults are done to.
type site struct {
	t        *testing.T
	hub      hub
	poller   *harness.Product
	recorder *harness.Recorder
	random   *rand.Rand

	run      int     // of the recorder
	unmarked []int   // its runs whose repeats the hub may not have marked
	excused  []pause // when the poller did not run
}

// pause is when a poller did not run: a scrape that was under way, or in no bundle yet, is lost with it.
type pause struct{ from, to time.Time }

// inFlight is how long before a kill a scrape may have been asked for without being in the spool: the scrape, the age of
// a bundle (flush_age), and what a loaded machine adds.
const inFlight = time.Second

// stoodStill is how long a poller may get no time from a machine that has too much to do.
const stoodStill = 5 * time.Second

func (s *site) wait(most time.Duration) time.Duration {
	d := 200*time.Millisecond + time.Duration(s.random.Int64N(int64(most)))
	time.Sleep(d)
	return d
}

func (s *site) killPoller(during func()) {
	from := time.Now()
	s.poller.Kill()
	during()
	s.poller.Restart(s.t)
	s.excused = append(s.excused, pause{from, time.Now()})
}

// killHub kills the servers of these numbers, all at once.
func (s *site) killHub(nodes ...int) {
	for _, n := range nodes {
		s.hub.nodes[n].Kill()
	}
	s.wait(1500 * time.Millisecond)
	for _, n := range nodes {
		s.hub.nodes[n].Restart(s.t)
	}
	s.forgets()
}

// forgets notes that what the hub had handed to whom is not known after this.
func (s *site) forgets() { s.unmarked = append(s.unmarked, s.run, s.run+1) }

func (s *site) killReceiver() {
	s.recorder.Kill()
	s.wait(time.Second)
	s.recorder.Restart(s.t)
	s.run++
}

// freezePoller stops the poller for a while without ending it.
func (s *site) freezePoller() {
	from := time.Now()
	s.poller.Freeze()
	s.wait(2 * time.Second)
	s.poller.Thaw()
	s.excused = append(s.excused, pause{from, time.Now()})
}

// fault is one way to do harm; it has passed when it returns.
type fault struct {
	name string
	do   func(*site)
}

// processFaults are those of poller and receiver.
var processFaults = []fault{
	{"kill the poller", func(s *site) { s.killPoller(func() { s.wait(time.Second) }) }},
	{"kill the receiver", (*site).killReceiver},
	{"freeze the poller", (*site).freezePoller},
	{"freeze the receiver", func(s *site) { s.recorder.Freeze(); s.wait(2 * time.Second); s.recorder.Thaw() }},
}

// relayFaults are those of a hub behind relays.
func relayFaults(edge, centre *relay) []fault {
	return append(slices.Clone(processFaults), []fault{
		{"kill the hub", func(s *site) { s.killHub(0) }},
		{"freeze the hub", func(s *site) { s.hub.nodes[0].Freeze(); s.wait(2 * time.Second); s.hub.nodes[0].Thaw() }},
		{"cut the edge off", func(s *site) { edge.Cut(); s.wait(3 * time.Second); edge.Mend() }},
		{"stall the edge", func(s *site) { resume := edge.Stall(); s.wait(3 * time.Second); resume() }},
		{"cut the centre off", func(s *site) { centre.Cut(); s.wait(2 * time.Second); centre.Mend() }},
		{"stall the centre", func(s *site) { resume := centre.Stall(); s.wait(2 * time.Second); resume() }},
		{"kill the poller while it is cut off", func(s *site) {
			edge.Cut()
			s.wait(2 * time.Second)
			s.killPoller(func() { s.wait(500 * time.Millisecond) })
			s.wait(time.Second)
			edge.Mend()
		}},
		{"kill hub and poller at once", func(s *site) { s.killPoller(func() { s.killHub(0) }) }},
	}...)
}

// stage is what a site is made of, before faults.
type stage struct {
	edge, centre string // URLs of the hub
	hub          hub
	spool        string
	// diskFails: what the spool keeps in memory meanwhile is sent, but an epoch that ends then does not know of it.
	diskFails bool
	// pollerClock and receiverClock jump, if they are not nil.
	pollerClock, receiverClock *harness.Clock
}

func (st *stage) startRecorder(t *testing.T, b *harness.Builds, port int) *harness.Recorder {
	centre, flags := &harness.NATS{URL: st.centre}, []string{"-delay", "50ms"}
	if st.receiverClock == nil {
		return harness.StartRecorder(t, b, port, centre, "chaos", flags...)
	}
	r := harness.StartClockedRecorder(t, b, st.receiverClock, port, centre, "chaos", flags...)
	r.ClockJumps = true
	return r
}

func (st *stage) startPoller(t *testing.T, b *harness.Builds, port int, all []*harness.Target) *harness.Product {
	config := fmt.Sprintf(`
identity: site
scrape_interval: 250ms
poller: {flush_age: 50ms}
spool: {directory: %s}
poller_stream: {urls: [%s], topic: prometheus, stream: PROMETHEUS}
%s`, st.spool, st.edge, harness.JobsYAML("edge", all...))
	if st.pollerClock == nil {
		return harness.StartProduct(t, b, "poller", port, config)
	}
	return harness.StartClocked(t, b, st.pollerClock, "poller", port, config)
}

// play puts a site up, does every fault so many times in an order that CHAOS_SEED repeats, lets everything arrive and
// accounts for it: every scrape that a target served was delivered, in order, or was under way when its poller was killed.
func play(t *testing.T, st stage, faults []fault, rounds int) {
	seed := number(t, "CHAOS_SEED", uint64(time.Now().UnixNano()%1_000_000))
	t.Logf("CHAOS_SEED=%d, %d rounds", seed, rounds)
	builds, err := harness.NewBuilds()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(builds.Remove)
	var targets harness.Targets
	s := &site{t: t, run: 1, random: seeded(seed), hub: st.hub}
	s.recorder = st.startRecorder(t, builds, ports.Next(t)).Ready(t)
	all := targets.Many(t, "node", 8, 20)
	for i, g := range all {
		g.Churn = i // so that schemas come and go too, of all but the first
	}
	s.poller = st.startPoller(t, builds, ports.Next(t), all)
	s.recorder.WaitNumbers(t, 60*time.Second, map[*harness.Target]int{all[0]: 3})

	schedule := shuffled(s.random, faults, rounds)
	begin := time.Now()
	for i, f := range schedule {
		s.wait(1500 * time.Millisecond)
		t.Logf("%6.1f s: fault %d of %d: %s", time.Since(begin).Seconds(), i+1, len(schedule), f.name)
		f.do(s)
	}
	s.finish(all)
	s.account(all, len(schedule), st.diskFails)
}

// One hub, behind links that can be cut and stalled.
func TestChaos(t *testing.T) {
	t.Parallel()
	server := harness.StartNATS(t, ports.Next(t), "")
	edge, centre := newRelay(t, server.URL), newRelay(t, server.URL)
	st := stage{edge: edge.URL, centre: centre.URL, hub: hub{nodes: []*harness.NATS{server}, js: server.JetStream}, spool: t.TempDir()}
	play(t, st, relayFaults(edge, centre), rounds(t, 2))
}

// finish lets everything arrive and stops in good order.
func (s *site) finish(all []*harness.Target) {
	time.Sleep(2 * time.Second)
	last := map[*harness.Target]int{}
	for _, g := range all {
		last[g] = g.Numbers()
	}
	s.recorder.WaitNumbers(s.t, 90*time.Second, last)
	from := time.Now()
	if code, took := s.poller.Stop(15 * time.Second); code != 0 {
		s.t.Errorf("the poller ended with exit code %d after %v", code, took)
	}
	s.excused = append(s.excused, pause{from, time.Now()})
	if s.hub.settle != nil {
		s.hub.settle()
	}
	js := s.hub.js(s.t)
	harness.Wait(s.t, 60*time.Second, "all is acknowledged", func() error {
		info, err := harness.Durable(s.t, js, "PROMETHEUS")
		if err != nil {
			return err
		}
		if info.NumPending > 0 || info.NumAckPending > 0 {
			return fmt.Errorf("%d messages to come, %d to be acknowledged", info.NumPending, info.NumAckPending)
		}
		return nil
	})
	s.recorder.CheckAlready(s.t)
	if code, took := s.recorder.Stop(15 * time.Second); code != 0 {
		s.t.Errorf("the recorder ended with exit code %d after %v", code, took)
	}
}

func (s *site) account(all []*harness.Target, faults int, diskFails bool) {
	t := s.t
	a := s.recorder.Account(t, s.unmarked...)
	if n := a.Missing(); n != 0 {
		t.Errorf("%d bundles missing: %v", n, a.Gaps)
	}
	stored := harness.Bundles(t, s.hub.js(t), "PROMETHEUS")
	harness.CheckDelivered(t, stored, a)
	epochs := checkEpochs(t, stored, diskFails)
	served, underway, timedOut := 0, 0, 0
	for _, g := range all {
		key := record.TargetKey("site", fmt.Sprintf(`{instance=%q, job="edge"}`, g.Name))
		list := g.Served()
		served += len(list)
		numbers := harness.CheckTarget(t, a, key, g)
		for _, number := range numbers.Missing(len(list)) {
			asked := list[number-1].Asked
			if failedBetween(g, a.Targets[key], number) || failed(a.Targets[key], asked) { // the machine stood still, and what the target served came too late
				timedOut++
				continue
			}
			if !s.underway(list, numbers, number) {
				t.Errorf("%s: scrape %d, asked for at %s, was never delivered, the ones asked for at %s and %s are the next that were",
					g.Name, number, clockTime(asked), around(list, numbers, number, -1), around(list, numbers, number, 1))
				continue
			}
			underway++
		}
	}
	t.Logf("%d faults, %d epochs; %d scrapes served, %d of them under way when their poller was killed or frozen; "+
		"%d answered too late; %d frames with %d samples delivered, %d frames again", faults, epochs, served, underway, timedOut, a.Frames, a.Samples, a.Repeats)
	if most := served / 10; timedOut > most {
		t.Errorf("%d of %d scrapes timed out: this machine is too slow for the test", timedOut, served)
	}
	if most := len(s.excused) * len(all) * 2; underway > most {
		t.Errorf("%d scrapes were under way, %d can have been", underway, most)
	}
}

// underway tells whether a scrape that was not delivered can have been lost with a poller that was killed: it was asked for
// shortly before, or a little longer on a machine that stood still, if the poller brought nothing of the target after it. The
// target itself may have got to a request only after its poller was killed: then it is the last over its connection.
func (s *site) underway(served []harness.Served, delivered harness.Numbers, number int) bool {
	asked, last := served[number-1].Asked, true
	for _, later := range served[number:] {
		last = last && later.From != served[number-1].From
	}
	return slices.ContainsFunc(s.excused, func(p pause) bool {
		if asked.After(p.from.Add(-inFlight)) && asked.Before(p.to) {
			return true
		}
		if last && asked.After(p.from) && asked.Before(p.to.Add(stoodStill)) {
			return true
		}
		return asked.After(p.from.Add(-stoodStill)) && asked.Before(p.from) && !slices.ContainsFunc(delivered, func(later int) bool {
			return later > number && served[later-1].Asked.Before(p.from)
		})
	})
}

func clockTime(t time.Time) string { return t.Format(time.TimeOnly + ".000") }

// around is when the nearest delivered scrape before (-1) or after (1) a number was asked for.
func around(served []harness.Served, delivered harness.Numbers, number, step int) string {
	for n := number + step; n >= 1 && n <= len(served); n += step {
		if slices.Contains(delivered, n) {
			return clockTime(served[n-1].Asked)
		}
	}
	return "no time"
}

// failed tells whether a scrape that a target was asked for at a time was delivered as failed.
func failed(frames []record.Frame, asked time.Time) bool {
	return slices.ContainsFunc(frames, func(f record.Frame) bool {
		d := asked.Sub(time.UnixMilli(f.Time))
		return f.Kind == record.KindDown && d > -10*time.Millisecond && d < 2*time.Second
	})
}

// failedBetween tells whether a failed scrape was delivered between those before and after a number, whatever the clocks say:
// on a machine that stands still a target may be asked and given up long before it gets to answering.
func failedBetween(g *harness.Target, frames []record.Frame, number int) bool {
	down := false
	for _, f := range frames {
		if f.Kind == record.KindDown {
			down = true
			continue
		}
		if f.Kind != record.KindScraped {
			continue
		}
		switch n, _ := g.CheckFrame(f); {
		case n < number:
			down = false
		case n > number:
			return down
		}
	}
	return down
}

// checkEpochs checks that the stream has every epoch from its first bundle to the one that the next epoch says was its
// last: nothing that was in the spool is missing. It returns how many epochs there are.
func checkEpochs(t *testing.T, stored []harness.Stored, diskFails bool) int {
	t.Helper()
	last := map[uint64]uint64{}
	newest := uint64(0) // epoch
	for i := range stored {
		h := &stored[i].Header
		if h.Seq > last[h.Epoch] {
			if h.Seq != last[h.Epoch]+1 || h.Seq > 1 && h.Epoch != newest {
				t.Errorf("stream sequence %d: bundle %d of epoch %x is stored for the first time after bundle %d of it and bundle %d of epoch %x",
					stored[i].Sequence, h.Seq, h.Epoch, last[h.Epoch], last[newest], newest)
			}
			last[h.Epoch], newest = h.Seq, h.Epoch
		}
	}
	named := map[uint64]bool{}
	unnamed := 0
	for i := range stored {
		h := &stored[i].Header
		if h.Seq != 1 {
			continue
		}
		if h.Predecessor == nil {
			if !named[h.Epoch] {
				unnamed++
			}
			named[h.Epoch] = true
			continue
		}
		if got := last[h.Predecessor.Epoch]; got < h.Predecessor.Seq || got > h.Predecessor.Seq && !diskFails {
			t.Errorf("epoch %x says that epoch %x before it ended with bundle %d, the stream has up to %d",
				h.Epoch, h.Predecessor.Epoch, h.Predecessor.Seq, got)
		}
	}
	if unnamed != 1 {
		t.Errorf("%d epochs name no predecessor, only the first may", unnamed)
	}
	return len(last)
}
