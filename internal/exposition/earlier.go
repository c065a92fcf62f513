package exposition

import (
	"slices"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// past is about targets that show several samples of one series, each with a time of its own. Prometheus stores those that
// are newer than all before them; the column has the newest and, beside it, the earlier ones.
type past struct {
	earlier []frame.Earlier
	// kept are the samples, by their count, that became earlier ones, with their times: their exemplars stay too.
	kept map[int]int64
	// newest is for each series the time of the newest sample of good scrapes: what is not after it was there before. It is nil
	// until a scrape has earlier samples.
	newest []int64
}

// begin forgets the samples of the last parse.
func (p *past) begin() { p.earlier, p.kept = p.earlier[:0], nil }

// supersede keeps the sample that the column has of a series as an earlier one; a newer one takes its place. It tells
// whether nothing is lost by that: histograms have no place there.
func (l *Layout) supersede(series int32) bool {
	p, ts := &l.past, l.stampOf(series)
	if taken := l.extras.taken; int(series) < len(taken) {
		if p.kept == nil {
			p.kept = make(map[int]int64)
		}
		p.kept[taken[series]] = ts
	}
	if l.extras.histogramIn(series) || len(p.earlier) >= l.limits.Earlier {
		return false
	}
	if int(series) >= len(p.newest) || ts > p.newest[series] || ts == frame.NoTimestamp {
		p.earlier = append(p.earlier, frame.Earlier{Row: int(series), Value: l.column.Values[series], Timestamp: ts})
	}
	return true
}

// histogramIn tells whether the sample that the column has of a series is a histogram.
func (e *extras) histogramIn(series int32) bool {
	if int(series) >= len(e.taken) {
		return false
	}
	for i := len(e.histograms) - 1; i >= 0; i-- {
		if e.histograms[i].Row == int(series) {
			return e.histogramOf[i] == e.taken[series]
		}
	}
	return false
}

// move gives them the new places of their series.
func (p *past) move(order, place []int32) {
	for i := range p.earlier {
		p.earlier[i].Row = int(place[p.earlier[i].Row])
	}
	if p.newest == nil {
		return
	}
	newest := make([]int64, len(order))
	for i, s := range order {
		newest[i] = frame.NoTimestamp
		if int(s) < len(p.newest) {
			newest[i] = p.newest[s]
		}
	}
	p.newest = newest
}

// settle ends a good scrape of n series, of which some are histograms, with these times.
func (p *past) settle(n int, histograms []frame.Histogram, stamps []int64) {
	slices.SortStableFunc(p.earlier, func(a, b frame.Earlier) int { return a.Row - b.Row })
	if len(p.earlier) > 0 && len(histograms) > 0 {
		p.earlier = slices.DeleteFunc(p.earlier, func(x frame.Earlier) bool {
			_, found := slices.BinarySearchFunc(histograms, x.Row, func(h frame.Histogram, row int) int { return h.Row - row })
			return found
		})
	}
	if p.newest == nil && len(p.earlier) == 0 {
		return
	}
	for len(p.newest) < n {
		p.newest = append(p.newest, frame.NoTimestamp)
	}
	for i := range min(n, len(stamps)) {
		p.newest[i] = max(p.newest[i], stamps[i])
	}
}
