package frame

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/histogram"
)

// histogramWriter writes native histograms against those of the base. What it holds is reused.
type histogramWriter struct {
	codes     *histogramCodes
	shared    *residualCodes
	removed   []uint32 // ordinals in the base's list
	inserted  []uint32 // rows
	schemes   []scheme
	stream    bitStream
	residuals []int64
}

// schemeReach is how many schemes are looked through for one that was written before.
const schemeReach = 64

// match finds which rows are histograms no longer and which newly, and tells whether anything differs from the base.
func (w *histogramWriter) match(base, now []Histogram, absent Bitmap) (differs bool) {
	w.removed, w.inserted = w.removed[:0], w.inserted[:0]
	i := 0
	drop := func(row int) {
		for ; i < len(base) && base[i].Row < row; i++ {
			if !absent.Has(base[i].Row) {
				w.removed = append(w.removed, uint32(i))
			}
		}
	}
	for j := range now {
		h := &now[j]
		if drop(h.Row); i == len(base) || base[i].Row != h.Row {
			w.inserted = append(w.inserted, uint32(h.Row))
			continue
		}
		differs = differs || !h.same(&base[i])
		i++
	}
	drop(math.MaxInt)
	return differs || len(w.removed)+len(w.inserted) > 0
}

func (h *Histogram) same(o *Histogram) bool {
	a, b := h.layout(), o.layout()
	return a.same(&b) && h.sameNumbers(o)
}

// append writes how the histograms differ from those of the base, and, if keep is set, gives those of the state after
// this frame. It writes nothing if they do not differ.
func (w *histogramWriter) append(dst []byte, base, now []Histogram, absent Bitmap, keep bool) ([]byte, []Histogram) {
	if !w.match(base, now, absent) {
		return dst, base
	}
	if w.codes == nil {
		w.codes = newHistogramCodes()
	}
	from := len(dst)
	dst = appendOrdinals(dst, w.removed)
	dst = appendOrdinals(dst, w.inserted)
	var all []Histogram
	if keep {
		all = make([]Histogram, 0, max(len(now), len(base)))
	}
	w.schemes = w.schemes[:0]
	w.stream = bitStream{b: w.stream.b[:0]}
	i := 0
	carry := func(row int) {
		for ; i < len(base) && base[i].Row < row; i++ {
			if keep && absent.Has(base[i].Row) {
				all = append(all, base[i])
			}
		}
	}
	for j := range now {
		h := &now[j]
		carry(h.Row)
		var b *Histogram
		if i < len(base) && base[i].Row == h.Row {
			b = &base[i]
			i++
		}
		state := w.histogram(h, b, keep)
		if keep {
			all = append(all, state)
		}
	}
	carry(math.MaxInt)
	dst = binary.AppendUvarint(dst, uint64(len(w.schemes)))
	for i := range w.schemes {
		dst = appendScheme(dst, &w.schemes[i])
	}
	dst = append(dst, w.stream.end()...)
	return endSection(dst, from, keyHistograms), all
}

// How a histogram stands beside that of the base in its row: one bit, or two.
const (
	histogramSame    = 0 // all of it is the same
	histogramNumbers = 1 // only numbers differ
	histogramLayout  = 3 // the layout follows
)

// histogram writes one, and gives that of the state.
func (w *histogramWriter) histogram(h, base *Histogram, keep bool) (state Histogram) {
	l := h.layout()
	like, from := base, base
	if base == nil {
		w.layout(&l, nil)
	} else if b := base.layout(); !l.same(&b) {
		w.stream.put(histogramLayout, 2)
		w.layout(&l, &b)
		like = nil
		if !l.predicts(&b) {
			from = nil
		}
	} else if h.sameNumbers(base) {
		w.stream.put(histogramSame, 1)
		return *base
	} else {
		w.stream.put(histogramNumbers, 2)
	}
	w.numbers(h, from, &l)
	if keep {
		state = h.clone(like)
	}
	return state
}

func (w *histogramWriter) layout(l, base *layout) {
	kind := uint64(l.hint) << 1
	if l.float {
		kind |= 1
	}
	w.stream.put(kind, 3)
	ref := 0
	if base == nil || !l.scheme.same(&base.scheme) {
		ref = w.scheme(&l.scheme)
	}
	w.small(uint64(ref))
	w.spans(l.positive)
	if !l.usesCustom() {
		w.spans(l.negative)
	}
}

// scheme gives the number of a scheme in this section, from 1 on.
func (w *histogramWriter) scheme(s *scheme) int {
	for i := len(w.schemes) - 1; i >= max(0, len(w.schemes)-schemeReach); i-- {
		if w.schemes[i].same(s) {
			return i + 1
		}
	}
	w.schemes = append(w.schemes, *s)
	return len(w.schemes)
}

func (w *histogramWriter) spans(spans []histogram.Span) {
	w.small(uint64(len(spans)))
	for i, s := range spans {
		if i == 0 {
			w.small(zigzag(int64(s.Offset)))
		} else {
			w.small(uint64(s.Offset))
		}
		w.small(uint64(s.Length))
	}
}

