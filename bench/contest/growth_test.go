package contest

import (
	"strings"
	"testing"
)

func TestGrowth(t *testing.T) {
	result := func(n int, edge, central, edgeMiB, centralMiB float64) *Result {
		return &Result{Load: Load{N: n, M: 100, Gzip: true}, Roles: map[string]Use{
			Edge: {CPU: edge, Memory: edgeMiB}, Central: {CPU: central, Memory: centralMiB},
		}}
	}
	var out strings.Builder
	if err := writeGrowth(&out, []*Result{result(220, 3, 0.5, 60, 40), result(20, 2, 1, 50, 40)}); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	want := []string{
		"| 20 × 100, 0s | 2000 | 2.00 | 1.00 | 1.00 | 1.00 | 0.00 | 50 | - | 40 | - | 0.00 | 0.000 |",
		"| 220 × 100, 0s | 22000 | 3.00 | 1.50 | 0.50 | 0.50 | 0.00 | 60 | 524 | 40 | 0 | 0.00 | 0.000 |",
	}
	for i, w := range want {
		if got := lines[len(lines)-2+i]; got != w {
			t.Errorf("got\n%s, want\n%s", got, w)
		}
	}
}
