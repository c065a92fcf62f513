//go:build fidelity

package fidelity

import (
	"fmt"
	"maps"
	"math"
	"regexp"

	"github.com/prometheus/prometheus/model/textparse"
)

// refusedSeries are those with times that go back, which a storage without an out-of-order window refuses.
var refusedSeries = regexp.MustCompile(`__name__="timed",.*n="(back|half|changing|same time)"`)

// refusals are what the two have to hold of these series of a target with track_timestamps_staleness, worked out from what it showed.
type refusals struct {
	// series by the two, each as they would be stored.
	series [2]map[string]map[slot]string
	// added is by how much the fed one's scrape_series_added is more, where it is not the same.
	added map[int]float64
	// differences is how many samples and markers one of the two has alone.
	differences int
}

// refusals works them out.
func (c *comparison) refusals() *refusals {
	if c.refused != nil {
		return c.refused
	}
	r := &refusals{series: [2]map[string]map[slot]string{{}, {}}, added: map[int]float64{}}
	c.refused = r
	if !c.direct.tracked || c.answers == nil {
		return r
	}
	shown := map[int]map[string]shownSample{}
	for n := 1; n <= max(c.direct.last(), c.fed.last()); n++ {
		shown[n] = shownSamples(c.answers(n))
	}
	for series, exposed := range c.fed.exposed {
		if !refusedSeries.MatchString(series) {
			continue
		}
		for who, g := range []*group{c.direct, c.fed} {
			h := history{series: exposed, asker: asker(who), values: map[slot]string{}, newest: math.MinInt64}
			for _, n := range g.numbers {
				added := h.take(slot{scraped, int64(n)}, g.times[n], shown[n], g.downAt[n])
				r.added[n] += map[asker]float64{direct: -added, fed: added}[h.asker]
			}
			r.series[who][series] = h.values
		}
		r.differences += unequal(r.series[direct][series], r.series[fed][series])
	}
	maps.DeleteFunc(r.added, func(_ int, n float64) bool { return n == 0 })
	return r
}

func unequal(a, b map[slot]string) (n int) {
	all := maps.Clone(a)
	maps.Copy(all, b)
	for s := range all {
		if a[s] != b[s] {
			n++
		}
	}
	return n
}

// isTooOld tells whether each of the two has what it has to have of a series that the storage refuses.
func (c *comparison) isTooOld(series string, s slot, fromDirect, fromFed string) bool {
	if !c.direct.tracked || !refusedSeries.MatchString(series) {
		return false
	}
	is := func(values map[slot]string, got string) bool {
		return values[s] == got || values[s] == "" && got == none
	}
	r := c.refusals()
	return is(c.without(series, r.series[direct][series]), fromDirect) && is(r.series[fed][series], fromFed)
}

// history is what a storage that takes nothing older than its newest sample has of one series, as one of the two fills it.
type history struct {
	series string
	asker  asker
	values map[slot]string
	newest int64
	bits   uint64 // of the newest
	// there: it was in the scrape before, and will be marked when it is not; cached: it counts as known.
	there, cached bool
}

func (h *history) append(s slot, ms int64, v float64) bool {
	if ms < h.newest || ms == h.newest && math.Float64bits(v) != h.bits {
		return false
	}
	h.values[s], h.newest, h.bits = fmt.Sprintf("%v (%016x)", v, math.Float64bits(v)), ms, math.Float64bits(v)
	return true
}

// take is one scrape; it gives 1 if that counts the series as added. To Prometheus a series vanishes when its sample is refused, here
// when it is not shown.
func (h *history) take(at slot, ms int64, shown map[string]shownSample, down bool) (added float64) {
	x, there := shown[h.series]
	there = there && !down
	accepted := false
	if there {
		s := at
		if x.timed {
			s = slot{timed, x.ms}
		} else {
			x.ms = ms
		}
		accepted = h.append(s, x.ms, x.value)
	}
	known := there
	if h.asker == direct {
		known = there && (h.cached || accepted)
		there = accepted
	}
	if known && !h.cached {
		added = 1
	}
	if h.there && !there && ms > h.newest {
		h.values[at], h.newest, h.bits = stale, ms, 0
	}
	h.there, h.cached = there, known
	return added
}

// shownSample is a sample as a target shows it.
type shownSample struct {
	value float64
	ms    int64
	timed bool
}

// shownSamples are those of a body, the last one of each series.
func shownSamples(a answer) map[string]shownSample {
	out := map[string]shownSample{}
	p, _ := textparse.New(a.body, a.contentType, nil, textparse.ParserOptions{IgnoreNativeHistograms: true})
	if p == nil {
		return out
	}
	for {
		entry, err := p.Next()
		if err != nil {
			return out
		}
		if entry != textparse.EntrySeries {
			continue
		}
		_, ms, v := p.Series()
		x := shownSample{value: v}
		if ms != nil {
			x.ms, x.timed = *ms, true
		}
		out[shownKey(p)] = x
	}
}
