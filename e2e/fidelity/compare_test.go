//go:build fidelity

package fidelity

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	promvalue "github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
)

var staleMarker = math.Float64frombits(promvalue.StaleNaN)

// planted is one target of three scrapes, of which the third lacks a series, as one of the two holds it.
func planted(t *testing.T, w *world, late time.Duration) (*group, []request) {
	t.Helper()
	series := func(name string) *prompb.TimeSeries {
		return &prompb.TimeSeries{Labels: []prompb.Label{{Name: "__name__", Value: name}, {Name: "who", Value: "x"}}}
	}
	up, number, m := series("up"), series("scrape_number"), series("m")
	var requests []request
	for i := 1; i <= 3; i++ {
		at := w.begin.Add(time.Duration(i)*interval + late)
		ms := at.UnixMilli()
		requests = append(requests, request{number: i, at: at.Add(time.Millisecond)})
		up.Samples = append(up.Samples, prompb.Sample{Value: 1, Timestamp: ms})
		number.Samples = append(number.Samples, prompb.Sample{Value: float64(i), Timestamp: ms})
		v := float64(i)
		if i == 3 {
			v = staleMarker
		}
		m.Samples = append(m.Samples, prompb.Sample{Value: v, Timestamp: ms})
	}
	g := newGroup("x")
	all := []*prompb.TimeSeries{up, number, m}
	g.match(all, requests, 0)
	g.fill(all)
	return g, requests
}

// The comparison finds what is planted, and nothing where there is nothing.
func TestComparison(t *testing.T) {
	w := &world{begin: time.UnixMilli(1767225600000), last: 3}
	m := `__name__="m",who="x",`
	for name, c := range map[string]struct {
		plant func(*group)
		want  string
	}{
		"equal":             {func(*group) {}, ""},
		"value":             {func(g *group) { g.series[m][slot{scraped, 2}] = "2 (x)" }, "scrape 2"},
		"sample missing":    {func(g *group) { delete(g.series[m], slot{scraped, 1}) }, "scrape 1"},
		"marker missing":    {func(g *group) { delete(g.series[m], slot{scraped, 3}) }, "scrape 3"},
		"marker too much":   {func(g *group) { g.series[`__name__="scrape_number",who="x",`][slot{scraped, 3}] = stale }, "scrape 3"},
		"series missing":    {func(g *group) { delete(g.series, m) }, "scrape 1"},
		"series too much":   {func(g *group) { g.series["n"] = map[slot]string{{scraped, 1}: "1"} }, "scrape 1"},
		"time of its own":   {func(g *group) { g.series[m][slot{timed, w.begin.UnixMilli()}] = "1" }, "at 00:00:00.000"},
		"an end":            {func(g *group) { g.series[m][slot{kind: ended}] = stale }, "the end"},
		"exemplar missing":  {func(g *group) { g.exemplars[m] = []string{"0 2 1.5 {}"} }, "exemplars"},
		"scrape lost":       {func(g *group) { g.lost = []int{2} }, "scrape 2"},
		"scrapes at no one": {func(g *group) { g.numbers = nil }, "scrapes"},
	} {
		t.Run(name, func(t *testing.T) {
			direct, _ := planted(t, w, 0)
			fed, requests := planted(t, w, 700*time.Millisecond)
			c.plant(fed)
			got := w.compare(direct, fed, requests, nil, disturbed{})
			if c.want == "" {
				if len(got.found) > 0 || got.samples != 9 {
					t.Errorf("%d samples, differences %v", got.samples, got.found)
				}
				return
			}
			if len(got.found) == 0 || !strings.Contains(fmt.Sprint(got.found), c.want) || len(got.expected) > 0 {
				t.Errorf("differences %v, expected %v, want one at %s", got.found, got.expected, c.want)
			}
		})
	}
}

// A scrape that a restart cost is taken out of what the other one has: its marker comes with the next scrape.
func TestComparisonWithoutLost(t *testing.T) {
	c := &comparison{w: &world{}, lost: map[int]bool{3: true}}
	for name, x := range map[string][2]map[slot]string{
		"marker moves": {{{scraped, 2}: "1", {scraped, 3}: stale}, {{scraped, 2}: "1", {scraped, 4}: stale}},
		"marker goes":  {{{scraped, 2}: "1", {scraped, 3}: stale, {scraped, 4}: "2"}, {{scraped, 2}: "1", {scraped, 4}: "2"}},
		"only there":   {{{scraped, 3}: "1", {scraped, 4}: stale}, {}},
		"all along":    {{{scraped, 2}: "1", {scraped, 3}: "2", {scraped, 4}: stale}, {{scraped, 2}: "1", {scraped, 4}: stale}},
	} {
		if got := c.without("", x[0]); fmt.Sprint(got) != fmt.Sprint(x[1]) {
			t.Errorf("%s: %v, want %v", name, got, x[1])
		}
	}
}

// forget takes a scrape out of what one of the two holds.
func (g *group) forget(n int) {
	for _, values := range g.series {
		delete(values, slot{scraped, int64(n)})
	}
	g.numbers = slices.DeleteFunc(g.numbers, func(x int) bool { return x == n })
	g.lost = append(g.lost, n)
}

