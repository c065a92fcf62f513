package frame

import (
	"fmt"
	"math"

	"github.com/prometheus/prometheus/model/histogram"
)

// histogramReader reads the native histograms of one frame.
type histogramReader struct {
	*reader
	lim     *Limits
	codes   *histogramTables
	shared  *residualTables
	schemes []scheme
	bits    bitReader
	zeros   uint64 // residuals of 0 still to come
	rest    bool   // all residuals still to come are 0
	signed  bool
	made    int // buckets, spans and bounds made so far
}

// parseHistograms gives the histograms of the state after a frame. Those that did not change are the base's own.
func (p *pending) parseHistograms(b []byte, base []Histogram, absent Bitmap, n int) ([]Histogram, error) {
	if b == nil {
		return base, nil
	}
	if p.histogramCodes == nil {
		p.histogramCodes = newHistogramTables()
	}
	r := &histogramReader{reader: &reader{b: b}, lim: &p.lim, codes: p.histogramCodes, shared: p.codes}
	all := r.list(base, absent, n)
	if r.err != nil {
		return nil, r.err
	}
	if rest := 8*uint(len(r.bits.b)) - r.bits.at; rest >= 8 || r.bits.peek() != 0 {
		return nil, fmt.Errorf("%w: %d bits behind the last histogram", ErrMalformed, rest)
	}
	return all, nil
}

// list reads which rows have histograms, and those that differ.
func (r *histogramReader) list(base []Histogram, absent Bitmap, n int) []Histogram {
	removed := NewBitmap(len(base))
	gone := r.ordinals("histograms", len(base), func(i int) { removed.Set(i) })
	var inserted []int
	r.ordinals("rows with histograms", n, func(row int) { inserted = append(inserted, row) })
	r.readSchemes()
	if r.err != nil {
		return nil
	}
	total := len(base) - gone + len(inserted)
	if err := within("histograms", uint64(total), r.lim.Histograms); err != nil {
		r.fail(err)
		return nil
	}
	r.bits.b = r.b
	if total == 0 {
		return nil
	}
	all := make([]Histogram, 0, total)
	for i := 0; len(all) < total; {
		for removed.Has(i) {
			i++
		}
		row := math.MaxInt
		if i < len(base) {
			row = base[i].Row
		}
		switch fresh := len(inserted) > 0 && inserted[0] <= row; {
		case fresh && (inserted[0] == row || absent.Has(inserted[0])):
			r.malformed("row %d has a histogram already or is absent", inserted[0])
		case fresh:
			all = append(all, r.histogram(inserted[0], nil))
			inserted = inserted[1:]
		case absent.Has(row):
			all = append(all, base[i])
			i++
		default:
			all = append(all, r.kept(&base[i]))
			i++
		}
		if r.bits.past() {
			r.fail(ErrTruncated)
		}
		if r.err != nil {
			return nil
		}
	}
	return all
}

func (r *histogramReader) readSchemes() {
	r.schemes = make([]scheme, r.count("schemes of histograms", r.lim.Histograms, 3))
	for i := range r.schemes {
		s := &r.schemes[i]
		schema := r.varint()
		if s.schema = int32(schema); int64(s.schema) != schema {
			r.malformed("schema %d of a histogram", schema)
		}
		if s.usesCustom() {
			s.custom = r.bounds()
		} else {
			s.threshold = r.float()
		}
		if r.err != nil {
			return
		}
	}
}

func (r *histogramReader) bounds() []float64 {
	n := r.count("custom bounds of a histogram", r.lim.Buckets, 1)
	class := r.byte()
	if r.err == nil && !validClass(class) {
		r.malformed("class %#x of custom bounds", class)
	}
	if r.err != nil || n == 0 || !r.room(n) {
		return nil
	}
	div := newScales()
	bounds := make([]float64, n)
	m := int64(0)
	for i := range bounds {
		if class == classFloat {
			bounds[i] = r.float()
			continue
		}
		if m += r.varint(); !inRange(m) {
			r.malformed("custom bound %d is outside the range of class %#x", m, class)
			return nil
		}
		bounds[i] = fromInteger(m, class, &div)
	}
	return bounds
}

// kept reads one of a row that has one in the base.
func (r *histogramReader) kept(base *Histogram) Histogram {
	if r.take(1) == histogramSame {
		return *base
	}
	if r.take(1) != 0 {
		return r.histogram(base.Row, base)
	}
	l := base.layout()
	return r.numbers(base.Row, &l, base)
}

// histogram reads one with its layout.
func (r *histogramReader) histogram(row int, base *Histogram) Histogram {
	kind := r.take(3)
	l := layout{float: kind&1 != 0, hint: histogram.CounterResetHint(kind >> 1)}
	switch ref := r.small(); {
	case ref > uint64(len(r.schemes)):
		r.malformed("scheme %d of %d", ref, len(r.schemes))
	case ref > 0:
		l.scheme = r.schemes[ref-1]
	case base == nil:
		r.malformed("the scheme of a base without a histogram in row %d", row)
	default:
		b := base.layout()
		l.scheme = b.scheme
	}
	l.positive = r.spans()
	if !l.usesCustom() {
		l.negative = r.spans()
	}
	if base != nil {
		if b := base.layout(); !l.predicts(&b) {
			base = nil
		}
	}
	return r.numbers(row, &l, base)
}

