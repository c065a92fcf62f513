package frame

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sort"

	"github.com/prometheus/prometheus/model/labels"
)

// origins tells for each item of a new list which item of an old one it is, or -1. The numbers that are not -1 only
// rise: a change is what was removed and what was inserted, never a move.
type origins []int32

// increasing drops the fewest matches that make the others rise.
func (o origins) increasing() {
	last, sorted := int32(-1), true
	for _, x := range o {
		if x >= 0 {
			sorted = sorted && x > last
			last = x
		}
	}
	if sorted {
		return
	}
	tails := []int32{} // index of the match that ends the best run of each length
	before := make([]int32, len(o))
	for i, x := range o {
		if x < 0 {
			continue
		}
		k := sort.Search(len(tails), func(k int) bool { return o[tails[k]] >= x })
		before[i] = -1
		if k > 0 {
			before[i] = tails[k-1]
		}
		if k == len(tails) {
			tails = append(tails, int32(i))
		} else {
			tails[k] = int32(i)
		}
	}
	keep := NewBitmap(len(o))
	for i := tails[len(tails)-1]; i >= 0; i = before[i] {
		keep.Set(int(i))
	}
	for i := range o {
		if !keep.Has(i) {
			o[i] = -1
		}
	}
}

// seriesOrigins matches the series of two schemas by their labels.
func seriesOrigins(from, to *Text) origins {
	o := make(origins, len(to.Series))
	a, b := 0, len(to.Series)
	for a < b && a < len(from.Series) && labels.Equal(from.Series[a].Labels, to.Series[a].Labels) {
		o[a] = int32(a)
		a++
	}
	end := len(from.Series)
	for a < b && a < end && labels.Equal(from.Series[end-1].Labels, to.Series[b-1].Labels) {
		b, end = b-1, end-1
		o[b] = int32(end)
	}
	at := make(map[uint64]int32, end-a)
	for i := a; i < end; i++ {
		at[from.Series[i].Labels.Hash()] = int32(i)
	}
	for i := a; i < b; i++ {
		j, ok := at[to.Series[i].Labels.Hash()]
		if !ok || !labels.Equal(from.Series[j].Labels, to.Series[i].Labels) {
			j = -1
		}
		o[i] = j
	}
	o.increasing()
	return o
}

func familyOrigins(from, to *Text) origins {
	at := make(map[Family]int32, len(from.Families))
	for i, f := range from.Families {
		at[f] = int32(i)
	}
	o := make(origins, len(to.Families))
	for i, f := range to.Families {
		j, ok := at[f]
		if !ok {
			j = -1
		}
		o[i] = j
	}
	o.increasing()
	return o
}

// append writes which of n old items are not there any more, and where the new ones stand: two lists of ordinals, each
// ordinal as its distance from the one that would follow directly.
func (o origins) append(dst []byte, n int) []byte {
	kept := NewBitmap(n)
	inserted := 0
	for _, x := range o {
		if x < 0 {
			inserted++
		} else {
			kept.Set(int(x))
		}
	}
	dst = binary.AppendUvarint(dst, uint64(n-len(o)+inserted))
	next := 0
	for i := range n {
		if !kept.Has(i) {
			dst = binary.AppendUvarint(dst, uint64(i-next))
			next = i + 1
		}
	}
	dst = binary.AppendUvarint(dst, uint64(inserted))
	next = 0
	for i, x := range o {
		if x < 0 {
			dst = binary.AppendUvarint(dst, uint64(i-next))
			next = i + 1
		}
	}
	return dst
}

// origins reads what append wrote.
func (r *reader) origins(what string, n, limit int) origins {
	removed := NewBitmap(n)
	gone := r.ordinals(what, n, func(i int) { removed.Set(i) })
	p := *r
	fresh := p.uvarint() // looked at first: it says how long the new list is
	if r.err != nil || p.err != nil {
		r.fail(ErrTruncated)
		return nil
	}
	total := uint64(n-gone) + fresh
	if fresh > uint64(len(r.b)) {
		r.fail(ErrTruncated)
		return nil
	}
	if err := within(what, total, limit); err != nil {
		r.fail(err)
		return nil
	}
	o := make(origins, total)
	r.ordinals(what, len(o), func(i int) { o[i] = -1 })
	if r.err != nil {
		return nil
	}
	old := 0
	for i := range o {
		if o[i] < 0 {
			continue
		}
		for removed.Has(old) {
			old++
		}
		o[i] = int32(old)
		old++
	}
	return o
}

// ordinals reads one list of rising ordinals below n.
func (r *reader) ordinals(what string, n int, each func(int)) int {
	count := r.count(what, math.MaxInt32, 1)
	if count > n {
		r.malformed("%s: %d ordinals below %d", what, count, n)
		return 0
	}
	next := uint64(0)
	for range count {
		gap := r.uvarint()
		if r.err != nil {
			return 0
		}
		if next += gap; gap > math.MaxInt32 || next >= uint64(n) {
			r.malformed("%s: ordinal %d of %d", what, next, n)
			return 0
		}
		each(int(next))
		next++
	}
	return count
}

// appendDelta writes s as a change of parent.
func (s *Schema) appendDelta(dst []byte, parent *Text) []byte {
	families := familyOrigins(parent, s.Text)
	series := seriesOrigins(parent, s.Text)
	for i, j := range series {
		if j < 0 {
			continue
		}
		x, y := &s.Series[i], &parent.Series[j]
		same := y.Family < 0
		if x.Family >= 0 {
			same = y.Family >= 0 && families[x.Family] == int32(y.Family)
		}
		if !same || !sameBase(x, y) {
			series[i] = -1 // goes and comes again
		}
	}
	dst = families.append(dst, len(parent.Families))
	for i, j := range families {
		if j < 0 {
			dst = appendFamily(dst, &s.Families[i])
		}
	}
	dst = series.append(dst, len(parent.Series))
	w := seriesWriter{family: -1}
	for i, j := range series {
		if j < 0 {
			dst = w.append(dst, &s.Series[i])
		} else if i+1 < len(series) && series[i+1] < 0 {
			w.skip(&s.Series[i])
		}
	}
	div := newScales()
	for i, j := range series {
		if j < 0 {
			dst = append(dst, s.classes[i])
		}
	}
	for i, j := range series {
		if j < 0 {
			dst = appendBase(dst, s.Series[i].Base, s.classes[i], &div)
		}
	}
	return dst
}

// parseDelta is the other side of appendDelta.
func parseDelta(content []byte, parent *Schema, lim Limits) (*Schema, error) {
	t, err := parseChange(content, parent.Text, lim)
	if err != nil {
		return nil, fmt.Errorf("change of %s: %w", parent.ID, err)
	}
	return NewSchema(t.Families, t.Series, lim)
}

// parseChange is parseDelta without a look at whether it fits together.
func parseChange(content []byte, parent *Text, lim Limits) (*Text, error) {
	r := &reader{b: content}
	t := &Text{}
	moved := t.parseFamilies(r, parent, lim)
	t.parseSeries(r, parent, moved, lim)
	if r.err == nil && len(r.b) > 0 {
		r.malformed("%d bytes too many", len(r.b))
	}
	if r.err != nil {
		return nil, r.err
	}
	return t, nil
}

// parseFamilies gives where each of the parent's families went, or -1.
func (t *Text) parseFamilies(r *reader, parent *Text, lim Limits) []int32 {
	o := r.origins("families", len(parent.Families), lim.Families)
	t.Families = make([]Family, len(o))
	moved := slices.Repeat([]int32{-1}, len(parent.Families))
	for i, j := range o {
		if j < 0 {
			t.Families[i] = r.familyLine()
		} else {
			t.Families[i] = parent.Families[j]
			moved[j] = int32(i)
		}
	}
	return moved
}

func (t *Text) parseSeries(r *reader, parent *Text, moved []int32, lim Limits) {
	o := r.origins("series", len(parent.Series), lim.Series)
	t.Series = make([]Series, len(o))
	sr := newSeriesReader(r, lim)
	var fresh []int
	for i, j := range o {
		if j < 0 {
			t.Series[i] = sr.series(len(t.Families))
			fresh = append(fresh, i)
		} else {
			x := parent.Series[j]
			if x.Family >= 0 {
				if x.Family = int(moved[x.Family]); x.Family < 0 {
					r.malformed("the family of series %s is gone", x.Labels)
				}
			}
			t.Series[i] = x
			if i+1 < len(o) && o[i+1] < 0 {
				sr.skip(&x)
			}
		}
		if r.err != nil {
			return
		}
	}
	r.bases(len(fresh), func(i int, v float64) { t.Series[fresh[i]].Base = v })
}
