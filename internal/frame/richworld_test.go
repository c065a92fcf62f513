package frame

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
)

// rich is what a series of a world has besides its value.
type rich struct {
	start     int64
	histogram Histogram
	exemplars []Exemplar
}

func (h *Histogram) exists() bool { return h.Int != nil || h.Float != nil }

// enrich gives a column start timestamps, histograms and exemplars as awkward as values are.
func (w *world) enrich(c *Column) {
	if w.rich == nil {
		w.rich = map[string]*rich{}
	}
	quiet := w.IntN(6) == 0 // nothing changes
	for i := range w.series {
		key := w.series[i].Labels.String()
		x := w.rich[key]
		if x == nil {
			x = &rich{}
			if w.IntN(3) == 0 {
				x.histogram = randomHistogram(w.Rand)
			}
			w.rich[key] = x
		}
		if !quiet {
			x.change(w)
		}
		if c.Absent.Has(i) {
			continue
		}
		if x.start != 0 {
			if c.Starts == nil {
				c.Starts = make([]int64, len(w.series))
			}
			c.Starts[i] = x.start
		}
		if h := x.histogram; h.exists() {
			h.Row = i
			c.Histograms = append(c.Histograms, h.clone(nil))
			c.Values[i] = math.NaN() // means nothing
		}
		for _, e := range x.exemplars {
			e.Row = i
			c.Exemplars = append(c.Exemplars, e)
		}
		for n := w.IntN(4); n > 0 && !x.histogram.exists() && w.IntN(8) == 0; n-- {
			c.Earlier = append(c.Earlier, randomEarlier(w.Rand, i, w.time))
		}
	}
}

func randomEarlier(r *rand.Rand, row int, now int64) Earlier {
	x := Earlier{Row: row, Value: float64(r.IntN(1_000_000)) / 1000, Timestamp: now - int64(r.IntN(20000))}
	switch r.IntN(4) {
	case 0:
		x.Value, x.Timestamp = oddValues[r.IntN(len(oddValues))], int64(r.Uint64())
	case 1:
		x.Value = float64(r.IntN(100))
	}
	return x
}

func (x *rich) change(w *world) {
	switch w.IntN(12) {
	case 0:
		x.start = w.time - int64(w.IntN(3))
	case 1:
		x.start = 0
	case 2:
		x.start = int64(w.Uint64())
	case 3:
		x.start = 1_600_000_000_000
	}
	switch {
	case !x.histogram.exists():
		if w.IntN(40) == 0 {
			x.histogram = randomHistogram(w.Rand)
		}
	case w.IntN(40) == 0:
		x.histogram = Histogram{}
	case w.IntN(10) == 0:
		x.histogram = randomHistogram(w.Rand)
	default:
		x.histogram = moveHistogram(w.Rand, x.histogram)
	}
	if w.IntN(3) == 0 {
		at := w.IntN(len(x.exemplars) + 1)
		x.exemplars = slices.Insert(slices.Clone(x.exemplars), at, randomExemplar(w.Rand, w.time))
	}
	for len(x.exemplars) > 0 && w.IntN(4) == 0 {
		at := w.IntN(len(x.exemplars))
		x.exemplars = slices.Delete(slices.Clone(x.exemplars), at, at+1)
	}
}

func randomExemplar(r *rand.Rand, now int64) Exemplar {
	x := Exemplar{Timestamp: NoTimestamp, Value: float64(r.IntN(1_000_000_000)) / 1e9}
	if r.IntN(4) == 0 {
		x.Value = oddValues[r.IntN(len(oddValues))]
	}
	switch r.IntN(4) {
	case 0:
	case 1:
		x.Timestamp = int64(r.Uint64() >> r.IntN(64))
	default:
		x.Timestamp = now - int64(r.IntN(20000))
	}
	switch r.IntN(6) {
	case 0:
	case 1:
		x.Labels = labels.FromStrings("a", "", "trace_id", "ABC", "ü", "0a0")
	case 2:
		x.Labels = labels.New(labels.Label{Name: "x", Value: "1"}, labels.Label{Name: "x", Value: "2"})
	case 3:
		x.Labels = labels.FromStrings("trace_id", hexID(r, 16))
	default:
		x.Labels = labels.FromStrings("span_id", hexID(r, 8), "trace_id", hexID(r, 16))
	}
	return x
}

func hexID(r *rand.Rand, n int) string {
	b := make([]byte, 0, 2*n)
	for range 2 * n {
		b = append(b, "0123456789abcdef"[r.IntN(16)])
	}
	return string(b)
}

