package outsider

import (
	"encoding/binary"
	"slices"
)

// Row is what a frame says of one series.
type Row struct {
	Absent       bool
	Value        uint64 // bits
	HasTimestamp bool
	Timestamp    int64
	Start        int64 // 0 for none
	Histogram    *Histogram
	Exemplars    []Exemplar
	Earlier      []Earlier // in the order of their times
}

// Histogram is a native histogram. Floats are bits; counts of an integer histogram are numbers, of a float one bits.
type Histogram struct {
	Float              bool
	Hint               byte
	Schema             int64
	Threshold          uint64
	Bounds             []uint64
	Zero               uint64
	Positive, Negative []Span
	// PositiveBuckets and NegativeBuckets are counts, not differences.
	PositiveBuckets, NegativeBuckets []uint64
	Count, Sum                       uint64
}

// Span is a run of buckets, Offset behind the end of the one before.
type Span struct{ Offset, Length int64 }

// Exemplar belongs to a row.
type Exemplar struct {
	Labels       []Label
	Value        uint64 // bits
	HasTimestamp bool
	Timestamp    int64
}

// target is what is known of a target.
type target struct {
	definition Definition
	states     map[uint64]*state // by position
}

// state is that of a frame.
type state struct {
	schema  *Schema
	grouped bool
	groups  int // besides 0
	rows    []rowState
}

type rowState struct {
	class     byte
	m         int64 // the integer; of a raw row the bits
	raw       bool
	absent    bool
	group     int
	start     int64
	histogram *Histogram // never changed in place
	exemplars []Exemplar // never changed in place
}

// value is the bits of a row's value.
func (r *rowState) value() uint64 {
	if r.raw {
		return uint64(r.m)
	}
	return valueOf(r.class, r.m)
}

func (s *state) clone() *state {
	c := *s
	c.rows = slices.Clone(s.rows)
	return &c
}

func (s *state) present() int {
	n := 0
	for i := range s.rows {
		if !s.rows[i].absent {
			n++
		}
	}
	return n
}

// keyframeBase is what a keyframe builds on, before its classes.
func keyframeBase(schema *Schema) *state {
	s := &state{schema: schema}
	for _, x := range schema.Series {
		s.rows = append(s.rows, baseRow(x.Base, classOf(x.Base)))
	}
	return s
}

func baseRow(base uint64, class byte) rowState {
	m, _ := integerOf(class, base)
	return rowState{class: class, m: m}
}

// classes reads the rows of a keyframe that have another class than their base value.
func (p *parse) classes() {
	set := func(at uint64, class byte) {
		must(at < uint64(len(p.base.rows)), "a class for row %d of %d", at, len(p.base.rows))
		p.base.rows[at] = baseRow(p.frame.Schema.Series[at].Base, class)
	}
	next := uint64(0)
	for range p.in.count(16) {
		gap := p.in.uvarint()
		must(gap < uint64(len(p.base.rows)), "a gap of %d rows", gap)
		next += gap
		class := p.in.byte()
		run := uint64(0)
		if class&0x80 != 0 {
			run = p.in.uvarint()
			must(run < uint64(len(p.base.rows)), "a run of %d rows", run)
			run++
		}
		class &^= 0x80
		must(validClass(class), "class %#x", class)
		for ; ; run-- {
			set(next, class)
			next++
			if run == 0 {
				break
			}
		}
	}
}

// change reads section 1 and moves the rows of the base.
func (p *parse) change() {
	in := p.section(1)
	if in == nil {
		return
	}
	p.schema(in.id())
	s := in.script(len(p.base.rows))
	in.done("section 1")
	series := p.frame.Schema.Series
	must(len(p.base.rows)-len(s.removed)+len(s.inserted) == len(series), "a change to other than %d series", len(series))
	p.base.rows = merge(s, p.base.rows, func(at int, _ []rowState) rowState {
		return baseRow(series[at].Base, classOf(series[at].Base))
	})
	p.base.schema = p.frame.Schema
}

// checkedStarts appends what the checksum has of start timestamps.
func (s *state) checkedStarts(b []byte) []byte {
	u64 := binary.LittleEndian.AppendUint64
	if !slices.ContainsFunc(s.rows, func(r rowState) bool { return !r.absent && r.start != 0 }) {
		return b
	}
	b = u64(b, 4)
	for i := range s.rows {
		if s.rows[i].absent {
			b = u64(b, 0)
		} else {
			b = u64(b, uint64(s.rows[i].start))
		}
	}
	return b
}

// checkedHistograms appends what the checksum has of histograms.
func (s *state) checkedHistograms(b []byte) []byte {
	u64 := binary.LittleEndian.AppendUint64
	side := func(b []byte, spans []Span, buckets []uint64) []byte {
		b = u64(b, uint64(len(spans)))
		for _, x := range spans {
			b = u64(u64(b, uint64(x.Offset)), uint64(x.Length))
		}
		for _, x := range buckets {
			b = u64(b, x)
		}
		return b
	}
	any := false
	for i := range s.rows {
		h := s.rows[i].histogram
		if h == nil || s.rows[i].absent {
			continue
		}
		if !any {
			any = true
			b = u64(b, 5)
		}
		b = u64(u64(u64(u64(b, uint64(i)), h.kind()), uint64(h.Schema)), h.Threshold)
		b = u64(b, uint64(len(h.Bounds)))
		for _, x := range h.Bounds {
			b = u64(b, x)
		}
		b = u64(b, h.Zero)
		b = side(b, h.Positive, h.PositiveBuckets)
		b = side(b, h.Negative, h.NegativeBuckets)
		b = u64(u64(b, h.Count), h.Sum)
	}
	return b
}

func (h *Histogram) kind() uint64 {
	kind := uint64(h.Hint) << 1
	if h.Float {
		kind |= 1
	}
	return kind
}

// checkedExemplars appends what the checksum has of exemplars.
func (s *state) checkedExemplars(b []byte) []byte {
	u64 := binary.LittleEndian.AppendUint64
	any := false
	for i := range s.rows {
		if s.rows[i].absent {
			continue
		}
		for _, x := range s.rows[i].exemplars {
			if !any {
				any = true
				b = u64(b, 6)
			}
			timestamp := int64(-1 << 63)
			if x.HasTimestamp {
				timestamp = x.Timestamp
			}
			b = u64(u64(u64(u64(b, uint64(i)), x.Value), uint64(timestamp)), uint64(len(x.Labels)))
			for _, l := range x.Labels {
				b = append(u64(b, uint64(len(l.Name))), l.Name...)
				b = append(u64(b, uint64(len(l.Value))), l.Value...)
			}
		}
	}
	return b
}