// A rule covers what it is for, and neither another series nor another moment nor another cause.
func TestRules(t *testing.T) {
	w := &world{begin: time.UnixMilli(1767225600000), last: 3, version: 2}
	at := func(n int, more time.Duration) time.Time {
		return w.begin.Add(time.Duration(n)*interval + 700*time.Millisecond + more)
	}
	added, m := `__name__="scrape_series_added",who="x",`, `__name__="m",who="x",`
	counted := func(g *group, values ...string) {
		g.series[added] = map[slot]string{}
		for i, v := range values {
			g.series[added][slot{scraped, int64(i + 1)}] = v
		}
	}
	end := func(g *group, series string) {
		g.series[series][slot{kind: ended}] = stale
		g.ends, g.target = []int64{g.times[3] + interval.Milliseconds()}, "removed-reload"
	}
	fails := func(n int) answer {
		return answer{contentType: text004.contentType(), body: []byte("m 1\nnumber{x=\"} 1\n")}
	}
	for name, c := range map[string]struct {
		plant    func(direct, fed *group, asked []request) []restart
		answers  func(int) answer
		rule     string // empty: it is a difference
		expected int
	}{
		"killed before it was stored": {func(_, fed *group, asked []request) []restart {
			fed.forget(2)
			asked[1].answered = at(2, 5*time.Millisecond)
			return []restart{{at(2, 20*time.Millisecond), at(2, 30*time.Millisecond), true}}
		}, nil, notStored, 1},
		"told to end": {func(_, fed *group, asked []request) []restart {
			fed.forget(2)
			asked[1].answered = at(2, 5*time.Millisecond)
			return []restart{{at(2, 20*time.Millisecond), at(2, 30*time.Millisecond), false}}
		}, nil, "", 0},
		"killed long after": {func(_, fed *group, asked []request) []restart {
			fed.forget(2)
			asked[1].answered = at(2, 5*time.Millisecond)
			return []restart{{at(2, storedWithin+10*time.Millisecond), at(3, -5*time.Millisecond), true}}
		}, nil, "", 0},
		"counted more than once before a restart": {func(direct, fed *group, _ []request) []restart {
			direct.target = "changing"
			counted(direct, "2 (x)", "2 (x)", "0 (x)")
			counted(fed, "2 (x)", "0 (x)", "0 (x)")
			return []restart{{at(1, 10*time.Millisecond), at(1, 20*time.Millisecond), false}}
		}, nil, onceAdded, 1},
		"all are new after a restart": {func(direct, fed *group, _ []request) []restart {
			counted(direct, "2 (x)", "0 (x)", "0 (x)")
			counted(fed, "2 (x)", "2 (x)", "0 (x)")
			return []restart{{at(1, 10*time.Millisecond), at(1, 20*time.Millisecond), false}}
		}, nil, "", 0},
		"counted more than once without a restart": {func(direct, fed *group, _ []request) []restart {
			direct.target = "changing"
			counted(direct, "2 (x)", "2 (x)", "0 (x)")
			counted(fed, "2 (x)", "0 (x)", "0 (x)")
			return nil
		}, nil, "", 0},
		"a job's end": {func(direct, fed *group, _ []request) []restart {
			direct.target = "removed-reload"
			end(fed, `__name__="scrape_number",who="x",`)
			return nil
		}, nil, jobMarked, 1},
		"a job's end for a series that was gone": {func(direct, fed *group, _ []request) []restart {
			direct.target = "removed-reload"
			end(fed, m)
			return nil
		}, nil, "", 0},
		"a target's end": {func(_, fed *group, _ []request) []restart {
			end(fed, `__name__="scrape_number",who="x",`)
			return nil
		}, nil, "", 0},
		"fails behind a series": {func(direct, fed *group, _ []request) []restart {
			delete(direct.series[m], slot{scraped, 3})
			direct.downAt[3], fed.downAt[3] = true, true
			fed.series[`__name__="scrape_number",who="x",`][slot{scraped, 3}] = stale
			direct.series[`__name__="scrape_number",who="x",`][slot{scraped, 3}] = stale
			return nil
		}, fails, partlyRead, 1},
		"fails before a series": {func(direct, fed *group, _ []request) []restart {
			delete(direct.series[`__name__="scrape_number",who="x",`], slot{scraped, 3})
			direct.downAt[3], fed.downAt[3] = true, true
			fed.series[`__name__="scrape_number",who="x",`][slot{scraped, 3}] = stale
			return nil
		}, fails, "", 0},
		"fails, and neither has a marker": {func(direct, fed *group, _ []request) []restart {
			delete(direct.series[m], slot{scraped, 3})
			delete(fed.series[m], slot{scraped, 3})
			direct.downAt[3], fed.downAt[3] = true, true
			return nil
		}, fails, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			direct, _ := planted(t, w, 0)
			fed, asked := planted(t, w, 700*time.Millisecond)
			restarts := c.plant(direct, fed, asked)
			got := w.compare(direct, fed, asked, c.answers, disturbed{restarted: restarts})
			switch {
			case c.rule == "" && len(got.found) == 0:
				t.Errorf("no difference, expected are %v", got.expected)
			case c.rule != "" && (len(got.found) > 0 || got.expected[c.rule] != c.expected):
				t.Errorf("differences %v, expected %v, want %d of %q", got.found, got.expected, c.expected, c.rule)
			}
		})
	}
}
