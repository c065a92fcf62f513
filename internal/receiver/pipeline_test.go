package receiver

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
	"github.com/choria-io/prometheus-streams/internal/stream"
)

// each runs a test in a bubble of its own, with a world and a site whose every scrape is a keyframe.
func each(t *testing.T, f func(t *testing.T, w *world, a *site)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		f(t, w, newSite(w, "A", frame.EncoderOptions{Always: true}))
	})
}

func TestInOrder(t *testing.T) {
	each(t, func(t *testing.T, w *world, a *site) {
		w.start()
		for range 3 {
			a.send()
		}
		w.stop()
		w.sink.want(t, "A/1", "A/2", "A/3")
		w.wantAcked(1, 2, 3)
		w.wantMetric(3, "delivered_frames_total", "publisher", "A")
		w.wantMetric(6, "delivered_samples_total")
		w.wantMetric(0, "held_bytes")
	})
}

func TestReordered(t *testing.T) {
	each(t, func(t *testing.T, w *world, a *site) {
		one, two, three := a.bundle(), a.bundle(), a.bundle()
		w.start()
		w.send("A", one)
		w.send("A", three)
		w.wantAcked(1)
		w.send("A", two)
		w.stop()
		w.sink.want(t, "A/1", "A/2", "A/3")
		w.wantAcked(1, 2, 3)
		w.wantMetric(0, "missing_bundles_total")
	})
}

