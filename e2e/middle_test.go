package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
	"github.com/choria-io/prometheus-streams/e2e/record"
)

// A receiver that knows nothing starts in the middle of a stream that keeps little: what the stream no longer has it does not
// miss, and each target is delivered within one keyframe interval. Here a scrape is half a second, a keyframe interval four,
// and the stream keeps ten; the unit tests of the receiver do the same at 15 s and 60 s.
func TestStartInTheMiddle(t *testing.T) {
	t.Parallel()
	const keyframes, keeps = 4 * time.Second, 10 * time.Second
	server := startNATS(t, "")
	stopWell(t, startRecorder(t, server, "maker").Process) // it makes the streams
	js := server.JetStream(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	frames, err := js.Stream(ctx, "PROMETHEUS")
	if err != nil {
		t.Fatal(err)
	}
	if err := frames.DeleteConsumer(ctx, "maker-recorder"); err != nil {
		t.Fatal(err)
	}
	config := frames.CachedInfo().Config
	config.MaxAge, config.Duplicates = keeps, keeps
	if _, err := js.UpdateStream(ctx, config); err != nil {
		t.Fatal(err)
	}
	all := targets.Many(t, "node", 12, 10)
	yaml := pollerYAML(server, "site", "500ms", harness.JobsYAML("edge", all...)) + "poller: {keyframe_interval: 4s}\n"
	poller := startPoller(t, yaml)
	time.Sleep(keeps + keyframes)
	info, err := frames.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if info.State.FirstSeq < 2 {
		t.Fatalf("the stream still has all from message %d on", info.State.FirstSeq)
	}

	started := lastNumbers(all)
	recorder := startRecorder(t, server, "fresh").Ready(t)
	recorder.WaitNumbers(t, keyframes+6*time.Second, started)
	stopWell(t, poller.Process)
	drained(t, server, recorder)
	stopWell(t, recorder.Process)
	a := recorder.Account(t)
	for _, g := range all {
		key := record.TargetKey("site", fmt.Sprintf(`{instance=%q, job="edge"}`, g.Name))
		numbers := harness.CheckTarget(t, a, key, g)
		if len(numbers) == 0 || numbers[0] < 2 {
			t.Errorf("%s: the scrapes %v were delivered", key, numbers)
			continue
		}
		if missing := numbers.Missing(numbers[len(numbers)-1])[numbers[0]-1:]; len(missing) > 0 && len(failures(a, key)) == 0 {
			t.Errorf("%s: the scrapes %v are missing after the first that was delivered, %d", key, missing, numbers[0])
		}
	}
}