// randomHistogram is any that may be sent, most of which no library makes.
func randomHistogram(r *rand.Rand) Histogram {
	l := layout{float: r.IntN(3) == 0, hint: histogram.CounterResetHint(r.IntN(4))}
	var positive, negative int
	if r.IntN(3) == 0 {
		l.schema = histogram.CustomBucketsSchema
		bound := -float64(r.IntN(10))
		for range r.IntN(12) {
			bound += []float64{0.005, 1, 1e-9, 123456, math.Pi}[r.IntN(5)]
			l.custom = append(l.custom, bound)
		}
		for left := len(l.custom) + 1; left > 0 && r.IntN(5) > 0; {
			gap := r.IntN(left)
			n := r.IntN(left - gap + 1)
			l.positive = append(l.positive, histogram.Span{Offset: int32(gap), Length: uint32(n)})
			left -= gap + n
			positive += n
		}
	} else {
		l.schema = int32(r.IntN(13) - 4)
		l.threshold = []float64{0, 2.938735877055719e-39, 0.001, oddValues[r.IntN(len(oddValues))]}[r.IntN(4)]
		l.positive, positive = randomSpans(r)
		l.negative, negative = randomSpans(r)
	}
	zero := uint64(r.IntN(3))
	if l.float {
		zero = math.Float64bits(r.Float64())
	}
	if l.usesCustom() {
		zero = 0
	}
	h := newHistogram(0, &l, zero, 0, r.Float64())
	if l.float {
		h.Float.PositiveBuckets, h.Float.NegativeBuckets = splitBuckets(make([]float64, positive+negative), positive)
	} else {
		h.Int.PositiveBuckets, h.Int.NegativeBuckets = splitBuckets(make([]int64, positive+negative), positive)
	}
	return moveHistogram(r, h)
}

func randomSpans(r *rand.Rand) (spans []histogram.Span, n int) {
	for i := range r.IntN(4) {
		s := histogram.Span{Offset: int32(r.IntN(5)), Length: uint32(r.IntN(6))}
		if i == 0 {
			s.Offset = int32(r.IntN(4000) - 2000)
		}
		if r.IntN(30) == 0 {
			s.Offset = math.MaxInt32
		}
		spans = append(spans, s)
		n += int(s.Length)
	}
	return spans, n
}

// moveHistogram gives it other numbers, and sometimes one more bucket.
func moveHistogram(r *rand.Rand, h Histogram) Histogram {
	l := h.layout()
	h = h.clone(nil)
	wild := r.IntN(8) == 0
	sum := h.sum()
	switch r.IntN(5) {
	case 0:
		sum = oddValues[r.IntN(len(oddValues))]
	case 1:
		sum = math.Round(sum) + float64(r.IntN(100))
	default:
		sum += r.Float64()
	}
	if f := h.Float; f != nil {
		f.Sum = sum
		for _, b := range [][]float64{f.PositiveBuckets, f.NegativeBuckets} {
			for i := range b {
				if b[i] += float64(r.IntN(3)); wild {
					b[i] = oddValues[r.IntN(len(oddValues))]
				}
			}
		}
		if f.Count += float64(r.IntN(5)); !l.usesCustom() {
			f.ZeroCount += r.Float64()
		}
		return h
	}
	x := h.Int
	x.Sum = sum
	for _, b := range [][]int64{x.PositiveBuckets, x.NegativeBuckets} {
		for i := range b {
			if d := int64(r.IntN(3)); r.IntN(3) == 0 {
				b[i] += d
				if i+1 < len(b) {
					b[i+1] -= d
				}
			}
			if wild {
				b[i] = int64(r.Uint64())
			}
		}
	}
	if !l.usesCustom() {
		x.ZeroCount += uint64(r.IntN(2))
	}
	if x.Count = h.inBuckets(); wild {
		x.Count = r.Uint64()
	}
	if r.IntN(10) == 0 && len(x.PositiveSpans) > 0 && x.PositiveSpans[0].Offset > 0 {
		x.PositiveSpans[0].Offset--
		x.PositiveSpans[0].Length++
		x.PositiveBuckets = slices.Insert(x.PositiveBuckets, 0, 1)
	}
	return h
}

func sameExtras(t testing.TB, got, want *Column) {
	t.Helper()
	for i := range want.Values {
		if !want.Absent.Has(i) && start(got.Starts, i) != start(want.Starts, i) {
			t.Fatalf("row %d: start timestamp %d, want %d", i, start(got.Starts, i), start(want.Starts, i))
		}
	}
	if len(got.Histograms) != len(want.Histograms) || len(got.Exemplars) != len(want.Exemplars) {
		t.Fatalf("%d histograms and %d exemplars, want %d and %d", len(got.Histograms), len(got.Exemplars), len(want.Histograms), len(want.Exemplars))
	}
	for i := range want.Histograms {
		g, w := &got.Histograms[i], &want.Histograms[i]
		if g.Row != w.Row || (g.Int == nil) != (w.Int == nil) || !g.same(w) {
			t.Fatalf("histogram of row %d: %s, want %s", w.Row, g.text(), w.text())
		}
		if err := g.check(DefaultLimits().Buckets); err != nil {
			t.Fatal(err)
		}
	}
	for i := range want.Exemplars {
		if g, w := &got.Exemplars[i], &want.Exemplars[i]; g.Row != w.Row || !g.same(w) {
			t.Fatalf("exemplar %+v, want %+v", g, w)
		}
	}
	if !slices.EqualFunc(got.Earlier, want.Earlier, func(g, w Earlier) bool { return g.same(&w) }) {
		t.Fatalf("earlier samples %v, want %v", got.Earlier, want.Earlier)
	}
}
