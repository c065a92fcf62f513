//go:build fidelity

package fidelity

import (
	"fmt"
	"math"
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
