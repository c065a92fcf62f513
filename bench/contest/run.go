package contest

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// quiet is how many seconds nothing may arrive until a pipeline that did not deliver everything counts as empty.
const quiet = 8

// runner has what all runs share.
type runner struct {
	load                Load
	warm, window, drain time.Duration
	self, bin, work     string
	keep                bool
}

// RunMain runs contestants, in rounds, and appends their results to a file.
func RunMain(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("run", flag.ContinueOnError)
	r := &runner{}
	fs.IntVar(&r.load.N, "n", 200, "targets")
	fs.IntVar(&r.load.M, "m", 1000, "series per target")
	fs.DurationVar(&r.load.Interval, "interval", 5*time.Second, "scrape interval")
	fs.Float64Var(&r.load.Churn, "churn", 0, "fraction of the series replaced each minute")
	fs.BoolVar(&r.load.Gzip, "gzip", true, "targets compress when asked")
	fs.BoolVar(&r.load.SameShape, "same-shape", false, "all targets have the same series")
	fs.IntVar(&r.load.FloorTargets, "floor", 20, "targets of the reference floor that runs beside; 0 is none")
	fs.IntVar(&r.load.BasePort, "base-port", 21000, "first target port")
	fs.DurationVar(&r.warm, "warm", 16*time.Second, "time before the window")
	fs.DurationVar(&r.window, "window", 30*time.Second, "measured time; a multiple of the interval")
	fs.DurationVar(&r.drain, "drain", 20*time.Second, "longest wait for the pipeline to be empty at the end")
	fs.StringVar(&r.bin, "bin", "../.cache/bin", "folder of the contestants' binaries")
	fs.StringVar(&r.work, "work", "../.cache/bench", "folder for the contestants' files")
	fs.BoolVar(&r.keep, "keep", false, "keep the contestants' files, their logs among them")
	rounds := fs.Int("rounds", 1, "rounds; contestants are interleaved")
	out := fs.String("out", "", "file to which results are appended, one JSON object a line")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() == 0 {
		return errors.New("no contestants: give their JSON files")
	}
	if r.window%r.load.Interval != 0 {
		return fmt.Errorf("window %v is not a multiple of the interval %v", r.window, r.load.Interval)
	}
	var err error
	if r.self, err = os.Executable(); err != nil {
		return err
	}
	if r.bin, err = filepath.Abs(r.bin); err != nil {
		return err
	}
	contestants, err := r.contestants(fs.Args())
	if err != nil {
		return err
	}
	return r.rounds(ctx, *rounds, contestants, *out)
}

// contestants reads the files and leaves out those whose binaries are not there.
func (r *runner) contestants(paths []string) ([]*Contestant, error) {
	var all []*Contestant
	for _, path := range paths {
		c, err := Read(path)
		if err != nil {
			return nil, err
		}
		if name := c.missing(r.bin); name != "" {
			fmt.Fprintf(os.Stderr, "%s: left out, %s is not in %s\n", c.Name, name, r.bin)
			continue
		}
		all = append(all, c)
	}
	return all, nil
}

// rounds goes on after a contestant that failed, but the error is not forgotten.
func (r *runner) rounds(ctx context.Context, n int, contestants []*Contestant, out string) error {
	var failed []string
	for round := range n {
		for _, c := range contestants {
			fmt.Fprintf(os.Stderr, "round %d of %d: %s (%v)\n", round+1, n, c.Name, r.warm+r.window)
			result, err := r.run(ctx, c)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				fmt.Fprintf(os.Stderr, "%s: %v\n", c.Name, err)
				failed = append(failed, c.Name)
				continue
			}
			fmt.Fprintln(os.Stderr, result)
			if err := appendResult(out, result); err != nil {
				return err
			}
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("no result for %s", strings.Join(failed, ", "))
	}
	return nil
}

// run is one contestant once.
func (r *runner) run(ctx context.Context, c *Contestant) (result *Result, err error) {
	work, err := workFolder(r.work, c.file)
	if err != nil {
		return nil, err
	}
	s := &stage{load: r.load, contestant: c, vars: Vars{
		Self: r.self, Bin: r.bin, Work: work, Control: sinkControl,
		Sink: "http://" + relayAddress + "/api/v1/write", SinkDirect: "http://" + writeAddress + "/api/v1/write", Push: "http://" + pushAddress,
		Interval: r.load.Interval.String(), N: r.load.N, M: r.load.M, BasePort: r.load.BasePort,
	}}
	for i := range r.load.N {
		s.vars.Targets = append(s.vars.Targets, fmt.Sprintf("127.0.0.1:%d", r.load.BasePort+i))
	}
	defer func() {
		s.tearDown()
		if err == nil && !r.keep {
			err = os.RemoveAll(work)
		}
	}()
	if err := s.setUp(ctx); err != nil {
		return nil, err
	}
	if err := sleep(ctx, r.warm); err != nil {
		return nil, err
	}
	if result, err = s.measure(ctx, r.window); err != nil {
		return nil, err
	}
	end, err := s.empty(ctx, r.drain)
	if err != nil {
		return nil, err
	}
	result.settle(s, end)
	return result, nil
}

// measure takes the window.
func (s *stage) measure(ctx context.Context, window time.Duration) (*Result, error) {
	if s.contestant.Arrives == ArrivesWrite || s.contestant.Arrives == ArrivesOwn {
		if err := get("http://" + sinkControl + "/mark"); err != nil {
			return nil, err
		}
	}
	from, err := s.snapshot()
	if err != nil {
		return nil, err
	}
	if err := sleep(ctx, time.Until(from.at.Add(window))); err != nil {
		return nil, err
	}
	to, err := s.snapshot()
	if err != nil {
		return nil, err
	}
	r, err := s.result(from, to)
	if err != nil {
		return nil, err
	}
	average, err := os.ReadFile("/proc/loadavg")
	if err == nil {
		r.Machine, _, _ = strings.Cut(string(average), " ")
	}
	return r, nil
}

// empty stops the load and waits until everything has arrived or nothing does any more.
func (s *stage) empty(ctx context.Context, limit time.Duration) (last snapshot, err error) {
	if err := get("http://" + targetsControl + "/pause"); err != nil {
		return last, err
	}
	still := 0
	for deadline := time.Now().Add(limit); time.Now().Before(deadline) && still < quiet; {
		if err := sleep(ctx, time.Second); err != nil {
			return last, err
		}
		now, err := s.snapshot()
		if err != nil {
			return last, err
		}
		if now.arrived.Samples == last.arrived.Samples {
			still++
		} else {
			still = 0
		}
		last = now
		if s.contestant.Arrives == ArrivesNowhere || now.arrived.Samples == now.served.Samples {
			break
		}
	}
	return last, nil
}

func appendResult(path string, r *Result) error {
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	return json.NewEncoder(f).Encode(r)
}
