package frame

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/prometheus/prometheus/model/labels"
)

// seriesWriter writes series one after the other; what one shares with the one before is not repeated.
type seriesWriter struct {
	family int
	last   []labels.Label
	now    []labels.Label
}

// skip takes note of a series that is not written because the reader has it.
func (w *seriesWriter) skip(x *Series) {
	w.family = x.Family
	w.now = w.now[:0]
	x.Labels.Range(func(l labels.Label) { w.now = append(w.now, l) })
	w.last, w.now = w.now, w.last
}

func (w *seriesWriter) append(dst []byte, x *Series) []byte {
	dst = appendVarint(dst, int64(x.Family-w.family))
	last := w.last
	w.skip(x)
	shared := 0
	for shared < len(last) && shared < len(w.last) && last[shared] == w.last[shared] {
		shared++
	}
	dst = binary.AppendUvarint(dst, uint64(shared))
	dst = binary.AppendUvarint(dst, uint64(len(w.last)-shared))
	for _, l := range w.last[shared:] {
		dst = appendString(dst, l.Name)
		dst = appendString(dst, l.Value)
	}
	return dst
}

func appendFamily(dst []byte, f *Family) []byte {
	dst = appendString(dst, f.Name)
	dst = append(dst, typeNumber(f.Type))
	dst = appendString(dst, f.Help)
	return appendString(dst, f.Unit)
}

// appendShape writes the canonical content up to the bases.
func (t *Text) appendShape(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(t.Families)))
	for i := range t.Families {
		dst = appendFamily(dst, &t.Families[i])
	}
	dst = binary.AppendUvarint(dst, uint64(len(t.Series)))
	w := seriesWriter{family: -1}
	for i := range t.Series {
		dst = w.append(dst, &t.Series[i])
	}
	return dst
}

// appendBases writes the classes of all bases, then their integers.
func (t *Text) appendBases(dst []byte, classes []uint8) []byte {
	dst = append(dst, classes...)
	div := newScales()
	for i, c := range classes {
		dst = appendBase(dst, t.Series[i].Base, c, &div)
	}
	return dst
}

// content is the canonical encoding.
func (t *Text) content() []byte {
	div := newScales()
	return t.appendBases(t.appendShape(t.room()), classesOf(t.Series, &div))
}

// room is memory for about as much as the content takes.
func (t *Text) room() []byte { return make([]byte, 0, 128*len(t.Families)+64*len(t.Series)) }

func appendBase(dst []byte, v float64, class uint8, div *scales) []byte {
	m := toInteger(v, class, div)
	if class >= classFloat {
		return binary.LittleEndian.AppendUint64(dst, uint64(m))
	}
	return appendVarint(dst, m)
}

// seriesReader is the other side of seriesWriter. It bounds what the series take when they are written out, which can
// be far more than what is read.
type seriesReader struct {
	*reader
	lim    Limits
	size   uint64
	family int
	last   []labels.Label
	build  labels.ScratchBuilder
}

func newSeriesReader(r *reader, lim Limits) *seriesReader {
	return &seriesReader{reader: r, lim: lim, family: -1, build: labels.NewScratchBuilder(16)}
}

// skip takes note of a series that the reader has already.
func (r *seriesReader) skip(x *Series) {
	r.family = x.Family
	r.last = r.last[:0]
	x.Labels.Range(func(l labels.Label) { r.last = append(r.last, l) })
	r.grow()
}

func (r *seriesReader) grow() {
	for _, l := range r.last {
		r.size += uint64(len(l.Name) + len(l.Value))
	}
	if err := within("bytes of a schema", r.size, r.lim.SchemaBytes); err != nil {
		r.fail(err)
	}
}

func (r *seriesReader) series(families int) (x Series) {
	family := int64(r.family) + r.varint()
	if family < -1 || family >= int64(families) {
		r.malformed("a series of family %d of %d", family, families)
		return x
	}
	shared := r.uvarint()
	if shared > uint64(len(r.last)) {
		r.malformed("a series shares %d labels of %d", shared, len(r.last))
		return x
	}
	n := r.count("labels of a series", r.lim.Labels, 2)
	r.last = r.last[:shared]
	for range n {
		l := labels.Label{Name: r.text("label name"), Value: r.text("label value")}
		if r.err != nil {
			return x
		}
		r.last = append(r.last, l)
	}
	if err := within("labels of a series", uint64(len(r.last)), r.lim.Labels); err != nil {
		r.fail(err)
	}
	r.grow()
	if r.err != nil {
		return x
	}
	r.family = int(family)
	r.build.Reset()
	for _, l := range r.last {
		r.build.Add(l.Name, l.Value)
	}
	return Series{Labels: r.build.Labels(), Family: int(family)}
}

func (r *reader) familyLine() Family {
	return Family{Name: r.text("family name"), Type: typeName(r.byte()), Help: r.text("help"), Unit: r.text("unit")}
}

// bases reads those of the series that set is called for.
func (r *reader) bases(n int, set func(i int, v float64)) {
	classes := r.bytes(uint64(n))
	div := newScales()
	for i, c := range classes {
		switch {
		case !validClass(c):
			r.malformed("class %#x of a base value", c)
		case c == classFloat:
			set(i, r.float())
		default:
			set(i, fromInteger(r.varint(), c, &div))
		}
		if r.err != nil {
			return
		}
	}
}

// parseContent reads the canonical content.
func parseContent(content []byte, lim Limits) (*Schema, error) {
	t, err := parseText(content, lim)
	if err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	return NewSchema(t.Families, t.Series, lim)
}

// parseText reads the canonical content of a schema without a look at whether it fits together.
func parseText(content []byte, lim Limits) (*Text, error) {
	r := &reader{b: content}
	families := make([]Family, r.count("families", lim.Families, 4))
	for i := range families {
		families[i] = r.familyLine()
	}
	series := make([]Series, r.count("series", lim.Series, 3))
	sr := newSeriesReader(r, lim)
	for i := range series {
		if series[i] = sr.series(len(families)); r.err != nil {
			break
		}
	}
	r.bases(len(series), func(i int, v float64) { series[i].Base = v })
	if r.err == nil && len(r.b) > 0 {
		r.malformed("%d bytes too many", len(r.b))
	}
	if r.err != nil {
		return nil, r.err
	}
	return &Text{Families: families, Series: series}, nil
}

// sameBase compares bit for bit.
func sameBase(a, b *Series) bool { return math.Float64bits(a.Base) == math.Float64bits(b.Base) }
