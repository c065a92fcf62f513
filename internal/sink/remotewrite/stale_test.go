package remotewrite

import (
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

func m(x string) []string { return []string{"__name__", "m", "x", x, "job", "a"} }
func up() []string        { return []string{"__name__", "up", "job", "a"} }

func TestStaleMarkers(t *testing.T) {
	each(t, func(t *testing.T, versions ...int) {
		w := newWorld(t, newServer(t, versions...), Options{})
		defer w.stopped()
		a := site("job", "a")
		start := time.Now().UnixMilli()
		at := func(n int) float64 { return float64(start + int64(n)*15000) }
		one, two := schemaOf(t, ms("1", "2", "3")...), schemaOf(t, ms("2", "4")...)
		give := func(n int, f *frame.Frame) {
			f.Time = int64(at(n))
			w.give(a, f)
			w.settle(15 * time.Second)
		}
		give(0, scraped(one, 0, 1, 2, 3))
		// A series vanishes within the schema, stays away, and comes back.
		f := scraped(one, 0, 1, 2, 3)
		f.Column.Absent = frame.NewBitmap(3)
		f.Column.Absent.Set(2)
		give(1, f)
		f = scraped(one, 0, 1, 2, 3)
		f.Column.Absent = frame.NewBitmap(3)
		f.Column.Absent.Set(2)
		give(2, f)
		give(3, scraped(one, 0, 1, 2, 3))
		// Another schema: 1 and 3 vanish.
		give(4, scraped(two, 0, 2, 4))
		// Down: all vanish, once.
		give(5, &frame.Frame{Kind: frame.Down})
		give(6, &frame.Frame{Kind: frame.Down})
		give(7, scraped(two, 0, 2, 4))
		w.has(m("1"), at(0), 1, at(1), 1, at(2), 1, at(3), 1, at(4), stale)
		w.has(m("2"), at(0), 2, at(1), 2, at(2), 2, at(3), 2, at(4), 2, at(5), stale, at(7), 2)
		w.has(m("3"), at(0), 3, at(1), stale, at(3), 3, at(4), stale)
		w.has(m("4"), at(4), 4, at(5), stale, at(7), 4)
		w.has(up(), at(0), 1, at(1), 1, at(2), 1, at(3), 1, at(4), 1, at(5), 0, at(6), 0, at(7), 1)
		// A new epoch without one of the series.
		next := scraped(schemaOf(t, ms("4")...), int64(at(8)), 4)
		w.give(a, next, func(d *sink.Delivery) { d.Epoch, d.Seq = 2, 1 })
		w.settle(15 * time.Second)
		w.has(m("2"), at(0), 2, at(1), 2, at(2), 2, at(3), 2, at(4), 2, at(5), stale, at(7), 2, at(8), stale)
	})
}

func TestExplicitTimestampsGetNoMarkers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, newServer(t, 2), Options{})
		defer w.stopped()
		now := time.Now().UnixMilli()
		f := scraped(schemaOf(t, ms("1", "2")...), now, 1, 2)
		f.Column.Timestamps = []int64{now - 50, frame.NoTimestamp}
		w.give(site("job", "a"), f)
		w.settle(time.Second)
		w.give(site("job", "a"), &frame.Frame{Kind: frame.Down, Time: now + 100})
		w.settle(time.Second)
		n := float64(now)
		w.has(m("1"), n-50, 1)
		w.has(m("2"), n, 2, n+100, stale)
	})
}

func TestEnd(t *testing.T) {
	for _, c := range []struct {
		name    string
		reason  frame.EndReason
		again   time.Duration // after the last scrape; 0 is never
		marker  bool
		verdict time.Duration
	}{
		{"removed", frame.Removed, 0, true, 32 * time.Second},
		{"relabelled", frame.Relabelled, 0, true, 32 * time.Second},
		{"paused", frame.Paused, 0, true, 32 * time.Second},
		{"paused for a moment", frame.Paused, 9 * time.Second, false, 10 * time.Second},
		{"found again before the next scrape", frame.Removed, 9 * time.Second, false, 10 * time.Second},
		{"found again later", frame.Removed, 20 * time.Second, true, 21 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, newServer(t, 2), Options{})
				defer w.stopped()
				a := site("job", "a")
				s := schemaOf(t, ms("1", "2")...)
				start := time.Now()
				n := float64(start.UnixMilli())
				w.give(a, scraped(s, start.UnixMilli(), 1, 2))
				time.Sleep(2 * time.Second)
				w.give(a, &frame.Frame{Kind: frame.End, Reason: c.reason, Time: time.Now().UnixMilli()})
				one, ups := []float64{n, 1}, []float64{n, 1}
				if c.marker {
					one, ups = append(one, n+15000, stale), append(ups, n+15000, stale)
				}
				if c.again > 0 {
					time.Sleep(c.again - 2*time.Second)
					w.give(a, scraped(s, time.Now().UnixMilli(), 5, 6), func(d *sink.Delivery) { d.Epoch = 7 })
					at := n + float64(c.again.Milliseconds())
					one, ups = append(one, at, 5), append(ups, at, 1)
				}
				w.settle(time.Until(start.Add(c.verdict)) + 2*time.Second)
				w.has(m("1"), one...)
				w.has(up(), ups...)
			})
		})
	}
}

func TestEndOfUnknownTarget(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, newServer(t, 2), Options{})
		defer w.stopped()
		now := time.Now().UnixMilli()
		w.give(site("job", "a"), &frame.Frame{Kind: frame.End, Reason: frame.Removed, Time: now})
		w.settle(time.Minute)
		w.has(up(), float64(now), stale)
	})
}

// TestNothingIsKept ends and forgets targets: texts and symbols must go with them.
func TestNothingIsKept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, newServer(t, 2), Options{PublisherLabel: "site"})
		now := time.Now().UnixMilli()
		a := site("job", "a")
		for i, x := range []string{"1", "2", "3", "4", "5"} {
			w.give(a, scraped(schemaOf(t, append(ms(x, "same"), ms("job")...)...), now+int64(i), 1, 2, 3))
		}
		w.give(site("job", "b"), scraped(schemaOf(t, ms("1")...), now, 1))
		w.give(a, &frame.Frame{Kind: frame.End, Reason: frame.Removed, Time: now + 10})
		w.settle(time.Minute)
		time.Sleep(2 * time.Hour)
		w.stopped()
		if len(w.texts) != 0 || len(w.targets) != 0 || len(w.encoder.numbers) != 1 {
			t.Errorf("kept: %d texts, %d targets, %d symbols", len(w.texts), len(w.targets), len(w.encoder.numbers)-1)
		}
	})
}
