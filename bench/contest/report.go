package contest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// ReportMain prints a markdown table of the results in some files.
func ReportMain(_ context.Context, args []string) error {
	fs := flag.NewFlagSet("report", flag.ContinueOnError)
	growth := fs.Bool("growth", false, "how the cost grows with the load, of one contestant")
	summary := fs.Bool("summary", false, "ours beside the best of the others, with ratios and goals")
	churn := fs.Bool("churn", false, "what series that are replaced cost on the wire, in a sentence")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() == 0 {
		return errors.New("no files with results")
	}
	var results []*Result
	for _, path := range fs.Args() {
		more, err := readResults(path)
		if err != nil {
			return err
		}
		results = append(results, more...)
	}
	switch {
	case *growth:
		return writeGrowth(os.Stdout, results)
	case *summary:
		return writeSummary(os.Stdout, results)
	case *churn:
		return writeChurn(os.Stdout, results)
	default:
		return writeReport(os.Stdout, results)
	}
}

func readResults(path string) ([]*Result, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []*Result
	d := json.NewDecoder(bufio.NewReader(f))
	for {
		r := &Result{}
		if err := d.Decode(r); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, r)
	}
}

// row are the runs of one contestant under one load.
type row struct {
	name string
	runs []*Result
}

// rowsOf puts results of one name together, in the order in which the names come first.
func rowsOf(results []*Result, name func(*Result) string) (rows []*row) {
	for _, r := range results {
		name := name(r)
		i := slices.IndexFunc(rows, func(row *row) bool { return row.name == name })
		if i < 0 {
			rows = append(rows, &row{name: name})
			i = len(rows) - 1
		}
		rows[i].runs = append(rows[i].runs, r)
	}
	return rows
}

// writeReport prints the median of each figure over a contestant's runs, and the spread of the edge's CPU.
func writeReport(w io.Writer, results []*Result) error {
	rows := rowsOf(results, func(r *Result) string { return fmt.Sprintf("%s | %s", r.Contestant, r.Load) })
	out := bufio.NewWriter(w)
	fmt.Fprintln(out, "CPU in seconds per million samples (user and system); memory is peak RSS in MiB, of which anonymous memory is the own, without the pages of the program and other files; wire is edge to centre and back, all in, per sample.")
	fmt.Fprintln(out)
	fmt.Fprintln(out, "| contestant | load | runs | edge CPU | transport CPU | central CPU | total CPU | floor CPU, same run | edge ÷ floor | edge MiB | edge anonymous MiB | transport MiB | central MiB | wire up B | wire down B | p50 ms | p99 ms | lost % |")
	fmt.Fprintln(out, "|"+strings.Repeat(" --- |", 18))
	for _, row := range rows {
		row.write(out)
	}
	return out.Flush()
}

func (row *row) write(w io.Writer) {
	edge := func(r *Result) float64 { return r.Roles[Edge].CPU }
	cells := []string{
		row.name, fmt.Sprint(len(row.runs)),
		row.spread(edge),
		row.median("%.2f", func(r *Result) float64 { return r.Roles[Transport].CPU }),
		row.median("%.2f", func(r *Result) float64 { return r.Roles[Central].CPU }),
		row.median("%.2f", (*Result).TotalCPU),
		row.median("%.2f", func(r *Result) float64 { return r.Floor }),
		row.median("%.1f", func(r *Result) float64 {
			if r.Floor == 0 {
				return 0
			}
			return edge(r) / r.Floor
		}),
		row.median("%.0f", func(r *Result) float64 { return r.Roles[Edge].Memory }),
		row.median("%.0f", func(r *Result) float64 { return r.Roles[Edge].Anonymous }),
		row.median("%.0f", func(r *Result) float64 { return r.Roles[Transport].Memory }),
		row.median("%.0f", func(r *Result) float64 { return r.Roles[Central].Memory }),
		row.median("%.2f", func(r *Result) float64 { return r.Up }),
		row.median("%.2f", func(r *Result) float64 { return r.Down }),
		row.median("%.0f", func(r *Result) float64 { return r.P50 }),
		row.median("%.0f", func(r *Result) float64 { return r.P99 }),
		row.lost(),
	}
	fmt.Fprintln(w, "| "+strings.Join(cells, " | ")+" |")
}

// median of a figure; "-" where no run has it.
func (row *row) median(format string, figure func(*Result) float64) string {
	if m := median(row.figures(figure)); m != 0 {
		return fmt.Sprintf(format, m)
	}
	return "-"
}

// spread is the median with the least and the largest.
func (row *row) spread(figure func(*Result) float64) string {
	all := row.figures(figure)
	text := row.median("%.2f", figure)
	if len(all) > 1 {
		text += fmt.Sprintf(" (%.2f..%.2f)", slices.Min(all), slices.Max(all))
	}
	return text
}

// lost is the worst of all runs, which a median would hide.
func (row *row) lost() string {
	worst := slices.Max(row.figures(func(r *Result) float64 { return r.Lost }))
	if worst < 0 {
		return "-"
	}
	return fmt.Sprintf("%.3f", 100*worst)
}

func (row *row) figures(figure func(*Result) float64) []float64 {
	var all []float64
	for _, r := range row.runs {
		all = append(all, figure(r))
	}
	return all
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 1 {
		return v[n/2]
	} else if n > 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return 0
}

// String is the load as a table shows it.
func (l Load) String() string {
	text := fmt.Sprintf("%d × %d, %v", l.N, l.M, l.Interval)
	if l.Churn > 0 {
		text += fmt.Sprintf(", %g %% churn/min", 100*l.Churn)
	}
	if l.SameShape {
		text += ", same shape"
	}
	if !l.Gzip {
		text += ", no gzip"
	}
	return text
}
