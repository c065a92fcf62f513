//go:build fidelity

package fidelity

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// difference is one thing that is not the same, with what each has.
type difference struct {
	target, series, where string
	direct, fed           string
}

func (d difference) String() string {
	return fmt.Sprintf("%s {%s} %s\n\tdirect %s\n\tfed    %s", d.target, strings.TrimSuffix(d.series, ","), d.where, d.direct, d.fed)
}

// none is shown for what is not there.
const none = "nothing"

// comparison is that of one target.
type comparison struct {
	w           *world
	direct, fed *group
	// between are the scrapes compared.
	first, last int
	// unlike are scrapes that cannot be the same: those about a refused one, which none of the two sees at the same number.
	unlike map[int]bool
	// fresh are the first scrapes after a restart of the poller, up to one that succeeds and has series.
	fresh map[int]bool
	// recalled are the first scrapes after the receiver was killed.
	recalled map[int]bool
	// lost are scrapes that a restart cost.
	lost map[int]bool
	// jobRemoved: its whole job was.
	jobRemoved bool
	found      []difference
	// expected counts differences by the reason for which they are expected.
	expected map[string]int
	samples  int
}

// disturbed is when what lies between was disturbed: the poller restarted, the receiver killed.
type disturbed struct{ restarted, killed []time.Time }

// compare lists the differences of a target; asked is what the poller asked it for.
func (w *world) compare(direct, fed *group, asked []request, by disturbed) *comparison {
	c := &comparison{w: w, direct: direct, fed: fed, unlike: map[int]bool{}, fresh: map[int]bool{}, recalled: map[int]bool{},
		lost: map[int]bool{}, expected: map[string]int{}}
	c.bounds()
	c.losses(asked, by.restarted)
	c.after(asked, by)
	if direct.refusedAfter > 0 && fed.refusedAfter > 0 {
		a, b := direct.refusedAfter, fed.refusedAfter
		for n := min(a, b) + 1; n <= max(a, b)+1; n++ {
			c.unlike[n] = true
		}
	}
	c.timeouts()
	for _, s := range slices.Sorted(maps.Keys(direct.series)) {
		c.one(s, direct.series[s], fed.series[s])
	}
	for _, s := range slices.Sorted(maps.Keys(fed.series)) {
		if direct.series[s] == nil {
			c.one(s, nil, fed.series[s])
		}
	}
	if len(fed.ends) == 0 { // else the two saw it for different times
		c.compareExemplars()
	}
	return c
}

func (c *comparison) bounds() {
	for _, g := range []*group{c.direct, c.fed} {
		for _, f := range g.faults {
			c.found = append(c.found, difference{g.target, "", "", f, f})
		}
	}
	if len(c.direct.numbers) == 0 || len(c.fed.numbers) == 0 {
		c.found = append(c.found, difference{c.direct.target, "", "scrapes", fmt.Sprint(c.direct.numbers), fmt.Sprint(c.fed.numbers)})
		return
	}
	a, b := c.direct.numbers, c.fed.numbers
	c.first, c.last = max(a[0], b[0]), min(a[len(a)-1], b[len(b)-1], c.w.last)
	if a[0] != b[0] { // which series the first one makes stale depends on the one before
		c.first++
	}
	c.jobRemoved = c.direct.target == "removed-reload"
	if len(c.fed.ends) == 0 && c.last < c.w.last {
		c.found = append(c.found, difference{c.direct.target, "", "last scrape", fmt.Sprint(a[len(a)-1]), fmt.Sprint(b[len(b)-1])})
	}
}

