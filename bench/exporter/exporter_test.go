package exporter

import (
	"bytes"
	"strings"
	"testing"
)

// samples are the lines of a page that are no comments: name and labels to value.
func samples(t *testing.T, page []byte) map[string]string {
	t.Helper()
	all := map[string]string{}
	for line := range bytes.Lines(page) {
		if line[0] == '#' {
			continue
		}
		text := strings.TrimSuffix(string(line), "\n")
		i := strings.LastIndexByte(text, ' ')
		if _, twice := all[text[:i]]; twice {
			t.Errorf("%s is there twice", text[:i])
		}
		all[text[:i]] = text[i+1:]
	}
	return all
}

func TestPage(t *testing.T) {
	for _, m := range []int{1, 10, 200, 1000} {
		p := newPage(3, m)
		first := samples(t, p.next(options{}))
		second := samples(t, p.next(options{}))
		if len(first) != m || p.series != m {
			t.Errorf("%d series and %d said, want %d", len(first), p.series, m)
		}
		moved := 0
		for name, v := range second {
			if before, ok := first[name]; !ok {
				t.Errorf("%s is new in the second scrape", name)
			} else if before != v {
				moved++
			}
		}
		if m == 1000 && (moved < 500 || moved > 600) {
			t.Errorf("%d of %d values moved, want a bit more than half", moved, m)
		}
		if again := samples(t, newPage(3, m).next(options{})); len(again) != m {
			t.Errorf("the same target again has %d series", len(again))
		} else {
			for name, v := range again {
				if first[name] != v {
					t.Errorf("%s is %s, the first time it was %s", name, v, first[name])
				}
			}
		}
	}
}

func TestChurn(t *testing.T) {
	p := newPage(0, 1000)
	o := options{churn: 0.02, churnEvery: 2}
	before := samples(t, p.next(o))
	after := samples(t, p.next(o))
	replaced := 0
	for name := range after {
		if _, ok := before[name]; !ok {
			replaced++
		}
	}
	if replaced != 20 || len(after) != 1000 {
		t.Errorf("%d of %d series replaced, want 20 of 1000", replaced, len(after))
	}
}
