package frame

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"math/bits"
	"slices"
)

// rows is what both directions know of a frame before its values.
//
// Of each row the integer M is predicted by that of the base; a bucket or count of a histogram by what the bucket
// before it has changed, if both are of one class. What differs is marked in a bitmap, and written as a residual. A
// value that its class cannot hold is an escape: its bits are written against the bits of the base's value, and
// what builds on this frame takes the row as a float.
type rows struct {
	pred    []uint8
	classes []uint8
	div     *scales
	// base holds the integers that this frame builds on; the rows in raw are bits of floats whatever their class.
	base []int64
	raw  Bitmap
	// absent are the rows that this frame does not have.
	absent Bitmap
	// out takes the integers of this frame if anything will build on it, else it is nil. It may be base.
	out []int64
	// escapes are the rows of this frame that are escaped, in order.
	escapes []int32
}

// blockRows are coded together: their changes are one byte of the upper bitmap.
const blockRows = 64

const blockBytes = blockRows*maxResidual + bitSlack

// rowEncoder writes the values of one frame.
type rowEncoder struct {
	rows
	codes *residualCodes
	c     *Column
	moved [2]int64 // by how much the two rows before have changed
	bits  bitWriter
}

// encode appends the values of a column: the escapes, the bitmap of changes in two levels, the residuals.
func (w *rowEncoder) encode(dst []byte) []byte {
	n := len(w.base)
	start := len(dst)
	blocks, bitmap := (n+blockRows-1)/blockRows, (n+7)/8
	dst = slices.Grow(dst, blocks+bitmap+blockBytes)[:start+blocks+bitmap]
	w.escapes = w.escapes[:0]
	for at := 0; at < n; at += blockRows {
		end := min(at+blockRows, n)
		dst = slices.Grow(dst, blockBytes)
		word, used := w.block(dst[len(dst):len(dst)+blockBytes], at, end)
		dst = dst[:len(dst)+used]
		for i := at; i < end; i += 8 {
			dst[start+blocks+i/8] = byte(word >> (i - at))
		}
	}
	if w.bits.n > 0 {
		dst = append(dst, byte(w.bits.bits))
	}
	dst = packBitmap(dst, start, blocks, bitmap)
	return w.insertEscapes(dst, start)
}

// block writes the residuals of at most 64 rows and gives the bits of those that have one.
func (w *rowEncoder) block(buf []byte, at, end int) (word uint64, used int) {
	special := w.raw != nil || w.absent != nil
	values, classes, base, pred := w.c.Values[at:end], w.classes[at:end], w.base[at:end], w.pred[at:end]
	d1, d2 := w.moved[0], w.moved[1]
	stream := w.bits
	for i, v := range values {
		class, from := classes[i], base[i]
		if special && w.absent.Has(at+i) {
			d1, d2 = 0, d1
			if w.out != nil {
				w.out[at+i] = from
			}
			continue
		}
		if special && w.raw.Has(at+i) {
			class = classFloat
		}
		var m, d, residual int64
		var ok bool
		if class == 0 { // most rows: not worth a call
			m = int64(v)
			ok = inRange(m) && math.Float64bits(float64(m)) == math.Float64bits(v)
		} else {
			m, ok = w.integer(at+i, v, class)
		}
		code := codeOther
		switch {
		case !ok:
			w.escapes = append(w.escapes, int32(at+i))
			m = int64(math.Float64bits(v))
			residual = m - int64(math.Float64bits(fromInteger(from, class, w.div)))
			code = codeFloat
		case class == classFloat:
			residual = m - from
			code = codeFloat
		default:
			d = m - from
			residual = d
			if p := pred[i]; p != 0 && w.classes[at+i-int(p)] == class {
				code = codePredicted
				if residual -= d1; p == 2 {
					residual += d1 - d2
				}
			}
		}
		if residual != 0 || !ok {
			word |= 1 << i
			used += stream.put(buf[used:], &w.codes[code], zigzag(residual))
		}
		if w.out != nil {
			w.out[at+i] = m
		}
		d1, d2 = d, d1
	}
	w.moved[0], w.moved[1] = d1, d2
	w.bits = stream
	return word, used
}

// integer is the M of a value, if its class, which is not 0, can hold it.
func (w *rowEncoder) integer(i int, v float64, class uint8) (m int64, ok bool) {
	switch {
	case class == classFloat:
		return int64(math.Float64bits(v)), true
	case w.c.Mantissas != nil && w.c.Exponents[i] == -int8(class):
		m = w.c.Mantissas[i]
		return m, inRange(m) && math.Float64bits(float64(m)/w.div[class]) == math.Float64bits(v)
	default:
		return mantissa(v, w.div[class])
	}
}

// packBitmap drops the zero bytes of the bitmap, after noting in the upper bitmap which ones are left. Both lie
// from start on: first the upper one.
func packBitmap(dst []byte, start, blocks, bitmap int) []byte {
	to := start + blocks
	lower := start + blocks
	for b := range blocks {
		upper := byte(0)
		for i := 8 * b; i < min(8*b+8, bitmap); i++ {
			if x := dst[lower+i]; x != 0 {
				upper |= 1 << (i & 7)
				dst[to] = x
				to++
			}
		}
		dst[start+b] = upper
	}
	return append(dst[:to], dst[lower+bitmap:]...)
}

// insertEscapes puts the list of escapes in front. It is nearly always empty.
func (w *rowEncoder) insertEscapes(dst []byte, start int) []byte {
	if len(w.escapes) == 0 {
		return slices.Insert(dst, start, 0)
	}
	list := binary.AppendUvarint(nil, uint64(len(w.escapes)))
	next := int32(0)
	for _, i := range w.escapes {
		list = binary.AppendUvarint(list, uint64(i-next))
		next = i + 1
	}
	return slices.Insert(dst, start, list...)
}

