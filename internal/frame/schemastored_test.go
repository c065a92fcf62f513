package frame

import (
	"bytes"
	"errors"
	"math/bits"
	"runtime"
	"strings"
	"testing"
	"weak"

	"github.com/prometheus/prometheus/model/labels"
)

// forget lets nobody have the text of a schema, nor of what it is a change of.
func forget(m *Stored) {
	for ; m != nil; m = m.Parent {
		m.open = weak.Pointer[Text]{}
	}
}

// TestChangesOfChanges: however long series change, each schema is read from a bounded number of messages, which are small,
// and is the one that was packed.
func TestChangesOfChanges(t *testing.T) {
	p := newPods()
	first := p.replace(t)
	last := first.Pack(nil)
	stored := map[SchemaID][]byte{last.ID: last.Stored().Message}
	whole := map[SchemaID]*Schema{first.ID: first}
	inFull := 0
	for i := 1; i <= 3*lastStep; i++ {
		made := p.replace(t)
		whole[made.ID] = made
		last = made.PackAfter(last)
		m := last.Stored()
		stored[m.ID] = m.Message
		depth := 0
		for x := m.Parent; x != nil; x = x.Parent {
			depth++
			if !bytes.Equal(stored[x.ID], x.Message) {
				t.Fatalf("change %d: parent %s is not as it was stored", i, x.ID)
			}
		}
		if depth == 0 {
			inFull++
		}
		if depth != bits.OnesCount(uint(m.step)) || depth > bits.Len(lastStep) {
			t.Fatalf("change %d, step %d: %d parents", i, m.step, depth)
		}
		forget(m)
		sameSchema(t, last.Open(), made)
		got, err := UnmarshalSchemaDelta(m.ID, m.Message, func(id SchemaID) (*Schema, []byte, error) { return nil, stored[id], nil }, DefaultLimits())
		if err != nil {
			t.Fatal(err)
		}
		sameSchema(t, got, made)
		if alone, err := UnmarshalSchema(last.ID, last.Marshal(), DefaultLimits()); err != nil || alone.ID != last.ID {
			t.Fatalf("change %d does not stand alone in full form: %v", i, err)
		}
		runtime.KeepAlive(whole)
	}
	if inFull != 2 {
		t.Errorf("%d messages in full form, want one after each %d changes", inFull, lastStep)
	}

	good, bad := UnmarshalStored(stored, DefaultLimits())
	if len(good) != len(stored) || len(bad) > 0 {
		t.Fatalf("%d of %d read again; %v", len(good), len(stored), bad)
	}
	for _, s := range good {
		forget(s.Stored())
		sameSchema(t, s.Open(), whole[s.ID])
		if after := p.replace(t).PackAfter(s); after.Stored().Parent != nil {
			t.Fatal("a change of a schema whose place in the row is not known")
		}
	}
}

// TestLargeChangesAreInFull form.
func TestLargeChangesAreInFull(t *testing.T) {
	p := newPods()
	last := p.replace(t).Pack(nil)
	for i := range p.names {
		p.names[i] = strings.Repeat("x", i) + p.name(i)
	}
	if m := p.replace(t).PackAfter(last).Stored(); m.Parent != nil {
		t.Errorf("a change of %d bytes of one of %d", len(m.Message), len(last.Stored().Message))
	}
	open := p.replace(t)
	if m := open.PackAfter(nil).Stored(); m.Parent != nil {
		t.Error("a change of nothing")
	}
	if m := open.PackAfter(last.Open()).Stored(); m.Parent != nil {
		t.Error("a change of one that is not stored")
	}
}

// TestUnmarshalStoredBad: what is damaged or missing is told, with all that goes back to it, and the rest is read.
func TestUnmarshalStoredBad(t *testing.T) {
	p := newPods()
	first := p.replace(t).Pack(nil)
	second := p.replace(t).PackAfter(first)
	third := p.replace(t).PackAfter(second)
	fourth := p.replace(t).PackAfter(third)
	if second.Stored().Parent.ID != first.ID || third.Stored().Parent.ID != first.ID || fourth.Stored().Parent.ID != third.ID {
		t.Fatal("the parents are others")
	}
	other := mustSchema(t, nil, []Series{{Labels: labels.FromStrings("__name__", "a"), Family: -1}})
	messages := map[SchemaID][]byte{}
	for _, s := range []*Schema{first, second, third, fourth, other} {
		messages[s.ID] = s.Stored().Message
	}
	without := func(id SchemaID) map[SchemaID][]byte {
		m := map[SchemaID][]byte{}
		for k, v := range messages {
			if k != id {
				m[k] = v
			}
		}
		return m
	}
	check := func(what string, m map[SchemaID][]byte, want error, good int, bad ...*Schema) {
		t.Helper()
		read, errs := UnmarshalStored(m, DefaultLimits())
		if len(read) != good || len(errs) != len(bad) {
			t.Errorf("%s: %d good, %v", what, len(read), errs)
		}
		for _, s := range bad {
			if !errors.Is(errs[s.ID], want) {
				t.Errorf("%s: %s: %v", what, s.ID, errs[s.ID])
			}
		}
	}
	check("the first is missing", without(first.ID), ErrNoParent, 1, first, second, third, fourth)
	check("one between is missing", without(third.ID), ErrNoParent, 3, third, fourth)
	damaged := without(third.ID)
	damaged[third.ID] = other.Marshal()
	check("one is another", damaged, ErrChecksum, 3, third, fourth)
	circle := map[SchemaID][]byte{first.ID: first.Open().MarshalDelta(second), second.ID: second.Open().MarshalDelta(first)}
	read, errs := UnmarshalStored(circle, DefaultLimits())
	var limit *LimitError
	if len(read) != 0 || !errors.As(errs[first.ID], &limit) {
		t.Errorf("a circle: %d read, %v", len(read), errs)
	}
}
