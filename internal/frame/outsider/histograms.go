package outsider

import "slices"

const custom = -53

// scheme is what stands once for all histograms that have it.
type scheme struct {
	schema    int64
	threshold uint64
	bounds    []uint64
}

// histograms reads section 5.
func (p *parse) histograms() {
	in := p.section(5)
	if in == nil {
		return
	}
	rows := p.state.rows
	var had []int
	for i := range rows {
		if rows[i].histogram != nil {
			had = append(had, i)
		}
	}
	removed := in.gaps(in.count(8), uint64(len(had)))
	inserted := in.gaps(in.count(8), uint64(len(rows)))
	schemes := readSchemes(in)
	for _, ordinal := range removed {
		rows[had[ordinal]].histogram = nil
	}
	fresh := make(map[int]bool)
	for _, at := range inserted {
		must(rows[at].histogram == nil && !rows[at].absent, "row %d comes to have a histogram and had one", at)
		fresh[at] = true
	}
	bits := &histogramBits{bitInput: &bitInput{b: in.b}, codes: p.reader.codes, schemes: schemes}
	for i := range rows {
		if rows[i].absent || rows[i].histogram == nil && !fresh[i] {
			continue
		}
		rows[i].histogram = bits.histogram(rows[i].histogram)
	}
	bits.done("histograms")
}

func readSchemes(in *input) []scheme {
	var list []scheme
	for range in.count(16) {
		s := scheme{schema: in.varint()}
		must(s.schema == custom || s.schema >= -4 && s.schema <= 8, "schema %d", s.schema)
		if s.schema != custom {
			s.threshold = in.u64()
			list = append(list, s)
			continue
		}
		n := in.count(8)
		class := in.byte()
		must(validClass(class), "class %#x", class)
		m := int64(0)
		for range n {
			if class == classFloat {
				s.bounds = append(s.bounds, in.u64())
			} else {
				m += in.varint()
				s.bounds = append(s.bounds, valueOf(class, m))
			}
		}
		list = append(list, s)
	}
	return list
}

type histogramBits struct {
	*bitInput
	codes   *codes
	schemes []scheme
}

func (in *histogramBits) small() uint64 { return in.codes.small.number(in.bitInput) }

// histogram reads one; base is nil if there is none.
func (in *histogramBits) histogram(base *Histogram) *Histogram {
	h := new(Histogram)
	switch {
	case base == nil:
		in.layout(h, nil)
	case in.bit() == 0:
		return base
	case in.bit() == 0:
		h.Float, h.Hint, h.Schema, h.Threshold, h.Bounds = base.Float, base.Hint, base.Schema, base.Threshold, base.Bounds
		h.Positive, h.Negative = base.Positive, base.Negative
	default:
		in.layout(h, base)
	}
	if base != nil && (base.Float != h.Float || base.Schema != h.Schema || !slices.Equal(base.Bounds, h.Bounds)) {
		base = nil
	}
	in.numbers(h, base)
	return h
}

func (in *histogramBits) layout(h, base *Histogram) {
	h.Float, h.Hint = in.bit() != 0, byte(in.bits(2))
	if n := in.small(); n == 0 {
		must(base != nil, "the scheme of a base that is not there")
		h.Schema, h.Threshold, h.Bounds = base.Schema, base.Threshold, base.Bounds
	} else {
		must(n <= uint64(len(in.schemes)), "scheme %d of %d", n, len(in.schemes))
		s := in.schemes[n-1]
		h.Schema, h.Threshold, h.Bounds = s.schema, s.threshold, s.bounds
	}
	h.Positive = in.spans()
	if h.Schema != custom {
		h.Negative = in.spans()
	}
}

func (in *histogramBits) spans() []Span {
	n := in.small()
	must(n <= uint64(8*len(in.b)), "%d spans", n)
	var list []Span
	for i := range n {
		offset := int64(in.small())
		if i == 0 {
			offset = unzigzag(uint64(offset))
		}
		length := int64(in.small())
		must(int64(int32(offset)) == offset && (i == 0 || offset >= 0) && length >= 0 && length < 1<<32, "span %d:%d", offset, length)
		list = append(list, Span{offset, length})
	}
	return list
}

// numbers reads those of a histogram; base is that which predicts, or nil.
func (in *histogramBits) numbers(h, base *Histogram) {
	from := base
	if from == nil {
		from = new(Histogram)
	}
	r := &histogramResiduals{in: in, signed: in.bit() != 0}
	switch {
	case h.Float:
		r.code = in.codes.float
	case base == nil:
		r.code = in.codes.first
	default:
		r.code = in.codes.bucket
	}
	if h.Schema != custom {
		h.Zero = from.Zero + r.next()
	}
	h.PositiveBuckets = r.side(h.Positive, base, from.Positive, from.PositiveBuckets)
	h.NegativeBuckets = r.side(h.Negative, base, from.Negative, from.NegativeBuckets)
	h.Count = from.Count
	if !h.Float {
		h.Count += h.all() - from.all()
	}
	h.Count += r.next()
	must(r.zeros == 0 || r.rest, "%d residuals more than there are", r.zeros)

	if in.bit() != 0 {
		h.Sum = from.Sum + uint64(unzigzag(in.codes.float.number(in.bitInput)))
		return
	}
	m, _ := integerOf(0, from.Sum)
	m += unzigzag(in.codes.other.number(in.bitInput))
	must(m >= -(1<<53) && m < 1<<53, "sum %d", m)
	h.Sum = valueOf(0, m)
}

// all is what all buckets have together.
func (h *Histogram) all() uint64 {
	n := h.Zero
	for _, list := range [][]uint64{h.PositiveBuckets, h.NegativeBuckets} {
		for _, x := range list {
			n += x
		}
	}
	return n
}

type histogramResiduals struct {
	in     *histogramBits
	code   code
	signed bool
	zeros  uint64 // so many more are 0
	rest   bool   // all more are 0
}

func (r *histogramResiduals) next() uint64 {
	if r.rest {
		return 0
	}
	if r.zeros > 0 {
		r.zeros--
		return 0
	}
	u := r.code.number(r.in.bitInput)
	if u == 0 {
		n := r.in.small()
		r.rest = n == 0
		if !r.rest {
			r.zeros = n - 1
		}
	}
	if r.signed {
		return uint64(unzigzag(u))
	}
	return u
}

// side reads the buckets of one side.
func (r *histogramResiduals) side(spans []Span, base *Histogram, baseSpans []Span, baseBuckets []uint64) []uint64 {
	of := make(map[int64]uint64)
	for i, index := range indices(baseSpans) {
		of[index] = baseBuckets[i]
	}
	var list []uint64
	before := uint64(0)
	for _, index := range indices(spans) {
		predicted := before
		if base != nil {
			predicted = of[index]
		}
		before = predicted + r.next()
		list = append(list, before)
	}
	return list
}

// indices are those of the buckets of spans.
func indices(spans []Span) []int64 {
	var list []int64
	at := int64(0)
	for _, s := range spans {
		at += s.Offset
		for range s.Length {
			must(len(list) < 1<<20, "more than %d buckets", len(list))
			list = append(list, at)
			at++
		}
	}
	return list
}
