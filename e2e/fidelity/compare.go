//go:build fidelity

package fidelity

import (
	"fmt"
	"maps"
	"slices"
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
	refused *refusals               // see tooOld
	// between are the scrapes compared.
	first, last int
	// unlike are scrapes that cannot be the same: those about a refused one, which none of the two sees at the same number.
	unlike map[int]bool
	// fresh are the first scrapes after a restart of the poller, up to one that succeeds and has series.
	fresh map[int]bool
	// anew are the first scrapes at another interval, by who asks; 0 if it stays the same.
	anew     [2]int
	reloaded time.Time
	// lost are scrapes that a restart cost.
	lost map[int]bool
	// jobRemoved: its whole job was.
	jobRemoved bool
	found      []difference
	// expected counts differences by the rule for which they are expected, expectable how many there can be by what was shown.
	expected, expectable map[string]int
	samples              int
}

// compare lists the differences of a target; asked is what the poller asked it for.
func (w *world) compare(direct, fed *group, asked []request, answers func(int) answer, by disturbed) *comparison {
	c := &comparison{w: w, direct: direct, fed: fed, answers: answers, seen: map[int]map[string]bool{}, unlike: map[int]bool{}, fresh: map[int]bool{},
		reloaded: by.reloaded, lost: map[int]bool{}, expected: map[string]int{}, expectable: map[string]int{}}
	if !c.bounds() {
		return c
	}
	c.losses(asked, by.restarted)
	c.after(asked, by)
	c.leaveOut()
	c.expect()
	c.marked()
	for _, s := range slices.Sorted(maps.Keys(direct.series)) {
		c.one(s, direct.series[s], fed.series[s])
	}
	for _, s := range slices.Sorted(maps.Keys(fed.series)) {
		if direct.series[s] == nil {
			c.one(s, nil, fed.series[s])
		}
	}
	c.compareExemplars()
	return c
}

func (c *comparison) differ(series, where, direct, fed string) {
	c.found = append(c.found, difference{c.direct.target, series, where, direct, fed})
}

// bounds finds between which scrapes the two are compared; false if there are none.
func (c *comparison) bounds() bool {
	for _, g := range []*group{c.direct, c.fed} {
		for _, f := range g.faults {
			c.found = append(c.found, difference{g.target, "", "", f, f})
		}
	}
	if len(c.direct.numbers) == 0 || len(c.fed.numbers) == 0 {
		c.differ("", "scrapes", fmt.Sprint(c.direct.numbers), fmt.Sprint(c.fed.numbers))
		return false
	}
	a, b := c.direct.numbers, c.fed.numbers
	ends := [2]int{a[len(a)-1], b[len(b)-1]}
	c.first, c.last = max(a[0], b[0]), min(ends[direct], ends[fed], c.w.last)
	if a[0] != b[0] { // which series the first one makes stale depends on the one before
		c.first++
	}
	if from := min(a[0], b[0]); c.first > from {
		if c.expected[beginsLater] += c.first - from; !strings.HasPrefix(c.direct.target, "relabelled") {
			c.differ("", "first scrape", fmt.Sprint(a[0]), fmt.Sprint(b[0]))
		}
	}
	removed := len(c.fed.ends) > 0 && c.direct.target != "returning"
	least := c.w.last
	switch c.direct.target { // those of which there are fewer
	case "returning":
		least -= 3 * notices
	case "slower":
		least /= 2
	}
	if !removed && c.last < least || removed && max(ends[direct], ends[fed])-c.last > notices {
		c.differ("", "last scrape", fmt.Sprint(ends[direct]), fmt.Sprint(ends[fed]))
	}
	for who, g := range []*group{c.direct, c.fed} {
		if !removed || len(g.ends) == 0 {
			continue
		}
		// A removed target's markers have the time at which its next scrape would have been.
		if off := time.Duration(g.ends[0]-g.times[g.last()])*time.Millisecond - interval; len(g.ends) > 1 || off.Abs() > interval/2 {
			c.differ("", fmt.Sprintf("the end, %s: %d markers", asker(who), len(g.ends)), fmt.Sprint(interval, " after the last scrape"), fmt.Sprint(interval+off))
		}
	}
	c.jobRemoved = c.direct.target == "removed-reload"
	return true
}

// last is the number of the last scrape.
func (g *group) last() int { return g.numbers[len(g.numbers)-1] }

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
		c.differ(series, s.String(), a, b)
	}
}

func compareSlots(a, b slot) int {
	if a.kind != b.kind {
		return int(a.kind - b.kind)
	}
	return int(a.n - b.n)
}
