package contest

import (
	"fmt"
	"strings"
	"time"
)

// Use is what the processes of one role used in the window.
type Use struct {
	// CPU seconds (user and system) per million samples that the targets served.
	CPU float64
	// Memory is the peak of resident memory in MiB since the start, Anonymous that of it which is no page of a file; added
	// up over the role's processes.
	Memory, Anonymous float64
}

// Result is one run of one contestant.
type Result struct {
	Contestant string
	Time       time.Time
	Load       Load
	// Window in seconds.
	Window float64
	// Roles are edge, transport and central; Procs the single processes.
	Roles map[string]Use
	Procs map[string]Use
	// Served and Arrived count samples in the window, ServedAll and ArrivedAll from the start until the pipeline was empty.
	Served, Arrived       int64
	ServedAll, ArrivedAll int64
	// Lost is ServedAll less ArrivedAll, as a fraction; -1 where it cannot be told.
	Lost       float64
	Duplicates int64
	Series     int64
	// Up and Down are bytes per sample on the relay, from the edge and to it.
	Up, Down float64
	// P50 and P99 are milliseconds from a sample's timestamp to its arrival; 0 where it is not measured.
	P50, P99 float64
	// Floor is the CPU of the reference floor in the same run: what the same reading costs on the machine as it is now.
	Floor float64
	// Machine is the load average at the end of the window.
	Machine string
	Notes   []string
}

// TotalCPU is that of all roles.
func (r *Result) TotalCPU() float64 {
	sum := 0.0
	for _, u := range r.Roles {
		sum += u.CPU
	}
	return sum
}

// String is one line for the one who waits.
func (r *Result) String() string {
	line := fmt.Sprintf("%s: CPU s/M edge %.2f transport %.2f central %.2f (floor %.2f) | MiB %.0f (%.0f anonymous) %.0f %.0f | wire %.2f B/sample up %.2f down",
		r.Contestant, r.Roles[Edge].CPU, r.Roles[Transport].CPU, r.Roles[Central].CPU, r.Floor,
		r.Roles[Edge].Memory, r.Roles[Edge].Anonymous, r.Roles[Transport].Memory, r.Roles[Central].Memory, r.Up, r.Down)
	if r.P99 > 0 {
		line += fmt.Sprintf(" | p50 %.0f p99 %.0f ms", r.P50, r.P99)
	}
	if r.Lost >= 0 {
		line += fmt.Sprintf(" | lost %.3f %%", 100*r.Lost)
	}
	if len(r.Notes) > 0 {
		line += " | " + strings.Join(r.Notes, ", ")
	}
	return line
}

// result compares two snapshots, the start and the end of the window.
func (s *stage) result(from, to snapshot) (*Result, error) {
	r := &Result{
		Contestant: s.contestant.Name, Time: from.at.UTC().Truncate(time.Second), Load: s.load, Window: to.at.Sub(from.at).Seconds(),
		Roles: map[string]Use{}, Procs: map[string]Use{}, Lost: -1,
		Served: to.served.Samples - from.served.Samples, Arrived: to.arrived.Samples - from.arrived.Samples,
		P50: to.arrived.P50, P99: to.arrived.P99,
	}
	if r.Served == 0 {
		return nil, fmt.Errorf("nothing was scraped; see %s", s.vars.Work)
	}
	millions := float64(r.Served) / 1e6
	for i, p := range s.procs {
		use := Use{CPU: (to.cpu[i] - from.cpu[i]) / millions, Memory: p.peakMemory(), Anonymous: p.peakAnonymous()}
		r.Procs[p.name] = use
		role := r.Roles[p.role]
		r.Roles[p.role] = Use{
			CPU: role.CPU + use.CPU, Memory: role.Memory + use.Memory, Anonymous: role.Anonymous + use.Anonymous,
		}
	}
	if n := to.floorBy.Samples - from.floorBy.Samples; n > 0 {
		r.Floor = (to.floor - from.floor) / (float64(n) / 1e6)
	}
	carried := float64(r.Arrived)
	if carried == 0 {
		carried = float64(r.Served)
	}
	r.Up = float64(to.wire.Up-from.wire.Up) / carried
	r.Down = float64(to.wire.Down-from.wire.Down) / carried
	if due := float64(s.load.N*s.load.M) * r.Window / s.load.Interval.Seconds(); float64(r.Served) < 0.97*due {
		r.Notes = append(r.Notes, fmt.Sprintf("only %.1f %% of the scrapes that were due", 100*float64(r.Served)/due))
	}
	return r, nil
}

// settle adds what only the end tells.
func (r *Result) settle(s *stage, end snapshot) {
	r.ServedAll, r.ArrivedAll = end.served.Samples, end.arrived.Samples
	r.Duplicates, r.Series = end.arrived.Duplicates, end.arrived.Series
	exact := s.contestant.Counter == nil || s.contestant.Counter.Exact
	if s.contestant.Arrives != ArrivesNowhere && exact && r.ServedAll > 0 {
		r.Lost = float64(r.ServedAll-r.ArrivedAll) / float64(r.ServedAll)
	}
}
