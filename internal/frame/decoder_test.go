package frame

import (
	"errors"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

// TestDecodeAgain: an error changes nothing, so that a frame can be tried again when what it needs is there.
func TestDecodeAgain(t *testing.T) {
	s := plainSchema(t, 20, 3)
	e := NewEncoder(1, testTarget(5, time.Second), EncoderOptions{})
	e.length = 16
	raws := encodeColumns(t, e, s, 16, time.Second)
	d := NewDecoder(1, DefaultLimits())
	if _, err := d.Decode(raws[1], known(s)); !errors.Is(err, ErrNoBase) {
		t.Fatalf("without a keyframe: %v", err)
	}
	if _, err := d.Decode(raws[0], known()); !errors.Is(err, errMissing) || d.Targets() != 0 {
		t.Fatalf("without a schema: %v, %d targets", err, d.Targets())
	}
	for i, raw := range raws {
		if i == 4 {
			bad := raw
			bad.Body = slices.Clone(raw.Body[:len(raw.Body)-1])
			if _, err := d.Decode(bad, known(s)); !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrChecksum) {
				t.Fatalf("cut: %v", err)
			}
		}
		f, err := d.Decode(raw, known(s))
		if err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		if f.Column.Values[3] != float64(3*i) || f.Target.ID != 5 {
			t.Fatalf("frame %d: %v", i, f.Column.Values)
		}
	}
	if d.Bytes() != 0 || d.Targets() != 1 {
		t.Errorf("after a generation %d bytes are held", d.Bytes())
	}
}

// TestChecksum: a state that is not the sender's is found out, and discarded.
func TestChecksum(t *testing.T) {
	s := plainSchema(t, 20, 3)
	target := testTarget(5, time.Second)
	frames := func(epoch uint64, shift float64) []RawFrame {
		e := NewEncoder(epoch, target, EncoderOptions{})
		e.length = 16
		var b []byte
		for i := range 4 {
			c := &Column{Values: make([]float64, 20)}
			for k := range c.Values {
				c.Values[k] = shift + float64(i*k)
			}
			b, _ = e.AppendScrape(b, int64(i), Report{}, s, c)
		}
		return rawFrames(t, b)
	}
	a, b := frames(1, 0), frames(1, 1000)
	d := NewDecoder(1, DefaultLimits())
	for i, c := range []struct {
		raw  RawFrame
		want error
	}{
		{a[0], nil}, {b[1], ErrChecksum}, {a[1], ErrNoBase}, // two publishers that take themselves for one
		{b[0], nil}, {b[1], nil}, {frames(2, 1000)[2], ErrChecksum}, // of another epoch
		{b[0], nil}, {b[2], nil}, {b[3], nil},
	} {
		if _, err := d.Decode(c.raw, known(s)); !errors.Is(err, c.want) {
			t.Errorf("step %d: %v, want %v", i, err, c.want)
		}
		if errors.Is(c.want, ErrChecksum) && (d.Bytes() != 0 || d.Targets() != 0) {
			t.Errorf("step %d: %d bytes are held", i, d.Bytes())
		}
	}
	for what, change := range map[string]func(*RawFrame){
		"target":   func(f *RawFrame) { f.Target++ },
		"position": func(f *RawFrame) { f.Position++ },
		"time":     func(f *RawFrame) { f.Time++ },
		"checksum": func(f *RawFrame) { f.Checksum++ },
	} {
		raw := a[0]
		change(&raw)
		if _, err := NewDecoder(1, DefaultLimits()).Decode(raw, known(s)); !errors.Is(err, ErrChecksum) {
			t.Errorf("another %s: %v", what, err)
		}
	}
	// A schema that is not the one named.
	if _, err := NewDecoder(1, DefaultLimits()).Decode(a[0], func(SchemaID) (*Schema, error) { return plainSchema(t, 20, 4), nil }); err == nil {
		t.Error("a wrong schema was taken")
	}
}

