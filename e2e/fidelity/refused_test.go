//go:build fidelity

package fidelity

import (
	"fmt"
	"math"
	"strings"
	"testing"
)

// What the two have to hold of a series whose times go back: to Prometheus it vanishes with the sample that its storage refuses, and
// what comes after the marker of that is refused too; here it vanishes when it is not shown.
func TestHistory(t *testing.T) {
	const series = `__name__="timed",n="back",`
	at := func(ms int64) *shownSample { return &shownSample{value: float64(ms), ms: ms, timed: true} }
	for name, c := range map[string]struct {
		shown     []*shownSample // by scrape, at 1000, 2000 and so on; nil if it is not
		want      [2]string
		wantAdded [2]string
	}{
		"in order":   {[]*shownSample{at(10), at(20), at(30)}, [2]string{"10 20 30", "10 20 30"}, [2]string{"1 0 0", "1 0 0"}},
		"goes back":  {[]*shownSample{at(10), at(5), at(30)}, [2]string{"10 stale2000", "10 30"}, [2]string{"1 0 0", "1 0 0"}},
		"vanishes":   {[]*shownSample{at(10), nil, at(30)}, [2]string{"10 stale2000", "10 stale2000"}, [2]string{"1 0 0", "1 0 1"}},
		"comes late": {[]*shownSample{at(10), nil, at(2500)}, [2]string{"10 stale2000 2500", "10 stale2000 2500"}, [2]string{"1 0 1", "1 0 1"}},
		"same again": {[]*shownSample{at(10), at(10)}, [2]string{"10", "10"}, [2]string{"1 0", "1 0"}},
		"no time":    {[]*shownSample{{value: 1000}, at(20), {value: 3000}}, [2]string{"1000 stale2000 3000", "1000 3000"}, [2]string{"1 0 0", "1 0 0"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, who := range []asker{direct, fed} {
				h := history{series: series, asker: who, values: map[slot]string{}, newest: math.MinInt64}
				added := ""
				for i, x := range c.shown {
					shown := map[string]shownSample{}
					if x != nil {
						shown[series] = *x
					}
					added += fmt.Sprint(" ", h.take(slot{scraped, int64(i + 1)}, int64(i+1)*1000, shown, false))
				}
				got := ""
				for _, ms := range []int64{5, 10, 20, 30, 1000, 2000, 2500, 3000} {
					for _, s := range []slot{{timed, ms}, {scraped, ms / 1000}} {
						if v, ok := h.values[s]; ok && (s.kind == timed || ms%1000 == 0) {
							if v == stale {
								v += fmt.Sprint(ms)
							}
							text, _, _ := strings.Cut(v, " ")
							got += " " + text
						}
					}
				}
				if got != " "+c.want[who] {
					t.Errorf("%s: %s, want %s", who, got, c.want[who])
				}
				if added != " "+c.wantAdded[who] {
					t.Errorf("%s: added %s, want %s", who, added, c.wantAdded[who])
				}
			}
		})
	}
}
