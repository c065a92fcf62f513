package remotewrite

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// What a series has besides or in place of a float. Exemplars and histograms have each other's number in 1.0.
//
//	Exemplar   1.0 {1: Label, 2: value, 3: timestamp}, 2.0 {1: labels_refs, 2: value, 3: timestamp}
//	Histogram  {1, 2: count as integer or float, 3: sum, 4: schema, 5: zero_threshold, 6, 7: zero_count,
//	            8: negative_spans, 9: negative_deltas, 10: negative_counts, 11: positive_spans, 12: positive_deltas,
//	            13: positive_counts, 14: reset_hint, 15: timestamp, 16: custom_values, 17: start_timestamp}
//	BucketSpan {1: offset, 2: length}
//
// 16 and 17 are in 2.0 only.
const (
	tagStart      = 3 << 3
	tagHistogram1 = 4<<3 | 2
	tagHistogram2 = 3<<3 | 2
	tagExemplar1  = 3<<3 | 2
	tagExemplar2  = 4<<3 | 2
)

// form is which kind of native histogram a series had: its stale marker has the same.
type form struct {
	Row   int
	Float bool
	// Custom: it had custom buckets, which 1.0 does not have, so that there is nothing to be marked.
	Custom bool
}

// rich tells whether a segment has more than floats.
func (g *segment) rich() bool {
	return g.starts != nil || len(g.histograms) > 0 || len(g.exemplars) > 0 || len(g.forms) > 0 || len(g.earlier) > 0
}

// tally is what a request has of something.
type tally struct {
	samples   int // floats and histograms
	exemplars int
	// unsent are histograms for which 1.0 has no form.
	unsent int
}

func (n *tally) add(m tally) {
	n.samples += m.samples
	n.exemplars += m.exemplars
	n.unsent += m.unsent
}

// cursors stand at the rows that are still to be written.
type cursors struct{ histogram, form, exemplar, earlier int }

// segment writes series of a segment that has more than floats, in the form of the protocol, and counts them.
func (e *encoder) segment(g *segment, t *text, from, to, protocol int, histograms bool) (n tally) {
	var at cursors
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
		h, native := g.histogram(i, &at, protocol)
		if native && !histograms {
			continue
		}
		if protocol == 1 && native && customBuckets(h) {
			if g.values != nil {
				n.unsent++
			}
			continue
		}
		e.labels(refs, g.prepared.target, protocol)
		named := len(e.message)
		if protocol == 1 && !native {
			n.exemplars += e.appendExemplars(g, i, &at, protocol)
		}
		if native {
			_, ms := g.sample(i)
			e.appendHistogram(h, ms, g.start(i, protocol), protocol)
		} else {
			n.samples += e.appendEarlier(g, i, &at, protocol)
			bits, ms := g.sample(i)
			e.appendFloat(bits, ms, g.start(i, protocol))
		}
		if protocol == 2 {
			n.exemplars += e.appendExemplars(g, i, &at, protocol)
			e.message = e.appendMeta(e.message, t, i)
		}
		e.series = appendBytes(e.series, []byte{0, tagSeries1, tagSeries2}[protocol], e.message)
		n.samples++
		if protocol == 1 && native {
			// Behind it, as Prometheus sends them: it reads exemplars before histograms, and there has to be a series then.
			e.message = e.message[:named]
			if count := e.appendExemplars(g, i, &at, protocol); count > 0 {
				e.series = appendBytes(e.series, tagSeries1, e.message)
				n.exemplars += count
			}
		}
	}
	return n
}

// histogram gives the native histogram of row i, or the stale marker in its form.
func (g *segment) histogram(i int, at *cursors, protocol int) (frame.Histogram, bool) {
	for at.histogram < len(g.histograms) && g.histograms[at.histogram].Row < i {
		at.histogram++
	}
	if n := at.histogram; n < len(g.histograms) && g.histograms[n].Row == i {
		return g.histograms[n], true
	}
	for at.form < len(g.forms) && g.forms[at.form].Row < i {
		at.form++
	}
	if n := at.form; n >= len(g.forms) || g.forms[n].Row != i {
		return frame.Histogram{}, false
	}
	schema := int32(0)
	if g.forms[at.form].Custom && protocol == 1 {
		schema = histogram.CustomBucketsSchema
	}
	sum := math.Float64frombits(value.StaleNaN)
	if g.forms[at.form].Float {
		return frame.Histogram{Row: i, Float: &histogram.FloatHistogram{Schema: schema, Sum: sum}}, true
	}
	return frame.Histogram{Row: i, Int: &histogram.Histogram{Schema: schema, Sum: sum}}, true
}

