package frame

import (
	"errors"
	"math"
)

// ErrNoRoom: a frame would take more memory than its decoder may have. A LimitError beside it has both numbers.
var ErrNoRoom = errors.New("no room for the state of a frame")

// noLimit stands for a decoder that is bounded by its Limits alone.
const noLimit = math.MaxInt64

// SetLimit bounds StateBytes and SchemaBytes together from now on. Above it, frames that later ones will build on are
// refused with ErrNoRoom; all others are read. What the decoder holds stays, whatever the limit.
func (d *Decoder) SetLimit(bytes int64) { d.limit = bytes }

// SchemaBytes is about the memory of the schemas that states are of, each counted once.
func (d *Decoder) SchemaBytes() int64 { return d.schemaBytes }

// Shed forgets targets until at least so many bytes are free, and tells how many are. Their frames cannot be read
// until the next keyframe.
func (d *Decoder) Shed(bytes int64) (freed int64) {
	before := d.held()
	for id := range d.targets {
		if freed = before - d.held(); freed >= bytes {
			break
		}
		d.forget(id)
		d.spare, d.idle = nil, 0
	}
	return before - d.held()
}

func (d *Decoder) held() int64 { return d.StateBytes() + d.schemaBytes }

// name notes that one state more, or one less, is of a schema.
func (d *Decoder) name(s *Schema, by int) {
	n := d.named[s]
	switch {
	case n == 0:
		d.schemaBytes += s.Bytes()
	case n+by == 0:
		d.schemaBytes -= s.Bytes()
		delete(d.named, s)
		return
	}
	d.named[s] = n + by
}

// fits checks that the limit allows one more state, in place of those that the mask does not name.
func (p *pending) fits(st *state, mask uint64) error {
	if p.limit == noLimit {
		return nil
	}
	need := p.held() + st.bytes()
	if p.known == nil {
		need += targetBytes + 2*int64(len(p.defined))
	} else {
		for _, s := range p.known.states {
			if !needed(s, mask, p.raw.Position) {
				need -= s.bytes()
			}
		}
	}
	if p.named[st.schema] == 0 {
		need += st.schema.Bytes()
	}
	if need <= p.limit {
		return nil
	}
	return errors.Join(ErrNoRoom, &LimitError{What: "bytes of a decoder", Got: uint64(need), Max: uint64(max(p.limit, 0))})
}

// The memory of a series and of a family besides their texts.
const (
	seriesBytes = 16 + 8 + 8 + 2 // labels, family, base; class and prediction
	familyBytes = 64
)

// Bytes is about the memory of the schema.
func (s *Schema) Bytes() int64 { return s.bytes }

func (s *Schema) measure() {
	s.bytes = 256 + int64(len(s.Series))*seriesBytes + int64(len(s.Families))*familyBytes
	for i := range s.Series {
		s.bytes += int64(s.Series[i].Labels.ByteSize())
	}
	for i := range s.Families {
		f := &s.Families[i]
		s.bytes += int64(len(f.Name) + len(f.Help) + len(f.Unit))
	}
}
