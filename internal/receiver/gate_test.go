package receiver

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
	"github.com/choria-io/prometheus-streams/internal/stream"
)

// deltas are frames of which only one in many can be decoded alone.
func deltas() frame.EncoderOptions {
	return frame.EncoderOptions{KeyframeEvery: 64, KeyframeMaxAge: 24 * time.Hour}
}

// gated runs a test with a pipeline behind a gate.
func gated(t *testing.T, hold bool, f func(t *testing.T, w *world, a *site)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.gate = func(m *Metrics) *Gate { return NewGate(hold, m, slog.New(slog.DiscardHandler)) }
		f(t, w, newSite(w, "A", deltas()))
	})
}

// A paused receiver that discards goes on decoding: what comes after builds on what nobody saw.
func TestPausedDiscards(t *testing.T) {
	gated(t, false, func(t *testing.T, w *world, a *site) {
		w.start()
		a.send()
		w.p.Gate.Pause()
		w.p.Gate.Pause()
		w.wantMetric(1, "paused")
		for range 5 {
			a.send()
			time.Sleep(15 * time.Second)
		}
		synctest.Wait()
		w.sink.want(t, "A/1")
		w.wantAcked(1, 2, 3, 4, 5, 6)
		w.wantMetric(5, "dropped_frames_total", "reason", "paused", "publisher", "A")
		w.wantMetric(10, "discarded_samples_total", "publisher", "A")
		w.p.Gate.Resume()
		w.wantMetric(0, "paused")
		a.send()
		w.stop()
		w.sink.want(t, "A/1", "A/7")
		w.wantMetric(0, "missing_bundles_total")
		w.wantMetric(0, "lost_samples_total")
		w.wantMetric(0, "held_bytes")
		w.wantMetric(5, "dropped_frames_total") // for no other reason
	})
}

// What was discarded is done: it is not delivered by the next process.
func TestDiscardedIsDone(t *testing.T) {
	gated(t, false, func(t *testing.T, w *world, a *site) {
		w.state = t.TempDir()
		w.start()
		a.send()
		w.p.Gate.Pause()
		a.send()
		w.stop()
		w.start()
		w.hand(1, 2)
		a.send()
		w.stop()
		w.sink.want(t, "A/1", "A/3")
	})
}

// A receiver that holds leaves messages in the stream, gives nothing up meanwhile and delivers all afterwards.
func TestPausedHolds(t *testing.T) {
	gated(t, true, func(t *testing.T, w *world, a *site) {
		w.start()
		a.send()
		hole := a.bundle()
		a.send() // waits for the one before it
		w.p.Gate.Pause()
		for range 5 {
			a.send()
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		w.sink.want(t, "A/1")
		w.wantAcked(1)
		w.wantMetric(1, "paused")
		w.wantMetric(0, "missing_bundles_total")
		w.p.Gate.Resume()
		synctest.Wait()
		w.send("A", hole)
		time.Sleep(time.Second)
		w.stop()
		w.sink.want(t, "A/1", "A/2", "A/3", "A/4", "A/5", "A/6", "A/7", "A/8")
		w.wantMetric(0, "missing_bundles_total")
		w.wantMetric(0, "dropped_frames_total")
		w.wantMetric(0, "held_bytes")
	})
}

// Bundles that were past the source when the gate was shut wait, are kept in progress, and keep their order.
func TestPausedParks(t *testing.T) {
	gated(t, true, func(t *testing.T, w *world, a *site) {
		w.start()
		a.send()
		one, two, three := a.bundle(), a.bundle(), a.bundle()
		for _, m := range [][]byte{one, two, three} {
			w.store("A", m)
		}
		w.p.Gate.Pause()
		w.pass(3)
		w.pass(2)
		w.pass(4)
		w.sink.want(t, "A/1")
		time.Sleep(25 * time.Second)
		synctest.Wait()
		w.mu.Lock()
		alive := w.alive[2]
		w.mu.Unlock()
		if alive < 2 {
			t.Errorf("a parked message was kept in progress %d times", alive)
		}
		w.wantAcked(1)
		w.p.Gate.Resume()
		synctest.Wait()
		a.send()
		w.stop()
		w.sink.want(t, "A/1", "A/2", "A/3", "A/4", "A/5")
		w.wantAcked(1, 2, 3, 4, 5)
	})
}

// A frame that the sink did not take is not offered to it during a pause.
func TestPausedRetriesNothing(t *testing.T) {
	for _, hold := range []bool{false, true} {
		gated(t, hold, func(t *testing.T, w *world, a *site) {
			w.sink.verdict = func(_ sink.Delivery, done func(error)) { done(stream.ErrDisconnected) }
			w.start()
			a.send()
			w.sink.want(t, "A/1")
			w.p.Gate.Pause()
			time.Sleep(10 * time.Minute)
			w.sink.want(t, "A/1")
			w.sink.mu.Lock()
			w.sink.verdict = nil
			w.sink.mu.Unlock()
			w.p.Gate.Resume()
			time.Sleep(2 * time.Second)
			w.stop()
			w.sink.want(t, "A/1", "A/1")
			w.wantAcked(1)
		})
	}
}

// Messages of format 1 pass the same gate.
func TestPausedFormat1(t *testing.T) {
	gated(t, false, func(t *testing.T, w *world, _ *site) {
		w.start()
		at := time.Now().Unix()
		message := func(n int64, body string) []byte {
			b, err := frame.AppendFormat1(nil, &frame.Format1{Job: "j", Instance: "i", Time: at + n, Publisher: "A", Body: []byte(body)})
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		w.send("A", message(0, "x 1\n"))
		w.p.Gate.Pause()
		w.send("A", message(1, "x 2\n"))
		w.wantMetric(1, "dropped_frames_total", "reason", "paused")
		w.wantMetric(1, "discarded_samples_total")
		w.p.Gate.Resume()
		w.send("A", message(2, "x 3\n"))
		w.stop()
		w.sink.want(t, "A/1", "A/3")
		w.wantAcked(1, 2, 3)
	})
}
