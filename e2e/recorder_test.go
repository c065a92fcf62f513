package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
	"github.com/choria-io/prometheus-streams/e2e/record"
)

// The recorder is what other tests measure with: it records what was published, goes on after a kill, and its accounting
// shows a hole.
func TestRecorder(t *testing.T) {
	t.Parallel()
	server := startNATS(t, "")
	recorder := startRecorder(t, server, "itself")
	conn := server.Connect(t)
	forge := harness.NewForge(t, "site", 7)
	wait := func(frames int) {
		t.Helper()
		harness.Wait(t, 10*time.Second, "the frames are recorded", func() error {
			if n := len(recorder.Read(t).Frames); n < frames {
				return fmt.Errorf("%d frames", n)
			}
			return nil
		})
	}
	forge.Forged(t, conn, 10, 1)
	wait(10)
	recorder.Kill()
	recorder.Restart(t)
	recorder.Ready(t)
	forge.Bundle(t, 0) // never published
	forge.Forged(t, conn, 140, 12)
	wait(150)
	stopWell(t, recorder.Process)

	log := recorder.Read(t)
	a := recorder.Account(t)
	epoch := record.Epoch{Publisher: "site", Lane: "live", Epoch: 7}
	if gaps := a.Gaps[epoch]; len(gaps) != 1 || gaps[0] != 11 {
		t.Errorf("gaps %v, want sequence 11", a.Gaps)
	}
	if log.Runs != 2 || a.Samples != 150 {
		t.Errorf("%d runs with %d samples, want 2 with 150", log.Runs, a.Samples)
	}
	frames := a.Targets[record.TargetKey("site", `{instance="site", job="forged"}`)]
	for i, f := range frames {
		want := float64(i + 1)
		if i >= 10 {
			want++
		}
		if got := f.Series[0].String(); f.Values[0] != want || got != `{__name__="forged", by="site", instance="site", job="forged"}` {
			t.Fatalf("frame %d is %s %v, want value %v", i, got, f.Values[0], want)
		}
	}
	if len(frames) != 150 {
		t.Errorf("%d frames of the target, want 150", len(frames))
	}
}
