package remotewrite

import (
	"encoding/binary"
	"math"
	"math/bits"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// The requests as they stand in Prometheus' .proto files, as far as they are written here:
//
//	1.0  WriteRequest{1: TimeSeries{1: Label{1: name, 2: value}, 2: Sample{1: value, 2: timestamp}}}
//	2.0  Request{4: symbols, 5: TimeSeries{1: labels_refs, 2: Sample{1: value, 2: timestamp},
//	             5: Metadata{1: type, 3: help_ref, 4: unit_ref}}}
//
// Tags are the field's number times eight, plus 0 for a number, 1 for eight bytes and 2 for bytes with their length.
const (
	tagSeries1  = 1<<3 | 2
	tagSymbol   = 4<<3 | 2
	tagSeries2  = 5<<3 | 2
	tagLabels   = 1<<3 | 2
	tagSample   = 2<<3 | 2
	tagMetadata = 5<<3 | 2
	tagName     = 1<<3 | 2
	tagText     = 2<<3 | 2
	tagValue    = 1<<3 | 1
	tagTime     = 2 << 3
	tagKind     = 1 << 3
	tagHelp     = 3 << 3
	tagUnit     = 4 << 3
)

// encoder writes bodies. It belongs to Run.
type encoder struct {
	*symbols
	series []byte // of the request
	row    []byte // scratch: the refs of one series

	message, scratch []byte   // one series, and one thing in it, that is more than a float
	family           []byte   // its metadata
	group            []member // what is written together
	borrowed         []uint32 // symbols of this request only
}

func newEncoder() *encoder { return &encoder{symbols: newSymbols()} }

// segment is a run of samples of one target with one time: those of a scrape, of its report, or stale markers.
type segment struct {
	prepared *prepared
	report   bool
	values   []float64 // nil for stale markers
	times    []int64   // as in frame.Column
	skip     frame.Bitmap
	time     int64

	// What is rare, and makes the segment a rich one.
	starts     []int64 // as in frame.Column
	histograms []frame.Histogram
	forms      []form // of the series that had native histograms, for stale markers
	exemplars  []exemplar
	earlier    []frame.Earlier
}

func (g *segment) text() *text {
	if g.report {
		return g.prepared.report
	}
	return g.prepared.text
}

// encode writes the body of a batch for the protocol spoken now.
func (s *Sink) encode(b *batch) {
	e := s.encoder
	e.begin()
	e.series = e.series[:0]
	b.tally, b.protocol = tally{}, s.protocol
	for i := 0; i < len(b.pieces); {
		n := b.run(i)
		if n > 1 {
			s.encodeRun(b.pieces[i : i+n])
		} else {
			s.encodePiece(&b.pieces[i])
		}
		for ; n > 0; n, i = n-1, i+1 {
			b.add(b.pieces[i].tally)
		}
	}
	b.body = b.body[:0]
	if s.protocol == 2 {
		for _, n := range e.table {
			b.body = append(b.body, tagSymbol)
			b.body = binary.AppendUvarint(b.body, uint64(len(e.text[n])))
			b.body = append(b.body, e.text[n]...)
		}
	}
	b.body = append(b.body, e.series...)
	e.giveBack()
}

// encodePiece writes the series of one piece.
func (s *Sink) encodePiece(p *piece) {
	e, at := s.encoder, 0
	p.tally = tally{}
	for j := range p.part.segments {
		g := &p.part.segments[j]
		t := g.text()
		n := t.series()
		if from, to := max(p.from-at, 0), min(p.to-at, n); from < to {
			s.ready(g.prepared, t)
			switch {
			case g.rich():
				p.add(e.segment(g, t, from, to, s.protocol, s.SendNativeHistograms))
			case s.protocol == 2:
				p.samples += e.segment2(g, t, from, to)
			default:
				p.samples += e.segment1(g, t, from, to)
			}
		}
		at += n
	}
}

// sample gives the bits and the time of series i.
func (g *segment) sample(i int) (uint64, int64) {
	if g.values == nil {
		return value.StaleNaN, g.time
	}
	t := g.time
	if g.times != nil && g.times[i] != frame.NoTimestamp {
		t = g.times[i]
	}
	return math.Float64bits(g.values[i]), t
}

// segment2 writes series of a segment in the form of 2.0 and counts them.
func (e *encoder) segment2(g *segment, t *text, from, to int) (count int) {
	own := g.prepared.target
	out, row := e.series, e.row
	start := uint32(0)
	if from > 0 {
		start = t.ends[from-1]
	}
	for i := from; i < to; i++ {
		refs := t.refs[start:t.ends[i]]
		start = t.ends[i]
		if g.skip.Has(i) || t.dropped.Has(i) {
			continue
		}
		row = row[:0]
		for _, r := range refs {
			if r&ofTarget != 0 {
				r = own[r&^ofTarget]
			}
			row = appendVarint(row, uint64(e.ref(r)))
		}
		bits, ms := g.sample(i)
		sample := 1 + 8 + 1 + varintLen(uint64(ms))
		size := 1 + varintLen(uint64(len(row))) + len(row) + 2 + sample
		var m family
		meta := 0
		if f := t.family(i); f >= 0 && f < len(t.families) {
			m = t.families[f]
			m.help, m.unit = e.ref(m.help), e.ref(m.unit)
			meta = 3 + varintLen(uint64(m.kind)) + varintLen(uint64(m.help)) + varintLen(uint64(m.unit))
			size += 2 + meta
		}
		out = append(out, tagSeries2)
		out = appendVarint(out, uint64(size))
		out = append(out, tagLabels)
		out = appendVarint(out, uint64(len(row)))
		out = append(out, row...)
		out = appendSample(out, sample, bits, ms)
		if meta > 0 {
			out = append(out, tagMetadata, byte(meta), tagKind)
			out = appendVarint(out, uint64(m.kind))
			out = append(out, tagHelp)
			out = appendVarint(out, uint64(m.help))
			out = append(out, tagUnit)
			out = appendVarint(out, uint64(m.unit))
		}
		count++
	}
	e.series, e.row = out, row
	return count
}

// segment1 writes series of a segment in the form of 1.0 and counts them.
func (e *encoder) segment1(g *segment, t *text, from, to int) (count int) {
	own := g.prepared.target
	out := e.series
	start := uint32(0)
	if from > 0 {
		start = t.ends[from-1]
	}
	for i := from; i < to; i++ {
		refs := t.refs[start:t.ends[i]]
		start = t.ends[i]
		if g.skip.Has(i) || t.dropped.Has(i) {
			continue
		}
		bits, ms := g.sample(i)
		sample := 1 + 8 + 1 + varintLen(uint64(ms))
		size := 2 + sample
		for _, r := range refs {
			if r&ofTarget != 0 {
				r = own[r&^ofTarget]
			}
			size += len(e.text[r])
		}
		out = append(out, tagSeries1)
		out = appendVarint(out, uint64(size))
		for _, r := range refs {
			if r&ofTarget != 0 {
				r = own[r&^ofTarget]
			}
			out = append(out, e.text[r]...)
		}
		out = appendSample(out, sample, bits, ms)
		count++
	}
	e.series = out
	return count
}

func appendSample(out []byte, size int, bits uint64, ms int64) []byte {
	out = append(out, tagSample, byte(size), tagValue)
	out = binary.LittleEndian.AppendUint64(out, bits)
	out = append(out, tagTime)
	return appendVarint(out, uint64(ms))
}

// appendLabel writes a label of 1.0 with its tag.
func appendLabel(out []byte, l labels.Label) []byte {
	size := 1 + varintLen(uint64(len(l.Name))) + len(l.Name) + 1 + varintLen(uint64(len(l.Value))) + len(l.Value)
	out = append(out, tagLabels)
	out = appendVarint(out, uint64(size))
	out = append(out, tagName)
	out = appendVarint(out, uint64(len(l.Name)))
	out = append(out, l.Name...)
	out = append(out, tagText)
	out = appendVarint(out, uint64(len(l.Value)))
	return append(out, l.Value...)
}

func appendVarint(out []byte, v uint64) []byte {
	if v < 1<<7 {
		return append(out, byte(v))
	}
	if v < 1<<14 {
		return append(out, byte(v)|0x80, byte(v>>7))
	}
	return binary.AppendUvarint(out, v)
}

func varintLen(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }
