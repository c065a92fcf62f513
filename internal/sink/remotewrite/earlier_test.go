package remotewrite

import (
	"fmt"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// TestEarlierSamples: all samples of a series arrive, in order, each once, though a target shows old ones again; a start timestamp
// goes with those that are not before it.
func TestEarlierSamples(t *testing.T) {
	each(t, func(t *testing.T, versions ...int) {
		f := newServer(t, versions...)
		w := newWorld(t, f, Options{Protocol: fmt.Sprint(versions[0])})
		defer w.stopped()
		start := time.Now().UnixMilli()
		s := schemaOf(t, ms("1", "2")...)
		give := func(at int64, own int64, earlier ...int64) {
			x := scraped(s, start+at, float64(at), float64(own))
			x.Column.Timestamps = []int64{frame.NoTimestamp, start + own}
			x.Column.Starts = []int64{0, start + 2}
			for _, e := range earlier {
				x.Column.Earlier = append(x.Column.Earlier, frame.Earlier{Row: 1, Value: float64(e), Timestamp: start + e})
			}
			w.give(site("job", "a"), x)
			w.settle(time.Second)
		}
		give(100, 4, 1, 3)
		give(200, 7, 3, 4, 6)
		give(300, 8)
		give(400, 9)
		at := func(n int64) float64 { return float64(start + n) }
		w.has(m("1"), at(100), 100, at(200), 200, at(300), 300, at(400), 400)
		w.has(m("2"), at(1), 1, at(3), 3, at(4), 4, at(6), 6, at(7), 7, at(8), 8, at(9), 9)
		if n := w.metric("dropped_samples_total"); n != 0 {
			t.Errorf("%v samples dropped", n)
		}
	})
}
