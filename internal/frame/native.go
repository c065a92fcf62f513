package frame

import (
	"fmt"
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/histogram"
)

// scheme says where the bounds of a histogram's buckets lie.
type scheme struct {
	schema    int32
	threshold float64
	custom    []float64
}

func (s *scheme) usesCustom() bool { return histogram.IsCustomBucketsSchema(s.schema) }

func (s *scheme) same(o *scheme) bool {
	return s.schema == o.schema && sameBits(s.threshold, o.threshold) && slices.EqualFunc(s.custom, o.custom, sameBits)
}

func sameBits(a, b float64) bool { return math.Float64bits(a) == math.Float64bits(b) }

// layout is all of a histogram but its numbers.
type layout struct {
	scheme
	float              bool
	hint               histogram.CounterResetHint
	positive, negative []histogram.Span
}

func (h *Histogram) layout() layout {
	if x := h.Int; x != nil {
		return layout{scheme{x.Schema, x.ZeroThreshold, x.CustomValues}, false, x.CounterResetHint, x.PositiveSpans, x.NegativeSpans}
	}
	x := h.Float
	return layout{scheme{x.Schema, x.ZeroThreshold, x.CustomValues}, true, x.CounterResetHint, x.PositiveSpans, x.NegativeSpans}
}

func (l *layout) same(o *layout) bool {
	return l.float == o.float && l.hint == o.hint && slices.Equal(l.positive, o.positive) && slices.Equal(l.negative, o.negative) && l.scheme.same(&o.scheme)
}

// predicts tells whether the buckets of one layout can stand in for those of the other with the same index.
func (l *layout) predicts(o *layout) bool {
	return l.float == o.float && l.schema == o.schema && slices.EqualFunc(l.custom, o.custom, sameBits)
}

// check tells whether spans and bounds fit each other: the rules of histogram.Histogram.Validate that are not about
// what was counted. It gives how many buckets the two sides have.
func (l *layout) check(most int) (positive, negative int, err error) {
	if l.hint > histogram.GaugeType {
		return 0, 0, fmt.Errorf("%w: counter reset hint %d of a histogram", ErrMalformed, l.hint)
	}
	if !histogram.IsValidSchema(l.schema) {
		return 0, 0, fmt.Errorf("%w: schema %d of a histogram", ErrMalformed, l.schema)
	}
	positive, reach, err := checkSpans(l.positive, most)
	if err == nil {
		negative, _, err = checkSpans(l.negative, most)
	}
	if err == nil {
		err = within("buckets of a histogram", uint64(positive+negative), most)
	}
	switch {
	case err != nil:
		return 0, 0, err
	case !l.usesCustom() && len(l.custom) > 0:
		return 0, 0, fmt.Errorf("%w: %d custom bounds in a histogram of schema %d", ErrMalformed, len(l.custom), l.schema)
	case !l.usesCustom():
		return positive, negative, nil
	case len(l.negative) > 0 || math.Float64bits(l.threshold) != 0:
		return 0, 0, fmt.Errorf("%w: %d negative spans and a zero threshold of %v in a histogram with custom bounds", ErrMalformed, len(l.negative), l.threshold)
	case len(l.positive) > 0 && l.positive[0].Offset < 0 || reach > int64(len(l.custom))+1:
		return 0, 0, fmt.Errorf("%w: the buckets of a histogram reach to %d with %d custom bounds", ErrMalformed, reach, len(l.custom))
	}
	return positive, 0, l.checkCustom(most)
}

func (s *scheme) checkCustom(most int) error {
	for i, v := range s.custom {
		if math.IsNaN(v) || math.IsInf(v, 1) || i > 0 && v <= s.custom[i-1] {
			return fmt.Errorf("%w: custom bound %v of a histogram", ErrMalformed, v)
		}
	}
	return within("custom bounds of a histogram", uint64(len(s.custom)), most)
}

