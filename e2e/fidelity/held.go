//go:build fidelity

package fidelity

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	promvalue "github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// slot says which scrape something belongs to, or which time of its own it has.
type slot struct {
	kind kind
	// n is the number of the scrape; of a refused one, that of the scrape before; of a time, milliseconds.
	n int64
}

type kind int

const (
	scraped kind = iota
	refused      // no request came through
	refusedMore
	timed // has a time of its own
	ended // a marker after the last scrape
)

func (s slot) String() string {
	switch s.kind {
	case scraped:
		return fmt.Sprint("scrape ", s.n)
	case refused, refusedMore:
		return "the scrape that was refused"
	case timed:
		return time.UnixMilli(s.n).UTC().Format("at 15:04:05.000")
	default:
		return "the end"
	}
}

// stale is how a stale marker is shown; that of a histogram has more.
const stale = "stale"

// group is what one Prometheus holds of one target.
type group struct {
	target string
	series map[string]map[slot]string
	// tracked: it has series with times of their own, and track_timestamps_staleness.
	tracked bool
	// exemplars by series; each is its slot and text.
	exemplars map[string][]string
	// numbers are the scrapes that it has, in order; lost those that were asked for and are not there.
	numbers, lost []int
	// refusedAfter is the scrape before one that was refused, 0 if none was.
	refusedAfter int
	// downAt are the scrapes that failed.
	downAt map[int]bool
	// slow are the times of scrapes that took as long as they may.
	slow map[int64]bool
	// times by scrape.
	times map[int]int64
	ends  []int64
	// endedAfter is the scrape before the first of these, 0 if there is none; exposed are the series as the target shows them.
	endedAfter int
	exposed    map[string]string
	// delays are from the time of a scrape until its target was asked.
	delays []time.Duration
	faults []string
}

func newGroup(name string) *group {
	return &group{
		target: name, series: map[string]map[slot]string{}, exemplars: map[string][]string{}, times: map[int]int64{}, downAt: map[int]bool{},
		exposed: map[string]string{},
		slow:    map[int64]bool{}, tracked: slices.Contains([]string{"timed-tracked", "timed-openmetrics", "timed-proto-tracked", "batches-tracked"}, name),
	}
}

// holding reads what a Prometheus holds of the targets, by target.
func holding(t testing.TB, p *harness.Prometheus, who asker, s *fleet) map[string]*group {
	t.Helper()
	out := make(map[string]*group)
	for name, e := range s.all {
		all, err := p.Everything(harness.Labels{"who": name})
		if err != nil {
			t.Fatalf("what the %s Prometheus has of %s: %v", who, name, err)
		}
		parts := map[string][]*prompb.TimeSeries{}
		for _, ts := range all {
			key := groupOf(name, ts.Labels)
			parts[key] = append(parts[key], ts)
		}
		from := 0
		for _, key := range slices.Sorted(func(yield func(string) bool) {
			for k := range parts {
				if !yield(k) {
					return
				}
			}
		}) {
			g := newGroup(key)
			from = g.match(parts[key], e.requests(who), from)
			g.fill(parts[key])
			out[key] = g
		}
		if err := exemplars(p, name, out); err != nil {
			t.Fatalf("exemplars of %s: %v", name, err)
		}
	}
	return out
}

// groupOf is the target, and its labels if these change in the middle.
func groupOf(name string, l []prompb.Label) string {
	if name != "relabelled" {
		return name
	}
	for _, x := range l {
		if x.Name == "site" {
			return name + " " + x.Value
		}
	}
	return name
}

func key(l []prompb.Label) string {
	var b strings.Builder
	for _, x := range l {
		fmt.Fprintf(&b, "%s=%q,", x.Name, x.Value)
	}
	return b.String()
}

// own tells whether a series is one of the reports on a scrape, not of its body.
func own(l []prompb.Label, name string) bool {
	got := ""
	for _, x := range l {
		if x.Name == "__name__" {
			got = x.Value
		}
		if strings.HasPrefix(x.Name, "exported_") || x.Name == "job" && x.Value == "federated" {
			return false
		}
	}
	return got == name
}

// match finds out which sample of up is of which request: by the number in the body, and where that is not there by the time. It
// gives the request after the last one.
func (g *group) match(all []*prompb.TimeSeries, requests []request, from int) int {
	var ups []prompb.Sample
	numbers := map[int64]int{}
	for _, ts := range all {
		for _, x := range ts.Samples {
			switch {
			case own(ts.Labels, "up"):
				ups = append(ups, x)
			case own(ts.Labels, "scrape_number") && !promvalue.IsStaleNaN(x.Value):
				numbers[x.Timestamp] = int(x.Value)
			case own(ts.Labels, "scrape_duration_seconds") && x.Value > 0.9*limit.Seconds():
				g.slow[x.Timestamp] = true
			}
		}
	}
	slices.SortFunc(ups, func(a, b prompb.Sample) int { return int(a.Timestamp - b.Timestamp) })
	next := from
	for i, u := range ups {
		if promvalue.IsStaleNaN(u.Value) {
			if g.ends = append(g.ends, u.Timestamp); len(g.ends) == 1 && next > 0 {
				g.endedAfter = requests[next-1].number
			}
			continue
		}
		before := len(requests) // the request that is surely a later one's
		for _, later := range ups[i+1:] {
			if n := numbers[later.Timestamp]; n > 0 {
				before = n - 1
				break
			}
		}
		n := numbers[u.Timestamp]
		if n == 0 {
			for k := next; k < before && n == 0; k++ {
				if d := requests[k].at.Sub(time.UnixMilli(u.Timestamp)); d > -10*time.Millisecond && d < interval-50*time.Millisecond {
					n = requests[k].number
				}
			}
		}
		switch {
		case n > next && n <= len(requests):
			for ; next < n-1; next++ {
				g.lost = append(g.lost, requests[next].number)
			}
			g.numbers, g.times[n] = append(g.numbers, n), u.Timestamp
			g.delays = append(g.delays, requests[next].at.Sub(time.UnixMilli(u.Timestamp)))
			g.downAt[n] = u.Value == 0
			next++
		case n == 0 && u.Value == 0 && next > 0:
			g.refusedAfter = requests[next-1].number
			g.times[-len(g.times)-1] = u.Timestamp // a refused one
		default:
			g.faults = append(g.faults, fmt.Sprintf("up is %v at %v, with scrape_number %d after scrape %d", u.Value, time.UnixMilli(u.Timestamp), n, next))
		}
	}
	return next
}

