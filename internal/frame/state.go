package frame

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
)

// state is what is kept of a frame because later ones build on it: by the encoder, and by the decoder the same.
type state struct {
	position uint64
	schema   *Schema
	classes  []uint8
	integers []int64
	raw      Bitmap // rows whose integer is the bits of a float, whatever the class
	absent   Bitmap
	groups   *groups
	extras
}

// bytes is the memory of a state. What it shares with others counts for each.
func (s *state) bytes() int64 {
	n := len(s.integers)*8 + len(s.classes) + 8*(len(s.raw)+len(s.absent))
	if s.groups != nil {
		n += 4 * len(s.groups.of)
	}
	return int64(n) + s.extraBytes
}

// baseState is what a keyframe builds on: the base values of its schema, in the keyframe's classes.
func baseState(s *Schema, classes []uint8, integers []int64, div *scales) *state {
	b := &state{schema: s, classes: classes, integers: integers}
	for i := range b.integers {
		b.integers[i] = toInteger(s.base(i), classes[i], div)
	}
	return b
}

// change gives the state with the series of another schema: o says which row comes from which. The new ones have their
// base values and classes.
func (s *state) change(to *Schema, o origins, div *scales) *state {
	n := len(o)
	c := &state{position: s.position, schema: to, classes: make([]uint8, n), integers: make([]int64, n)}
	if s.raw != nil {
		c.raw = NewBitmap(n)
	}
	if s.absent != nil {
		c.absent = NewBitmap(n)
	}
	if s.groups != nil {
		c.groups = &groups{of: make([]uint32, n), count: s.groups.count}
	}
	for i, j := range o {
		if j < 0 {
			c.classes[i] = to.classes[i]
			c.integers[i] = toInteger(to.base(i), to.classes[i], div)
			continue
		}
		c.classes[i], c.integers[i] = s.classes[j], s.integers[j]
		if s.raw.Has(int(j)) {
			c.raw.Set(i)
		}
		if s.absent.Has(int(j)) {
			c.absent.Set(i)
		}
		if c.groups != nil {
			c.groups.of[i] = s.groups.of[j]
		}
	}
	if c.absent.count(n) == 0 {
		c.absent = nil
	}
	c.extras = s.extras.move(o)
	return c
}

// rawAfter are the rows that are floats for what builds on a frame: those of its base and those it escaped.
func rawAfter(raw Bitmap, escapes []int32, n int) Bitmap {
	if len(escapes) == 0 {
		return raw
	}
	b := NewBitmap(n)
	copy(b, raw)
	for _, i := range escapes {
		b.Set(int(i))
	}
	return b
}

// appendClasses writes the classes that are not those of the bases: distance from the row that would follow, class,
// and with its upper bit set the number of further rows that have the same class too.
func appendClasses(dst []byte, s *Schema, classes []uint8) []byte {
	count, at := 0, len(dst)
	for i, next := 0, 0; i < len(classes); i++ {
		c := classes[i]
		if c == s.classes[i] {
			continue
		}
		run := 1
		for i+run < len(classes) && classes[i+run] == c && s.classes[i+run] != c {
			run++
		}
		dst = binary.AppendUvarint(dst, uint64(i-next))
		if run == 1 {
			dst = append(dst, c)
		} else {
			dst = append(dst, c|classRun)
			dst = binary.AppendUvarint(dst, uint64(run-2))
		}
		i += run - 1
		next = i + 1
		count++
	}
	return slices.Insert(dst, at, binary.AppendUvarint(nil, uint64(count))...)
}

const classRun = 0x80

func (r *reader) classes(s *Schema) []uint8 {
	classes := slices.Clone(s.classes)
	next := uint64(0)
	for range r.count("classes", len(classes), 2) {
		gap, c, run := r.uvarint(), r.byte(), uint64(0)
		if c&classRun != 0 {
			run = r.uvarint() + 1
			c &^= classRun
		}
		n := uint64(len(classes))
		if r.err == nil && (gap >= n || run >= n || next+gap+run >= n || !validClass(c)) {
			r.malformed("class %#x of row %d and %d more of %d", c, next+gap, run, n)
		}
		if r.err != nil {
			return nil
		}
		next += gap
		for range run + 1 {
			classes[next] = c
			next++
		}
	}
	return classes
}

// The first byte of a frame's body: how it is encoded, and what may be left out.
const (
	encodingVarint = 0
	encodingMask   = 0x0f
	compactReport  = 0x10
	// trackTimestamps is Target.TrackTimestamps, in frames with a definition.
	trackTimestamps = 0x20
)

// appendReport writes what cannot be told from the number of samples; flags is the first byte of the body.
func appendReport(dst []byte, flags int, rep Report, samples int) []byte {
	dst = binary.AppendUvarint(dst, uint64(rep.Duration))
	if rep.Scraped == samples && rep.PostRelabel == samples && rep.Added == 0 {
		dst[flags] |= compactReport
		return dst
	}
	dst = binary.AppendUvarint(dst, uint64(rep.Scraped))
	dst = binary.AppendUvarint(dst, uint64(rep.PostRelabel))
	return binary.AppendUvarint(dst, uint64(rep.Added))
}

// checksum of a frame: over what names it, the bits of its values (zero for rows in hidden), what else its column has,
// and its body. buf is scratch of sumBytes.
func checksum(epoch uint64, f *RawFrame, id SchemaID, c *Column, hidden Bitmap, buf []byte) uint32 {
	b := append(buf[:0], f.Type)
	b = binary.LittleEndian.AppendUint64(b, epoch)
	b = binary.LittleEndian.AppendUint64(b, f.Target)
	b = binary.LittleEndian.AppendUint64(b, f.Position)
	b = binary.LittleEndian.AppendUint64(b, uint64(f.Time))
	b = append(b, id[:]...)
	sum := crc32.Checksum(b, castagnoli())
	if c != nil {
		sum = sumValues(sum, c.Values, hidden, buf)
		if c.Starts != nil || c.Histograms != nil || c.Exemplars != nil {
			sum = sumExtras(sum, c, buf)
		}
	}
	return crc32.Update(sum, castagnoli(), f.Body)
}

const sumBytes = 8 * sumChunk

// column checks that a column fits its schema.
func (c *Column) check(n int) error {
	switch {
	case len(c.Values) != n:
		return fmt.Errorf("column of %d values for %d series", len(c.Values), n)
	case c.Timestamps != nil && len(c.Timestamps) != n:
		return fmt.Errorf("column of %d timestamps for %d series", len(c.Timestamps), n)
	case (c.Mantissas != nil || c.Exponents != nil) && (len(c.Mantissas) != n || len(c.Exponents) != n):
		return fmt.Errorf("column of %d mantissas and %d exponents for %d series", len(c.Mantissas), len(c.Exponents), n)
	case c.Starts != nil && len(c.Starts) != n:
		return fmt.Errorf("column of %d start timestamps for %d series", len(c.Starts), n)
	}
	if c.Histograms != nil || c.Exemplars != nil {
		if err := c.checkExtras(n); err != nil {
			return err
		}
	}
	return c.checkEarlier(n)
}
