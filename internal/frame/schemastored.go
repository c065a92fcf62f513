package frame

import (
	"fmt"
	"math"
	"sync"
	"weak"

	"github.com/klauspost/compress/zstd"
)

// Stored is the message of a schema as it is stored: in full form, or as a change of its parent. It is immutable, and safe
// for concurrent use.
type Stored struct {
	ID      SchemaID
	Message []byte
	// Parent is what has to be stored too so that this can be read; nil in full form.
	Parent *Stored

	// step counts the changes since the message in full form, which is of root bytes.
	step, root int

	mu   sync.Mutex
	open weak.Pointer[Text]
}

// A change is one of the schema before it, so that what is new is sent once. But the parents of a schema must be few, so every
// chainBase-th change is one of the schema chainBase steps before, every chainBase²-th of the one chainBase² steps before, and
// after lastStep of them the full form comes again: a schema has as many parents as the sum of the digits of its step, 21 at
// most, and what is new is sent three times at most, the second and third time together with much else.
const (
	chainBase = 8
	lastStep  = chainBase*chainBase*chainBase - 1
)

// parentOf gives the step of the parent of the schema at a step above 0.
func parentOf(step int) int {
	back := 1
	for step%(chainBase*back) == 0 {
		back *= chainBase
	}
	return step - back
}

// Stored gives the message of the schema. That of a packed schema is shared, else it is made, in full form.
func (s *Schema) Stored() *Stored {
	if s.packed != nil {
		return s.packed.Stored
	}
	message := s.Marshal()
	return &Stored{ID: s.ID, Message: message, root: len(message)}
}

// changeOf gives a message of the schema as a change of last or of one of its parents, or the message that one of those is.
// It is nil if the full form is the better one: a change has to be less than half of what its chain began with.
func (s *Schema) changeOf(last *packed) *Stored {
	for m := last.Stored; m != nil; m = m.Parent {
		if m.ID == s.ID { // it came back
			return m
		}
	}
	m := &Stored{ID: s.ID, Parent: last.Stored, step: last.step + 1, root: last.root}
	if m.step > lastStep {
		return nil
	}
	text, level := last.text, zstd.SpeedFastest
	for m.Parent.step > parentOf(m.step) { // seldom, and much to write
		m.Parent = m.Parent.Parent
		text, level = m.Parent.text, zstd.SpeedDefault
	}
	m.Message = s.marshalDelta(m.Parent.ID, text(), level)
	if 2*len(m.Message) >= m.root {
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

// text reads the message, and those of the parents, unless somebody has the text already.
func (m *Stored) text() *Text {
	return m.read(func() (*Text, error) {
		if m.Parent == nil {
			return readText(m.Message, nil)
		}
		return readText(m.Message, m.Parent.text())
	})
}

// read gives the text that somebody has, or else has it read.
func (m *Stored) read(anew func() (*Text, error)) *Text {
	m.mu.Lock()
	defer m.mu.Unlock()
	if open := m.open.Value(); open != nil {
		return open
	}
	t, err := anew()
	if err != nil {
		panic(fmt.Sprintf("frame: schema %s cannot be read from the message that was made of it: %v", m.ID, err))
	}
	m.open = weak.Make(t)
	return t
}

// readText reads a message in full form, or one that is a change of parent. Limits were kept when the schema was made.
func readText(message []byte, parent *Text) (*Text, error) {
	lim := withoutLimits()
	m, err := parseSchemaMessage(message, lim)
	if err != nil {
		return nil, err
	}
	content, err := m.content(parent, lim)
	if err != nil {
		return nil, err
	}
	if parent == nil {
		return parseText(content, lim)
	}
	return parseChange(content, parent, lim)
}

func withoutLimits() Limits {
	return Limits{
		MessageBytes: math.MaxInt, SchemaBytes: math.MaxInt, Series: math.MaxInt32, Families: math.MaxInt32, Labels: math.MaxInt32,
	}
}

// UnmarshalStored reads messages as they were stored, in either form, and packs their schemas. Those that cannot be read,
// or that go back to one that cannot be, are in bad with the reason.
func UnmarshalStored(messages map[SchemaID][]byte, lim Limits) (good []*Schema, bad map[SchemaID]error) {
	r := storedReader{messages: messages, lim: lim, done: map[SchemaID]*Schema{}, bad: map[SchemaID]error{}}
	for id := range messages {
		if s, err := r.schema(id); err == nil {
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

func (r *storedReader) schema(id SchemaID) (*Schema, error) {
	if s := r.done[id]; s != nil {
		return s, nil
	}
	if err := r.bad[id]; err != nil {
		return nil, err
	}
	r.bad[id] = fmt.Errorf("schema %s: %w: it is its own parent", id, ErrMalformed) // until it is read
	s, err := r.read(id)
	if err != nil {
		r.bad[id] = err
		return nil, err
	}
	delete(r.bad, id)
	r.done[id] = s
	return s, nil
}

func (r *storedReader) read(id SchemaID) (*Schema, error) {
	message, ok := r.messages[id]
	if !ok {
		return nil, fmt.Errorf("schema %s: %w", id, ErrNoParent)
	}
	of, change, err := SchemaParent(message, r.lim)
	if err != nil {
		return nil, err
	}
	m := &Stored{ID: id, Message: message, step: lastStep, root: len(message)} // the next one is in full form again
	var parent *Schema
	if change {
		if parent, err = r.schema(of); err != nil {
			return nil, err
		}
		m.Parent, m.root = parent.packed.Stored, parent.packed.root
		if err := within("parents of a schema", uint64(m.parents()), r.lim.SchemaDepth); err != nil {
			return nil, fmt.Errorf("schema %s: %w", id, err)
		}
	}
	s, err := UnmarshalSchemaDelta(id, message, func(SchemaID) (*Schema, []byte, error) { return parent.Open(), nil, nil }, r.lim)
	if err != nil {
		return nil, err
	}
	return s.Pack(m), nil
}

// parents counts them.
func (m *Stored) parents() (n int) {
	for p := m.Parent; p != nil; p = p.Parent {
		n++
	}
	return n
}