// rowDecoder reads the values of one frame.
type rowDecoder struct {
	rows
	codes      *residualTables
	residuals  bitReader
	next       []int32 // escapes still to come
	moved      [2]int64
	outOfRange bool
}

// decode is the other side of encode; it fills values, which has as many rows as base.
func (w *rowDecoder) decode(r *reader, values []float64) error {
	n := len(w.base)
	r.ordinals("escapes", n, func(i int) { w.escapes = append(w.escapes, int32(i)) })
	upper := r.bytes(uint64((n + blockRows - 1) / blockRows))
	lower := 0
	for _, b := range upper {
		lower += bits.OnesCount8(b)
	}
	bitmap := r.bytes(uint64(lower))
	if r.err != nil {
		return r.err
	}
	w.residuals.b, w.next = r.b, w.escapes
	for b, x := range upper {
		var word uint64
		for ; x != 0; x &= x - 1 {
			word |= uint64(bitmap[0]) << (8 * bits.TrailingZeros8(x))
			bitmap = bitmap[1:]
		}
		at := b * blockRows
		end := min(at+blockRows, n)
		if word>>(end-at-1)>>1 != 0 {
			return fmt.Errorf("%w: a change of row %d of %d", ErrMalformed, at+bits.Len64(word)-1, n)
		}
		if w.raw.word(b)|w.absent.word(b) != 0 || len(w.next) > 0 && int(w.next[0]) < end {
			if err := w.slowBlock(values, at, end, word); err != nil {
				return err
			}
		} else {
			w.block(values, at, end, word)
		}
		if w.residuals.past() {
			return ErrTruncated
		}
	}
	if w.outOfRange {
		return fmt.Errorf("%w: a value is outside the range of its class", ErrMalformed)
	}
	if rest := 8*uint(len(r.b)) - w.residuals.at; rest >= 8 || w.residuals.peek() != 0 {
		return fmt.Errorf("%w: %d bits behind the last value", ErrMalformed, rest)
	}
	return nil
}

// block decodes at most 64 rows, of which those in word have a residual.
func (w *rowDecoder) block(values []float64, at, end int, word uint64) {
	classes, base, pred := w.classes[at:end], w.base[at:end], w.pred[at:end]
	values = values[at:end]
	d1, d2 := w.moved[0], w.moved[1]
	over := uint64(0)
	stream := w.residuals
	for i := range values {
		class, m := classes[i], base[i]
		d, code := int64(0), codeOther
		if p := pred[i]; p != 0 && w.classes[at+i-int(p)] == class {
			code = codePredicted
			if p == 1 {
				d = d1
			} else {
				d = d2
			}
		}
		if word&1 != 0 {
			if class == classFloat {
				code = codeFloat
			}
			d += unzigzag(stream.number(&w.codes[code]))
		}
		word >>= 1
		m += d
		switch {
		case class == 0:
			values[i] = float64(m)
			over |= uint64(m + maxMantissa)
		case class < classFloat:
			values[i] = float64(m) / w.div[class]
			over |= uint64(m + maxMantissa)
		default:
			values[i] = math.Float64frombits(uint64(m))
			d = 0
		}
		if w.out != nil {
			w.out[at+i] = m
		}
		d1, d2 = d, d1
	}
	w.residuals = stream
	w.moved[0], w.moved[1] = d1, d2
	w.outOfRange = w.outOfRange || over>>54 != 0
}

// slowBlock is block for frames with absent rows or floats out of their class.
func (w *rowDecoder) slowBlock(values []float64, at, end int, word uint64) error {
	for i := at; i < end; i++ {
		class, m := w.classes[i], w.base[i]
		if w.raw.Has(i) {
			class = classFloat
		}
		absent := w.absent.Has(i)
		escaped := len(w.next) > 0 && int(w.next[0]) == i
		changed := word>>(i-at)&1 != 0
		if absent && changed || escaped && !changed {
			return fmt.Errorf("%w: row %d is absent %t, escaped %t, changed %t", ErrMalformed, i, absent, escaped, changed)
		}
		d, code := int64(0), codeOther
		if escaped {
			m = int64(math.Float64bits(fromInteger(m, class, w.div)))
			w.next = w.next[1:]
			class = classFloat
		}
		if class == classFloat {
			code = codeFloat
		} else if p := int(w.pred[i]); p != 0 && w.classes[i-p] == class && !absent {
			d, code = w.moved[p-1], codePredicted
		}
		if changed {
			d += unzigzag(w.residuals.number(&w.codes[code]))
		}
		m += d
		if class != classFloat {
			w.outOfRange = w.outOfRange || !inRange(m)
		} else {
			d = 0
		}
		if values[i] = fromInteger(m, class, w.div); absent {
			values[i] = 0
		}
		if w.out != nil {
			w.out[i] = m
		}
		w.moved[0], w.moved[1] = d, w.moved[0]
	}
	return nil
}

// sumChunk is how many values are handed to the checksum at once.
const sumChunk = 512

// sumValues continues a checksum over the bits of values, absent ones as zero. buf has room for sumChunk of them.
func sumValues(sum uint32, values []float64, absent Bitmap, buf []byte) uint32 {
	for at := 0; at < len(values); at += sumChunk {
		end := min(at+sumChunk, len(values))
		b := buf[:8*(end-at)]
		for i, v := range values[at:end] {
			binary.LittleEndian.PutUint64(b[8*i:], math.Float64bits(v))
		}
		if absent != nil {
			for i := at; i < end; i++ {
				if absent.Has(i) {
					binary.LittleEndian.PutUint64(b[8*(i-at):], 0)
				}
			}
		}
		sum = crc32.Update(sum, castagnoli(), b)
	}
	return sum
}
