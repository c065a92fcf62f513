//go:build chaos

package chaos

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// clusterFaults are those of a hub of three servers, each with a copy of the streams.
func clusterFaults(c *harness.Cluster, js jetstream.JetStream) []fault {
	// leader is the server that leads the stream of frames, once all copies are up to date again: with two of them gone at
	// a time the stream waits, with less than a majority of current ones it may lose what it acknowledged.
	leader := func(s *site) int { return c.Leader(s.t, js, "PROMETHEUS") }
	frozen := func(s *site, nodes ...int) {
		for _, n := range nodes {
			c.Nodes[n].Freeze()
		}
		s.wait(4 * time.Second)
		for _, n := range nodes {
			c.Nodes[n].Thaw()
		}
		s.forgets()
	}
	return append(slices.Clone(processFaults), []fault{
		{"kill the leader", func(s *site) { s.killHub(leader(s)) }},
		{"kill a follower", func(s *site) { s.killHub((leader(s) + 1) % 3) }},
		{"freeze the leader", func(s *site) { frozen(s, leader(s)) }},
		{"freeze all but the leader", func(s *site) { n := leader(s); frozen(s, (n+1)%3, (n+2)%3) }},
		{"kill all servers", func(s *site) { leader(s); s.killHub(0, 1, 2) }},
		{"kill leader and poller at once", func(s *site) { n := leader(s); s.killPoller(func() { s.killHub(n) }) }},
		{"kill leader and receiver at once", func(s *site) {
			n := leader(s)
			s.hub.nodes[n].Kill()
			s.killReceiver()
			s.hub.nodes[n].Restart(s.t)
			s.forgets()
		}},
	}...)
}

// partFaults are those of a hub of three servers which cannot reach each other, while clients reach all of them.
func partFaults(c *harness.Cluster, js jetstream.JetStream) []fault {
	leader := func(s *site) int { return c.Leader(s.t, js, "PROMETHEUS") }
	parted := func(s *site, passed func(), during func(), nodes ...int) {
		for _, n := range nodes {
			c.Part(s.t, n)
		}
		passed()
		during()
		s.wait(2 * time.Second)
		for _, n := range nodes {
			c.Join(s.t, n)
		}
		s.forgets()
	}
	// partLeader waits until the other two have elected one of them.
	partLeader := func(s *site, during func(leader int)) {
		n := leader(s)
		before := elected(c, n)
		parted(s, func() {
			harness.Wait(s.t, time.Minute, "another server leads the stream", func() error {
				if elected(c, n) > before {
					return nil
				}
				return errors.New("not yet")
			})
		}, func() { during(n) }, n)
	}
	noElection := func() { time.Sleep(9 * time.Second) } // they begin one after 4 to 9 seconds without a word
	nothing := func() {}
	return append(slices.Clone(processFaults), []fault{
		{"part the leader from the others", func(s *site) { partLeader(s, func(int) {}) }},
		{"part a follower from the others", func(s *site) { parted(s, noElection, nothing, (leader(s)+1)%3) }},
		{"part all three", func(s *site) { leader(s); parted(s, noElection, nothing, 0, 1) }},
		{"part the leader, kill poller and receiver", func(s *site) {
			partLeader(s, func(int) { s.killPoller(func() { s.wait(500 * time.Millisecond) }); s.killReceiver() })
		}},
		{"part the leader, which is killed", func(s *site) { partLeader(s, func(leader int) { s.killHub(leader) }) }},
	}...)
}

// elected is how often servers other than that one became the leader of the stream of frames.
func elected(c *harness.Cluster, but int) (times int) {
	for i, n := range c.Nodes {
		if i != but {
			times += strings.Count(n.Output(), "JetStream cluster new stream leader for '$G > PROMETHEUS'")
		}
	}
	return times
}

// A hub of three servers that fail one by one and together.
func TestChaosCluster(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, &ports, 3)
	js := threeCopies(t, c)
	play(t, clusterStage(t, c, js), clusterFaults(c, js), rounds(t, 1))
}

// A hub of three servers of which some do not reach the others.
func TestChaosParted(t *testing.T) {
	t.Parallel()
	c := harness.StartParted(t, &ports)
	js := threeCopies(t, c)
	play(t, clusterStage(t, c, js), partFaults(c, js), rounds(t, 1))
}

func clusterStage(t *testing.T, c *harness.Cluster, js jetstream.JetStream) stage {
	return stage{edge: c.URL, centre: c.URL, hub: hub{c.Nodes, c.JetStream, func() { c.Leader(t, js, "PROMETHEUS") }}, spool: t.TempDir()}
}

// threeCopies makes the streams, with a copy on each server.
func threeCopies(t *testing.T, c *harness.Cluster) jetstream.JetStream {
	js := c.JetStream(t)
	harness.Wait(t, time.Minute, "the streams are there, with three copies", func() error {
		for name, subjects := range map[string]string{"PROMETHEUS": "prometheus.frames.*.*", "PROMETHEUS_SCHEMAS": "prometheus.schemas.*.*"} {
			cfg := jetstream.StreamConfig{Name: name, Subjects: []string{subjects}, Replicas: 3, AllowDirect: true, MaxAge: 24 * time.Hour}
			if name != "PROMETHEUS" {
				cfg.MaxMsgsPerSubject, cfg.MaxAge = 1, 72*time.Hour
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			_, err := js.CreateOrUpdateStream(ctx, cfg)
			cancel()
			if err != nil {
				return err
			}
		}
		return nil
	})
	return js
}