// spans reads those of one side; memory is taken as they come.
func (r *histogramReader) spans() []histogram.Span {
	n := r.small()
	if r.err == nil {
		r.failIf(within("spans of a histogram", n, r.lim.Buckets))
	}
	var spans []histogram.Span
	for i := uint64(0); i < n && r.err == nil; i++ {
		offset := int64(r.small())
		if i == 0 {
			offset = unzigzag(uint64(offset))
		}
		length := r.small()
		if offset != int64(int32(offset)) || length > math.MaxUint32 {
			r.malformed("a span of %d buckets at %d", length, offset)
		}
		if r.bits.past() {
			r.fail(ErrTruncated)
		}
		if r.room(1) {
			spans = append(spans, histogram.Span{Offset: int32(offset), Length: uint32(length)})
		}
	}
	return spans
}

// room takes note of memory before it is made.
func (r *histogramReader) room(n int) bool {
	r.made += n
	r.failIf(within("buckets, spans and bounds of a frame", uint64(r.made), r.lim.FrameBuckets))
	return r.err == nil
}

// take reads some bits as they are.
func (r *histogramReader) take(bits uint) uint64 {
	x := r.bits.peek() & (1<<bits - 1)
	r.bits.at += bits
	return x
}

func (r *histogramReader) small() uint64 { return r.bits.number(&r.codes[codeSmall]) }

// numbers reads the numbers of a histogram of a layout, which is checked here.
func (r *histogramReader) numbers(row int, l *layout, base *Histogram) Histogram {
	if r.err != nil {
		return Histogram{}
	}
	p, n, err := l.check(r.lim.Buckets)
	if err != nil {
		r.fail(err)
		return Histogram{}
	}
	if !r.room(p + n) {
		return Histogram{}
	}
	code := &r.codes[codeBucket]
	switch {
	case l.float:
		code = &r.shared[codeFloat]
	case base == nil:
		code = &r.codes[codeFirst]
	}
	var zero, count uint64
	var sum float64
	if base != nil {
		zero, count, sum = base.zero(), base.count(), base.sum()
		if !l.float {
			count -= base.inBuckets()
		}
	}
	r.zeros, r.rest, r.signed = 0, false, r.take(1) != 0
	if !l.usesCustom() {
		zero += uint64(r.residual(code))
	}
	h := newHistogram(row, l, zero, 0, 0)
	if l.float {
		x := h.Float
		x.PositiveBuckets, x.NegativeBuckets = splitBuckets(make([]float64, p+n), p)
	} else {
		x := h.Int
		x.PositiveBuckets, x.NegativeBuckets = splitBuckets(make([]int64, p+n), p)
	}
	r.buckets(&h, base, code)
	count += uint64(r.residual(code))
	if !l.float {
		count += h.inBuckets()
	}
	if r.zeros > 0 {
		r.malformed("%d residuals too many in row %d", r.zeros, row)
	}
	h.setCount(count, r.sum(sum))
	return h
}

func (h *Histogram) setCount(count uint64, sum float64) {
	if h.Int != nil {
		h.Int.Count, h.Int.Sum = count, sum
	} else {
		h.Float.Count, h.Float.Sum = math.Float64frombits(count), sum
	}
}

func (r *histogramReader) residual(code *[1 << maxCodeBits]uint16) int64 {
	if r.rest {
		return 0
	}
	if r.zeros > 0 {
		r.zeros--
		return 0
	}
	if u := r.bits.number(code); u != 0 && r.signed {
		return unzigzag(u)
	} else if u != 0 {
		return int64(u)
	}
	if run := r.small(); run == 0 {
		r.rest = true
	} else {
		r.zeros = run - 1
	}
	return 0
}

func (r *histogramReader) buckets(h, base *Histogram, code *[1 << maxCodeBits]uint16) {
	var bases [2]side
	if base != nil {
		bases[0], bases[1] = base.sides()
	}
	positive, negative := h.sides()
	for k, s := range [2]side{positive, negative} {
		b := &bases[k]
		if base != nil {
			b.next()
		}
		deltas, floats := s.deltas, s.floats
		last, value := uint64(0), uint64(0)
		for i := 0; s.step(); i++ {
			from := value
			if base != nil {
				from = b.at(s.index)
			}
			last, value = value, from+uint64(r.residual(code))
			if h.Int != nil {
				deltas[i] = int64(value - last)
			} else {
				floats[i] = math.Float64frombits(value)
			}
		}
	}
}

func (r *histogramReader) sum(base float64) float64 {
	if r.take(1) != 0 {
		return math.Float64frombits(math.Float64bits(base) + uint64(unzigzag(r.bits.number(&r.shared[codeFloat]))))
	}
	m := integral(base)
	if m += unzigzag(r.bits.number(&r.shared[codeOther])); !inRange(m) {
		r.malformed("%d is outside the range of a sum", m)
	}
	return float64(m)
}