func (w *histogramWriter) small(u uint64) { w.stream.number(&w.codes[codeSmall], u) }

// numbers writes zero count, buckets, count and sum, predicted by those of base. Without one a bucket is predicted by
// the bucket before.
func (w *histogramWriter) numbers(h, base *Histogram, l *layout) {
	code := &w.codes[codeBucket]
	switch {
	case l.float:
		code = &w.shared[codeFloat]
	case base == nil:
		code = &w.codes[codeFirst]
	}
	var zero, count uint64
	var sum float64
	var positive, negative side
	if base != nil {
		zero, count, sum = base.zero(), base.count(), base.sum()
		positive, negative = base.sides()
	}
	if !l.float {
		count += h.inBuckets()
		if base != nil {
			count -= base.inBuckets()
		}
	}
	w.residuals = w.residuals[:0]
	if !l.usesCustom() {
		w.residuals = append(w.residuals, int64(h.zero()-zero))
	}
	p, n := h.sides()
	w.side(p, positive, base != nil)
	w.side(n, negative, base != nil)
	w.residuals = append(w.residuals, int64(h.count()-count))
	w.flush(code)
	w.sum(h.sum(), sum)
}

func (w *histogramWriter) side(s, base side, based bool) {
	if based {
		base.next()
	}
	last := uint64(0)
	for s.next() {
		if based {
			last = base.at(s.index)
		}
		w.residuals = append(w.residuals, int64(s.value-last))
		last = s.value
	}
}

// flush writes the residuals of one histogram: without signs if all are positive, as those of counters are. Of those in
// a row that are 0 it writes how many there are.
func (w *histogramWriter) flush(code *[residualSizes]uint32) {
	signed := slices.ContainsFunc(w.residuals, func(d int64) bool { return d < 0 })
	if signed {
		w.stream.put(1, 1)
	} else {
		w.stream.put(0, 1)
	}
	zeros := uint64(0)
	for _, d := range w.residuals {
		if d == 0 {
			zeros++
			continue
		}
		if zeros > 0 {
			w.stream.number(code, 0)
			w.small(zeros)
			zeros = 0
		}
		if signed {
			d = int64(zigzag(d))
		}
		w.stream.number(code, uint64(d))
	}
	if zeros > 0 { // all the rest
		w.stream.number(code, 0)
		w.small(0)
	}
}

// sum is written as an integer if it is one.
func (w *histogramWriter) sum(v, base float64) {
	m, ok := mantissa(v, 1)
	if !ok {
		w.stream.put(1, 1)
		w.stream.number(&w.shared[codeFloat], zigzag(int64(math.Float64bits(v)-math.Float64bits(base))))
		return
	}
	from := integral(base)
	w.stream.put(0, 1)
	w.stream.number(&w.shared[codeOther], zigzag(m-from))
}

// integral gives the integer that a value is, or 0 if it is none.
func integral(v float64) int64 {
	if m, ok := mantissa(v, 1); ok {
		return m
	}
	return 0
}

// appendScheme writes schema and threshold, or the bounds in the smallest decimal class that has them all.
func appendScheme(dst []byte, s *scheme) []byte {
	dst = appendVarint(dst, int64(s.schema))
	if !s.usesCustom() {
		return binary.LittleEndian.AppendUint64(dst, math.Float64bits(s.threshold))
	}
	div := newScales()
	class := s.class(&div)
	dst = binary.AppendUvarint(dst, uint64(len(s.custom)))
	dst = append(dst, class)
	last := int64(0)
	for _, v := range s.custom {
		m := toInteger(v, class, &div)
		if class == classFloat {
			dst = binary.LittleEndian.AppendUint64(dst, uint64(m))
		} else {
			dst = appendVarint(dst, m-last)
		}
		last = m
	}
	return dst
}

// class is the smallest decimal one that holds all bounds, or float.
func (s *scheme) class(div *scales) uint8 {
	for c := range uint8(classScales) {
		if !slices.ContainsFunc(s.custom, func(v float64) bool { _, ok := mantissa(v, div[c]); return !ok }) {
			return c
		}
	}
	return classFloat
}

// bitStream is a bitWriter with the bytes that it filled.
type bitStream struct {
	w bitWriter
	b []byte
}

func (s *bitStream) number(code *[residualSizes]uint32, u uint64) {
	n := len(s.b)
	s.b = slices.Grow(s.b, maxResidual+bitSlack)
	s.b = s.b[:n+s.w.put(s.b[n:n+maxResidual+bitSlack], code, u)]
}

// put writes a few bits as they are.
func (s *bitStream) put(v uint64, bits uint) {
	s.w.bits |= v << s.w.n
	s.w.n += bits
	n := len(s.b)
	s.b = slices.Grow(s.b, bitSlack)
	s.b = s.b[:n+s.w.flush(s.b[n:n+bitSlack])]
}

// end gives the whole, its last byte filled up with 0.
func (s *bitStream) end() []byte {
	if s.w.n > 0 {
		s.b = append(s.b, byte(s.w.bits))
		s.w = bitWriter{}
	}
	return s.b
}
