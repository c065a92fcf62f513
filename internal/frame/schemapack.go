package frame

import (
	"fmt"
	"math"
	"sync"
	"weak"
)

// packed is what a packed schema has in place of its text.
type packed struct {
	message []byte
	bases   []float64

	mu   sync.Mutex
	open weak.Pointer[Schema]
}

// Pack gives the schema without its text, which takes some hundred bytes per series and is wanted only when series
// change: what encoders need each time is at hand, and Open reads the rest from the schema's message. message is that in
// full form, if it is there already, or nil; it is kept. A packed schema is equal to the one that it was made of in all
// but Text, and as immutable and shared.
func (s *Schema) Pack(message []byte) *Schema {
	if s.packed != nil {
		return s
	}
	if message == nil {
		message = s.Marshal()
	}
	p := &packed{message: message, bases: make([]float64, len(s.Series))}
	for i := range s.Series {
		p.bases[i] = s.Series[i].Base
	}
	p.open = weak.Make(s)
	return &Schema{ID: s.ID, shape: s.shape, bytes: s.bytes, classes: s.classes, pred: s.pred, packed: p}
}

// Open gives the schema with its text. All who open one at the same time share it, and it is gone when the last of them
// lets it go.
func (s *Schema) Open() *Schema {
	p := s.packed
	if p == nil {
		return s
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if open := p.open.Value(); open != nil {
		return open
	}
	text, err := p.text()
	if err != nil {
		panic(fmt.Sprintf("frame: schema %s cannot be read from the message that was made of it: %v", s.ID, err))
	}
	open := &Schema{ID: s.ID, Text: text, shape: s.shape, bytes: s.bytes, classes: s.classes, pred: s.pred}
	p.open = weak.Make(open)
	return open
}

// text reads the message. Limits were kept when the schema was made.
func (p *packed) text() (*Text, error) {
	lim := Limits{
		MessageBytes: math.MaxInt, SchemaBytes: math.MaxInt, Series: math.MaxInt32, Families: math.MaxInt32, Labels: math.MaxInt32,
	}
	m, err := parseSchemaMessage(p.message, lim)
	if err != nil {
		return nil, err
	}
	content, err := m.content(nil, lim)
	if err != nil {
		return nil, err
	}
	return parseText(content, lim)
}
