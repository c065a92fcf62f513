package frame

import (
	"fmt"
	"math"
	"sync"
	"weak"
)

// Stored is the message of a schema as it is stored: in full form, or as a change of its parent. It is immutable, and safe
// for concurrent use.
type Stored struct {
	ID      SchemaID
	Message []byte
	// Parent is what has to be stored too so that this can be read; nil in full form.
	Parent *Stored

	// step counts the changes since the message in full form; its set bits say how many of them it takes to read this one.
	step int
	// full is the size of the message in full form that all of them go back to.
	full int

	mu   sync.Mutex
	open weak.Pointer[Text]
}

// lastStep is how many changes there may be after one message in full form. As each is a change of the one that has the
// lowest set bit of its step cleared, log₂ of it are how many have to be read for one schema, and what is written is a
// change of the last one every second time, of the last but one every fourth, and so on: for small changes in a row much
// less than changes of the full form, which would grow and grow.
const lastStep = 1<<6 - 1

// Stored gives the message of the schema. That of a packed schema is shared, else it is made, in full form.
func (s *Schema) Stored() *Stored {
	if s.packed != nil {
		return s.packed.Stored
	}
	message := s.Marshal()
	return &Stored{ID: s.ID, Message: message, full: len(message)}
}

// changeOf makes a message of the schema that is a change of last or of one that last is a change of. It is nil if that is
// not less than half of a message in full form.
func (s *Schema) changeOf(last *Stored) *Stored {
	m := &Stored{ID: s.ID, Parent: last, step: last.step + 1, full: last.full}
	if m.step > lastStep {
		return nil
	}
	for m.Parent.step > m.step&(m.step-1) {
		m.Parent = m.Parent.Parent
	}
	if m.Message = s.marshalChange(m.Parent.schema()); 2*len(m.Message) > m.full {
		return nil
	}
	return m
}

// hold notes the text for as long as somebody has it.
func (m *Stored) hold(t *Text) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open = weak.Make(t)
}

// schema gives the schema with its text, and without what only encoders need.
func (m *Stored) schema() *Schema { return &Schema{ID: m.ID, Text: m.text()} }

// text reads the message, and those of the parents, unless somebody has the text already.
func (m *Stored) text() *Text {
	m.mu.Lock()
	defer m.mu.Unlock()
	if open := m.open.Value(); open != nil {
		return open
	}
	t, err := m.read()
	if err != nil {
		panic(fmt.Sprintf("frame: schema %s cannot be read from the message that was made of it: %v", m.ID, err))
	}
	m.open = weak.Make(t)
	return t
}

// read is text. Limits were kept when the schema was made.
func (m *Stored) read() (*Text, error) {
	lim := Limits{
		MessageBytes: math.MaxInt, SchemaBytes: math.MaxInt, Series: math.MaxInt32, Families: math.MaxInt32, Labels: math.MaxInt32,
	}
	msg, err := parseSchemaMessage(m.Message, lim)
	if err != nil {
		return nil, err
	}
	var parent *Schema
	if m.Parent != nil {
		parent = m.Parent.schema()
	}
	content, err := msg.content(parent, lim)
	if err != nil {
		return nil, err
	}
	if parent == nil {
		return parseText(content, lim)
	}
	return parseChange(content, parent, lim)
}

// UnmarshalStored reads messages as they were stored, in either form, and packs their schemas. Those that cannot be read,
// or that go back to one that cannot be, are in bad with the reason.
func UnmarshalStored(messages map[SchemaID][]byte, lim Limits) (good []*Schema, bad map[SchemaID]error) {
	r := storedReader{messages: messages, lim: lim, done: map[SchemaID]*Schema{}, bad: map[SchemaID]error{}}
	for id := range messages {
		if s, err := r.schema(id, 0); err == nil {
			good = append(good, s)
		}
	}
	return good, r.bad
}

type storedReader struct {
	messages map[SchemaID][]byte
	lim      Limits
	done     map[SchemaID]*Schema
	bad      map[SchemaID]error
}

// schema reads one that is so many parents away from the one asked for.
func (r *storedReader) schema(id SchemaID, depth int) (*Schema, error) {
	if s := r.done[id]; s != nil {
		return s, nil
	}
	if err := r.bad[id]; err != nil {
		return nil, err
	}
	s, err := r.read(id, depth)
	if err != nil {
		r.bad[id] = err
		return nil, err
	}
	r.done[id] = s
	return s, nil
}

func (r *storedReader) read(id SchemaID, depth int) (*Schema, error) {
	message, ok := r.messages[id]
	if !ok {
		return nil, fmt.Errorf("schema %s: %w", id, ErrNoParent)
	}
	if err := within("parents of a schema", uint64(depth), r.lim.SchemaDepth); err != nil {
		return nil, fmt.Errorf("schema %s: %w", id, err)
	}
	of, change, err := SchemaParent(message, r.lim)
	if err != nil {
		return nil, err
	}
	m := &Stored{ID: id, Message: message, step: lastStep, full: len(message)} // the next one is in full form again
	var parent *Schema
	if change {
		if parent, err = r.schema(of, depth+1); err != nil {
			return nil, err
		}
		m.Parent, m.full = parent.packed.Stored, parent.packed.full
	}
	s, err := UnmarshalSchemaDelta(id, message, func(SchemaID) (*Schema, []byte, error) { return parent.Open(), nil, nil }, r.lim)
	if err != nil {
		return nil, err
	}
	return s.Pack(m), nil
}
