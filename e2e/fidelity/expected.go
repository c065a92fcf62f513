//go:build fidelity

package fidelity

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// isExpected knows the differences that docs/fidelity.md lists.
func (c *comparison) isExpected(series string, s slot, direct, fed string) bool {
	why := c.reason(series, s, direct, fed)
	if why != "" {
		c.expected[why]++
	}
	return why != ""
}

func (c *comparison) reason(series string, s slot, direct, fed string) string {
	n := int(s.n)
	onlyDirect, onlyFed := strings.HasPrefix(direct, stale) && fed == none, direct == none && strings.HasPrefix(fed, stale)
	switch added := s.kind == scraped && strings.HasPrefix(series, `__name__="scrape_series_added"`); {
	case s.kind == scraped && (onlyFed && c.before(n, series) || onlyDirect && c.before(n-1, series)):
		return partlyRead
	case added && c.isAddedOnce(n, leading(direct), leading(fed)):
		return onceAdded
	case added && c.lost[n-1] && leading(fed) >= c.newSince(n) && leading(fed) <= c.fed.reported("scrape_samples_post_metric_relabeling", n):
		return notStored
	case added && c.isAnew(n, leading(direct), leading(fed)):
		return otherScrape
	case c.isUnplaced(series, s, onlyDirect, onlyFed):
		return noPlace
	case c.isTooOld(series, s, direct, fed):
		return tooOld
	case added && c.refusals().added[n] != 0 && c.refusals().added[n] == leading(fed)-leading(direct):
		return tooOldAdded
	case c.jobRemoved && s.kind == ended && onlyFed && (isReport(series) || c.fed.alive(c.fed.last())[series]):
		return jobMarked
	case c.w.version == 1 && fed == none && c.custom(series) && (strings.Contains(direct, "schema -53") || strings.HasPrefix(direct, stale)):
		return noForm
	}
	return ""
}

// expect works out from what was shown how many differences there can be by some of the rules.
func (c *comparison) expect() {
	if c.answers == nil {
		return
	}
	for n := c.first; n <= c.last; n++ {
		if c.fed.downAt[n] && c.direct.downAt[n] && !c.unlike[n] {
			c.expectable[partlyRead] += c.unmarked(n)
		}
	}
	c.expectable[noPlace] = 2 * len(c.vanished()) // here at the scrape, in Prometheus later
	if n := c.anew[direct]; n > 0 && c.endsBefore(n) {
		c.expectable[noPlace] += len(c.direct.alive(n-1)) + 5 // the reports
	}
	c.expectable[tooOld], c.expectable[tooOldAdded] = c.refusals().differences, len(c.refusals().added)
	if c.jobRemoved && len(c.fed.ends) > 0 {
		c.expectable[jobMarked] = len(c.fed.alive(c.fed.last())) + 5 // the reports
	}
	if c.w.version == 1 {
		c.expectable[noForm] = c.formless()
	}
}

// formless is how many samples and markers of histograms with custom buckets there are, and of how many series there are exemplars.
func (c *comparison) formless() (count int) {
	for series, values := range c.direct.series {
		if !c.custom(series) {
			continue
		}
		for s, v := range values {
			if n := c.number(s); n >= c.first && n <= c.last && (strings.Contains(v, "schema -53") || strings.HasPrefix(v, stale)) {
				count++
			}
		}
		if len(c.direct.exemplars[series]) > 0 {
			count++
		}
	}
	return count
}

// unmarked is how many markers Prometheus leaves out at a scrape that fails, for series before the place at which it does, and how many
// it writes at the next one instead.
func (c *comparison) unmarked(n int) (count int) {
	there := c.seenBefore(n)
	for series := range c.fed.alive(n - 1) {
		if there[c.fed.exposed[series]] {
			count++
		}
	}
	next := map[string]bool{}
	if c.fed.downAt[n+1] {
		next = c.seenBefore(n + 1)
	}
	for series := range c.fed.alive(n + 1) {
		next[c.fed.exposed[series]] = true
	}
	for exposed := range there {
		if !next[exposed] {
			count++
		}
	}
	return count
}

// addedOnce are targets whose series Prometheus counts as added more than once: several become one by relabelling, they come in
// another format, or there was a body without any in between.
var addedOnce = []string{"rewritten", "changing", "fails-nothing"}

// isAddedOnce tells whether the fed one counts, in the first scrape after a restart of the poller, the series that the one before did
// not have. Prometheus, which was not restarted, may count some of them more than once.
func (c *comparison) isAddedOnce(n int, fromDirect, fromFed float64) bool {
	return c.fresh[n] && slices.Contains(addedOnce, c.direct.target) && fromDirect > fromFed && fromFed == c.newSince(n)
}

