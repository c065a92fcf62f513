package frame

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/prometheus/prometheus/model/labels"
)

func (x *Exemplar) same(y *Exemplar) bool {
	return sameBits(x.Value, y.Value) && x.Timestamp == y.Timestamp && labels.Equal(x.Labels, y.Labels)
}

// check tells whether the labels of an exemplar can be sent. Their names may repeat, because targets can say that.
func (x *Exemplar) check(lim *Limits) error {
	if err := within("labels of an exemplar", uint64(x.Labels.Len()), lim.Labels); err != nil {
		return err
	}
	size, last := uint64(0), ""
	var err error
	x.Labels.Range(func(l labels.Label) {
		if l.Name == "" || l.Name < last || !utf8.ValidString(l.Name) || !utf8.ValidString(l.Value) {
			err = fmt.Errorf("%w: label %q of an exemplar is empty, not in order or not UTF-8", ErrMalformed, l.Name)
		}
		last = l.Name
		size += uint64(len(l.Name) + len(l.Value))
	})
	if err != nil {
		return err
	}
	return within("bytes of an exemplar", size, lim.ExemplarBytes)
}

// bytes is the memory that the exemplar takes.
func (x *Exemplar) bytes() int64 {
	n := 64
	x.Labels.Range(func(l labels.Label) { n += len(l.Name) + len(l.Value) + 2 })
	return int64(n)
}

// The lowest bits of the head of an exemplar.
const (
	exemplarTime  = 1 << iota // it has a timestamp
	exemplarNames             // its label names are those of the exemplar written before

	exemplarShift = 2
)

// exemplarWriter writes exemplars against those of the base. What it holds is reused.
type exemplarWriter struct {
	removed, inserted []uint32 // ordinals
	names             []string
}

// exemplarReach is how many exemplars of a row are looked through for one that goes on.
const exemplarReach = 16

// match finds which exemplars of the base, absent rows left out, are not there any more, and which ones are new.
func (w *exemplarWriter) match(base, now []Exemplar, absent Bitmap) {
	w.removed, w.inserted = w.removed[:0], w.inserted[:0]
	at, i := uint32(0), 0
	skip := func() {
		for i < len(base) && absent.Has(base[i].Row) {
			i++
		}
	}
	drop := func() {
		w.removed = append(w.removed, at)
		at++
		i++
		skip()
	}
	skip()
	for j := range now {
		x := &now[j]
		for i < len(base) && base[i].Row < x.Row {
			drop()
		}
		k := i
		for k < len(base) && k < i+exemplarReach && base[k].Row == x.Row && !base[k].same(x) {
			k++
		}
		if k == len(base) || k == i+exemplarReach || base[k].Row != x.Row {
			w.inserted = append(w.inserted, uint32(j))
			continue
		}
		for i < k {
			drop()
		}
		at++
		i++
		skip()
	}
	for i < len(base) {
		drop()
	}
}

// append writes how the exemplars differ from those of the base, and, if keep is set, gives those of the state after
// this frame. It writes nothing if they do not differ.
func (w *exemplarWriter) append(dst []byte, base, now []Exemplar, absent Bitmap, time int64, div *scales, keep bool) ([]byte, []Exemplar) {
	w.match(base, now, absent)
	if len(w.removed)+len(w.inserted) == 0 {
		return dst, base
	}
	from := len(dst)
	dst = appendOrdinals(dst, w.removed)
	dst = binary.AppendUvarint(dst, uint64(len(w.inserted)))
	next := uint32(0)
	w.names = w.names[:0]
	for k, j := range w.inserted {
		dst = binary.AppendUvarint(dst, uint64(j-next))
		next = j + 1
		row := now[j].Row
		if j > 0 {
			row -= now[j-1].Row
		}
		dst = w.exemplar(dst, &now[j], row, k == 0, time, div)
	}
	dst = endSection(dst, from, keyExemplars)
	if !keep {
		return dst, nil
	}
	return dst, mergeExemplars(base, now, absent)
}

func appendOrdinals(dst []byte, ordinals []uint32) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(ordinals)))
	next := uint32(0)
	for _, i := range ordinals {
		dst = binary.AppendUvarint(dst, uint64(i-next))
		next = i + 1
	}
	return dst
}

func (w *exemplarWriter) exemplar(dst []byte, x *Exemplar, row int, first bool, time int64, div *scales) []byte {
	head := uint64(row) << exemplarShift
	if x.Timestamp != NoTimestamp {
		head |= exemplarTime
	}
	n, same := 0, !first
	x.Labels.Range(func(l labels.Label) {
		same = same && n < len(w.names) && w.names[n] == l.Name
		n++
	})
	if same = same && n == len(w.names); same {
		head |= exemplarNames
	}
	dst = binary.AppendUvarint(dst, head)
	if !same {
		dst = binary.AppendUvarint(dst, uint64(n))
		w.names = w.names[:0]
		x.Labels.Range(func(l labels.Label) {
			w.names = append(w.names, l.Name)
			dst = appendString(dst, l.Name)
		})
	}
	x.Labels.Range(func(l labels.Label) { dst = appendPacked(dst, l.Value) })
	class := classOf(x.Value, div)
	dst = append(dst, class)
	dst = appendBase(dst, x.Value, class, div)
	if x.Timestamp != NoTimestamp {
		dst = appendVarint(dst, time-x.Timestamp)
	}
	return dst
}

// appendPacked writes a string; one of hexadecimal digits, as ids of traces are, in half the bytes.
func appendPacked(dst []byte, s string) []byte {
	packed := len(s)%2 == 0 && len(s) > 0
	for i := 0; i < len(s) && packed; i++ {
		packed = s[i] >= '0' && s[i] <= '9' || s[i] >= 'a' && s[i] <= 'f'
	}
	if !packed {
		return append(binary.AppendUvarint(dst, uint64(len(s))<<1), s...)
	}
	dst = binary.AppendUvarint(dst, uint64(len(s)/2)<<1|1)
	for i := 0; i < len(s); i += 2 {
		dst = append(dst, digit(s[i])<<4|digit(s[i+1]))
	}
	return dst
}

func digit(c byte) byte {
	if c >= 'a' {
		return c - 'a' + 10
	}
	return c - '0'
}

// packed reads what appendPacked wrote, of at most a number of bytes.
func (r *reader) packed(most int) string {
	n := r.uvarint()
	size := n >> 1
	if n&1 != 0 {
		size *= 2
	}
	if r.err == nil {
		if err := within("bytes of an exemplar", size, most); err != nil {
			r.fail(err)
		}
	}
	b := r.bytes(n >> 1)
	if n&1 != 0 {
		return hex.EncodeToString(b)
	}
	if !utf8.Valid(b) {
		r.malformed("label value %q of an exemplar is not UTF-8", b)
	}
	return string(b)
}

// mergeExemplars puts the exemplars that absent rows had in the base among those of the others.
func mergeExemplars(base, now []Exemplar, absent Bitmap) []Exemplar {
	var all []Exemplar
	i := 0
	carry := func(row int) {
		for ; i < len(base) && base[i].Row < row; i++ {
			if absent.Has(base[i].Row) {
				all = append(all, base[i])
			}
		}
	}
	if len(now) > 0 {
		all = make([]Exemplar, 0, len(now)+8)
	}
	for j := range now {
		carry(now[j].Row)
		all = append(all, now[j])
	}
	carry(math.MaxInt)
	return all
}
