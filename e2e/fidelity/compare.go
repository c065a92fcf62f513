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
	// answers gives what the target said.
	answers func(int) answer
	seen    map[int]map[string]bool // see before
	// between are the scrapes compared.
	first, last int
	// unlike are scrapes that cannot be the same: those about a refused one, which none of the two sees at the same number.
	unlike map[int]bool
	// fresh are the first scrapes after a restart of the poller, up to one that succeeds and has series.
	fresh map[int]bool
	// changed are the scrapes that are the first at another interval, for the one or the other.
	changed map[int]bool
	// lost are scrapes that a restart cost.
	lost map[int]bool
	// jobRemoved: its whole job was.
	jobRemoved bool
	found      []difference
	// expected counts differences by the reason for which they are expected.
	expected map[string]int
	samples  int
}

// disturbed is when what lies between was disturbed: the poller restarted, both configured anew.
type disturbed struct {
	restarted []time.Time
	reloaded  time.Time
}

// compare lists the differences of a target; asked is what the poller asked it for.
func (w *world) compare(direct, fed *group, asked []request, answers func(int) answer, by disturbed) *comparison {
	c := &comparison{w: w, direct: direct, fed: fed, answers: answers, seen: map[int]map[string]bool{}, unlike: map[int]bool{}, fresh: map[int]bool{},
		changed: map[int]bool{}, lost: map[int]bool{}, expected: map[string]int{}}
	c.bounds()
	c.losses(asked, by.restarted)
	c.after(asked, by)
	for _, at := range [][2]int{{direct.refusedAfter, fed.refusedAfter}, {direct.endedAfter, fed.endedAfter}} {
		a, b := at[0], at[1]
		if a == 0 || b == 0 {
			continue
		}
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
	if len(c.fed.ends) == 0 && c.last < c.w.last && !fewer(c.direct.target) {
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
	if c.direct.target == "slower" {
		for _, n := range c.fed.numbers {
			if at[n].After(by.reloaded) {
				c.change(n)
				break
			}
		}
	}
	for _, r := range by.restarted {
		for _, n := range c.fed.numbers {
			if at[n].After(r) {
				if c.fresh[n] = true; !c.fed.downAt[n] && c.fed.added(n) > 0 {
					break
				}
			}
		}
	}
}

// change finds the first scrapes at another interval, of which one is about scrape n: all series are new then. On a machine
// that is busy one of the two may have begun to scrape some scrapes after the other.
func (c *comparison) change(n int) {
	for at := n - 8; at <= n+8; at++ {
		for _, g := range []*group{c.direct, c.fed} {
			if g.added(at) > c.samplesOf(at)/2 {
				c.changed[at] = true
			}
		}
	}
}

// markedAtChange tells whether the fed one marked a series in the first scrape at another interval.
func (c *comparison) markedAtChange(series string) bool {
	for n := range c.changed {
		if strings.HasPrefix(c.fed.series[series][slot{scraped, int64(n)}], stale) {
			return true
		}
	}
	return false
}

// added is scrape_series_added of a scrape; 0 if there is none.
func (g *group) added(n int) float64 {
	for series, values := range g.series {
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

func (c *comparison) one(series string, direct, fed map[slot]string) {
	direct = c.without(series, direct)
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
	onlyDirect, onlyFed := strings.HasPrefix(direct, stale) && fed == none, direct == none && strings.HasPrefix(fed, stale)
	switch added := strings.Contains(series, `__name__="scrape_series_added"`); {
	case s.kind == scraped && (onlyFed && c.before(n, series) || onlyDirect && c.before(n-1, series)):
		return "no marker for a series that is in a body before the place at which the scrape fails"
	case added && s.kind == scraped && c.fresh[n] && leading(fed) > leading(direct) && c.isSeries(n, leading(fed)):
		return "scrape_series_added of the first scrape after a restart of the poller"
	case s.kind == scraped && c.changed[n] && added:
		return "scrape_series_added of the first scrape at another interval, which comes a scrape earlier for one of the two"
	case s.kind == scraped && c.changed[n] && onlyFed, s.kind == timed && onlyDirect && c.markedAtChange(series):
		return "a marker later, or none, for a series that vanishes in the first scrape at another interval"
	case c.direct.tracked && refusedSeries.MatchString(series) && (direct == none || fed == none),
		c.direct.tracked && added && s.kind == scraped && math.Abs(leading(fed)-leading(direct)) <= refusedMost:
		return "a sample that Prometheus' storage refuses for its time, with track_timestamps_staleness"
	case c.jobRemoved && s.kind == ended && onlyFed:
		return "markers when a job is taken out of the configuration"
	case c.w.version == 1 && fed == none && c.custom(series) && (strings.Contains(direct, "schema -53") || strings.HasPrefix(direct, stale)):
		return customBuckets
	}
	return ""
}

// isSeries tells whether a number is that of the series that a scrape gave. Some targets show one series in several ways, or samples
// of other times: of these there may be more.
func (c *comparison) isSeries(n int, count float64) bool {
	least, own := 0.0, false
	for series, values := range c.fed.series {
		if strings.HasPrefix(series, `__name__="scrape_`) && !strings.HasPrefix(series, `__name__="scrape_number"`) || strings.HasPrefix(series, `__name__="up"`) {
			continue
		}
		for s, v := range values {
			own = own || s.kind == timed
			if s.kind == scraped && int(s.n) == n && !strings.HasPrefix(v, stale) {
				least++
			}
		}
	}
	if own || slices.Contains(severalWays, c.direct.target) {
		return count >= least && count <= c.samplesOf(n)
	}
	return count == least
}

// severalWays are targets of which two keys give one series, or that have a series called up of their own.
var severalWays = []string{"repeated", "repeated-untimed", "clash", "clash-honored", "rewritten"}

// samplesOf is what the fed one has as scrape_samples_post_metric_relabeling of a scrape.
func (c *comparison) samplesOf(n int) float64 {
	for series, values := range c.fed.series {
		if strings.HasPrefix(series, `__name__="scrape_samples_post_metric_relabeling"`) {
			return leading(values[slot{scraped, int64(n)}])
		}
	}
	return math.NaN()
}

// before tells whether a scrape failed in the middle of a body, and a series is there before that place.
func (c *comparison) before(n int, series string) bool {
	if !c.fed.downAt[n] || !c.direct.downAt[n] || c.answers == nil {
		return false
	}
	if c.seen[n] == nil {
		c.seen[n] = beforeFailure(c.direct.target, c.answers(n))
	}
	exposed, ok := c.direct.exposed[series]
	if !ok {
		exposed = c.fed.exposed[series]
	}
	return c.seen[n][exposed]
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

// refusedMost is how many series have times that go back; refusedSeries are those.
const refusedMost = 4

var refusedSeries = regexp.MustCompile(`__name__="timed",.*n="(back|half|changing|same time)"`)

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

// delayed leaves out the exemplars without a time of their own that a lost scrape was the first to show: they come with the next one.
func (c *comparison) delayed(direct, fed []string) []string {
	return slices.DeleteFunc(slices.Clone(fed), func(e string) bool {
		var s slot
		rest := ""
		fmt.Sscan(e, &s.kind, &s.n)
		if _, rest, _ = strings.Cut(e, " "); s.kind != scraped || !c.lost[int(s.n)-1] {
			return false
		}
		_, rest, _ = strings.Cut(rest, " ")
		return slices.Contains(direct, fmt.Sprintf("%d %d %s", scraped, s.n-1, rest))
	})
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
	fed = c.delayed(direct, fed)
	direct, fed = keep(direct), keep(fed)
	c.samples += len(direct)
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