// newSince is how many series a scrape of the fed one has that the one with series before did not have.
func (c *comparison) newSince(n int) float64 {
	there := c.fed.alive(n)
	for i := slices.Index(c.fed.numbers, n) - 1; i >= 0; i-- {
		if known := c.fed.alive(c.fed.numbers[i]); len(known) > 0 {
			maps.DeleteFunc(there, func(series string, _ bool) bool { return known[series] })
			break
		}
	}
	return float64(len(there))
}

// relabelledBefore is the target that gets other labels, before it has. Prometheus begins it anew with the reload, and may scrape it
// under its former labels once more before it learns the other ones.
const relabelledBefore = "relabelled here"

// isAnew tells whether the two count what has to be counted about the first scrapes at another interval, to which they come at
// different ones: all series in one's own, those that are new in the other's.
func (c *comparison) isAnew(n int, fromDirect, fromFed float64) bool {
	if c.direct.target == relabelledBefore {
		return c.direct.times[n] > c.reloaded.UnixMilli() && fromDirect == float64(len(c.direct.alive(n))) && fromFed == c.newSince(n)
	}
	if c.anew[direct] == c.anew[fed] || c.anew[direct] == 0 || c.anew[fed] == 0 {
		return false
	}
	counts := func(who asker, g *group, got float64) bool {
		there := g.alive(n)
		if n != c.anew[who] {
			for series := range g.alive(n - 1) {
				delete(there, series)
			}
		}
		return got == float64(len(there))
	}
	return (n == c.anew[direct] || n == c.anew[fed]) && counts(direct, c.direct, fromDirect) && counts(fed, c.fed, fromFed)
}

// vanished are the series that vanish in the first scrape at another interval of the Prometheus that scrapes.
func (c *comparison) vanished() map[string]bool {
	n := c.anew[direct]
	if n == 0 {
		return nil
	}
	out, there := c.direct.alive(n-1), c.direct.alive(n)
	maps.DeleteFunc(out, func(series string, _ bool) bool { return there[series] })
	return out
}

// isUnplaced tells whether a marker is of a series that vanishes in the first scrape at another interval: here it has its place, in
// Prometheus it comes when the target's next scrape at the old one would have been.
func (c *comparison) isUnplaced(series string, s slot, onlyDirect, onlyFed bool) bool {
	n := c.anew[direct]
	switch {
	case n == 0:
		return false
	case s.kind == ended:
		return onlyDirect && c.endsBefore(n) && (isReport(series) || c.direct.alive(n - 1)[series])
	case !c.vanished()[series]:
		return false
	case s.kind == scraped:
		return onlyFed && int(s.n) == n
	}
	late := s.n - c.direct.times[n-1]
	return onlyDirect && s.kind == timed && late > 0 && late <= 2*interval.Milliseconds() && strings.HasPrefix(c.fed.series[series][slot{scraped, int64(n)}], stale)
}

// endsBefore tells whether Prometheus marked all series before the first scrape at another interval: it does if that comes late.
func (c *comparison) endsBefore(n int) bool {
	ends := c.direct.ends
	return len(ends) == 1 && ends[0] > c.direct.times[n-1] && ends[0] <= c.direct.times[n-1]+2*interval.Milliseconds() && ends[0] < c.direct.times[n]
}

// before tells whether a scrape failed in the middle of a body, and a series is there before that place.
func (c *comparison) before(n int, series string) bool {
	if !c.fed.downAt[n] || !c.direct.downAt[n] || c.answers == nil {
		return false
	}
	exposed, ok := c.direct.exposed[series]
	if !ok {
		exposed = c.fed.exposed[series]
	}
	return c.seenBefore(n)[exposed]
}

// seenBefore are the series before the place at which a scrape failed.
func (c *comparison) seenBefore(n int) map[string]bool {
	if c.seen[n] == nil {
		c.seen[n] = beforeFailure(c.direct.target, c.answers(n))
	}
	return c.seen[n]
}

// custom tells whether a series is of histograms with custom buckets.
func (c *comparison) custom(series string) bool {
	for _, v := range c.direct.series[series] {
		if strings.Contains(v, "schema -53") {
			return true
		}
	}
	return false
}

func leading(value string) float64 {
	text, _, _ := strings.Cut(value, " ")
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return math.NaN()
	}
	return v
}
