package frame

import (
	"errors"
	"slices"
	"testing"
	"time"
)

// firstOf is the first keyframe of a target, on which others will build.
func firstOf(t testing.TB, id uint64, s *Schema) RawFrame {
	e := NewEncoder(1, testTarget(id, time.Second), EncoderOptions{})
	e.length = 16
	return encodeColumns(t, e, s, 1, time.Second)[0]
}

// A decoder at its limit refuses targets that are new, with both numbers, and reads on for those it has.
func TestSetLimit(t *testing.T) {
	s := plainSchema(t, 100, 0)
	d := NewDecoder(1, DefaultLimits())
	e := NewEncoder(1, testTarget(1, time.Second), EncoderOptions{})
	e.length = 16
	frames := encodeColumns(t, e, s, 16, time.Second)
	read := func(raw RawFrame) error { _, err := d.Decode(raw, known(s)); return err }
	for _, raw := range frames[:2] { // two states: most that a target has
		if err := read(raw); err != nil {
			t.Fatal(err)
		}
	}
	if d.SchemaBytes() != s.Bytes() || s.Bytes() < 100*seriesBytes {
		t.Errorf("schemas of %d bytes, want %d", d.SchemaBytes(), s.Bytes())
	}
	full := d.StateBytes() + d.SchemaBytes()
	d.SetLimit(full)
	before := d.Bytes()
	err := read(firstOf(t, 2, s))
	var limit *LimitError
	if !errors.Is(err, ErrNoRoom) || !errors.As(err, &limit) || limit.Max != uint64(full) || limit.Got <= limit.Max {
		t.Errorf("second target: %v", err)
	}
	if d.Targets() != 1 || d.Bytes() != before {
		t.Errorf("%d targets, %d bytes after a refusal, want 1 and %d", d.Targets(), d.Bytes(), before)
	}
	d.SetLimit(full + 2000)
	for i, raw := range frames[2:] {
		if err := read(raw); err != nil {
			t.Fatalf("frame %d of a target that is known: %v", i+3, err)
		}
		checkAccount(t, d)
	}
	d.SetLimit(0)
	alone := NewEncoder(1, testTarget(4, time.Second), EncoderOptions{Always: true})
	if err := read(encodeColumns(t, alone, s, 1, time.Second)[0]); err != nil || d.Targets() != 1 {
		t.Errorf("a keyframe that nothing builds on: %v, %d targets", err, d.Targets())
	}
	d.SetLimit(1 << 30)
	if err := read(firstOf(t, 2, s)); err != nil {
		t.Error(err)
	}
}

// What is shed is free, and the targets start again with their next keyframe.
func TestShed(t *testing.T) {
	shared, own := plainSchema(t, 100, 0), plainSchema(t, 50, 0)
	d := NewDecoder(1, DefaultLimits())
	for id := range uint64(10) {
		if _, err := d.Decode(firstOf(t, id, shared), known(shared)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Decode(firstOf(t, 10, own), known(own)); err != nil {
		t.Fatal(err)
	}
	held := d.StateBytes() + d.SchemaBytes()
	freed := d.Shed(1)
	checkAccount(t, d)
	if freed < 1 || held-freed != d.StateBytes()+d.SchemaBytes() || d.Targets() != 10 {
		t.Errorf("%d bytes freed of %d, %d targets left", freed, held, d.Targets())
	}
	if freed = d.Shed(1 << 40); d.Targets() != 0 || d.StateBytes() != 0 || d.SchemaBytes() != 0 || d.Shed(1) != 0 {
		t.Errorf("%d bytes freed, %d and %d held by %d targets", freed, d.StateBytes(), d.SchemaBytes(), d.Targets())
	}
	e := NewEncoder(1, testTarget(3, time.Second), EncoderOptions{})
	e.length = 16
	frames := encodeColumns(t, e, shared, 2, time.Second)
	if _, err := d.Decode(frames[1], known(shared)); !errors.Is(err, ErrNoBase) {
		t.Errorf("a frame whose base was shed: %v", err)
	}
	if _, err := d.Decode(frames[0], known(shared)); err != nil {
		t.Errorf("the next keyframe: %v", err)
	}
}

// A decoder takes over what another one holds: targets that it does not know, and states that it lacks of those it knows,
// as far as there is room. What it has stays.
func TestAdopt(t *testing.T) {
	s := plainSchema(t, 100, 0)
	frames := func(id uint64) []RawFrame {
		e := NewEncoder(1, testTarget(id, time.Second), EncoderOptions{})
		e.length = 16
		return encodeColumns(t, e, s, 16, time.Second)
	}
	one, two := frames(1), frames(2)
	decoder := func(raws ...RawFrame) *Decoder {
		d := NewDecoder(1, DefaultLimits())
		for _, raw := range raws {
			if _, err := d.Decode(raw, known(s)); err != nil {
				t.Fatal(err)
			}
		}
		return d
	}
	d, other := decoder(one[:13]...), decoder(append(slices.Clone(one[:5]), two[:9]...)...)
	before := slices.Clone(d.targets[1].states)
	d.Adopt(other)
	if len(before) == 0 || !slices.Equal(d.targets[1].states[len(d.targets[1].states)-len(before):], before) {
		t.Errorf("the states that were there are not those of before")
	}
	for _, raw := range append(slices.Clone(one[13:]), two[9:]...) {
		if _, err := d.Decode(raw, known(s)); err != nil {
			t.Fatal(err)
		}
		checkAccount(t, d)
	}
	if checkAccount(t, other); other.Targets() != 0 || other.Bytes() != 0 {
		t.Errorf("the other one holds %d targets and %d bytes", other.Targets(), other.Bytes())
	}

	d = decoder()
	d.Adopt(decoder(two[:9]...)) // the base of the next frame is among its states
	if _, err := d.Decode(two[9], known(s)); err != nil {
		t.Error(err)
	}
	d = decoder(one[:9]...)
	held := d.StateBytes() + d.SchemaBytes()
	d.SetLimit(held + targetBytes)
	d.Adopt(decoder(two[:9]...))
	if checkAccount(t, d); d.Bytes() == 0 || d.StateBytes()+d.SchemaBytes() > held+2*targetBytes {
		t.Errorf("%d bytes are held above the limit", d.StateBytes()+d.SchemaBytes()-held)
	}
	if _, err := d.Decode(two[9], known(s)); !errors.Is(err, ErrNoBase) {
		t.Errorf("a frame whose base there was no room for: %v", err)
	}
	if _, err := d.Decode(one[9], known(s)); err != nil {
		t.Error(err)
	}
}
