package remotewrite

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// everyHistogram has each form of native histogram.
func everyHistogram() []frame.Histogram {
	gauge := tsdbutil.GenerateTestGaugeHistogram(4)
	float := tsdbutil.GenerateTestFloatHistogram(5)
	float.Sum = math.Float64frombits(0x7ff8000000000123)
	custom := tsdbutil.GenerateTestCustomBucketsHistogram(6)
	customFloat := tsdbutil.GenerateTestCustomBucketsFloatHistogram(7)
	far := tsdbutil.GenerateTestHistogram(8)
	far.Schema, far.PositiveSpans[0].Offset, far.PositiveSpans[1].Offset = -4, -300, 70000
	far.CounterResetHint, far.Count, far.ZeroCount = histogram.CounterReset, far.Count+1<<60, far.ZeroCount+1<<60
	return []frame.Histogram{
		{Row: 0, Int: tsdbutil.GenerateTestHistogram(3)}, {Row: 1, Int: gauge}, {Row: 3, Float: float},
		{Row: 4, Int: custom}, {Row: 5, Float: customFloat}, {Row: 6, Int: &histogram.Histogram{}}, {Row: 7, Int: far},
	}
}

// nativeAt is the histogram number n that is stored of a series of m.
func (w *world) nativeAt(x string, n int) native1 {
	w.t.Helper()
	w.server.mu.Lock()
	defer w.server.mu.Unlock()
	all := w.server.natives[labels.FromStrings(m(x)...).String()]
	if n >= len(all) {
		w.t.Fatalf("%d histograms of %s, want more than %d", len(all), x, n)
	}
	return all[n]
}

func sameHistograms(a native1, b frame.Histogram) bool {
	if (a.float != nil) != (b.Float != nil) {
		return false
	}
	if b.Int != nil {
		return a.int.Equals(b.Int) && a.int.CounterResetHint == b.Int.CounterResetHint
	}
	return a.float.Equals(b.Float) && a.float.CounterResetHint == b.Float.CounterResetHint &&
		math.Float64bits(a.float.Sum) == math.Float64bits(b.Float.Sum)
}

func TestNativeHistograms(t *testing.T) {
	each(t, func(t *testing.T, versions ...int) {
		w := newWorld(t, newServer(t, versions...), Options{SendNativeHistograms: true, Protocol: fmt.Sprint(versions[0])})
		defer w.stopped()
		start := time.Now().UnixMilli()
		s := schemaOf(t, ms("0", "1", "2", "3", "4", "5", "6", "7")...)
		f := scraped(s, start, 9, 9, 2, 9, 9, 9, 9, 9)
		f.Column.Histograms = everyHistogram()
		f.Column.Starts = []int64{start - 5, 0, start - 7, 0, 0, 0, 0, 0}
		f.Column.Timestamps = []int64{frame.NoTimestamp, frame.NoTimestamp, frame.NoTimestamp, start - 3, frame.NoTimestamp, frame.NoTimestamp, frame.NoTimestamp, frame.NoTimestamp}
		w.give(site("job", "a"), f)
		w.settle(time.Second)
		w.give(site("job", "a"), &frame.Frame{Kind: frame.Down, Time: start + 15000})
		w.settle(time.Second)
		w.has(m("2"), float64(start), 2, float64(start+15000), stale)
		old := versions[0] == 1
		for _, h := range everyHistogram() {
			x := fmt.Sprint(h.Row)
			if old && customBuckets(h) {
				if n := len(w.server.series(m(x)...)); n != 0 {
					t.Errorf("%d samples of a histogram with custom buckets in 1.0", n)
				}
				continue
			}
			if got := w.nativeAt(x, 0); !sameHistograms(got, h) {
				t.Errorf("series %s: %+v, want %+v", x, got, h)
			}
			if h.Row == 3 {
				if got := w.nativeAt(x, 0); got.ms != start-3 {
					t.Errorf("explicit timestamp is %d, want %d", got.ms, start-3)
				}
				continue // has a timestamp of its own: no marker
			}
			got := w.nativeAt(x, 1)
			if got.ms != start+15000 || got.int != nil && !value.IsStaleNaN(got.int.Sum) || got.float != nil && !value.IsStaleNaN(got.float.Sum) ||
				(got.float != nil) != (h.Float != nil) {
				t.Errorf("series %s: stale marker %+v", x, got)
			}
		}
		want := float64(0)
		if old {
			want = 2
		} else {
			for x, ms := range map[string]int64{"0": start - 5, "1": 0, "2": start - 7} {
				if got := w.server.starts[labels.FromStrings(m(x)...).String()]; !slices.Equal(got, []int64{ms, 0}) {
					t.Errorf("start timestamps of %s: %v, want %d and none of the marker", x, got, ms)
				}
			}
		}
		if got := w.metric("dropped_samples_total", "reason", customBucketsIn1, "publisher", "DC1"); got != want {
			t.Errorf("%v histograms with custom buckets are counted, want %v", got, want)
		}
		if n := w.server.count(); n != 2 {
			t.Errorf("%d requests", n)
		}
	})
}

