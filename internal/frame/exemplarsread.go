package frame

import (
	"github.com/prometheus/prometheus/model/labels"
)

// exemplarReader reads the exemplars of one frame.
type exemplarReader struct {
	*reader
	lim    *Limits
	rows   int
	absent Bitmap
	time   int64
	div    *scales
	names  []string
	b      labels.ScratchBuilder
}

// parseExemplars gives the exemplars of the state after a frame, and among them those of the frame itself.
func (p *pending) parseExemplars(b []byte, base []Exemplar, absent Bitmap, n int) (all, now []Exemplar, err error) {
	was := present(base, exemplarRow, absent)
	if b == nil {
		return base, was, nil
	}
	r := &exemplarReader{reader: &reader{b: b}, lim: &p.lim, rows: n, absent: absent, time: p.raw.Time, div: &p.div}
	now = r.list(was)
	if r.err == nil && len(r.reader.b) > 0 {
		r.malformed("%d bytes behind the last exemplar", len(r.reader.b))
	}
	if r.err != nil {
		return nil, nil, r.err
	}
	if len(was) == len(base) {
		return now, now, nil
	}
	return mergeExemplars(base, now, absent), now, nil
}

// list reads what was removed and what is new.
func (r *exemplarReader) list(was []Exemplar) []Exemplar {
	removed := NewBitmap(len(was))
	gone := r.ordinals("exemplars", len(was), func(i int) { removed.Set(i) })
	fresh := r.count("exemplars", r.lim.Exemplars, 4)
	if r.err != nil {
		return nil
	}
	total := len(was) - gone + fresh
	if err := within("exemplars", uint64(total), r.lim.Exemplars); err != nil || total == 0 {
		r.failIf(err)
		return nil
	}
	now := make([]Exemplar, 0, total)
	old, row := 0, 0
	keep := func() bool {
		for removed.Has(old) {
			old++
		}
		if old == len(was) {
			return false
		}
		if was[old].Row < row {
			r.malformed("an exemplar of row %d stands behind one of row %d", was[old].Row, row)
			return false
		}
		row = was[old].Row
		now = append(now, was[old])
		old++
		return true
	}
	for range fresh {
		gap := r.uvarint()
		for ; gap > 0 && r.err == nil; gap-- {
			if !keep() {
				r.malformed("a new exemplar %d behind the last", gap)
			}
		}
		x := r.exemplar(row)
		if r.err != nil {
			return nil
		}
		row = x.Row
		now = append(now, x)
	}
	for r.err == nil && keep() {
		continue
	}
	return now
}

func (r *reader) failIf(err error) {
	if err != nil {
		r.fail(err)
	}
}

// exemplar reads one that stands behind one of the row.
func (r *exemplarReader) exemplar(row int) Exemplar {
	head := r.uvarint()
	behind := head >> exemplarShift
	if r.err == nil && (behind >= uint64(r.rows) || row+int(behind) >= r.rows) {
		r.malformed("an exemplar %d rows behind row %d of %d", behind, row, r.rows)
	}
	if r.err != nil {
		return Exemplar{}
	}
	x := Exemplar{Row: row + int(behind), Timestamp: NoTimestamp}
	if r.absent.Has(x.Row) {
		r.malformed("an exemplar of row %d, which is absent", x.Row)
	}
	x.Labels = r.labels(head&exemplarNames != 0)
	x.Value = r.classed(r.div)
	if head&exemplarTime != 0 {
		x.Timestamp = r.time - r.varint()
		if x.Timestamp == NoTimestamp {
			r.malformed("timestamp %d of an exemplar", x.Timestamp)
		}
	}
	return x
}

// classed reads a value that stands behind its class.
func (r *reader) classed(div *scales) float64 {
	class := r.byte()
	if r.err == nil && !validClass(class) {
		r.malformed("class %#x of a value", class)
		return 0
	}
	if class == classFloat {
		return r.float()
	}
	m := r.varint()
	if !inRange(m) {
		r.malformed("%d is outside the range of class %#x", m, class)
		return 0
	}
	return fromInteger(m, class, div)
}

func (r *exemplarReader) labels(sameNames bool) labels.Labels {
	size := 0
	if !sameNames {
		r.names = r.names[:0]
		last := ""
		for range r.count("labels of an exemplar", r.lim.Labels, 1) {
			name := r.text("label name")
			if r.err != nil || name == "" || name < last {
				r.malformed("label %q of an exemplar is empty or not in order", name)
				return labels.EmptyLabels()
			}
			last = name
			r.names = append(r.names, name)
		}
	}
	r.b.Reset()
	for _, name := range r.names {
		size += len(name)
		value := r.packed(max(r.lim.ExemplarBytes-size, 0))
		size += len(value)
		r.b.Add(name, value)
	}
	if r.err != nil {
		return labels.EmptyLabels()
	}
	if err := within("bytes of an exemplar", uint64(size), r.lim.ExemplarBytes); err != nil {
		r.fail(err)
		return labels.EmptyLabels()
	}
	return r.b.Labels()
}
