package frame

import (
	"bytes"
	"errors"
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
	for i := 1; i <= 150; i++ {
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
		digits := m.step%chainBase + m.step/chainBase%chainBase + m.step/chainBase/chainBase
		if depth != digits || depth != m.parents() || depth > 3*(chainBase-1) || depth > DefaultLimits().SchemaDepth {
			t.Fatalf("change %d, step %d: %d parents", i, m.step, depth)
		}
		if i%10 == 0 { // not by what was kept to read it faster
			forget(m)
			sameText(t, m.text(), made.Text)
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
	if inFull > 150/chainBase/chainBase {
		t.Errorf("%d messages in full form", inFull)
	}
	if parentOf(1) != 0 || parentOf(7) != 6 || parentOf(8) != 0 || parentOf(9) != 8 || parentOf(24) != 16 || parentOf(64) != 0 || parentOf(lastStep) != lastStep-1 {
		t.Error("steps have other parents")
	}

	good, bad := UnmarshalStored(stored, DefaultLimits())
	if len(good) != len(stored) || len(bad) > 0 {
		t.Fatalf("%d of %d read again; %v", len(good), len(stored), bad)
	}
	for _, s := range good {
		forget(s.Stored())
		sameSchema(t, s.Open(), whole[s.ID])
	}
	if after := p.replace(t).PackAfter(good[0]); after.Stored().Parent != nil {
		t.Error("a change of a schema whose place in the row is not known")
	}
}

// sameText compares words and base values.
func sameText(t *testing.T, got, want *Text) {
	t.Helper()
	if !bytes.Equal(got.content(), want.content()) {
		t.Fatalf("%d series read, want %d", len(got.Series), len(want.Series))
	}
}

// TestSchemaThatComesBack is stored as it was, though the one before is a change of it.
func TestSchemaThatComesBack(t *testing.T) {
	p := newPods()
	first := p.replace(t).Pack(nil)
	name := p.names[0]
	p.names[0] = p.name(0)
	second := mustSchema(t, podFamilies, p.series()).PackAfter(first)
	p.names[0] = name
	again := mustSchema(t, podFamilies, p.series())
	if again.ID != first.ID || second.Stored().Parent != first.Stored() {
		t.Fatal("it did not come back")
	}
	back := again.PackAfter(second)
	if back.Stored() != first.Stored() || back.PackAfter(second).Stored() != first.Stored() {
		t.Errorf("it is stored as a change of %v", back.Stored().Parent)
	}
	if next := p.replace(t).PackAfter(back).Stored(); next.Parent != first.Stored() || next.step != 1 {
		t.Errorf("the next one is a change of %s at step %d", next.Parent.ID, next.step)
	}
}

// TestUnmarshalStoredDeep: of a chain that is too long, what is near its beginning is read, in whatever order.
func TestUnmarshalStoredDeep(t *testing.T) {
	lim := DefaultLimits()
	p := newPods()
	last := p.replace(t)
	messages := map[SchemaID][]byte{last.ID: last.Marshal()}
	for range lim.SchemaDepth + 4 {
		made := p.replace(t)
		messages[made.ID] = made.MarshalDelta(last)
		last = made
	}
	for range 20 {
		good, bad := UnmarshalStored(messages, lim)
		var limit *LimitError
		if len(good) != lim.SchemaDepth+1 || len(bad) != 4 || !errors.As(bad[last.ID], &limit) {
			t.Fatalf("%d read, %d not: %v", len(good), len(bad), bad[last.ID])
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
	if second.Stored().Parent.ID != first.ID || third.Stored().Parent.ID != second.ID || fourth.Stored().Parent.ID != third.ID {
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
	if len(read) != 0 || !errors.Is(errs[first.ID], ErrMalformed) || !errors.Is(errs[second.ID], ErrMalformed) {
		t.Errorf("a circle: %d read, %v", len(read), errs)
	}
}
