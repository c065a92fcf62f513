package exposition

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// TestBatches gives a layout bodies with several samples of a series, with times of their own and without, in and out of order, of
// series that come and go, and compares each with the reference.
func TestBatches(t *testing.T) {
	for seed := range uint64(40) {
		rnd := rand.New(rand.NewPCG(seed, 5))
		now := func() time.Time { return time.UnixMilli(10_000_000) }
		rules := Rules{HonorTimestamps: seed%8 > 0, Now: now}
		contentType := textType
		if seed%3 == 0 {
			contentType = openMetricsType
		}
		l, r := NewLayout(rules, NewSchemas()), newReference(rules)
		most := 0
		for scrape := range 60 {
			var b strings.Builder
			for i := range rnd.IntN(25) {
				fmt.Fprintf(&b, `m{s="%d"} %d`, rnd.IntN(4), rnd.IntN(50))
				if ms := 9_900_000 + 2500*scrape + 200*i + rnd.IntN(400); rnd.IntN(6) == 0 {
				} else if contentType == textType {
					fmt.Fprintf(&b, " %d", ms)
				} else {
					fmt.Fprintf(&b, " %d.%03d", ms/1000, ms%1000)
				}
				if contentType != textType && rnd.IntN(4) == 0 {
					fmt.Fprintf(&b, ` # {id="%d"} 1`, rnd.IntN(1000))
				}
				b.WriteByte('\n')
			}
			if contentType != textType {
				b.WriteString("# EOF\n")
			} else if b.Len() == 0 {
				continue // nothing at all is another matter
			}
			p := check(t, l, r, []byte(b.String()), contentType)
			most = max(most, len(p.Column.Earlier))
		}
		if rules.HonorTimestamps != (most > 5) {
			t.Errorf("seed %d: at most %d earlier samples", seed, most)
		}
	}
}

// TestUnchangedForgetsAndRemembers: a scrape in which nothing but values changed ends what was before it, as every good one.
func TestUnchangedForgetsAndRemembers(t *testing.T) {
	now := func() time.Time { return time.UnixMilli(10_000) }
	for name, bodies := range map[string]string{
		"a failed scrape":                    "a 1\n|a 1\nx 1\nwrong\n|a 2\n|a 3\nx 1\n",
		"a failed one while some are absent": "a 1\nv 1\n|a 2\n|a 2\nx 1\nwrong\n|a 3\n|a 4\nx 1\n",
		"times":                              "a 1 1000\na 2 2000\n|a 3 5000\n|a 4 8000\n|a 5 6000\na 6 9000\n",
		"times while some are absent":        "a 1 1000\na 2 2000\nv 1 1000\n|a 3 5000\n|a 4 8000\n|a 4 8500\n|a 5 6000\na 6 9000\n",
	} {
		t.Run(name, func(t *testing.T) {
			rules := Rules{HonorTimestamps: true, Now: now}
			l, r := NewLayout(rules, NewPackedSchemas()), newReference(rules)
			var last Parsed
			for body := range strings.SplitSeq(bodies, "|") {
				last = check(t, l, r, []byte(body), textType)
			}
			if len(last.Column.Earlier) > 0 {
				t.Errorf("earlier samples %v, which are older than one before", last.Column.Earlier)
			}
		})
	}
}

// TestEarlierAreSentOnce: what a target shows again is in the column of the first scrape alone, whatever becomes of the schema.
func TestEarlierAreSentOnce(t *testing.T) {
	l := NewLayout(Rules{HonorTimestamps: true, Now: func() time.Time { return time.UnixMilli(1000) }}, NewSchemas())
	for i, tc := range []struct {
		body string
		want []frame.Earlier
	}{
		{"a 1 10\na 2 20\na 3 30\n", []frame.Earlier{{Row: 0, Value: 1, Timestamp: 10}, {Row: 0, Value: 2, Timestamp: 20}}},
		{"a 2 20\na 3 30\na 4 40\n", nil},
		{"b 1\na 3 30\na 4 40\na 5 50\na 6 60\n", []frame.Earlier{{Row: 1, Value: 5, Timestamp: 50}}},
		{"b 1\n", nil},
		{"b 1\na 5 50\na 7 70\na 8 80\n", []frame.Earlier{{Row: 1, Value: 7, Timestamp: 70}}},
	} {
		p := parse(t, l, tc.body)
		if !slices.Equal(p.Column.Earlier, tc.want) || p.Skipped.Duplicates != 0 {
			t.Errorf("scrape %d: earlier %v, skipped %+v, want %v", i, p.Column.Earlier, p.Skipped, tc.want)
		}
	}
}
