package frame

import (
	"errors"
	"math/bits"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

func testTarget(id uint64, interval time.Duration) *Target {
	return &Target{ID: id, Labels: labels.FromStrings("instance", "i", "job", "j"), Interval: interval, Timeout: interval / 2}
}

// plainSeries is a schema of n counters, all at base.
func plainSchema(t testing.TB, n int, base float64) *Schema {
	series := make([]Series, n)
	for i := range series {
		series[i] = Series{Labels: labels.FromStrings("__name__", "c", "i", string(rune('a'+i%26))+string(rune('a'+i/26%26))+string(rune('a'+i/676))), Family: -1, Base: base}
	}
	return mustSchema(t, nil, series)
}

func rawFrames(t testing.TB, b []byte) []RawFrame {
	t.Helper()
	var raws []RawFrame
	for raw, err := range (&Bundle{frames: b}).Frames() {
		if err != nil {
			t.Fatal(err)
		}
		raws = append(raws, raw)
	}
	return raws
}

// encodeColumns encodes n scrapes whose values rise.
func encodeColumns(t testing.TB, e *Encoder, s *Schema, n int, step time.Duration) []RawFrame {
	t.Helper()
	var b []byte
	for i := range n {
		c := &Column{Values: make([]float64, len(s.Series))}
		for k := range c.Values {
			c.Values[k] = float64(i * k)
		}
		var err error
		if b, err = e.AppendScrape(b, int64(i)*step.Milliseconds(), Report{}, s, c); err != nil {
			t.Fatal(err)
		}
	}
	return rawFrames(t, b)
}

// TestPolicy: how far apart keyframes are, how deep frames build on each other, how many states are needed.
func TestPolicy(t *testing.T) {
	for _, c := range []struct {
		opts     EncoderOptions
		interval time.Duration
		every    int
		depth    int
		states   int
	}{
		{EncoderOptions{}, 15 * time.Second, 16, 4, 2},
		{EncoderOptions{}, time.Second, 16, 4, 2},
		{EncoderOptions{}, 30 * time.Second, 10, 3, 2},
		{EncoderOptions{}, time.Minute, 5, 2, 2},
		{EncoderOptions{}, 5 * time.Minute, 1, 0, 0},
		{EncoderOptions{}, time.Hour, 1, 0, 0},
		{EncoderOptions{KeyframeMaxAge: time.Hour}, time.Minute, 16, 4, 2},
		{EncoderOptions{KeyframeEvery: 4}, time.Second, 4, 2, 1},
		{EncoderOptions{KeyframeEvery: 500}, time.Second, 64, 6, 3},
		{EncoderOptions{Always: true}, time.Second, 1, 0, 0},
	} {
		s := plainSchema(t, 30, 0)
		e := NewEncoder(1, testTarget(1, c.interval), c.opts)
		d := NewDecoder(1, DefaultLimits())
		depth := map[uint64]int{}
		last, states := uint64(0), 0
		for i, raw := range encodeColumns(t, e, s, 200, c.interval) {
			if back, _, ok := raw.builds(); ok {
				depth[raw.Position] = depth[raw.Position-back] + 1
			} else {
				if gap := int(raw.Position - last); last > 0 && gap != c.every && last > 1 && int(last) > c.every {
					t.Errorf("%+v at %s: keyframes %d apart, want %d", c.opts, c.interval, gap, c.every)
				}
				last = raw.Position
			}
			if depth[raw.Position] > c.depth {
				t.Errorf("%+v at %s: frame %d builds %d deep, want %d at most", c.opts, c.interval, i, depth[raw.Position], c.depth)
			}
			if _, err := d.Decode(raw, known(s)); err != nil {
				t.Fatal(err)
			}
			states = max(states, len(d.targets[1].states))
			if got, want := len(d.targets[1].states), len(e.states); i == 199 && got != want {
				t.Errorf("the decoder keeps %d states, the encoder %d", got, want)
			}
		}
		if states != c.states {
			t.Errorf("%+v at %s: %d states, want %d", c.opts, c.interval, states, c.states)
		}
	}
}

// TestStagger: targets that start together do not send their keyframes together.
func TestStagger(t *testing.T) {
	s := plainSchema(t, 1, 0)
	first := map[int]int{}
	for i := range 320 {
		e := NewEncoder(1, &Target{ID: uint64(i), Labels: labels.FromStrings("i", string(rune(i+1000))), Interval: time.Second}, EncoderOptions{})
		for k, raw := range encodeColumns(t, e, s, 17, time.Second) {
			if k > 0 && raw.Keyframe() {
				first[k]++
				break
			}
		}
	}
	for k := 1; k <= 16; k++ {
		if first[k] < 5 || first[k] > 45 {
			t.Errorf("%d of 320 targets have their second keyframe at scrape %d", first[k], k)
		}
	}
}

// TestKeyframeWhen: what makes the next frame a keyframe.
func TestKeyframeWhen(t *testing.T) {
	s, other := plainSchema(t, 40, 0), plainSchema(t, 41, 0)
	half := plainSchema(t, 20, 0)
	// A target whose first generation is long enough.
	target := testTarget(1, time.Second)
	for i := 0; NewEncoder(1, target, EncoderOptions{}).length < 10; i++ {
		target.Labels = labels.FromStrings("i", string(rune('a'+i)))
	}
	for what, c := range map[string]struct {
		time   int64
		schema *Schema
		before func(*Encoder)
		key    bool
	}{
		"nothing":             {time: 2000, schema: s},
		"five minutes":        {time: 300_000, schema: s, key: true},
		"nearly":              {time: 299_999, schema: s},
		"the clock went back": {time: -1, schema: s, key: true},
		"one more series":     {time: 2000, schema: other},
		"half the series":     {time: 2000, schema: half, key: true},
		"reset":               {time: 2000, schema: s, before: (*Encoder).Reset, key: true},
		"down":                {time: 2000, schema: s, before: func(e *Encoder) { e.AppendDown(nil, 1500, Report{}) }, key: true},
	} {
		e := NewEncoder(1, target, EncoderOptions{})
		encodeColumns(t, e, s, 2, time.Second)
		if c.before != nil {
			c.before(e)
		}
		b, err := e.AppendScrape(nil, c.time, Report{}, c.schema, &Column{Values: make([]float64, len(c.schema.Series))})
		if err != nil {
			t.Fatal(err)
		}
		if got := rawFrames(t, b)[0].Keyframe(); got != c.key {
			t.Errorf("%s: keyframe is %t", what, got)
		}
	}
}

func TestEncoderRefuses(t *testing.T) {
	s := plainSchema(t, 3, 0)
	e := NewEncoder(1, testTarget(1, time.Second), EncoderOptions{})
	for what, c := range map[string]Column{
		"values":     {Values: make([]float64, 2)},
		"timestamps": {Values: make([]float64, 3), Timestamps: make([]int64, 4)},
		"mantissas":  {Values: make([]float64, 3), Mantissas: make([]int64, 3)},
	} {
		if b, err := e.AppendScrape([]byte("x"), 1, Report{}, s, &c); err == nil || string(b) != "x" || e.Position() != 0 {
			t.Errorf("%s: %v, %d bytes, position %d", what, err, len(b), e.Position())
		}
	}
}

// TestMantissasLie: a column whose decimal form is wrong is still encoded as its values are.
func TestMantissasLie(t *testing.T) {
	w := newWorld(77, 50)
	e := NewEncoder(1, testTarget(1, time.Second), EncoderOptions{})
	d := NewDecoder(1, DefaultLimits())
	for range 40 {
		at, c := w.scrape(false)
		n := len(c.Values)
		c.Mantissas, c.Exponents = make([]int64, n), make([]int8, n)
		for i := range n {
			c.Mantissas[i], c.Exponents[i] = w.Int64()>>w.IntN(64), int8(w.IntN(256))
		}
		b, err := e.AppendScrape(nil, at, Report{}, w.schema, c)
		if err != nil {
			t.Fatal(err)
		}
		frames, err := decodeAll(d, b, w.schema)
		if err != nil {
			t.Fatal(err)
		}
		sameColumn(t, &frames[0].Column, c)
	}
}

// TestNoAllocation: once a target's states are there, a scrape costs none, and decoding a bounded few.
func TestNoAllocation(t *testing.T) {
	s := plainSchema(t, 1000, 5)
	columns := make([]Column, 64)
	for i := range columns {
		columns[i].Values = make([]float64, 1000)
		for k := range columns[i].Values {
			columns[i].Values[k] = float64(i*k) / 4
		}
	}
	e := NewEncoder(1, testTarget(1, time.Second), EncoderOptions{})
	buf := make([]byte, 0, 1<<20)
	at := int64(0)
	scrape := func() {
		at++
		buf, _ = e.AppendScrape(buf[:0], at*1000, Report{}, s, &columns[at%64])
	}
	for range 64 {
		scrape()
	}
	if n := testing.AllocsPerRun(64, scrape); n > 0 {
		t.Errorf("%v allocations per scrape", n)
	}
	d := NewDecoder(1, DefaultLimits())
	lookup := known(s)
	most := 0.0
	for range 64 {
		scrape()
		raw := rawFrames(t, buf)[0]
		raw.Body = slices.Clone(raw.Body)
		// Each run decodes the same frame: its base stays as long as no later one was decoded.
		c := d.clone()
		most = max(most, testing.AllocsPerRun(1, func() {
			if _, err := c.clone().Decode(raw, lookup); err != nil && !errors.Is(err, ErrNoBase) {
				t.Fatal(err)
			}
		})-testing.AllocsPerRun(1, func() { c.clone() }))
		if _, err := d.Decode(raw, lookup); err != nil && !errors.Is(err, ErrNoBase) {
			t.Fatal(err)
		}
	}
	if most > 16 {
		t.Errorf("%v allocations to decode one frame", most)
	}
}

// TestClasses: the rule for the bases of a schema, which is part of the format.
func TestClasses(t *testing.T) {
	div := newScales()
	for v, want := range map[float64]uint8{
		0: 0, 1: 0, -7: 0, 0.5: 1, 0.25: 2, 1.23: 2, 1e-15: 15, 1e-16: classFloat, 1023: 0, 1024: classShift + 10, 4096: classShift + 12,
		-8192: classShift + 12, 1 << 52: classShift + 12, 1 << 53: classFloat, -(1 << 53): classShift + 12, 0.30000000000000004: classFloat, 1e300: classFloat,
	} {
		if got := classOf(v, &div); got != want {
			t.Errorf("%v is of class %#x, want %#x", v, got, want)
		}
	}
	for c := range uint8(classFloat) {
		for _, m := range []int64{0, 1, -1, 12345, 1<<53 - 1, -(1 << 53)} {
			v := fromInteger(m, c, &div)
			if got, ok := mantissa(v, div[c]); !ok && bits.Len64(uint64(max(m, -m))) < 50 || ok && fromInteger(got, c, &div) != v {
				t.Errorf("class %#x: %d is %v and reads as %d, %t", c, m, v, got, ok)
			}
		}
	}
}
