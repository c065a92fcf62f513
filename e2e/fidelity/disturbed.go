//go:build fidelity

package fidelity

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// disturbed is when what lies between was disturbed: the poller restarted, both configured anew.
type disturbed struct {
	restarted []restart
	reloaded  time.Time
}

// restart is one of the poller: when it was told to end, and when it had.
type restart struct {
	told, ended time.Time
	killed      bool
}

// storedWithin is how long a poller may take from an answer until the scrape is in its spool: flush_age is 30 ms here, the rest is
// for a busy machine.
const storedWithin = interval / 2

// losses finds the scrapes that were asked for and are not there. A poller that is killed leaves out those that it has not written
// yet; one that is told to end leaves out none.
func (c *comparison) losses(asked []request, restarts []restart) {
	within := func(n int) bool { return n >= c.first && n <= c.last }
	for _, n := range c.direct.lost {
		if within(n) {
			c.differ("", fmt.Sprint("scrape ", n), "not there", "")
		}
	}
	used := map[time.Time]bool{}
	for _, n := range c.fed.lost {
		r := asked[n-1]
		i := slices.IndexFunc(restarts, func(x restart) bool {
			return x.killed && r.at.Before(x.ended) && (r.answered.IsZero() && x.told.Sub(r.at) < interval || x.told.Sub(r.answered) < storedWithin)
		})
		if i < 0 || used[restarts[i].told] {
			if within(n) {
				c.differ("", fmt.Sprint("scrape ", n), "there", fmt.Sprintf("lost, asked at %v, answered at %v", r.at, r.answered))
			}
			continue
		}
		used[restarts[i].told] = true
		c.lost[n] = true
		c.expected[notStored]++
	}
}

// leaveOut finds the scrapes that are not compared: those between the moments at which the two found that connections are refused,
// or that the target went away, and those that one of the two gave up because the machine was too slow.
func (c *comparison) leaveOut() {
	for _, at := range [][2]int{{c.direct.refusedAfter, c.fed.refusedAfter}, {c.direct.endedAfter, c.fed.endedAfter}} {
		a, b := min(at[0], at[1]), max(at[0], at[1])
		if a == 0 {
			continue
		}
		if b-a > notices {
			c.differ("", "the scrape before it was away", fmt.Sprint(at[0]), fmt.Sprint(at[1]))
		}
		for n := a + 1; n <= b+1; n++ {
			if c.unlike[n] = true; n <= c.last {
				c.expected[aboutOnce]++
			}
		}
	}
	for _, n := range c.fed.numbers {
		at, ok := c.direct.times[n]
		if ok && c.direct.downAt[n] != c.fed.downAt[n] && (c.direct.slow[at] || c.fed.slow[c.fed.times[n]]) {
			c.unlike[n], c.unlike[n+1] = true, true
			c.expected[timedOut]++
		}
	}
}

// after finds the scrapes that follow a disturbance.
func (c *comparison) after(asked []request, by disturbed) {
	if c.direct.target == "slower" {
		for who, g := range []*group{c.direct, c.fed} {
			c.anew[who] = c.firstAnew(g, asked, by.reloaded)
		}
	}
	for _, r := range by.restarted {
		for _, n := range c.fed.numbers {
			if asked[n-1].at.After(r.ended) {
				if c.fresh[n] = true; len(c.fed.alive(n)) > 0 {
					break
				}
			}
		}
	}
}

// firstAnew is the first scrape at another interval: all series are new then. The two may come to it some scrapes after each other.
func (c *comparison) firstAnew(g *group, asked []request, reloaded time.Time) int {
	i := slices.IndexFunc(c.fed.numbers, func(n int) bool { return asked[n-1].at.After(reloaded) })
	if i < 0 {
		return 0
	}
	for n := c.fed.numbers[i] - notices; n <= c.fed.numbers[i]+notices; n++ {
		if all := float64(len(g.alive(n))); n > c.first && all > 0 && g.added(n) == all {
			return n
		}
	}
	return 0
}

// added is scrape_series_added of a scrape; 0 if there is none.
func (g *group) added(n int) float64 { return g.reported("scrape_series_added", n) }

// reported is one of the reports on a scrape; 0 if there is none.
func (g *group) reported(name string, n int) float64 {
	for series, values := range g.series {
		if strings.HasPrefix(series, `__name__="`+name+`"`) {
			return leading(values[slot{scraped, int64(n)}])
		}
	}
	return 0
}

// isReport tells whether a series is one of the reports on scrapes.
func isReport(series string) bool {
	return reports.MatchString(series)
}

var reports = regexp.MustCompile(`^__name__="(up|scrape_duration_seconds|scrape_samples_scraped|scrape_samples_post_metric_relabeling|scrape_series_added)",`)

// alive are the series of which there is a sample at a scrape, without the reports.
func (g *group) alive(n int) map[string]bool {
	out := map[string]bool{}
	for series, values := range g.series {
		if v := values[slot{scraped, int64(n)}]; v != "" && !strings.HasPrefix(v, stale) && !isReport(series) {
			out[series] = true
		}
	}
	return out
}

// marked checks what both could lack at once: the fed one has a marker for each series that was there before a scrape that failed.
func (c *comparison) marked() {
	for i, n := range c.fed.numbers {
		if i == 0 || !c.fed.downAt[n] || c.fed.numbers[i-1] != n-1 || n > c.last || n-1 < c.first {
			continue
		}
		for series := range c.fed.alive(n - 1) {
			if got := c.fed.series[series][slot{scraped, int64(n)}]; !strings.HasPrefix(got, stale) {
				c.differ(series, fmt.Sprint("scrape ", n, ", which failed"), "a marker wanted", got)
			}
		}
	}
}

// without takes the lost scrapes out of a series: a marker there comes with the next scrape that is there, if the series is
// not in that.
func (c *comparison) without(series string, values map[slot]string) map[slot]string {
	if len(c.lost) == 0 || shownAgain.MatchString(series) {
		return values
	}
	out := make(map[slot]string, len(values))
	maps.Copy(out, values)
	for _, n := range slices.Sorted(maps.Keys(c.lost)) {
		before, after := false, ""
		var at slot
		marker := ""
		for s, v := range out {
			isStale := strings.HasPrefix(v, stale)
			switch c.number(s) {
			case n - 1:
				before = before || !isStale
			case n + 1:
				if after == "" || !isStale {
					after = v
				}
			case n:
				if isStale {
					marker, at = v, s
				}
				delete(out, s)
			}
		}
		if marker != "" && after == "" {
			at.n++
			out[at] = marker
		}
		if !before && strings.HasPrefix(after, stale) {
			delete(out, slot{scraped, int64(n + 1)})
		}
	}
	return out
}

// shownAgain are series whose samples are in the next scrape too.
var shownAgain = regexp.MustCompile(`__name__="batch_total",.*n="(all|exemplars)"`)
