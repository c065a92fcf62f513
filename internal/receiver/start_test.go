package receiver

import (
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/stream"
)

// TestStartInTheMiddle starts a receiver that remembers nothing in the middle of a stream that keeps ten minutes: every
// target is delivered within one keyframe interval, none wrongly.
func TestStartInTheMiddle(t *testing.T) {
	for _, interval := range []time.Duration{15 * time.Second, time.Minute} {
		t.Run(interval.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { startInTheMiddle(t, interval) })
		})
	}
}

func startInTheMiddle(t *testing.T, interval time.Duration) {
	const kept, sites = 10 * time.Minute, 20
	w := newWorld(t)
	publishers := make([]*site, sites)
	for i := range publishers {
		publishers[i] = newSite(w, fmt.Sprintf("S%02d", i), frame.EncoderOptions{})
		publishers[i].every(interval)
	}
	scrapeAll := func() {
		for _, s := range publishers {
			w.store(s.name, s.bundle())
		}
		time.Sleep(interval)
	}
	for range 40 {
		scrapeAll()
	}
	for w.messages[w.floor.First].Stored.Before(time.Now().Add(-kept)) {
		w.floor.First++
	}
	w.floor.First++ // sequences count from 1
	w.floor.Last = uint64(len(w.messages))
	w.start()
	for seq := w.floor.First; seq <= w.floor.Last; seq++ {
		w.hand(seq)
	}
	// What is kept spans more than a keyframe interval, so that all are there at once.
	newest := make(map[string]float64)
	for _, d := range w.sink.got {
		newest[d.Publisher] = d.Frame.Column.Values[0]
	}
	for _, s := range publishers {
		if newest[s.name] != s.scrapes {
			t.Errorf("publisher %s is at %v, want %v", s.name, newest[s.name], s.scrapes)
		}
	}
	delivered := len(w.sink.got)
	for range 3 {
		first := uint64(len(w.messages)) + 1
		scrapeAll()
		for seq := first; seq <= uint64(len(w.messages)); seq++ {
			w.hand(seq)
		}
	}
	w.stop()
	if got := len(w.sink.got) - delivered; got != 3*sites {
		t.Errorf("%d frames delivered of the next three scrapes, want %d", got, 3*sites)
	}
}

// TestStartAtTheEnd starts a receiver whose stream gives it nothing old: targets come one by one as their keyframes do,
// all within one keyframe interval.
func TestStartAtTheEnd(t *testing.T) {
	for _, interval := range []time.Duration{15 * time.Second, time.Minute} {
		t.Run(interval.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				s := newSite(w, "S", frame.EncoderOptions{})
				s.every(interval)
				for range 21 {
					w.store("S", s.bundle())
					time.Sleep(interval)
				}
				w.floor = stream.Floor{First: uint64(len(w.messages)) + 1, Last: uint64(len(w.messages))}
				w.start()
				start := time.Now()
				for len(w.sink.values()) == 0 {
					if time.Since(start) > frame.DefaultKeyframeMaxAge {
						t.Fatalf("nothing delivered in %v", time.Since(start))
					}
					s.send()
					time.Sleep(interval)
				}
				w.stop()
			})
		})
	}
}

// TestRestoredFromACopy runs a poller and, beside it, a copy of it that was made while it ran. Each sample that is
// delivered is true of one of them at its time, and the fork is noticed.
func TestRestoredFromACopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.log = io.Discard
		opts := frame.EncoderOptions{KeyframeEvery: 8}
		a := newSite(w, "A", opts)
		truth := make(map[string]bool)
		scrape := func(s *site) []byte {
			b := s.bundle()
			truth[fmt.Sprint(time.Now().UnixMilli(), s.scrapes)] = true
			return b
		}
		w.start()
		// The copy has the epoch and the sequence of the original, and scrapes the same target to other values.
		b := newSite(w, "A", opts)
		b.epoch, b.scrapes = a.epoch-1, 1000
		b.restart(opts)
		for range 40 {
			w.send("A", scrape(a))
			time.Sleep(5 * time.Second)
			w.send("A", scrape(b))
			time.Sleep(10 * time.Second)
		}
		w.stop()
		if len(w.sink.got) == 0 {
			t.Fatal("nothing delivered")
		}
		for _, d := range w.sink.got {
			if !truth[fmt.Sprint(d.Frame.Time, d.Frame.Column.Values[0])] {
				t.Errorf("%v at %d is not what either scraped", d.Frame.Column.Values[0], d.Frame.Time)
			}
		}
		if w.metric("dropped_frames_total", "reason", "forked_identity") == 0 {
			t.Error("the fork was not noticed")
		}
	})
}

// TestClockJumps sets a publisher's clock back and forth: order is by sequence, and every sample has the time it was given.
func TestClockJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := newSite(w, "A", frame.EncoderOptions{KeyframeEvery: 8})
		w.start()
		var want []string
		for i := range 40 {
			a.skew = []time.Duration{0, -time.Hour, 24 * time.Hour, -90 * 24 * time.Hour}[i/3%4]
			a.send()
			want = append(want, fmt.Sprintf("A/%d", i+1))
			time.Sleep(15 * time.Second)
		}
		w.stop()
		w.sink.want(t, want...)
	})
}
