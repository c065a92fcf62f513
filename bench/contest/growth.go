package contest

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
)

// writeGrowth prints how the cost at both ends grows with the load: CPU per sample beside the least of the smaller loads, and
// the memory that each further series took.
func writeGrowth(w io.Writer, results []*Result) error {
	results = slices.Clone(results)
	slices.SortStableFunc(results, func(a, b *Result) int { return a.Load.N*a.Load.M - b.Load.N*b.Load.M })
	out := bufio.NewWriter(w)
	fmt.Fprintln(out, "CPU in seconds per million samples, also as a multiple of the least under a smaller load; memory is peak RSS in MiB, and in bytes for each series more than under the smallest load.")
	fmt.Fprintln(out)
	fmt.Fprintln(out, "| load | series | edge CPU | × | central CPU | × | floor CPU | edge MiB | B/series | central MiB | B/series | wire up B | lost % |")
	fmt.Fprintln(out, "|"+strings.Repeat(" --- |", 13))
	for i, r := range results {
		first := results[0]
		cells := []string{r.Load.String(), fmt.Sprint(r.Load.N * r.Load.M)}
		for _, role := range []string{Edge, Central} {
			cells = append(cells, fmt.Sprintf("%.2f", r.Roles[role].CPU), fmt.Sprintf("%.2f", multiple(r.Roles[role].CPU, leastCPU(results[:max(i, 1)], role))))
		}
		cells = append(cells, fmt.Sprintf("%.2f", r.Floor))
		for _, role := range []string{Edge, Central} {
			cells = append(cells, fmt.Sprintf("%.0f", r.Roles[role].Memory), perSeries(r, first, role))
		}
		cells = append(cells, fmt.Sprintf("%.2f", r.Up), fmt.Sprintf("%.3f", 100*r.Lost))
		fmt.Fprintln(out, "| "+strings.Join(cells, " | ")+" |")
	}
	return out.Flush()
}

// leastCPU is the least that a role needed: what it costs at rest is most of the smallest load's figure, and would hide growth.
func leastCPU(results []*Result, role string) float64 {
	least := results[0].Roles[role].CPU
	for _, r := range results {
		least = min(least, r.Roles[role].CPU)
	}
	return least
}

func multiple(x, of float64) float64 {
	if of == 0 {
		return 0
	}
	return x / of
}

// perSeries is the memory that a role took for each series that r has more than first.
func perSeries(r, first *Result, role string) string {
	more := r.Load.N*r.Load.M - first.Load.N*first.Load.M
	if more <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f", (r.Roles[role].Memory-first.Roles[role].Memory)*(1<<20)/float64(more))
}
