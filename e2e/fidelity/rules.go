//go:build fidelity

package fidelity

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// The differences that docs/fidelity.md lists. Where one is found it is proven to be what the rule says: the right series, at the
// right scrape, of the value that what was done gives. That there are no more than that can give is checked at the end.
const (
	notStored   = "scrape that the poller had not stored when it was killed"
	onceAdded   = "scrape_series_added of the first scrape after a restart of the poller, of a target whose series Prometheus counts more than once"
	otherScrape = "scrape_series_added of the first scrape after a reload that changed the interval or the labels, which is not the same one for the two"
	noPlace     = "a marker later, or none, for a series that vanishes in the first scrape at another interval"
	partlyRead  = "no marker for a series that is in a body before the place at which the scrape fails"
	jobMarked   = "markers when a job is taken out of the configuration"
	tooOld      = "a sample that Prometheus' storage refuses for its time, with track_timestamps_staleness"
	tooOldAdded = "scrape_series_added of a series that Prometheus' storage refuses, with track_timestamps_staleness"
	noForm      = "a histogram with custom buckets, or its exemplars, has no form in version 1.0"
)

// Scrapes that are not compared, as the two cannot have the same.
const (
	timedOut    = "scrape that one of the two gave up for lack of time, and the one after it"
	aboutOnce   = "scrape of one of the two only, while a target refused connections or was away"
	beginsLater = "first scrapes of a target that got other labels, which the two noticed at different ones"
)

// notices is how many scrapes may lie between the moments at which the two notice a change: a reload, a file, a closed port. It is
// one on a machine that is at rest.
const notices = 8

// ceilings are how often each may be there, in a run with so many targets, restarts and scrapes.
func (r *report) ceilings() map[string]int {
	targets, restarts := len(r.site.fleet.all), len(r.site.disturbed.restarted)
	kills := 0
	for _, x := range r.site.disturbed.restarted {
		if x.killed {
			kills++
		}
	}
	return map[string]int{
		// Those of some 30 of the 1500 ms between two scrapes, and what a busy machine adds; and scrape_series_added of the next one.
		notStored:   kills * targets / 2,
		onceAdded:   restarts * len(addedOnce),
		otherScrape: 3, // two of a target that gets another interval, one of one that gets other labels
		noPlace:     r.expectable[noPlace],
		partlyRead:  r.expectable[partlyRead],
		jobMarked:   r.expectable[jobMarked],
		tooOld:      r.expectable[tooOld],
		tooOldAdded: r.expectable[tooOldAdded],
		noForm:      r.expectable[noForm],
		timedOut:    r.scrapes / 50,
		aboutOnce:   3 * (notices + 1),
		beginsLater: notices + 1,
	}
}

// checkRules prints how often each was seen.
func (r *report) checkRules() {
	most := r.ceilings()
	for _, why := range slices.SortedFunc(maps.Keys(most), cmp.Compare[string]) {
		n := r.expected[why]
		r.t.Logf("expected: %s: %d, at most %d", why, n, most[why])
		if n > most[why] {
			r.t.Errorf("%d times and not %d at most: %s; by target %v", n, most[why], why, r.expectedOf[why])
		}
		if why == jobMarked && n < most[why] {
			r.t.Errorf("%d series of a job that is taken out of the configuration lack a marker", most[why]-n)
		}
		delete(r.expected, why)
	}
	if len(r.expected) > 0 {
		r.t.Error(fmt.Sprint("differences expected by no rule: ", r.expected))
	}
}
