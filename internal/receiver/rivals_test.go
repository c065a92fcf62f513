package receiver

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// TestRivals plays the order in which a stream stored the bundles of epochs: "a0 b5" is epoch a at second 0, b at second 5.
func TestRivals(t *testing.T) {
	for name, c := range map[string]struct {
		stored string
		want   int // times that two live epochs were seen
	}{
		"one":                          {"a0 a15 a30 a45", 0},
		"restart":                      {"a0 a15 a30 b40 b55 b70", 0},
		"restarts in a row":            {"a0 b15 c30 d45 e60 f75 g90 h105 i120 j135 k150", 0},
		"the last of a killed one":     {"a0 a15 b20 a21 b22 a23 b24 a25 b26 b40 b55", 0},
		"the end is stored once more":  {"a0 a60 b70 b120 a125 a126 b127 b140 b155", 0},
		"twice":                        {"a0 a60 b70 b120 a125 b127 c200 c300 b301 c302", 0},
		"delivered in another order":   {"b20 a0 b40 a1 b60 a2 b80 a3", 0},
		"short second one":             {"a0 a15 b16 b17 a30 a45 a60", 0},
		"two":                          {"a0 b2 a15 b17 a30 b32", 2},
		"two, seldom":                  {"a0 b30 a60 b90 a120", 1},
		"two of a kind beside a third": {"a0 b1 c2 a15 b16 c17 a30 b31 c32", 4},
	} {
		t.Run(name, func(t *testing.T) {
			r, got := new(rivals), 0
			for one := range strings.FieldsSeq(c.stored) {
				var after int
				if _, err := fmt.Sscan(one[1:], &after); err != nil {
					t.Fatal(err)
				}
				if other, live := r.stored(uint64(one[0]), time.Unix(int64(1000+after), 0)); live {
					got++
					if other == uint64(one[0]) || other == 0 {
						t.Errorf("%s lives beside %d", one, other)
					}
				}
			}
			if got != c.want {
				t.Errorf("seen %d times, want %d", got, c.want)
			}
		})
	}
}

// Two pollers with one identity are counted and logged within a few of their intervals, and as long as both live; all that
// they send is delivered.
func TestTwoLiveEpochs(t *testing.T) {
	each(t, func(t *testing.T, w *world, a *site) {
		var log strings.Builder
		w.log = &log
		w.start()
		second := newSite(w, "A", frame.EncoderOptions{})
		for range 3 {
			a.send()
			time.Sleep(7 * time.Second)
			second.send()
			time.Sleep(8 * time.Second)
		}
		w.wantMetric(1, "concurrent_epochs_total", "publisher", "A", "sink", "test")
		for range 5 {
			a.send()
			second.send()
			time.Sleep(15 * time.Second)
		}
		w.stop()
		w.wantMetric(11, "concurrent_epochs_total", "publisher", "A")
		if n := strings.Count(log.String(), "two pollers run with one identity"); n != 1 {
			t.Errorf("logged %d times:\n%s", n, &log)
		}
		if n := len(w.sink.got); n != 16 {
			t.Errorf("%d frames delivered", n)
		}
		w.wantMetric(0, "dropped_frames_total")
	})
}

// A poller that is restarted, with an end of its epoch or without, and a receiver that is, are no rivals.
func TestRestartsAreNoRivals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.state = t.TempDir()
		a := newSite(w, "A", frame.EncoderOptions{})
		w.start()
		for round := range 6 {
			for range 3 {
				a.send()
				time.Sleep(15 * time.Second)
			}
			if round%2 == 0 {
				a.seq++
				w.send("A", frame.AppendBundle(nil, frame.Header{Publisher: "A", Lane: "live", Epoch: a.epoch, Seq: a.seq}, frame.AppendEpochEnd(nil, a.epoch, time.Now().UnixMilli())))
			}
			if round == 3 {
				w.stop()
				w.start()
				for seq := range uint64(len(w.messages)) {
					w.hand(seq + 1) // nothing was acknowledged, for all the server knows
				}
			}
			a.restart(frame.EncoderOptions{})
		}
		w.stop()
		w.wantMetric(0, "concurrent_epochs_total")
	})
}