func TestHoleBecomesGap(t *testing.T) {
	each(t, func(t *testing.T, w *world, a *site) {
		b := newSite(w, "B", frame.EncoderOptions{Always: true})
		one, two, three := a.bundle(), a.bundle(), a.bundle()
		w.start()
		w.send("A", one)
		w.send("A", three)
		b.send()
		time.Sleep(29 * time.Second)
		synctest.Wait()
		w.sink.want(t, "A/1", "B/1") // the other publisher does not wait
		w.mu.Lock()
		alive := w.alive[2]
		w.mu.Unlock()
		if alive < 2 {
			t.Error("a held message was not kept in progress")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		w.sink.want(t, "A/1", "B/1", "A/3")
		w.wantMetric(1, "missing_bundles_total", "publisher", "A")
		w.wantMetric(2, "lost_samples_total", "publisher", "A")
		w.send("A", two)
		w.stop()
		w.sink.want(t, "A/1", "B/1", "A/3") // never an older one after a newer one
		w.wantMetric(1, "dropped_frames_total", "reason", "late_gap")
		w.wantAcked(1, 2, 3, 4)
	})
}

func TestHoleWaitsWhileDisconnected(t *testing.T) {
	each(t, func(t *testing.T, w *world, a *site) {
		one, two, three := a.bundle(), a.bundle(), a.bundle()
		w.start()
		w.send("A", one)
		w.send("A", three)
		w.feed <- stream.Event{Kind: stream.Disconnected}
		time.Sleep(10 * time.Minute)
		w.feed <- stream.Event{Kind: stream.Connected}
		w.send("A", two)
		w.stop()
		w.sink.want(t, "A/1", "A/2", "A/3")
		w.wantMetric(0, "missing_bundles_total")
	})
}

func TestHoleIsBoundedInBundles(t *testing.T) {
	each(t, func(t *testing.T, w *world, a *site) {
		w.limits.HoleBundles = 4
		w.start()
		a.send()
		a.bundle() // lost
		for range 4 {
			a.send()
		}
		w.stop()
		w.sink.want(t, "A/1", "A/3", "A/4", "A/5", "A/6")
		w.wantMetric(1, "missing_bundles_total")
	})
}

func TestDuplicates(t *testing.T) {
	each(t, func(t *testing.T, w *world, a *site) {
		one, two := a.bundle(), a.bundle()
		w.start()
		for _, m := range [][]byte{one, two, one, two} {
			w.send("A", m)
		}
		w.stop()
		w.sink.want(t, "A/1", "A/2")
		w.wantMetric(2, "duplicate_bundles_total", "publisher", "A")
		w.wantAcked(1, 2, 3, 4)
	})
}

func TestForkedIdentity(t *testing.T) {
	each(t, func(t *testing.T, w *world, a *site) {
		w.start()
		a.send()
		fork := *a
		a.send()
		fork.scrapes += 100
		w.send("A", fork.bundle())
		w.stop()
		w.sink.want(t, "A/1", "A/2")
		w.wantMetric(1, "dropped_frames_total", "reason", "forked_identity")
		w.wantAcked(1, 2, 3)
	})
}

func TestAcknowledgedOnlyAfterTheVerdict(t *testing.T) {
	each(t, func(t *testing.T, w *world, a *site) {
		var dones []func(error)
		w.sink.verdict = func(_ sink.Delivery, done func(error)) { dones = append(dones, done) }
		w.start()
		for range 4 {
			a.send()
		}
		w.wantAcked()
		dones[2](nil)
		dones[1](sink.Reject("aged", "too old"))
		synctest.Wait()
		w.wantAcked(2, 3)
		w.wantMetric(1, "rejected_frames_total", "reason", "aged")
		dones[0](errors.New("not now"))
		time.Sleep(2500 * time.Millisecond)
		synctest.Wait()
		if len(dones) != 5 {
			t.Fatalf("the frame was given to the sink %d times, want once more", len(dones)-4)
		}
		w.wantAcked(2, 3)
		dones[4](nil)
		dones[3](nil)
		w.stop()
		w.wantAcked(1, 2, 3, 4)
		w.wantMetric(1, "retries_total")
	})
}

func TestRestartedConsumer(t *testing.T) {
	each(t, func(t *testing.T, w *world, a *site) {
		var dones []func(error)
		w.sink.verdict = func(_ sink.Delivery, done func(error)) { dones = append(dones, done) }
		w.start()
		a.send()
		a.send()
		w.feed <- stream.Event{Kind: stream.Restarted}
		synctest.Wait()
		dones[0](nil) // the old right to acknowledge is gone
		synctest.Wait()
		w.wantAcked()
		w.hand(1, 2)
		w.wantAcked(1)
		dones[1](nil)
		w.stop()
		w.wantAcked(1, 2)
		w.sink.want(t, "A/1", "A/2")
	})
}

func TestKillBetweenAckAndDone(t *testing.T) {
	each(t, func(t *testing.T, w *world, a *site) {
		w.state = t.TempDir()
		w.start()
		for range 5 {
			a.send()
		}
		w.stop()
		// The acknowledgements were lost: all come again to the next process.
		w.floor = stream.Floor{Sequence: 0, Delivered: 5, First: 1, Last: 5}
		w.acked = make(map[uint64]int)
		w.start()
		w.hand(1, 2, 3, 4, 5)
		a.send()
		w.stop()
		w.sink.want(t, "A/1", "A/2", "A/3", "A/4", "A/5", "A/6")
		w.sink.recalled(t, 1, 2, 3, 4, 5)
		w.wantAcked(1, 2, 3, 4, 5, 6)
		w.wantMetric(5, "already_frames_total", "delivered", "false")
		w.wantMetric(0, "missing_bundles_total")
	})
}

func TestKillBetweenDeliveryAndNote(t *testing.T) {
	each(t, func(t *testing.T, w *world, a *site) {
		w.state = t.TempDir()
		w.sink.verdict = func(d sink.Delivery, done func(error)) {
			if d.Seq < 3 {
				done(nil)
			}
		}
		w.start()
		for range 3 {
			a.send()
		}
		w.stop()
		w.sink.verdict = nil
		w.floor = stream.Floor{Sequence: 2, Delivered: 3, First: 1, Last: 3, Stored: w.messages[1].Stored}
		w.start()
		w.hand(3)
		a.send()
		w.stop()
		w.sink.want(t, "A/1", "A/2", "A/3", "A/3", "A/4")
		w.sink.recalled(t, 1, 2)
		if d := w.sink.got[3]; !d.Repeated || w.sink.got[4].Repeated {
			t.Error("only the frame that may have been delivered before is to be marked")
		}
		w.wantMetric(1, "already_frames_total", "delivered", "true")
	})
}

func TestMissingSchema(t *testing.T) {
	each(t, func(t *testing.T, w *world, a *site) {
		b := newSite(w, "B", frame.EncoderOptions{Always: true})
		saved := w.schemas
		w.schemas = map[frame.SchemaID][]byte{}
		w.start()
		a.send()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		w.sink.want(t)
		w.wantAcked()
		w.mu.Lock()
		w.schemas = saved
		w.mu.Unlock()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		w.sink.want(t, "A/1")
		b.send()
		w.stop()
		w.sink.want(t, "A/1", "B/1")
	})
}

func TestSchemaNowhere(t *testing.T) {
	each(t, func(t *testing.T, w *world, a *site) {
		w.schemas = map[frame.SchemaID][]byte{}
		w.start()
		a.send()
		a.send()
		time.Sleep(40 * time.Second)
		w.stop()
		w.sink.want(t)
		w.wantAcked(1, 2)
		w.wantMetric(2, "dropped_frames_total", "reason", "schema_not_found")
	})
}

// TestManySchemasNowhere are waited for together, not one after the other; what comes later has its own time.
func TestManySchemasNowhere(t *testing.T) {
	each(t, func(t *testing.T, w *world, a *site) {
		const many = 100
		w.start()
		for i := range many {
			a.rename(fmt.Sprint("noise_", i))
			w.forget(a.schema.ID)
			a.send()
		}
		time.Sleep(45 * time.Second)
		w.wantMetric(many, "dropped_frames_total", "reason", "schema_not_found")
		a.rename("late")
		w.forget(a.schema.ID)
		a.send()
		time.Sleep(20 * time.Second)
		a.rename("late")
		time.Sleep(2 * time.Second)
		w.stop()
		w.sink.want(t, fmt.Sprintf("A/%d", many+1))
		w.wantMetric(many, "dropped_frames_total", "reason", "schema_not_found")
	})
}

// TestSchemaBehindOthersNowhere: what came a moment ago is waited for, however many before it are given up.
func TestSchemaBehindOthersNowhere(t *testing.T) {
	each(t, func(t *testing.T, w *world, a *site) {
		const many = 30
		w.start()
		for i := range many {
			a.rename(fmt.Sprint("noise_", i))
			w.forget(a.schema.ID)
			a.send()
			time.Sleep(900 * time.Millisecond)
		}
		a.rename("late")
		w.forget(a.schema.ID)
		a.send()
		time.Sleep(20 * time.Second)
		a.rename("late")
		time.Sleep(20 * time.Second)
		w.stop()
		w.sink.want(t, fmt.Sprintf("A/%d", many+1))
		w.wantMetric(many, "dropped_frames_total", "reason", "schema_not_found")
	})
}

func TestSilentRegistryHolds(t *testing.T) {
	each(t, func(t *testing.T, w *world, a *site) {
		w.registry = errors.New("no answer")
		w.start()
		a.send()
		time.Sleep(time.Hour)
		w.wantAcked()
		w.mu.Lock()
		w.registry = nil
		w.mu.Unlock()
		time.Sleep(2 * time.Second)
		w.stop()
		w.sink.want(t, "A/1")
		w.wantAcked(1)
	})
}

func TestJunk(t *testing.T) {
	each(t, func(t *testing.T, w *world, a *site) {
		good := a.bundle()
		w.start()
		w.send("A", nil)
		w.send("A", []byte("junk"))
		w.send("A", good[:len(good)-1])
		w.send("B", good)
		w.send("junk", good)
		w.send("A", []byte(`{"job":"x"}`))
		w.send("A", good)
		w.stop()
		w.sink.want(t, "A/1")
		w.wantAcked(1, 2, 3, 4, 5, 6, 7)
		w.wantMetric(2, "dropped_frames_total", "reason", "malformed")
		w.wantMetric(1, "dropped_frames_total", "reason", "no_time", "publisher", "A")
		w.wantMetric(1, "dropped_frames_total", "reason", "checksum", "publisher", "A")
		w.wantMetric(1, "dropped_frames_total", "reason", "wrong_publisher", "publisher", "B")
		w.wantMetric(1, "dropped_frames_total", "reason", "wrong_subject", "publisher", "")
		w.wantMetric(7, "received")
	})
}

func TestReadBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := newSite(w, "A", frame.EncoderOptions{KeyframeEvery: 16, KeyframeMaxAge: time.Hour})
		for range 10 {
			w.store("A", a.bundle())
			time.Sleep(15 * time.Second)
		}
		w.floor = stream.Floor{Sequence: 10, Delivered: 10, First: 1, Last: 10, Stored: w.messages[9].Stored}
		w.start()
		a.send()
		w.stop()
		w.sink.want(t, "A/11")
		w.wantAcked(11)
	})
}

