//go:build chaos

package chaos

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// The links of the island on which the hub lives.
const (
	edgeLink = iota
	centreLink
	testLink // which never fails
)

// spoolDisk is the size of the disk of the spool: two segments and little more.
const spoolDisk = 20 << 20

// islandFaults are those of links that lose packets without a word, and of a disk that is full.
func islandFaults(i *harness.Island, disk string) []fault {
	without := func(link int, most time.Duration) func(*site) {
		return func(s *site) {
			i.Down(s.t, link)
			s.wait(most)
			i.Up(s.t, link)
		}
	}
	full := func(s *site, during func()) {
		filler := filepath.Join(disk, "filler")
		fill(s.t, filler)
		during()
		if err := os.Remove(filler); err != nil {
			s.t.Fatal(err)
		}
	}
	return append(slices.Clone(processFaults), []fault{
		{"kill the hub", func(s *site) { s.killHub(0) }},
		{"lose the edge's packets", without(edgeLink, 3*time.Second)},
		{"lose the edge's packets until the connection is given up", func(s *site) { time.Sleep(12 * time.Second); without(edgeLink, 6*time.Second)(s) }},
		{"lose the centre's packets", without(centreLink, 3*time.Second)},
		{"fill the spool's disk", func(s *site) { full(s, func() { s.wait(3 * time.Second) }) }},
		{"fill the spool's disk while the edge is cut off", func(s *site) { full(s, func() { without(edgeLink, 4*time.Second)(s) }) }},
		{"kill the poller while the edge is cut off", func(s *site) {
			i.Down(s.t, edgeLink)
			s.wait(2 * time.Second)
			s.killPoller(func() { s.wait(500 * time.Millisecond) })
			s.wait(time.Second)
			i.Up(s.t, edgeLink)
		}},
	}...)
}

// fill takes all space that is left beside a file.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := []byte(strings.Repeat("x", 4096)); ; {
		if _, err := f.Write(block); err != nil {
			return
		}
	}
}

// A hub in a network namespace of its own, and a spool on a disk that fills up.
func TestChaosIsland(t *testing.T) {
	t.Parallel()
	island := harness.NewIsland(t, 3)
	port := ports.Next(t)
	server := island.StartNATS(t, port)
	at := func(link int) string { return strings.Replace(server.URL, island.Address(0), island.Address(link), 1) }
	server.URL = at(testLink)
	disk := harness.SmallDisk(t, spoolDisk)
	st := stage{
		edge: at(edgeLink), centre: at(centreLink), hub: hub{nodes: []*harness.NATS{server}, js: server.JetStream},
		spool: filepath.Join(disk, "spool"), diskFails: true,
	}
	play(t, st, islandFaults(island, disk), rounds(t, 1))
}
