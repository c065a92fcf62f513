package frame

import (
	"fmt"

	"github.com/klauspost/compress/s2"
)

// packed is what a packed schema has in place of its text.
type packed struct {
	*Stored
	// whole is the content, compressed in haste, to read the text from where the message stored is a change, which takes its
	// parents to read; nil else.
	whole []byte
	bases []float64
}

// Pack gives the schema without its text, which takes some hundred bytes per series and is wanted only when series
// change: what encoders need each time is at hand, and Open reads the rest from the schema's message. That is m, if it is
// there already; with nil it is made, in full form. A packed schema is equal to the one that it was made of in all but
// Text, and as immutable and shared.
func (s *Schema) Pack(m *Stored) *Schema {
	if s.packed != nil {
		return s
	}
	if m == nil {
		m = s.Stored()
	}
	p := &packed{Stored: m, bases: make([]float64, len(s.Series))}
	for i := range s.Series {
		p.bases[i] = s.Series[i].Base
	}
	if m.Parent != nil {
		p.whole = s2.Encode(nil, s.content())
	}
	m.hold(s.Text)
	return &Schema{ID: s.ID, shape: s.shape, bytes: s.bytes, classes: s.classes, pred: s.pred, packed: p}
}

// PackAfter is Pack for the schema of a target whose series changed: last, which is packed or nil, was the one before.
// Where that is much smaller, the message is a change of last, or of a schema that last is a change of.
func (s *Schema) PackAfter(last *Schema) *Schema {
	if s.packed != nil || last == nil || last.packed == nil {
		return s.Pack(nil)
	}
	return s.Pack(s.changeOf(last.packed))
}

// Open gives the schema with its text. All who open one at the same time share that, and it is gone when the last of them
// lets it go.
func (s *Schema) Open() *Schema {
	if s.packed == nil {
		return s
	}
	return &Schema{ID: s.ID, Text: s.packed.text(), shape: s.shape, bytes: s.bytes, classes: s.classes, pred: s.pred}
}

func (p *packed) text() *Text {
	if p.whole == nil {
		return p.Stored.text()
	}
	return p.read(func() (*Text, error) {
		content, err := s2.Decode(nil, p.whole)
		if err != nil {
			return nil, fmt.Errorf("content kept in memory: %w", err)
		}
		return parseText(content, withoutLimits())
	})
}