func TestWithoutNativeHistograms(t *testing.T) {
	each(t, func(t *testing.T, versions ...int) {
		w := newWorld(t, newServer(t, versions...), Options{})
		defer w.stopped()
		now := time.Now().UnixMilli()
		f := scraped(schemaOf(t, ms("0", "1")...), now, 1, 2)
		f.Column.Histograms = []frame.Histogram{{Row: 1, Int: tsdbutil.GenerateTestHistogram(1)}}
		f.Column.Exemplars = []frame.Exemplar{{Row: 0, Labels: labels.FromStrings("trace_id", "a"), Timestamp: now}}
		w.give(site("job", "a"), f)
		w.settle(time.Second)
		w.give(site("job", "a"), &frame.Frame{Kind: frame.Down, Time: now + 1})
		w.settle(time.Second)
		w.has(m("0"), float64(now), 1, float64(now+1), stale)
		w.has(m("1"))
		if n := len(w.server.exemplars[labels.FromStrings(m("0")...).String()]); n != 0 {
			t.Errorf("%d exemplars", n)
		}
	})
}

// A series that turns from a float into a histogram and back, and one that vanishes in between, by schema and by row.
func TestHistogramsComeAndGo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, newServer(t, 2), Options{SendNativeHistograms: true})
		defer w.stopped()
		a, start := site("job", "a"), time.Now().UnixMilli()
		one, two := schemaOf(t, ms("0", "1")...), schemaOf(t, ms("0")...)
		give := func(n int64, f *frame.Frame, rows ...int) {
			for _, row := range rows {
				f.Column.Histograms = append(f.Column.Histograms, frame.Histogram{Row: row, Float: tsdbutil.GenerateTestFloatHistogram(1)})
			}
			f.Time = start + n
			w.give(a, f)
			w.settle(time.Second)
		}
		give(0, scraped(one, 0, 1, 1))
		give(1, scraped(one, 0, 1, 1), 0, 1)
		give(2, scraped(two, 0, 1), 0)
		give(3, scraped(one, 0, 1, 1), 1)
		absent := scraped(one, 0, 1, 1)
		absent.Column.Absent = frame.NewBitmap(2)
		absent.Column.Absent.Set(1)
		give(4, absent)
		stales := 0
		for n, ms := range []int64{1, 2, 3, 4} {
			got := w.nativeAt("1", n)
			if got.ms != start+ms || got.float == nil {
				t.Errorf("histogram %d of 1: %+v, want one at %d", n, got, ms)
			} else if value.IsStaleNaN(got.float.Sum) {
				stales += int(ms)
			}
		}
		if stales != 2+4 {
			t.Errorf("stale markers at times that add up to %d, want those at 2 and 4", stales)
		}
		if n := len(w.server.series(m("0")...)); n != 5 || len(w.server.natives[labels.FromStrings(m("0")...).String()]) != 2 {
			t.Errorf("series 0 has %d samples", n)
		}
	})
}

func TestExemplars(t *testing.T) {
	each(t, func(t *testing.T, versions ...int) {
		o := Options{SendExemplars: true, SendNativeHistograms: true, StateDirectory: t.TempDir(), Protocol: fmt.Sprint(versions[0])}
		s := schemaOf(t, ms("0", "1", "2")...)
		o.Schema = func(frame.SchemaID) *frame.Schema { return s }
		f := newServer(t, versions...)
		w := newWorld(t, f, o)
		start, none := time.Now().UnixMilli(), int64(frame.NoTimestamp)
		x := func(row int, trace string, value float64, at int64) frame.Exemplar {
			if at != none {
				at += start
			}
			return frame.Exemplar{Row: row, Labels: labels.FromStrings("span_id", "", "trace_id", trace), Value: value, Timestamp: at}
		}
		give := func(w *world, n int64, all ...frame.Exemplar) {
			f := scraped(s, start+n, float64(n), 1, 2)
			f.Column.Histograms = []frame.Histogram{{Row: 2, Int: tsdbutil.GenerateTestHistogram(1)}}
			f.Column.Exemplars = all
			w.give(site("job", "a"), f)
			w.settle(time.Second)
		}
		long := x(0, strings.Repeat("é", 121), 1, 0)
		give(w, 10, x(0, "a", 1, none), long, x(1, "b", 1, 5), x(2, "c", 1, 7), x(2, "d", 9, 2), x(2, "e", 1, none))
		// The same again; new ones beside old ones; only an old one.
		give(w, 20, x(0, "a", 1, none), x(1, "b", 1, 5), x(2, "c", 1, 7), x(2, "d", 9, 2))
		give(w, 30, x(0, "A", 1, none), x(1, "b", 2, 5), x(2, "c", 1, 7), x(2, "f", 9, 8))
		give(w, 40, x(1, "b", 1, 4))
		w.stopped()
		// After a restart nothing is sent once more.
		w2 := newWorld(t, f, o)
		w2.seq = 100
		give(w2, 50, x(0, "A", 1, none), x(0, "Z", 3, none), x(1, "b", 2, 5), x(2, "c", 1, 7), x(2, "f", 9, 8))
		w2.stopped()
		want := map[string]string{
			"0": `[{10 1 {trace_id="a"}} {30 1 {trace_id="A"}} {50 3 {trace_id="Z"}}]`,
			"1": `[{5 1 {trace_id="b"}} {5 2 {trace_id="b"}}]`,
			"2": `[{2 9 {trace_id="d"}} {7 1 {trace_id="c"}} {8 9 {trace_id="f"}}]`,
		}
		for series, text := range want {
			got := slices.Clone(f.exemplars[labels.FromStrings(m(series)...).String()])
			for i := range got {
				got[i].ms -= start
			}
			if fmt.Sprint(got) != text {
				t.Errorf("exemplars of %s: %v\nwant %s", series, got, text)
			}
		}
		if got := w.metric("exemplars_total"); got != 7 {
			t.Errorf("%v exemplars counted", got)
		}
		if got := w.metric("dropped_exemplars_total", "reason", outOfOrder, "publisher", "DC1"); got != 1 {
			t.Errorf("%v exemplars out of order", got)
		}
		if got := w.metric("dropped_exemplars_total", "reason", rejected, "publisher", "DC1"); got != 1 {
			t.Errorf("%v exemplars with labels that are too long", got)
		}
	})
}

