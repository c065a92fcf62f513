package frame

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Earlier is a sample of a series that has a newer one in the same scrape: some targets show several samples of a
// series, each with a time of its own.
type Earlier struct {
	Row   int
	Value float64
	// Timestamp in milliseconds, or NoTimestamp for the time of the frame. In decoded frames it is never the latter.
	Timestamp int64
}

// stamp is the time of a row's own sample.
func (c *Column) stamp(row int, time int64) int64 {
	if c.Timestamps == nil || c.Timestamps[row] == NoTimestamp {
		return time
	}
	return c.Timestamps[row]
}

// checkEarlier checks the earlier samples.
func (c *Column) checkEarlier(n int) error {
	if err := within("earlier samples", uint64(len(c.Earlier)), DefaultLimits().Earlier); err != nil {
		return err
	}
	row, h := 0, 0
	for i := range c.Earlier {
		x := &c.Earlier[i]
		for h < len(c.Histograms) && c.Histograms[h].Row < x.Row {
			h++
		}
		if x.Row < row || x.Row >= n || c.Absent.Has(x.Row) || h < len(c.Histograms) && c.Histograms[h].Row == x.Row {
			return fmt.Errorf("column with an earlier sample in row %d of %d, behind one in row %d, absent or a histogram", x.Row, n, row)
		}
		row = x.Row
	}
	return nil
}

// appendEarlier writes the earlier samples of a column, each against the one after it: those of a row from its own
// sample backwards, and each time against the step before, since most are equally far apart. They build on no other frame.
func appendEarlier(dst []byte, c *Column, time int64, div *scales) []byte {
	start, next, step := len(dst), 0, int64(0)
	for all := c.Earlier; len(all) > 0; {
		n := 1
		for n < len(all) && all[n].Row == all[0].Row {
			n++
		}
		row := all[0].Row
		class := earlierClass(all[:n], c.Values[row], div)
		dst = binary.AppendUvarint(dst, uint64(row-next))
		dst = binary.AppendUvarint(dst, uint64(n-1))
		dst = append(dst, class)
		t, m := c.stamp(row, time), toInteger(c.Values[row], class, div)
		for i := n - 1; i >= 0; i-- {
			x := all[i]
			if x.Timestamp == NoTimestamp {
				x.Timestamp = time
			}
			was := toInteger(x.Value, class, div)
			dst = appendVarint(dst, t-x.Timestamp-step)
			dst = appendVarint(dst, m-was)
			t, m, step = x.Timestamp, was, t-x.Timestamp
		}
		next = row + 1
		all = all[n:]
	}
	if len(dst) == start {
		return dst
	}
	return endSection(dst, start, keyEarlier)
}

// earlierClass is the smallest decimal class in which all have an M, else float.
func earlierClass(all []Earlier, own float64, div *scales) uint8 {
	class := uint8(0)
	for i := -1; i < len(all) && class < classScales; i++ {
		v := own
		if i >= 0 {
			v = all[i].Value
		}
		if _, ok := mantissa(v, div[class]); !ok {
			class++
			i = -2 // from the first one again
		}
	}
	if class == classScales {
		return classFloat
	}
	return class
}

// earlier reads what appendEarlier wrote, once the rows have their own samples.
func (p *pending) earlier(b []byte, c *Column) error {
	if len(b) == 0 {
		return nil
	}
	r, n, next, step := &reader{b: b}, uint64(len(c.Values)), uint64(0), int64(0)
	for len(r.b) > 0 {
		gap := r.uvarint()
		more := r.count("earlier samples", p.lim.Earlier-len(c.Earlier)-1, 2)
		class := r.byte()
		if r.err == nil && (gap >= n || next+gap >= n || p.hidden.Has(int(next+gap)) || class >= classScales && class != classFloat) {
			r.malformed("earlier samples of row %d of %d in class %#x", next+gap, n, class)
		}
		if r.err != nil {
			return r.err
		}
		row, from := int(next+gap), len(c.Earlier)
		t, m := c.stamp(row, p.raw.Time), toInteger(c.Values[row], class, &p.div)
		c.Earlier = append(c.Earlier, make([]Earlier, more+1)...)
		for i := from + more; i >= from; i-- {
			step += r.varint()
			t -= step
			m -= r.varint()
			if class != classFloat && !inRange(m) {
				r.malformed("earlier sample of row %d is %d in class %#x", row, m, class)
			}
			c.Earlier[i] = Earlier{Row: row, Value: fromInteger(m, class, &p.div), Timestamp: t}
		}
		if r.err != nil {
			return r.err
		}
		next += gap + 1
	}
	return nil
}

func (x *Earlier) same(y *Earlier) bool {
	return x.Row == y.Row && x.Timestamp == y.Timestamp && math.Float64bits(x.Value) == math.Float64bits(y.Value)
}
