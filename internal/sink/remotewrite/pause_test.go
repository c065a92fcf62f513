package remotewrite

import (
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// A paused sink sends nothing, no stale markers either; all of it goes out afterwards.
func TestPause(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, newServer(t, 2), Options{})
		defer w.stopped()
		s := schemaOf(t, ms("1")...)
		a, gone := site("job", "a"), site("job", "gone")
		n := float64(time.Now().UnixMilli())
		w.give(a, scraped(s, int64(n), 1))
		w.settle(time.Second)
		w.give(gone, &frame.Frame{Kind: frame.End, Reason: frame.Removed, Time: int64(n)})
		w.Pause()
		w.give(a, scraped(s, int64(n)+15000, 2))
		time.Sleep(time.Hour)
		w.has(m("1"), n, 1)
		w.has([]string{"__name__", "up", "job", "gone"})
		w.Resume()
		w.settle(time.Second)
		w.has(m("1"), n, 1, n+15000, 2)
		w.has([]string{"__name__", "up", "job", "gone"}, n, stale)
	})
}