// start is the start timestamp of series i, which 1.0 has no place for.
func (g *segment) start(i, protocol int) int64 {
	if g.starts == nil || protocol == 1 {
		return 0
	}
	return g.starts[i]
}

func customBuckets(h frame.Histogram) bool {
	if h.Int != nil {
		return histogram.IsCustomBucketsSchema(h.Int.Schema)
	}
	return histogram.IsCustomBucketsSchema(h.Float.Schema)
}

// labels begins the message of a series.
func (e *encoder) labels(refs, own []uint32, protocol int) {
	e.message, e.row = e.message[:0], e.row[:0]
	for _, r := range refs {
		if r&ofTarget != 0 {
			r = own[r&^ofTarget]
		}
		if protocol == 1 {
			e.message = append(e.message, e.text[r]...)
		} else {
			e.row = appendVarint(e.row, uint64(e.ref(r)))
		}
	}
	if protocol == 2 {
		e.message = appendBytes(e.message, tagLabels, e.row)
	}
}

func (e *encoder) appendFloat(bits uint64, ms, start int64) {
	size := 1 + 8 + 1 + varintLen(uint64(ms))
	if start != 0 {
		size += 1 + varintLen(uint64(start))
	}
	e.message = appendSample(e.message, size, bits, ms)
	if start != 0 {
		e.message = append(e.message, tagStart)
		e.message = appendVarint(e.message, uint64(start))
	}
}

// appendEarlier writes the earlier samples of series i and counts them.
func (e *encoder) appendEarlier(g *segment, i int, at *cursors, protocol int) (count int) {
	for at.earlier < len(g.earlier) && g.earlier[at.earlier].Row < i {
		at.earlier++
	}
	for ; at.earlier < len(g.earlier) && g.earlier[at.earlier].Row == i; at.earlier++ {
		x := &g.earlier[at.earlier]
		start := g.start(i, protocol)
		if start > x.Timestamp {
			start = 0
		}
		e.appendFloat(math.Float64bits(x.Value), x.Timestamp, start)
		count++
	}
	return count
}

// appendMeta writes the metadata of series i.
func (e *encoder) appendMeta(out []byte, t *text, i int) []byte {
	f := t.family(i)
	if f < 0 || f >= len(t.families) {
		return out
	}
	m := t.families[f]
	b := append(e.row[:0], tagKind)
	b = appendVarint(b, uint64(m.kind))
	b = append(b, tagHelp)
	b = appendVarint(b, uint64(e.ref(m.help)))
	b = append(b, tagUnit)
	e.row = appendVarint(b, uint64(e.ref(m.unit)))
	return appendBytes(out, tagMetadata, e.row)
}

// appendExemplars writes the exemplars of series i and counts them.
func (e *encoder) appendExemplars(g *segment, i int, at *cursors, protocol int) (count int) {
	for at.exemplar < len(g.exemplars) && g.exemplars[at.exemplar].row < i {
		at.exemplar++
	}
	for ; at.exemplar < len(g.exemplars) && g.exemplars[at.exemplar].row == i; at.exemplar++ {
		x := &g.exemplars[at.exemplar]
		tag, b := byte(tagExemplar1), e.scratch[:0]
		if protocol == 1 {
			x.labels.Range(func(l labels.Label) { b = appendLabel(b, l) })
		} else {
			tag = tagExemplar2
			e.row = e.row[:0]
			x.labels.Range(func(l labels.Label) {
				e.row = appendVarint(e.row, uint64(e.borrow(l.Name)))
				e.row = appendVarint(e.row, uint64(e.borrow(l.Value)))
			})
			if len(e.row) > 0 {
				b = appendBytes(b, tagLabels, e.row)
			}
		}
		b = appendDouble(b, 2, x.value)
		b = append(b, 3<<3)
		e.scratch = appendVarint(b, uint64(x.time))
		e.message = appendBytes(e.message, tag, e.scratch)
		count++
	}
	return count
}

// borrow gives the place in the table of a string that is used in this request only.
func (e *encoder) borrow(text string) uint32 {
	n := e.acquire(text)
	e.borrowed = append(e.borrowed, n)
	return e.ref(n)
}

// giveBack releases what was borrowed, once the table was written.
func (e *encoder) giveBack() {
	for _, n := range e.borrowed {
		e.release(n)
	}
	e.borrowed = e.borrowed[:0]
}