// losses finds the scrapes that were asked for and are not there. A poller that is stopped leaves out one that is under way, and
// one that is killed those that it has not written yet.
func (c *comparison) losses(asked []request, restarted []time.Time) {
	for _, n := range c.direct.lost {
		if n <= c.last && n >= c.first {
			c.found = append(c.found, difference{c.direct.target, "", fmt.Sprint("scrape ", n), "not there", ""})
		}
	}
	at := map[int]time.Time{}
	for _, r := range asked {
		at[r.number] = r.at
	}
	used := map[time.Time]bool{}
	for _, n := range c.fed.lost {
		i := slices.IndexFunc(restarted, func(r time.Time) bool {
			return r.Sub(at[n]) < 1500*time.Millisecond && at[n].Before(r.Add(100*time.Millisecond))
		})
		if i < 0 || used[restarted[i]] {
			if n <= c.last && n >= c.first {
				c.found = append(c.found, difference{c.direct.target, "", fmt.Sprint("scrape ", n), "there", "lost"})
			}
			continue
		}
		used[restarted[i]] = true
		c.lost[n] = true
		c.expected["scrape under way when the poller was stopped or killed"]++
	}
}

// timeouts finds scrapes that one of the two gave up because the machine was too slow.
func (c *comparison) timeouts() {
	for _, n := range c.fed.numbers {
		at, ok := c.direct.times[n]
		if ok && c.direct.downAt[n] != c.fed.downAt[n] && (c.direct.slow[at] || c.fed.slow[c.fed.times[n]]) {
			c.unlike[n], c.unlike[n+1] = true, true
			c.expected[timedOut]++
		}
	}
}

// timedOut is why a scrape may be down for one of the two alone.
const timedOut = "scrape that one of the two gave up for lack of time"

// after finds the scrapes that follow a disturbance.
func (c *comparison) after(asked []request, by disturbed) {
	at := map[int]time.Time{}
	for _, r := range asked {
		at[r.number] = r.at
	}
	for _, r := range by.restarted {
		for _, n := range c.fed.numbers {
			if at[n].After(r) {
				if c.fresh[n] = true; !c.fed.downAt[n] && c.added(n) > 0 {
					break
				}
			}
		}
	}
	// What the stream held when the receiver was killed comes after it, so the scrape is one of a few.
	for _, r := range by.killed {
		for _, n := range c.fed.numbers {
			if d := at[n].Sub(r); d > -3*time.Second && d < 5*time.Second {
				c.recalled[n] = true
			}
		}
	}
}

// added is what the fed one has as scrape_series_added of a scrape.
func (c *comparison) added(n int) float64 {
	for series, values := range c.fed.series {
		if strings.HasPrefix(series, `__name__="scrape_series_added"`) {
			return leading(values[slot{scraped, int64(n)}])
		}
	}
	return 0
}

// number is the scrape of a slot; 0 if it is of none.
func (c *comparison) number(s slot) int {
	switch s.kind {
	case scraped:
		return int(s.n)
	case timed:
		if begin := c.w.begin.UnixMilli(); s.n < begin {
			return int((s.n - begin + 600_000) / 1000)
		} else {
			return int((s.n - begin - 400_000) / 1000)
		}
	}
	return 0
}