func TestLaneIsReadBackFurther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := newSite(w, "A", frame.EncoderOptions{KeyframeEvery: 16, KeyframeMaxAge: 24 * time.Hour})
		for range 10 {
			w.store("A", a.bundle())
			time.Sleep(10 * time.Minute)
		}
		w.floor = stream.Floor{Sequence: 10, Delivered: 10, First: 1, Last: 10, Stored: w.messages[9].Stored}
		w.start()
		a.send()
		a.send()
		w.stop()
		w.sink.want(t, "A/11", "A/12")
		if len(w.reads) < 3 {
			t.Errorf("read back %d times, want once for all and then the lane alone, further each time", len(w.reads))
		}
	})
}

func TestBaseNowhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := newSite(w, "A", frame.EncoderOptions{KeyframeEvery: 4, KeyframeMaxAge: time.Hour})
		a.bundle() // the first generation is of any length
		for !isKeyframe(t, a.bundle()) {
		}
		w.start() // that keyframe is not in the stream
		first := a.scrapes + 4
		for range 8 {
			a.send()
		}
		w.stop()
		w.wantMetric(3, "dropped_frames_total", "reason", "base_not_found")
		want := make([]string, 5)
		for i := range want {
			want[i] = fmt.Sprintf("A/%v", first+float64(i))
		}
		w.sink.want(t, want...)
		w.wantAcked(1, 2, 3, 4, 5, 6, 7, 8)
	})
}