func (e *encoder) appendHistogram(h frame.Histogram, ms, start int64, protocol int) {
	b := e.scratch[:0]
	var custom []float64
	var hint histogram.CounterResetHint
	if x := h.Int; x != nil {
		b = appendVarint(append(b, 1<<3), x.Count)
		b = appendDouble(b, 3, x.Sum)
		b = appendSigned(b, 4, int64(x.Schema))
		b = appendDouble(b, 5, x.ZeroThreshold)
		b = appendVarint(append(b, 6<<3), x.ZeroCount)
		b = e.appendSpans(b, 8, x.NegativeSpans)
		b = e.appendDeltas(b, 9, x.NegativeBuckets)
		b = e.appendSpans(b, 11, x.PositiveSpans)
		b = e.appendDeltas(b, 12, x.PositiveBuckets)
		custom, hint = x.CustomValues, x.CounterResetHint
	} else {
		x := h.Float
		b = appendFixed(append(b, 2<<3|1), x.Count)
		b = appendDouble(b, 3, x.Sum)
		b = appendSigned(b, 4, int64(x.Schema))
		b = appendDouble(b, 5, x.ZeroThreshold)
		b = appendFixed(append(b, 7<<3|1), x.ZeroCount)
		b = e.appendSpans(b, 8, x.NegativeSpans)
		b = appendDoubles(b, 10, x.NegativeBuckets)
		b = e.appendSpans(b, 11, x.PositiveSpans)
		b = appendDoubles(b, 13, x.PositiveBuckets)
		custom, hint = x.CustomValues, x.CounterResetHint
	}
	if hint != 0 {
		b = append(b, 14<<3, byte(hint))
	}
	b = appendVarint(append(b, 15<<3), uint64(ms))
	tag := byte(tagHistogram1)
	if protocol == 2 {
		tag = tagHistogram2
		b = appendDoubles(b, 16, custom)
		if start != 0 {
			b = appendVarint(appendVarint(b, 17<<3), uint64(start))
		}
	}
	e.scratch = b
	e.message = appendBytes(e.message, tag, b)
}

func (e *encoder) appendSpans(b []byte, field byte, spans []histogram.Span) []byte {
	for _, s := range spans {
		e.row = e.row[:0]
		if s.Offset != 0 {
			e.row = appendSigned(e.row, 1, int64(s.Offset))
		}
		e.row = appendVarint(append(e.row, 2<<3), uint64(s.Length))
		b = appendBytes(b, field<<3|2, e.row)
	}
	return b
}

func (e *encoder) appendDeltas(b []byte, field byte, deltas []int64) []byte {
	if len(deltas) == 0 {
		return b
	}
	e.row = e.row[:0]
	for _, d := range deltas {
		e.row = appendVarint(e.row, zigzag(d))
	}
	return appendBytes(b, field<<3|2, e.row)
}

func zigzag(v int64) uint64 { return uint64(v<<1) ^ uint64(v>>63) }

func appendSigned(b []byte, field byte, v int64) []byte {
	return appendVarint(append(b, field<<3), zigzag(v))
}

// appendDouble writes a field of eight bytes, if it is not 0.
func appendDouble(b []byte, field byte, v float64) []byte {
	if math.Float64bits(v) == 0 {
		return b
	}
	return appendFixed(append(b, field<<3|1), v)
}

func appendDoubles(b []byte, field uint64, all []float64) []byte {
	if len(all) == 0 {
		return b
	}
	b = appendVarint(b, field<<3|2)
	b = appendVarint(b, uint64(8*len(all)))
	for _, v := range all {
		b = appendFixed(b, v)
	}
	return b
}

func appendFixed(b []byte, v float64) []byte {
	return binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
}

func appendBytes(out []byte, tag byte, content []byte) []byte {
	out = append(out, tag)
	out = appendVarint(out, uint64(len(content)))
	return append(out, content...)
}

// native tells whether a row of a column is a native histogram.
func native(c *frame.Column, row int) bool {
	_, found := slices.BinarySearchFunc(c.Histograms, row, func(h frame.Histogram, row int) int { return h.Row - row })
	return found
}

// formsOf notes which rows of a column are native histograms. It gives old if that says the same.
func formsOf(c *frame.Column, old []form) []form {
	same := len(old) == len(c.Histograms)
	for i := 0; same && i < len(old); i++ {
		same = old[i] == formOf(&c.Histograms[i])
	}
	if same {
		return old
	}
	forms := make([]form, len(c.Histograms))
	for i := range c.Histograms {
		forms[i] = formOf(&c.Histograms[i])
	}
	return forms
}

func formOf(h *frame.Histogram) form { return form{h.Row, h.Float != nil, customBuckets(*h)} }
