package contest

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// ours is the contestant that the others are compared with; what else begins with it is it, with another sink.
const ours = "prometheus-streams"

// oursWriting is ours with remote write to the receiver that only counts, where the others' samples arrive too.
const oursWriting = ours + ", remote write"

// figure is one line of the summary. Less is better in all of them.
type figure struct {
	what, format string
	of           func(*Result) float64
	// goal for our figure, and vmagent as a multiple of vmagent's; 0 is none.
	goal, vmagent float64
	// writing: it is that of ours with remote write; left out if that did not run.
	writing bool
}

// figures are what the design sets goals for.
func figures() []figure {
	return []figure{
		{what: "wire, edge to centre, bytes per sample", format: "%.2f", of: func(r *Result) float64 { return r.Up }, goal: 1.9},
		{what: "edge CPU, seconds per million samples", format: "%.2f", of: func(r *Result) float64 { return r.Roles[Edge].CPU }, goal: 1.3, vmagent: 0.4},
		{what: "edge memory, MiB", format: "%.0f", of: func(r *Result) float64 { return r.Roles[Edge].Memory }, vmagent: 1},
		{what: "transport CPU, seconds per million samples", format: "%.2f", of: func(r *Result) float64 { return r.Roles[Transport].CPU }},
		{what: "central CPU, seconds per million samples", format: "%.2f", of: func(r *Result) float64 { return r.Roles[Central].CPU }, goal: 0.25},
		{what: "scrape to arrival, median, ms", format: "%.0f", of: func(r *Result) float64 { return r.P50 }, goal: 200},
		{what: "scrape to arrival, 99th percentile, ms", format: "%.0f", of: func(r *Result) float64 { return r.P99 }, goal: 350},
		{what: "central CPU with remote write, seconds per million samples", format: "%.2f", of: func(r *Result) float64 { return r.Roles[Central].CPU }, writing: true},
		{what: "scrape to arrival by remote write, median, ms", format: "%.0f", of: func(r *Result) float64 { return r.P50 }, goal: 200, writing: true},
		{what: "scrape to arrival by remote write, 99th percentile, ms", format: "%.0f", of: func(r *Result) float64 { return r.P99 }, goal: 350, writing: true},
	}
}

// writeSummary prints our figures beside the best of the others, and beside vmagent's best.
func writeSummary(w io.Writer, results []*Result) error {
	out := bufio.NewWriter(w)
	rows := rowsOf(results, func(r *Result) string { return r.Contestant })
	var own, writing *row
	var peers, agents []*row
	for _, row := range rows {
		switch {
		case row.name == ours:
			own = row
		case row.name == oursWriting:
			writing = row
		case strings.HasPrefix(row.name, ours), row.runs[0].Roles[Edge].CPU == 0, row.median("%f", (*Result).sent) == "-":
			// ourselves with another sink, or what has no edge or sends nothing, as the floor
		default:
			peers = append(peers, row)
			if strings.HasPrefix(row.name, "vmagent") {
				agents = append(agents, row)
			}
		}
	}
	if own == nil {
		return fmt.Errorf("no results of %s", ours)
	}
	fmt.Fprintln(out, "| less is better | "+ours+" | best other | ratio | vmagent | ratio | goal | met |")
	fmt.Fprintln(out, "|"+strings.Repeat(" --- |", 8))
	for _, f := range figures() {
		switch {
		case !f.writing:
			f.write(out, own, peers, agents)
		case writing != nil:
			f.write(out, writing, peers, agents)
		}
	}
	return out.Flush()
}

// sent tells a contestant from the floor, which sends nothing.
func (r *Result) sent() float64 { return r.Up }

func (f *figure) write(w io.Writer, own *row, peers, agents []*row) {
	mine := median(own.figures(f.of))
	best, name := f.best(peers)
	agent, _ := f.best(agents)
	show := func(v float64) string {
		if v == 0 {
			return "-"
		}
		return fmt.Sprintf(f.format, v)
	}
	ratio := func(of float64) string {
		if of == 0 || mine == 0 {
			return "-"
		}
		return fmt.Sprintf("%.2f", mine/of)
	}
	other := show(best)
	if name != "" {
		other += " (" + name + ")"
	}
	var goals []string
	met := true
	if f.goal > 0 {
		goals = append(goals, "≤ "+fmt.Sprintf("%g", f.goal))
		met = met && mine <= f.goal
	}
	if f.vmagent > 0 && agent > 0 {
		goals = append(goals, fmt.Sprintf("≤ %g × vmagent", f.vmagent))
		met = met && mine <= f.vmagent*agent
	}
	verdict := "-"
	if len(goals) > 0 && mine > 0 {
		verdict = map[bool]string{true: "yes", false: "**no**"}[met]
	}
	cells := []string{f.what, "**" + show(mine) + "**", other, ratio(best), show(agent), ratio(agent), strings.Join(goals, ", "), verdict}
	fmt.Fprintln(w, "| "+strings.Join(cells, " | ")+" |")
}

// best is the least of some contestants' medians and whose it is; 0 if none has the figure.
func (f *figure) best(rows []*row) (least float64, name string) {
	for _, row := range rows {
		if m := median(row.figures(f.of)); m > 0 && (name == "" || m < least) {
			least, name = m, row.name
		}
	}
	return least, name
}

// churnGoal is how many bytes per sample 1 % of the series that are replaced each minute may cost on the wire.
const churnGoal = 0.4

// writeChurn compares our wire under churn with that under the same load without.
func writeChurn(w io.Writer, results []*Result) error {
	for _, r := range results {
		for _, still := range results {
			load := r.Load
			load.Churn = 0
			if r.Contestant != ours || still.Contestant != ours || r.Load.Churn == 0 || still.Load != load {
				continue
			}
			_, err := fmt.Fprintf(w, "With %g %% of the series replaced each minute the wire takes %+.2f bytes per sample more: %.2f, not %.2f (goal: at most %g more).\n",
				100*r.Load.Churn, r.Up-still.Up, r.Up, still.Up, churnGoal)
			return err
		}
	}
	return fmt.Errorf("no results of %s with and without churn", ours)
}
