//go:build fidelity

package fidelity

import (
	"maps"
	"slices"
	"testing"
	"time"
)

// forget takes a scrape out of what one of the two holds.
func (g *group) forget(n int) {
	for _, values := range g.series {
		delete(values, slot{scraped, int64(n)})
	}
	g.numbers = slices.DeleteFunc(g.numbers, func(x int) bool { return x == n })
	g.lost = append(g.lost, n)
}

// added and m are series of what is planted, number another one.
const (
	addedSeries  = `__name__="scrape_series_added",who="x",`
	mSeries      = `__name__="m",who="x",`
	numberSeries = `__name__="scrape_number",who="x",`
)

// plant changes what the two hold and when the target was asked, and tells of restarts of the poller.
type plant func(direct, fed *group, asked []request) []restart

// ruleCase is what is planted, and the rule by which that is expected once; without one it is a difference.
type ruleCase struct {
	plant   plant
	answers func(int) answer
	rule    string
}

// after is a time after the request with a number.
func after(asked []request, n int, more time.Duration) time.Time {
	return asked[n-1].at.Add(more - time.Millisecond)
}

func counted(g *group, values ...string) {
	g.series[addedSeries] = map[slot]string{}
	for i, v := range values {
		g.series[addedSeries][slot{scraped, int64(i + 1)}] = v
	}
}

func endOf(g *group, series string) {
	g.series[series][slot{kind: ended}] = stale
	g.ends, g.target = []int64{g.times[3] + interval.Milliseconds()}, "removed-reload"
}

// failing is a body that shows m, and fails behind it.
func failing(int) answer {
	return answer{contentType: text004.contentType(), body: []byte("m 1\nnumber{x=\"} 1\n")}
}

// killedCases are those of scrapes that are lost when the poller is killed.
func killedCases() map[string]ruleCase {
	return map[string]ruleCase{
		"killed before it was stored": {func(_, fed *group, asked []request) []restart {
			fed.forget(2)
			asked[1].answered = after(asked, 2, 5*time.Millisecond)
			return []restart{{after(asked, 2, 20*time.Millisecond), after(asked, 2, 30*time.Millisecond), true}}
		}, nil, notStored},
		"told to end": {func(_, fed *group, asked []request) []restart {
			fed.forget(2)
			asked[1].answered = after(asked, 2, 5*time.Millisecond)
			return []restart{{after(asked, 2, 20*time.Millisecond), after(asked, 2, 30*time.Millisecond), false}}
		}, nil, ""},
		"killed long after": {func(_, fed *group, asked []request) []restart {
			fed.forget(2)
			asked[1].answered = after(asked, 2, 5*time.Millisecond)
			return []restart{{after(asked, 2, storedWithin+10*time.Millisecond), after(asked, 3, -5*time.Millisecond), true}}
		}, nil, ""},
	}
}

// addedCases are those of scrape_series_added.
func addedCases() map[string]ruleCase {
	return map[string]ruleCase{
		"counted more than once before a restart": {func(direct, fed *group, asked []request) []restart {
			direct.target = "changing"
			counted(direct, "2 (x)", "2 (x)", "0 (x)")
			counted(fed, "2 (x)", "0 (x)", "0 (x)")
			return []restart{{after(asked, 1, 10*time.Millisecond), after(asked, 1, 20*time.Millisecond), false}}
		}, nil, onceAdded},
		"all are new after a restart": {func(direct, fed *group, asked []request) []restart {
			counted(direct, "2 (x)", "0 (x)", "0 (x)")
			counted(fed, "2 (x)", "2 (x)", "0 (x)")
			return []restart{{after(asked, 1, 10*time.Millisecond), after(asked, 1, 20*time.Millisecond), false}}
		}, nil, ""},
		"counted more than once without a restart": {func(direct, fed *group, _ []request) []restart {
			direct.target = "changing"
			counted(direct, "2 (x)", "2 (x)", "0 (x)")
			counted(fed, "2 (x)", "0 (x)", "0 (x)")
			return nil
		}, nil, ""},
	}
}

// markerCases are those of markers.
func markerCases() map[string]ruleCase {
	return map[string]ruleCase{
		"a job's end": {func(direct, fed *group, _ []request) []restart {
			direct.target = "removed-reload"
			endOf(fed, numberSeries)
			return nil
		}, nil, jobMarked},
		"a job's end for a series that was gone": {func(direct, fed *group, _ []request) []restart {
			direct.target = "removed-reload"
			endOf(fed, mSeries)
			return nil
		}, nil, ""},
		"a target's end": {func(_, fed *group, _ []request) []restart {
			endOf(fed, numberSeries)
			return nil
		}, nil, ""},
		"fails behind a series": {func(direct, fed *group, _ []request) []restart {
			delete(direct.series[mSeries], slot{scraped, 3})
			direct.downAt[3], fed.downAt[3] = true, true
			fed.series[numberSeries][slot{scraped, 3}] = stale
			direct.series[numberSeries][slot{scraped, 3}] = stale
			return nil
		}, failing, partlyRead},
		"fails before a series": {func(direct, fed *group, _ []request) []restart {
			delete(direct.series[numberSeries], slot{scraped, 3})
			direct.downAt[3], fed.downAt[3] = true, true
			fed.series[numberSeries][slot{scraped, 3}] = stale
			return nil
		}, failing, ""},
		"fails, and neither has a marker": {func(direct, fed *group, _ []request) []restart {
			delete(direct.series[mSeries], slot{scraped, 3})
			delete(fed.series[mSeries], slot{scraped, 3})
			direct.downAt[3], fed.downAt[3] = true, true
			return nil
		}, failing, ""},
	}
}

// A rule covers what it is for, and neither another series nor another moment nor another cause.
func TestRules(t *testing.T) {
	w := &world{begin: time.UnixMilli(1767225600000), last: 3, version: 2}
	all := killedCases()
	maps.Copy(all, addedCases())
	maps.Copy(all, markerCases())
	for name, c := range all {
		t.Run(name, func(t *testing.T) {
			direct, _ := planted(t, w, 0)
			fed, asked := planted(t, w, 700*time.Millisecond)
			restarts := c.plant(direct, fed, asked)
			got := w.compare(direct, fed, asked, c.answers, disturbed{restarted: restarts})
			switch {
			case c.rule == "" && len(got.found) == 0:
				t.Errorf("no difference, expected are %v", got.expected)
			case c.rule != "" && (len(got.found) > 0 || got.expected[c.rule] != 1):
				t.Errorf("differences %v, expected %v, want one of %q", got.found, got.expected, c.rule)
			}
		})
	}
}
