package frame

import (
	"encoding/binary"
	"hash/crc32"
	"math"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
)

// digest continues a checksum. buf has room for some numbers.
type digest struct {
	sum uint32
	buf []byte
	n   int
}

func (d *digest) flush() {
	d.sum = crc32.Update(d.sum, castagnoli(), d.buf[:d.n])
	d.n = 0
}

func (d *digest) number(u uint64) {
	if d.n+8 > len(d.buf) {
		d.flush()
	}
	binary.LittleEndian.PutUint64(d.buf[d.n:], u)
	d.n += 8
}

func (d *digest) text(s string) {
	d.number(uint64(len(s)))
	for len(s) > 0 {
		if d.n == len(d.buf) {
			d.flush()
		}
		k := copy(d.buf[d.n:], s)
		d.n += k
		s = s[k:]
	}
}

// sumExtras continues a checksum over what a column has besides values, each part behind the id of its section. A
// column that has none of it leaves the checksum as it is.
func sumExtras(sum uint32, c *Column, buf []byte) uint32 {
	d := digest{sum: sum, buf: buf}
	if anyStart(c.Starts, c.Absent) {
		d.number(keyStarts >> 1)
		for i, t := range c.Starts {
			if c.Absent.Has(i) {
				t = 0
			}
			d.number(uint64(t))
		}
	}
	if len(c.Histograms) > 0 {
		d.number(keyHistograms >> 1)
		for i := range c.Histograms {
			d.histogram(&c.Histograms[i])
		}
	}
	if len(c.Exemplars) > 0 {
		d.number(keyExemplars >> 1)
		for i := range c.Exemplars {
			x := &c.Exemplars[i]
			d.number(uint64(x.Row))
			d.number(math.Float64bits(x.Value))
			d.number(uint64(x.Timestamp))
			d.number(uint64(x.Labels.Len()))
			x.Labels.Range(func(l labels.Label) {
				d.text(l.Name)
				d.text(l.Value)
			})
		}
	}
	d.flush()
	return d.sum
}

func (d *digest) histogram(h *Histogram) {
	l := h.layout()
	kind := uint64(l.hint) << 1
	if l.float {
		kind |= 1
	}
	d.number(uint64(h.Row))
	d.number(kind)
	d.number(uint64(int64(l.schema)))
	d.number(math.Float64bits(l.threshold))
	d.number(uint64(len(l.custom)))
	for _, v := range l.custom {
		d.number(math.Float64bits(v))
	}
	d.number(h.zero())
	positive, negative := h.sides()
	d.side(l.positive, positive)
	d.side(l.negative, negative)
	d.number(h.count())
	d.number(math.Float64bits(h.sum()))
}

func (d *digest) side(spans []histogram.Span, s side) {
	d.number(uint64(len(spans)))
	for _, x := range spans {
		d.number(uint64(int64(x.Offset)))
		d.number(uint64(x.Length))
	}
	for s.next() {
		d.number(s.value)
	}
}