// checkSpans gives the number of buckets, and the index behind the last one.
func checkSpans(spans []histogram.Span, most int) (buckets int, reach int64, err error) {
	if err := within("spans of a histogram", uint64(len(spans)), most); err != nil {
		return 0, 0, err
	}
	n := uint64(0)
	for i, s := range spans {
		if i > 0 && s.Offset < 0 {
			return 0, 0, fmt.Errorf("%w: span %d of a histogram has an offset of %d", ErrMalformed, i, s.Offset)
		}
		reach += int64(s.Offset) + int64(s.Length)
		n += uint64(s.Length)
		if err := within("buckets of a histogram", n, most); err != nil {
			return 0, 0, err
		}
	}
	return int(n), reach, nil
}

// check tells whether the histogram can be sent.
func (h *Histogram) check(most int) error {
	if (h.Int == nil) == (h.Float == nil) {
		return fmt.Errorf("%w: neither or both of an integer and a float histogram", ErrMalformed)
	}
	l := h.layout()
	positive, negative, err := l.check(most)
	if err != nil {
		return err
	}
	p, n := 0, 0
	if h.Int != nil {
		p, n = len(h.Int.PositiveBuckets), len(h.Int.NegativeBuckets)
	} else {
		p, n = len(h.Float.PositiveBuckets), len(h.Float.NegativeBuckets)
	}
	if p != positive || n != negative {
		return fmt.Errorf("%w: a histogram of %d and %d buckets in spans of %d and %d", ErrMalformed, p, n, positive, negative)
	}
	if l.usesCustom() && h.zero() != 0 {
		return fmt.Errorf("%w: a zero bucket in a histogram with custom bounds", ErrMalformed)
	}
	return nil
}

// The numbers of a histogram as 64 bits: counts of an integer one, the bits of those of a float one.

func (h *Histogram) zero() uint64 {
	if h.Int != nil {
		return h.Int.ZeroCount
	}
	return math.Float64bits(h.Float.ZeroCount)
}

func (h *Histogram) count() uint64 {
	if h.Int != nil {
		return h.Int.Count
	}
	return math.Float64bits(h.Float.Count)
}

func (h *Histogram) sum() float64 {
	if h.Int != nil {
		return h.Int.Sum
	}
	return h.Float.Sum
}

func (h *Histogram) sides() (positive, negative side) {
	if x := h.Int; x != nil {
		return newSide(x.PositiveSpans, x.PositiveBuckets, nil), newSide(x.NegativeSpans, x.NegativeBuckets, nil)
	}
	x := h.Float
	return newSide(x.PositiveSpans, nil, x.PositiveBuckets), newSide(x.NegativeSpans, nil, x.NegativeBuckets)
}

// inBuckets is the sum of what an integer histogram has in its buckets.
func (h *Histogram) inBuckets() uint64 {
	n := h.zero()
	positive, negative := h.sides()
	for positive.next() {
		n += positive.value
	}
	for negative.next() {
		n += negative.value
	}
	return n
}

// sameNumbers compares two histograms of one layout.
func (h *Histogram) sameNumbers(o *Histogram) bool {
	if h.zero() != o.zero() || h.count() != o.count() || !sameBits(h.sum(), o.sum()) {
		return false
	}
	if h.Int != nil {
		return slices.Equal(h.Int.PositiveBuckets, o.Int.PositiveBuckets) && slices.Equal(h.Int.NegativeBuckets, o.Int.NegativeBuckets)
	}
	return slices.EqualFunc(h.Float.PositiveBuckets, o.Float.PositiveBuckets, sameBits) &&
		slices.EqualFunc(h.Float.NegativeBuckets, o.Float.NegativeBuckets, sameBits)
}

// side walks the buckets of one side of a histogram by their index.
type side struct {
	spans  []histogram.Span
	left   uint32 // buckets of the last span that are still to come
	deltas []int64
	floats []float64
	// index and value are those of the bucket that next came to.
	index int64
	value uint64
}

