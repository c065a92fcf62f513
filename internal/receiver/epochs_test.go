package receiver

import (
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// What waits in an epoch is delivered before the epochs after it, however many restarts there are meanwhile.
func TestEpochsInOrder(t *testing.T) {
	each(t, func(t *testing.T, w *world, a *site) {
		w.start()
		a.send()
		missing := a.bundle()
		a.send()
		for range 3 {
			a.restart(frame.EncoderOptions{Always: true})
			a.send()
		}
		w.sink.want(t, "A/1")
		w.send("A", missing)
		w.stop()
		w.sink.want(t, "A/1", "A/2", "A/3", "A/4", "A/5", "A/6")
		w.wantMetric(0, "missing_bundles_total")
	})
}

// An epoch does not wait for ever for what is missing of the one before it.
func TestEpochsAfterAGap(t *testing.T) {
	each(t, func(t *testing.T, w *world, a *site) {
		w.start()
		a.send()
		a.bundle()
		a.send()
		a.restart(frame.EncoderOptions{Always: true})
		a.send()
		a.restart(frame.EncoderOptions{Always: true})
		a.send()
		w.sink.want(t, "A/1")
		time.Sleep(time.Minute)
		w.stop()
		w.sink.want(t, "A/1", "A/3", "A/4", "A/5")
		w.wantMetric(1, "missing_bundles_total")
	})
}
