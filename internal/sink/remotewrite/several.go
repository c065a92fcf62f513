package remotewrite

import (
	"encoding/binary"
	"math"
)

// run tells how many pieces from the i-th on are scrapes of the same series, one after the other.
func (b *batch) run(i int) int {
	n := 1
	for i+n < len(b.pieces) && b.pieces[i+n].follows(&b.pieces[i+n-1]) {
		n++
	}
	return n
}

// encodeRun writes scrapes of the same series together: each series once, with a sample of each scrape. That is what a
// backlog is made of, and labels are what costs most, here, on the way and in the server.
func (s *Sink) encodeRun(pieces []piece) {
	e := s.encoder
	for j := range pieces[0].part.segments {
		first := &pieces[0].part.segments[j]
		s.ready(first.prepared, first.text())
		e.group = e.group[:0]
		for k := range pieces {
			g := &pieces[k].part.segments[j]
			e.group = append(e.group, member{segment: g, size: 1 + 8 + 1 + varintLen(uint64(g.time))})
		}
		e.several(first.text(), s.protocol)
		for k := range pieces {
			if j == 0 {
				pieces[k].tally = tally{}
			}
			pieces[k].samples += e.group[k].count
		}
	}
	for k := range e.group {
		e.group[k] = member{}
	}
}

// member is one of several segments that are written together.
type member struct {
	*segment
	size  int // of a sample
	count int // of samples written
}

// several writes the series of the group's segments, which have floats with the time of the segment alone.
func (e *encoder) several(t *text, protocol int) {
	own := e.group[0].prepared.target
	start := uint32(0)
	for i := range t.series() {
		refs := t.refs[start:t.ends[i]]
		start = t.ends[i]
		if t.dropped.Has(i) {
			continue
		}
		size := 0
		for k := range e.group {
			if m := &e.group[k]; !m.skip.Has(i) {
				size += 2 + m.size
				m.count++
			}
		}
		if size == 0 {
			continue
		}
		e.labels(refs, own, protocol)
		out := e.series
		meta := e.family[:0]
		if protocol == 2 {
			meta = e.appendMeta(meta, t, i)
		}
		out = append(out, []byte{0, tagSeries1, tagSeries2}[protocol])
		out = appendVarint(out, uint64(len(e.message)+size+len(meta)))
		out = append(out, e.message...)
		for k := range e.group {
			m := &e.group[k]
			if m.skip.Has(i) {
				continue
			}
			out = append(out, tagSample, byte(m.size), tagValue)
			out = binary.LittleEndian.AppendUint64(out, math.Float64bits(m.values[i]))
			out = append(out, tagTime)
			out = appendVarint(out, uint64(m.time))
		}
		e.series, e.family = append(out, meta...), meta
	}
}
