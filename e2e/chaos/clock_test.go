//go:build chaos

package chaos

import (
	"slices"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// clockFaults make the clocks of poller and receiver jump, also while they do not run.
func clockFaults(t *testing.T, poller, receiver *harness.Clock) []fault {
	// jump sets a clock by a random time between half of one and the whole of it.
	jump := func(c *harness.Clock, by time.Duration) func(*site) {
		return func(s *site) {
			d := by/2 + time.Duration(s.random.Int64N(int64(by.Abs()/2)))*by/by.Abs()
			c.Set(t, c.Ahead()+d)
			s.t.Logf("         by %s", d)
		}
	}
	// without a clock that runs on, a machine begins in 1970 until it hears of the time.
	reboot := func(s *site) {
		before := poller.Ahead()
		s.killPoller(func() { poller.Set(t, -time.Since(time.Unix(600, 0))) })
		s.wait(2 * time.Second)
		poller.Set(t, before)
	}
	return append(slices.Clone(processFaults), []fault{
		{"kill the hub", func(s *site) { s.killHub(0) }},
		{"the poller's clock jumps forward by hours", jump(poller, 4*time.Hour)},
		{"the poller's clock jumps back by hours", jump(poller, -4*time.Hour)},
		{"the poller's clock jumps back by seconds", jump(poller, -3*time.Second)},
		{"the poller's clock jumps forward by minutes", jump(poller, 9*time.Minute)},
		{"the poller comes back in 1970", reboot},
		{"kill the poller, its clock is a day behind then", func(s *site) {
			s.killPoller(func() { poller.Set(t, poller.Ahead()-24*time.Hour) })
		}},
		{"the receiver's clock jumps forward by days", jump(receiver, 20*24*time.Hour)},
		{"the receiver's clock jumps back by hours", jump(receiver, -4*time.Hour)},
		{"kill the receiver, its clock is a month behind then", func(s *site) {
			receiver.Set(t, receiver.Ahead()-30*24*time.Hour)
			s.killReceiver()
		}},
	}...)
}

// Clocks that are set while poller and receiver run: what was scraped comes once and in order, whatever its time.
func TestChaosClock(t *testing.T) {
	t.Parallel()
	server := harness.StartNATS(t, ports.Next(t), "")
	st := stage{
		edge: server.URL, centre: server.URL, hub: hub{nodes: []*harness.NATS{server}, js: server.JetStream}, spool: t.TempDir(),
		pollerClock: harness.NewClock(t), receiverClock: harness.NewClock(t),
	}
	play(t, st, clockFaults(t, st.pollerClock, st.receiverClock), rounds(t, 1))
}