// without takes the lost scrapes out of a series: a marker there comes with the next scrape that is there, if the series is
// not in that.
func (c *comparison) without(values map[slot]string) map[slot]string {
	if len(c.lost) == 0 {
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

func (c *comparison) one(series string, direct, fed map[slot]string) {
	direct = c.without(direct)
	slots := make(map[slot]string, len(direct))
	maps.Copy(slots, direct)
	maps.Copy(slots, fed)
	for _, s := range slices.SortedFunc(maps.Keys(slots), compareSlots) {
		n := c.number(s)
		if s.kind == scraped && (n < c.first || n > c.last) || c.unlike[n] {
			continue
		}
		c.samples++
		a, b := direct[s], fed[s]
		if a == b {
			continue
		}
		if a == "" {
			a = none
		}
		if b == "" {
			b = none
		}
		if c.isExpected(series, s, a, b) {
			continue
		}
		c.found = append(c.found, difference{c.direct.target, series, s.String(), a, b})
	}
}

func compareSlots(a, b slot) int {
	if a.kind != b.kind {
		return int(a.kind - b.kind)
	}
	return int(a.n - b.n)
}

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
	if s.kind == scraped && strings.HasPrefix(fed, stale) && direct == none && c.fed.downAt[n] {
		return "no marker for a series that is in a body before the place at which the scrape fails"
	}
	if s.kind == scraped && strings.HasPrefix(direct, stale) && fed == none && c.fed.downAt[n-1] {
		return "no marker for a series that is in a body before the place at which the scrape fails"
	}
	added := strings.Contains(series, `__name__="scrape_series_added"`)
	if added && s.kind == scraped && c.fresh[n] {
		a, b := leading(direct), leading(fed)
		if b >= a && b <= leading(c.fed.series[strings.Replace(series, "scrape_series_added", "scrape_samples_post_metric_relabeling", 1)][s]) {
			return "scrape_series_added of the first scrape after a restart of the poller"
		}
	}
	if c.recalled[n] && s.kind == scraped && direct == none && strings.HasPrefix(fed, stale) && c.staleBefore(series, s) {
		return "a second marker after the receiver was killed"
	}
	if c.direct.tracked && (added || refusedSeries.MatchString(series)) {
		return "a sample that Prometheus' storage refuses for its time, with track_timestamps_staleness"
	}
	if c.jobRemoved && s.kind == ended && direct == none && strings.HasPrefix(fed, stale) {
		return "markers when a job is taken out of the configuration"
	}
	if s.kind == timed && fed == none && strings.Contains(series, `__name__="twice"`) && strings.Contains(series, `n="timed"`) {
		return "two samples of one series with times of their own in one body"
	}
	if c.w.version == 1 && fed == none && (strings.Contains(direct, "schema -53") || direct == stale+" histogram of integers") {
		return customBuckets
	}
	return ""
}

const customBuckets = "a histogram with custom buckets, or its exemplars, has no form in version 1.0"

// custom tells whether a series is of histograms with custom buckets.
func (c *comparison) custom(series string) bool {
	for _, v := range c.direct.series[series] {
		if strings.Contains(v, "schema -53") {
			return true
		}
	}
	return false
}

// refusedSeries are those whose times go back.
var refusedSeries = regexp.MustCompile(`__name__="timed",.*n="(back|half|changing|same time)"`)

// staleBefore tells whether what the fed one has of a series before a scrape is a marker.
func (c *comparison) staleBefore(series string, s slot) bool {
	before, last := "", -1
	for x, v := range c.fed.series[series] {
		if n := c.number(x); n < c.number(s) && n > last {
			before, last = v, n
		}
	}
	return strings.HasPrefix(before, stale)
}

func leading(value string) float64 {
	text, _, _ := strings.Cut(value, " ")
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return math.NaN()
	}
	return v
}

func (c *comparison) compareExemplars() {
	for _, s := range slices.Sorted(maps.Keys(c.direct.exemplars)) {
		c.oneExemplars(s, c.direct.exemplars[s], c.fed.exemplars[s])
	}
	for _, s := range slices.Sorted(maps.Keys(c.fed.exemplars)) {
		if c.direct.exemplars[s] == nil {
			c.oneExemplars(s, nil, c.fed.exemplars[s])
		}
	}
}

func (c *comparison) oneExemplars(series string, direct, fed []string) {
	keep := func(all []string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(e string) bool {
			var s slot
			fmt.Sscan(e, &s.kind, &s.n)
			n := c.number(s)
			return s.kind == scraped && (n < c.first || n > c.last) || c.unlike[n] || c.lost[n]
		})
	}
	direct, fed = keep(direct), keep(fed)
	c.samples += len(direct)
	fed = slices.DeleteFunc(fed, func(e string) bool {
		var s slot
		fmt.Sscan(e, &s.kind, &s.n)
		again := s.kind == scraped && c.recalled[int(s.n)] && !slices.Contains(direct, e)
		if again {
			c.expected["an exemplar without a time once more after the receiver was killed"]++
		}
		return again
	})
	if slices.Equal(direct, fed) {
		return
	}
	if c.w.version == 1 && len(fed) == 0 && c.custom(series) {
		c.expected[customBuckets]++
		return
	}
	only := func(a, b []string) string {
		return strings.Join(slices.DeleteFunc(slices.Clone(a), func(x string) bool { return slices.Contains(b, x) }), "\n\t       ")
	}
	c.found = append(c.found, difference{c.direct.target, series, "exemplars that the other does not have", only(direct, fed), only(fed, direct)})
}