func TestNewEpoch(t *testing.T) {
	each(t, func(t *testing.T, w *world, a *site) {
		var log bytes.Buffer
		w.log = &log
		w.start()
		a.send()
		a.bundle() // the last of the epoch never reached the stream
		a.pre = &frame.Predecessor{Epoch: a.epoch, Seq: 2, Totals: a.totals}
		a.restart(frame.EncoderOptions{Always: true})
		a.send()
		w.stop()
		w.sink.want(t, "A/1", "A/3")
		w.wantMetric(1, "missing_bundles_total")
		w.wantMetric(2, "lost_samples_total")
		w.wantMetric(1, "unclean_epochs_total", "publisher", "A")
		if n := strings.Count(log.String(), "an epoch ended without a word"); n != 1 {
			t.Errorf("%d lines say so", n)
		}
	})
}

func TestNewEpochWithoutItsBeginning(t *testing.T) {
	each(t, func(t *testing.T, w *world, a *site) {
		w.start()
		a.send()
		a.restart(frame.EncoderOptions{Always: true})
		a.bundle()
		a.send()
		time.Sleep(31 * time.Second)
		w.stop()
		w.sink.want(t, "A/1", "A/3")
		w.wantMetric(1, "missing_bundles_total")
	})
}

func TestUnknownVersion(t *testing.T) {
	each(t, func(t *testing.T, w *world, a *site) {
		w.limits.VersionBundles = 3
		w.start()
		future := ofNextVersion(t, a.bundle())
		b := newSite(w, "B", frame.EncoderOptions{Always: true})
		w.send("A", future)
		b.send()
		w.wantAcked(2)
		time.Sleep(31 * time.Minute)
		w.stop()
		w.wantAcked(1, 2)
		w.sink.want(t, "B/1")
		w.wantMetric(1, "dropped_frames_total", "reason", "unknown_version")
	})
}

func TestBackPressure(t *testing.T) {
	each(t, func(t *testing.T, w *world, a *site) {
		w.limits.HeldBytes = 1000
		var dones []func(error)
		w.sink.verdict = func(_ sink.Delivery, done func(error)) { dones = append(dones, done) }
		w.start()
		for range 500 {
			w.store("A", a.bundle())
		}
		for seq := range uint64(500) {
			w.hand(seq + 1)
		}
		if n := len(dones); n > 20 {
			t.Errorf("%d frames in flight, want a few", n)
		}
		for i := 0; i < len(dones); i++ {
			dones[i](nil)
			synctest.Wait()
		}
		w.stop()
		if len(w.acked) != 500 {
			t.Errorf("%d acknowledged, want 500", len(w.acked))
		}
	})
}