func TestQuotas(t *testing.T) {
	s := plainSchema(t, 100, 0)
	lim := DefaultLimits()
	lim.Targets, lim.StateBytes = 3, 2500
	d := NewDecoder(1, lim)
	var limit *LimitError
	first := func(id uint64) RawFrame {
		e := NewEncoder(1, testTarget(id, time.Second), EncoderOptions{})
		e.length = 16
		return encodeColumns(t, e, s, 1, time.Second)[0]
	}
	for id := range uint64(2) {
		if _, err := d.Decode(first(id), known(s)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Decode(first(2), known(s)); !errors.As(err, &limit) || limit.What != "bytes of states" || d.Targets() != 2 {
		t.Errorf("third target: %v", err)
	}
	d.lim.StateBytes = 1 << 20
	if _, err := d.Decode(first(2), known(s)); err != nil {
		t.Error(err)
	}
	if _, err := d.Decode(first(3), known(s)); !errors.As(err, &limit) || limit.What != "targets" || limit.Got != 4 || limit.Max != 3 {
		t.Errorf("fourth target: %v", err)
	}
	// A frame that needs no state goes on being read.
	e := NewEncoder(1, testTarget(4, time.Second), EncoderOptions{Always: true})
	if _, err := d.Decode(encodeColumns(t, e, s, 1, time.Second)[0], known(s)); err != nil || d.Targets() != 3 {
		t.Errorf("a keyframe alone: %v", err)
	}
	d.lim.Series = 99
	if _, err := d.Decode(first(0), known(s)); !errors.As(err, &limit) || limit.What != "series" {
		t.Errorf("series: %v", err)
	}
}

// TestStatesBounded: a sender that never lets go of its frames does not fill the memory.
func TestStatesBounded(t *testing.T) {
	s := plainSchema(t, 10, 0)
	lim := DefaultLimits()
	d := NewDecoder(1, lim)
	e := NewEncoder(1, testTarget(4, time.Second), EncoderOptions{})
	for range 30 {
		e.Reset()
		e.index, e.length = 0, 64
		b, err := e.AppendScrape(nil, 1, Report{}, s, &Column{Values: make([]float64, 10)})
		if err != nil {
			t.Fatal(err)
		}
		raw := rawFrames(t, b)[0]
		if _, err := d.Decode(raw, known(s)); err != nil {
			t.Fatal(err)
		}
		if n := len(d.targets[4].states); n != 1 {
			t.Fatalf("%d states", n)
		}
	}
	// The mask can name only what is there; states in the future of a late frame count too.
	one := d.targets[4].states[0]
	for i := range 10 {
		x := *one
		x.position = 1000 + uint64(i)
		d.targets[4].states = append(d.targets[4].states, &x)
		d.bytes += x.bytes()
	}
	e.Reset()
	b, _ := e.AppendScrape(nil, 1, Report{}, s, &Column{Values: make([]float64, 10)})
	if _, err := d.Decode(rawFrames(t, b)[0], known(s)); err != nil {
		t.Fatal(err)
	}
	if n := len(d.targets[4].states); n > lim.States {
		t.Errorf("%d states, the limit is %d", n, lim.States)
	}
	d.forget(4)
	if d.Bytes() != 0 {
		t.Errorf("%d bytes are held", d.Bytes())
	}
}

// TestTargetBoundOnce: one id with two sets of labels is an error, not a mixture.
func TestTargetBoundOnce(t *testing.T) {
	s := plainSchema(t, 10, 0)
	d := NewDecoder(1, DefaultLimits())
	a := NewEncoder(1, testTarget(4, time.Second), EncoderOptions{})
	b := NewEncoder(1, &Target{ID: 4, Labels: labels.FromStrings("job", "other")}, EncoderOptions{})
	b.position = 10
	if _, err := d.Decode(encodeColumns(t, a, s, 1, 0)[0], known(s)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Decode(encodeColumns(t, b, s, 1, 0)[0], known(s)); !errors.Is(err, ErrMalformed) {
		t.Errorf("other labels: %v", err)
	}
	c := NewEncoder(1, testTarget(4, time.Minute), EncoderOptions{})
	c.position = 10
	f, err := d.Decode(encodeColumns(t, c, s, 1, 0)[0], known(s))
	if err != nil || f.Target.Interval != time.Minute {
		t.Errorf("another interval: %v, %v", f, err)
	}
	// The same definition is the same Target.
	g, err := d.Decode(encodeColumns(t, c, s, 1, 0)[0], known(s))
	if err != nil || g.Target != f.Target {
		t.Errorf("%p and %p, %v", g, f, err)
	}
}

// TestTimestamps: sources that tick apart, together, and not at all; cheap when the grouping is stable.
func TestTimestamps(t *testing.T) {
	const n, sources = 400, 20
	s := plainSchema(t, n, 0)
	e := NewEncoder(1, testTarget(4, 15*time.Second), EncoderOptions{})
	d := NewDecoder(1, DefaultLimits())
	for i := range 40 {
		at := 1_700_000_000_000 + 15000*int64(i)
		c := &Column{Values: make([]float64, n), Timestamps: make([]int64, n)}
		for k := range n {
			c.Timestamps[k] = at - int64(k%sources)*100
			switch {
			case k%sources == 7:
				c.Timestamps[k] = NoTimestamp
			case k%sources == 8:
				c.Timestamps[k] = 5
			case k == 50 && i%3 == 0:
				c.Timestamps[k] = math.MaxInt64
			case k == 51 && i > 20:
				c.Timestamps[k] = -1
			}
		}
		if i%9 == 8 {
			c.Timestamps = nil
		}
		b, err := e.AppendScrape(nil, at, Report{}, s, c)
		if err != nil {
			t.Fatal(err)
		}
		frames, err := decodeAll(d, b, s)
		if err != nil {
			t.Fatal(err)
		}
		sameColumn(t, &frames[0].Column, c)
		if most := 200; i > 2 && len(b) > most {
			t.Errorf("scrape %d: %d bytes, want %d at most", i, len(b), most)
		}
	}
}
