//go:build fidelity

package fidelity

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

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
			beyond := n > c.last && (s.kind == scraped || len(c.fed.ends) > 0) // the two saw one that was removed for different times
			return s.kind == scraped && n < c.first || beyond || c.unlike[n] || c.lost[n]
		})
	}
	fed = c.delayed(direct, fed)
	direct, fed = keep(direct), keep(fed)
	c.samples += len(direct)
	if slices.Equal(direct, fed) {
		return
	}
	if c.w.version == 1 && len(fed) == 0 && c.custom(series) {
		c.expected[noForm]++
		return
	}
	only := func(a, b []string) string {
		return strings.Join(slices.DeleteFunc(slices.Clone(a), func(x string) bool { return slices.Contains(b, x) }), "\n\t       ")
	}
	c.differ(series, "exemplars that the other does not have", only(direct, fed), only(fed, direct))
}
