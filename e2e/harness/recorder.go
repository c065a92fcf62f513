package harness

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/record"
)

// Recorder is a receiver with the recording sink. After Kill or Stop, Restart goes on with the same durable, state and log.
type Recorder struct {
	*Process
	// Log is the path of what it records, URL where its metrics are.
	Log, URL string
	// ClockJumps: the times of the scrapes tell nothing of their order.
	ClockJumps bool

	argv []string
	// before the command line, to run it otherwise
	before []string
}

// StartRecorder starts one; client names its durable. Two with the same client share it. The flags are the recorder's.
func StartRecorder(t testing.TB, b *Builds, port int, server *NATS, client string, flags ...string) *Recorder {
	t.Helper()
	return startRecorder(t, nil, b.Recorder(t), port, server, client, flags)
}

// StartClockedRecorder is StartRecorder with a clock that can be set.
func StartClockedRecorder(t testing.TB, b *Builds, c *Clock, port int, server *NATS, client string, flags ...string) *Recorder {
	t.Helper()
	return startRecorder(t, c.env(), must(t, b.clockedRecord), port, server, client, flags)
}

func startRecorder(t testing.TB, before []string, binary string, port int, server *NATS, client string, flags []string) *Recorder {
	t.Helper()
	dir := t.TempDir()
	web := fmt.Sprintf("127.0.0.1:%d", port)
	r := &Recorder{Log: filepath.Join(dir, "log"), URL: "http://" + web, before: before}
	r.argv = append([]string{binary, "-url", server.URL, "-client-id", client, "-state", filepath.Join(dir, "state"),
		"-log", r.Log, "-web", web}, flags...)
	r.Restart(t)
	return r
}

// Restart starts it again after it was ended.
func (r *Recorder) Restart(t testing.TB) {
	t.Helper()
	r.Process = Start(t, "recorder", append(slices.Clone(r.before), r.argv...)...)
}

// Ready waits until it receives.
func (r *Recorder) Ready(t testing.TB) *Recorder {
	t.Helper()
	WaitReady(t, startLimit, r.URL+"/-/ready")
	return r
}

// Read is the log so far.
func (r *Recorder) Read(t testing.TB) *record.Log {
	t.Helper()
	log, err := record.Read(r.Log)
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// Account is the accounting of the log so far; broken promises fail the test. In the runs named, frames that are delivered
// again need not be marked so.
func (r *Recorder) Account(t testing.TB, unmarked ...int) *record.Account {
	t.Helper()
	log := r.Read(t)
	a := log.Account()
	if r.ClockJumps {
		a = log.AccountWithoutTimes()
	}
	for run, n := range a.Unmarked {
		if !slices.Contains(unmarked, run) {
			t.Errorf("run %d: %d frames delivered again that were not marked as repeated", run, n)
		}
	}
	for _, problem := range a.Problems {
		t.Error(problem)
	}
	if more := a.Broken - len(a.Problems); more > 0 {
		t.Errorf("and %d more", more)
	}
	return a
}

// WaitNumbers waits until each target's scrape with the given number was recorded.
func (r *Recorder) WaitNumbers(t testing.TB, limit time.Duration, last map[*Target]int) {
	t.Helper()
	Wait(t, limit, "every last scrape is recorded", func() error {
		log := r.Read(t)
		newest := map[int]int{}
		for _, f := range log.Frames {
			for i, series := range f.Series {
				if series.Get("__name__") == ValueMetric && series.Get("series") == "0" {
					id, number := Of(f.Values[i])
					newest[id] = max(newest[id], number)
				}
			}
		}
		for g, want := range last {
			if newest[g.ID] < want {
				time.Sleep(300 * time.Millisecond) // a log is long to read
				return fmt.Errorf("target %s: scrape %d is the last recorded, %d wanted", g.Name, newest[g.ID], want)
			}
		}
		return nil
	})
}

// CheckAlready compares the frames that the running recorder says it delivered again with those that its log has from it.
func (r *Recorder) CheckAlready(t testing.TB) {
	t.Helper()
	log := r.Read(t)
	marked := 0
	for _, f := range log.Frames {
		if f.InRun == log.Runs && f.Repeated {
			marked++
		}
	}
	counted := MustScrape(t, r.URL+"/metrics").Sum("prometheus_streams_receiver_already_frames_total", Labels{"delivered": "true"})
	if int(counted) != marked {
		t.Errorf("run %d counted %v frames as already delivered, its log has %d marked so", log.Runs, counted, marked)
	}
}