func (g *group) fill(all []*prompb.TimeSeries) {
	slots := map[int64]slot{}
	var refusals []int64
	for n, at := range g.times {
		if n > 0 {
			slots[at] = slot{scraped, int64(n)}
		} else {
			refusals = append(refusals, at)
		}
	}
	slices.Sort(refusals)
	for i, at := range refusals {
		k := refused
		if i > 0 {
			k = refusedMore
		}
		slots[at] = slot{kind: k}
	}
	for _, at := range g.ends {
		slots[at] = slot{kind: ended}
	}
	for _, ts := range all {
		values := map[slot]string{}
		put := func(at int64, v string) {
			s, ok := slots[at]
			if !ok {
				s = slot{timed, at}
			}
			if s.kind == refusedMore && values[slot{kind: refused}] == v {
				return
			}
			values[s] = v
		}
		for _, x := range ts.Samples {
			v := fmt.Sprintf("%v (%016x)", x.Value, math.Float64bits(x.Value))
			if promvalue.IsStaleNaN(x.Value) {
				v = stale
			}
			if own(ts.Labels, "scrape_duration_seconds") && v != stale {
				v = "there"
			}
			put(x.Timestamp, v)
		}
		for _, h := range ts.Histograms {
			put(h.Timestamp, histogramText(h))
		}
		g.series[key(ts.Labels)] = values
		g.exposed[key(ts.Labels)] = exposedKey(ts.Labels)
	}
}

// histogramText is all of a histogram but its time. Whether it follows a reset Prometheus' storage finds out itself when it
// cuts chunks, so only the mark of a gauge is there.
func histogramText(h prompb.Histogram) string {
	gauge := h.ResetHint == prompb.Histogram_GAUGE
	kind := "integers"
	if h.IsFloatHistogram() {
		kind = "floats"
	}
	if promvalue.IsStaleNaN(h.Sum) {
		return stale + " histogram of " + kind
	}
	sum := math.Float64bits(h.Sum)
	// Prometheus' storage adds empty buckets to histograms that share a chunk.
	if h.IsFloatHistogram() {
		return fmt.Sprintf("histogram of %s, gauge %v, sum %016x: %s", kind, gauge, sum, floatText(h.ToFloatHistogram().Compact(0)))
	}
	x := h.ToIntHistogram().Compact(0)
	return fmt.Sprintf("histogram of %s, gauge %v, sum %016x: schema %d count %d zero %d within %v, positive %v %v, negative %v %v, bounds %v",
		kind, gauge, sum, x.Schema, x.Count, x.ZeroCount, x.ZeroThreshold, x.PositiveSpans, x.PositiveBuckets, x.NegativeSpans, x.NegativeBuckets, x.CustomValues)
}

func floatText(x *histogram.FloatHistogram) string {
	return fmt.Sprintf("schema %d count %v zero %v within %v, positive %v %v, negative %v %v, bounds %v",
		x.Schema, x.Count, x.ZeroCount, x.ZeroThreshold, x.PositiveSpans, x.PositiveBuckets, x.NegativeSpans, x.NegativeBuckets, x.CustomValues)
}

// exemplars adds those of a target.
func exemplars(p *harness.Prometheus, name string, out map[string]*group) error {
	status, body, err := harness.Get(fmt.Sprintf("%s/api/v1/query_exemplars?query=%s&start=0&end=%d", p.URL,
		url.QueryEscape(fmt.Sprintf("{who=%q}", name)), time.Now().Add(time.Hour).Unix()))
	if err != nil {
		return err
	}
	var answer struct {
		Data []struct {
			SeriesLabels map[string]string
			Exemplars    []struct {
				Labels    map[string]string
				Value     string
				Timestamp float64
			}
		}
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || status != http.StatusOK {
		return fmt.Errorf("status %d: %.200s: %v", status, body, err)
	}
	for _, s := range answer.Data {
		var l []prompb.Label
		for n, v := range s.SeriesLabels {
			l = append(l, prompb.Label{Name: n, Value: v})
		}
		slices.SortFunc(l, func(a, b prompb.Label) int { return strings.Compare(a.Name, b.Name) })
		g := out[groupOf(name, l)]
		if g == nil {
			return fmt.Errorf("exemplars of %s, which has no samples", key(l))
		}
		byTime := map[int64]int{}
		for n, at := range g.times {
			byTime[at] = n
		}
		for _, e := range s.Exemplars {
			at := int64(math.Round(e.Timestamp * 1000))
			where := slot{timed, at}
			if n, ok := byTime[at]; ok {
				where = slot{scraped, int64(n)}
			}
			text, _ := json.Marshal(e.Labels)
			g.exemplars[key(l)] = append(g.exemplars[key(l)], fmt.Sprintf("%d %d %s %s", where.kind, where.n, e.Value, text))
		}
	}
	return nil
}