func newSide(spans []histogram.Span, deltas []int64, floats []float64) side {
	return side{spans: spans, deltas: deltas, floats: floats, index: -1}
}

// step comes to the next bucket without looking at what it has.
func (s *side) step() bool {
	for s.left == 0 {
		if len(s.spans) == 0 {
			return false
		}
		s.index += int64(s.spans[0].Offset)
		s.left = s.spans[0].Length
		s.spans = s.spans[1:]
	}
	s.left--
	s.index++
	return true
}

func (s *side) next() bool {
	if !s.step() {
		s.index = math.MaxInt64
		return false
	}
	if s.deltas != nil {
		s.value += uint64(s.deltas[0])
		s.deltas = s.deltas[1:]
	} else {
		s.value = math.Float64bits(s.floats[0])
		s.floats = s.floats[1:]
	}
	return true
}

// at gives what the bucket of an index has, 0 if there is none. Indexes asked for rise; the first next was called.
func (s *side) at(index int64) uint64 {
	for s.index < index {
		s.next()
	}
	if s.index == index {
		return s.value
	}
	return 0
}

// clone copies a histogram. Spans and bounds are those of like, if it is of the same layout.
func (h *Histogram) clone(like *Histogram) Histogram {
	l := h.layout()
	if like == nil {
		l.positive, l.negative, l.custom = slices.Clone(l.positive), slices.Clone(l.negative), slices.Clone(l.custom)
	} else {
		l = like.layout()
	}
	c := newHistogram(h.Row, &l, h.zero(), h.count(), h.sum())
	if x := h.Int; x != nil {
		c.Int.PositiveBuckets, c.Int.NegativeBuckets = copyBuckets(x.PositiveBuckets, x.NegativeBuckets)
	} else {
		c.Float.PositiveBuckets, c.Float.NegativeBuckets = copyBuckets(h.Float.PositiveBuckets, h.Float.NegativeBuckets)
	}
	return c
}

// newHistogram makes a histogram without buckets.
func newHistogram(row int, l *layout, zero, count uint64, sum float64) Histogram {
	if l.float {
		return Histogram{Row: row, Float: &histogram.FloatHistogram{
			CounterResetHint: l.hint, Schema: l.schema, ZeroThreshold: l.threshold, CustomValues: l.custom,
			PositiveSpans: l.positive, NegativeSpans: l.negative,
			ZeroCount: math.Float64frombits(zero), Count: math.Float64frombits(count), Sum: sum,
		}}
	}
	return Histogram{Row: row, Int: &histogram.Histogram{
		CounterResetHint: l.hint, Schema: l.schema, ZeroThreshold: l.threshold, CustomValues: l.custom,
		PositiveSpans: l.positive, NegativeSpans: l.negative, ZeroCount: zero, Count: count, Sum: sum,
	}}
}

// copyBuckets copies both sides into one piece of memory.
func copyBuckets[T int64 | float64](positive, negative []T) (p, n []T) {
	return splitBuckets(append(append(make([]T, 0, len(positive)+len(negative)), positive...), negative...), len(positive))
}

// splitBuckets takes both sides apart again; one without buckets is nil.
func splitBuckets[T int64 | float64](all []T, positive int) (p, n []T) {
	if positive > 0 {
		p = all[:positive:positive]
	}
	if positive < len(all) {
		n = all[positive:]
	}
	return p, n
}

// bytes is the memory that the histogram takes.
func (h *Histogram) bytes() int64 {
	l := h.layout()
	n := 192 + 8*(len(l.positive)+len(l.negative)+len(l.custom))
	if h.Int != nil {
		n += 8 * (len(h.Int.PositiveBuckets) + len(h.Int.NegativeBuckets))
	} else {
		n += 8 * (len(h.Float.PositiveBuckets) + len(h.Float.NegativeBuckets))
	}
	return int64(n)
}