// A server of 2.0 that writes samples but no histograms and exemplars says so by its headers alone.
func TestWrittenCounts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newServer(t, 2)
		f.mute = true
		w := newWorld(t, f, Options{SendExemplars: true, SendNativeHistograms: true})
		defer w.stopped()
		now := time.Now().UnixMilli()
		for i, p := range []string{"DC1", "DC2"} {
			g := scraped(schemaOf(t, ms("0", "1")...), now, 1, 2)
			g.Column.Histograms = []frame.Histogram{{Row: 1, Int: tsdbutil.GenerateTestHistogram(1)}}
			g.Column.Exemplars = []frame.Exemplar{{Row: 0, Labels: labels.FromStrings("trace_id", p), Timestamp: now}}
			w.give(site("job", fmt.Sprint(i)), g, func(d *sink.Delivery) { d.Publisher = p })
		}
		w.settle(time.Minute)
		for _, p := range []string{"DC1", "DC2"} {
			if got := w.metric("dropped_samples_total", "reason", rejected, "publisher", p); got != 1 {
				t.Errorf("%v samples of %s dropped, want its histogram", got, p)
			}
			if got := w.metric("dropped_exemplars_total", "reason", rejected, "publisher", p); got != 1 {
				t.Errorf("%v exemplars of %s dropped", got, p)
			}
		}
		if got := w.metric("samples_total"); got != 2*6 {
			t.Errorf("%v samples taken", got)
		}
	})
}

func TestTrackTimestampsStaleness(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, newServer(t, 2), Options{})
		defer w.stopped()
		now := time.Now().UnixMilli()
		f := scraped(schemaOf(t, ms("1", "2")...), now, 1, 2)
		f.Column.Timestamps = []int64{now - 50, frame.NoTimestamp}
		g := site("job", "a")
		g.TrackTimestamps = true
		w.give(g, f)
		w.settle(time.Second)
		w.give(g, &frame.Frame{Kind: frame.Down, Time: now + 100})
		w.settle(time.Second)
		n := float64(now)
		w.has(m("1"), n-50, 1, n+100, stale)
		w.has(m("2"), n, 2, n+100, stale)
	})
}

// Columns that contradict themselves are refused, not written.
func TestMalformedColumns(t *testing.T) {
	h := tsdbutil.GenerateTestHistogram(1)
	for name, c := range map[string]frame.Column{
		"starts":                 {Starts: []int64{1}},
		"row of a histogram":     {Histograms: []frame.Histogram{{Row: 2, Int: h}}},
		"histograms not rising":  {Histograms: []frame.Histogram{{Row: 1, Int: h}, {Row: 1, Int: h}}},
		"no histogram":           {Histograms: []frame.Histogram{{Row: 1}}},
		"row of an exemplar":     {Exemplars: []frame.Exemplar{{Row: -1}}},
		"exemplars not in order": {Exemplars: []frame.Exemplar{{Row: 1}, {Row: 0}}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, newServer(t, 2), Options{SendExemplars: true, SendNativeHistograms: true})
				defer w.stopped()
				f := scraped(schemaOf(t, ms("1", "2")...), time.Now().UnixMilli(), 1, 2)
				c.Values = f.Column.Values
				f.Column = c
				w.give(site("job", "a"), f)
				if got := w.reasons(time.Second); !slices.Equal(got, []string{"malformed"}) {
					t.Errorf("verdict %v", got)
				}
			})
		})
	}
}
