package remotewrite

import (
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// scrape_series_added goes on over a restart of the poller, which counts all series as new at first.
func TestAddedOverRestart(t *testing.T) {
	const first, second = 11, 12
	absent := func(f *frame.Frame, row int) *frame.Frame {
		f.Column.Absent = frame.NewBitmap(len(f.Column.Values))
		f.Column.Absent.Set(row)
		return f
	}
	type step struct {
		epoch uint64
		frame func(ms int64) *frame.Frame
		want  float64
	}
	down := func(ms int64) *frame.Frame {
		return &frame.Frame{Kind: frame.Down, Time: ms, Report: frame.Report{Added: 2}}
	}
	shows := func(added int, xs ...string) func(int64) *frame.Frame {
		return func(at int64) *frame.Frame {
			f := scraped(schemaOf(t, ms(xs...)...), at, make([]float64, len(xs))...)
			f.Report.Added = added
			return f
		}
	}
	without := func(row int, f func(int64) *frame.Frame) func(int64) *frame.Frame {
		return func(at int64) *frame.Frame { return absent(f(at), row) }
	}
	end := func(at int64) *frame.Frame { return &frame.Frame{Kind: frame.End, Time: at, Reason: frame.Removed} }
	for name, steps := range map[string][]step{
		"the same series":         {{first, shows(2, "1", "2"), 2}, {second, shows(2, "1", "2"), 0}, {second, shows(0, "1", "2"), 0}},
		"another one":             {{first, shows(2, "1", "2"), 2}, {second, shows(3, "2", "3", "4"), 2}, {second, shows(1, "2", "3", "4", "5"), 1}},
		"one was absent":          {{first, without(0, shows(1, "1", "2")), 1}, {second, shows(2, "1", "2"), 1}},
		"one is absent":           {{first, shows(2, "1", "2"), 2}, {second, without(1, shows(2, "1", "2", "3")), 1}, {second, shows(1, "1", "2", "3"), 1}},
		"it fails at first":       {{first, shows(2, "1", "2"), 2}, {second, down, 0}, {second, shows(3, "1", "2", "3"), 1}, {second, shows(1, "1", "2", "3"), 1}},
		"it is empty at first":    {{first, shows(2, "1", "2"), 2}, {second, shows(0), 0}, {second, shows(3, "1", "2", "3"), 1}, {second, shows(1, "1", "2", "3"), 1}},
		"it failed before":        {{first, shows(2, "1", "2"), 2}, {first, down, 2}, {second, shows(2, "1", "2"), 0}},
		"it had come to its end":  {{first, shows(2, "1", "2"), 2}, {first, end, 0}, {second, shows(2, "1", "2"), 2}},
		"nothing is known of it":  {{second, shows(2, "1", "2"), 2}},
		"the epoch is the same":   {{first, shows(2, "1", "2"), 2}, {first, shows(2, "1", "2"), 2}},
		"again after another one": {{first, shows(2, "1", "2"), 2}, {second, shows(2, "1", "2"), 0}, {first + 9, shows(3, "1", "2", "3"), 1}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, newServer(t, 2), Options{})
				defer w.stopped()
				var want []float64
				for _, s := range steps {
					at := time.Now().UnixMilli()
					f := s.frame(at)
					w.give(site("job", "a"), f, func(d *sink.Delivery) { d.Epoch = s.epoch })
					w.settle(2 * time.Minute)
					if f.Kind == frame.End {
						want = append(want, float64(at), stale)
						continue
					}
					want = append(want, float64(at), s.want)
				}
				w.has([]string{"__name__", frame.AddedName, "job", "a"}, want...)
			})
		})
	}
}
