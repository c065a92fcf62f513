package remotewrite

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// A backlog is written with all scrapes of a target together, each series once; what is between them is not left out:
// series that come and go, failed scrapes, times of their own, other targets of the shard.
func TestBacklogIsWrittenTogether(t *testing.T) {
	each(t, func(t *testing.T, versions ...int) {
		f := newServer(t, versions...)
		var down atomic.Bool
		down.Store(true)
		f.answer = func(int, *http.Request) *http.Response {
			if down.Load() {
				return reply(http.StatusServiceUnavailable, "", -1)
			}
			return nil
		}
		w := newWorld(t, f, Options{Protocol: fmt.Sprint(versions[0]), MaxSamples: 2000})
		defer w.stopped()
		s := schemaOf(t, ms("1", "2", "3")...)
		const targets, scrapes = 80, 30
		start := time.Now().UnixMilli()
		at := func(n int) int64 { return start + 1000*int64(n) }
		for n := range scrapes {
			for i := range targets {
				g, c := site("job", fmt.Sprint("j", i)), scraped(s, at(n), float64(n), float64(i), 3)
				switch {
				case i == 3 && n%10 == 5:
					c = &frame.Frame{Kind: frame.Down, Time: at(n)}
				case i == 4 && n%10 == 5:
					c.Column.Absent = frame.NewBitmap(3)
					c.Column.Absent.Set(0)
				case i == 5:
					c.Column.Timestamps = []int64{at(n) - 500, frame.NoTimestamp, frame.NoTimestamp}
				}
				w.give(g, c)
			}
		}
		time.Sleep(time.Second)
		down.Store(false)
		w.settle(time.Minute)
		for i := range targets {
			for x := range 3 {
				var want []float64
				for n := range scrapes {
					ms, v := float64(at(n)), []float64{float64(n), float64(i), 3}[x]
					if i == 5 && x == 0 {
						ms -= 500
					}
					if n%10 == 5 && (i == 3 || i == 4 && x == 0) {
						v = stale
					}
					want = append(want, ms, v)
				}
				w.has([]string{"__name__", "m", "x", fmt.Sprint(x + 1), "job", fmt.Sprint("j", i)}, want...)
			}
		}
		if got, want := w.metric("samples_total"), float64(targets*scrapes*8); got != want {
			t.Errorf("%v samples counted, want %v", got, want)
		}
		if f.written > targets*scrapes*8/10 {
			t.Errorf("%d series written for %d samples", f.written, targets*scrapes*8)
		}
	})
}