func TestDoneTable(t *testing.T) {
	now := time.Now
	path := filepath.Join(t.TempDir(), "done")
	open := func() *doneTable {
		d, err := openDone(path, time.Hour, now)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	k, other := laneKey{"A", "live", 7}, laneKey{"B", "live", 7}
	d := open()
	for _, seq := range []uint64{1, 2, 5, 4, 9} {
		if err := d.done(k, seq); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.skip(other, 40); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.close(); err != nil {
			t.Fatal(err)
		}
		d = open()
		var got []uint64
		for seq := range uint64(12) {
			if d.lane(k).has(seq) {
				got = append(got, seq)
			}
		}
		if fmt.Sprint(got) != "[0 1 2 4 5 9]" {
			t.Errorf("done %v", got)
		}
		if !d.lane(other).has(40) || d.lane(other).has(41) {
			t.Error("skip is not kept")
		}
	}
	now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	if d = open(); d.lane(k) != nil {
		t.Error("a lane silent for longer than is kept was not forgotten")
	}
}

// ofNextVersion changes the byte of a message that makes it one of an unknown version.
func ofNextVersion(t *testing.T, msg []byte) []byte {
	for i := range 8 {
		changed := append([]byte(nil), msg...)
		changed[i]++
		var version *frame.VersionError
		if _, err := frame.ParseBundle(changed, frame.DefaultLimits()); errors.As(err, &version) {
			return changed
		}
	}
	t.Fatal("no byte of the message says its version")
	return nil
}

func isKeyframe(t *testing.T, msg []byte) bool {
	b, err := frame.ParseBundle(msg, frame.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	for raw := range b.Frames() {
		return raw.Keyframe()
	}
	return false
}

func FuzzDoneTable(f *testing.F) {
	path := filepath.Join(f.TempDir(), "done")
	d, err := openDone(path, time.Hour, time.Now)
	if err != nil {
		f.Fatal(err)
	}
	for seq := range uint64(5) {
		_ = d.begin(laneKey{"A", "live", 1}, 2*seq+1)
		_ = d.done(laneKey{"A", "live", 1}, seq)
	}
	_ = d.close()
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-3])
	f.Add([]byte(doneMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := &doneTable{keep: time.Hour, now: time.Now, lanes: make(map[laneKey]*doneLane)}
		if err := d.read(b); err != nil {
			return
		}
		for k, l := range d.lanes {
			for seq := range l.scattered {
				if seq <= l.upTo || !l.has(seq) {
					t.Errorf("%v: %d is noted twice", k, seq)
				}
			}
			for seq := range l.begun {
				if l.has(seq) {
					t.Errorf("%v: %d is begun and done", k, seq)
				}
			}
		}
	})
}

func TestStopDoesNotWaitForWhatIsNotDelivered(t *testing.T) {
	each(t, func(t *testing.T, w *world, a *site) {
		w.sink.verdict = func(_ sink.Delivery, done func(error)) { done(errors.New("stopped")) }
		w.start()
		a.send()
		start := time.Now()
		w.stop()
		if d := time.Since(start); d > time.Second {
			t.Errorf("stopping took %v", d)
		}
		w.wantAcked()
	})
}

func TestSchemaThatIsNone(t *testing.T) {
	each(t, func(t *testing.T, w *world, a *site) {
		b := w.schemas[a.schema.ID]
		w.schemas[a.schema.ID] = b[:len(b)-3]
		w.start()
		a.send()
		time.Sleep(40 * time.Second)
		w.stop()
		w.wantAcked(1)
		w.wantMetric(1, "dropped_frames_total", "reason", "schema_not_found")
	})
}

// TestManyEpochs has a publisher begin epochs without end: nothing that is kept of them grows without bound.
func TestManyEpochs(t *testing.T) {
	d, err := openDone(filepath.Join(t.TempDir(), "done"), time.Hour, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	other := laneKey{"B", "live", 1}
	if err := d.done(other, 1); err != nil {
		t.Fatal(err)
	}
	for epoch := range uint64(10 * doneMaxEpochs) {
		if err := d.done(laneKey{"A", "live", epoch}, 1); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(d.lanes); n > doneMaxEpochs+1 {
		t.Errorf("%d lanes kept, want at most %d", n, doneMaxEpochs+1)
	}
	if !d.lane(other).has(1) || !d.lane(laneKey{"A", "live", 10*doneMaxEpochs - 1}).has(1) {
		t.Error("the newest epoch or that of another publisher was forgotten")
	}
}
