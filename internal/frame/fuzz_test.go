package frame

import (
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

// fuzzLimits keep what hostile input may cost low enough to run many.
func fuzzLimits() Limits {
	lim := DefaultLimits()
	lim.SchemaBytes, lim.Series, lim.Families = 1<<20, 10_000, 1000
	lim.Histograms, lim.Buckets, lim.FrameBuckets, lim.Exemplars = 1000, 2000, 100_000, 10_000
	return lim
}

func addGolden(f *testing.F, pattern string) {
	files, err := filepath.Glob("testdata/golden/" + pattern)
	if err != nil || len(files) == 0 {
		f.Fatalf("no golden files, %v", err)
	}
	for _, file := range files {
		msg, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(msg)
	}
}

// readable tells whether an error is one of those that reading may give.
func readable(err error) bool {
	var version *VersionError
	var limit *LimitError
	for _, e := range []error{ErrMalformed, ErrChecksum, ErrNoBase, ErrNoParent, errMissing} {
		if errors.Is(err, e) {
			return true
		}
	}
	return err == nil || errors.As(err, &version) || errors.As(err, &limit)
}

// FuzzBundle takes its input as a message.
func FuzzBundle(f *testing.F) {
	addGolden(f, "[1-7]*.bin")
	f.Fuzz(func(t *testing.T, msg []byte) {
		for _, m := range [][]byte{msg, sealed(append(msg[:len(msg):len(msg)], 0, 0, 0, 0))} {
			b, err := ParseBundle(m, fuzzLimits())
			if !readable(err) {
				t.Fatalf("a message is refused with %v", err)
			}
			if err != nil {
				continue
			}
			d := NewDecoder(b.Epoch, fuzzLimits())
			for raw, err := range b.Frames() {
				if !readable(err) {
					t.Fatalf("a frame is refused with %v", err)
				}
				if err != nil {
					break
				}
				if _, err := d.Decode(raw, known()); !readable(err) {
					t.Fatalf("a frame is refused with %v", err)
				}
			}
		}
	})
}

// FuzzFrame takes its input as the body of a frame that comes to a decoder which holds a target.
func FuzzFrame(f *testing.F) {
	w := newWorld(3, 30)
	w.stamped = true
	other := w.schema
	e := NewEncoder(1, testTarget(1, time.Second), EncoderOptions{})
	e.length = 16
	d := NewDecoder(1, fuzzLimits())
	add := func(b []byte, err error) {
		if err != nil {
			f.Fatal(err)
		}
		for raw := range (&Bundle{frames: b}).Frames() {
			f.Add(raw.Type, raw.Position, raw.Body)
			if raw.Position > 7 {
				continue
			}
			if _, err := d.Decode(raw, known(w.schema, other)); err != nil {
				f.Fatal(err)
			}
		}
	}
	for i := range 12 {
		at, c := w.scrape(i > 4)
		add(e.AppendScrape(nil, at, Report{}, w.schema, c))
	}
	add(e.AppendEnd(e.AppendDown(nil, 1, Report{}), 1, Removed), nil)
	f.Fuzz(func(t *testing.T, typ byte, position uint64, body []byte) {
		raw := RawFrame{Type: mustUnderstand | typ%6, Target: 1, Position: position, Body: body}
		// Past the checksum the decoder's state changes too, and has to stay sound.
		mine := d.clone()
		for range 2 {
			f, err := mine.Decode(raw, known(w.schema, other))
			if sum := (*checksumError)(nil); errors.As(err, &sum) {
				mine = d.clone()
				raw.Checksum = sum.found
				f, err = mine.Decode(raw, known(w.schema, other))
			}
			if !readable(err) || errors.Is(err, ErrChecksum) {
				t.Fatalf("a frame is refused with %v", err)
			}
			if err == nil && f.Kind == Scraped {
				sound(t, f)
			}
			for _, x := range mine.targets {
				for _, s := range x.states {
					if len(s.integers) != len(s.schema.Series) || len(s.classes) != len(s.schema.Series) {
						t.Fatalf("a state of %d rows for %d series", len(s.integers), len(s.schema.Series))
					}
				}
			}
			checkAccount(t, mine)
			if mine.Bytes() > mine.lim.StateBytes || len(mine.targets) > mine.lim.Targets {
				t.Fatalf("%d bytes are counted, %d targets", mine.Bytes(), len(mine.targets))
			}
			raw.Position++
		}
	})
}

// sound tells that a decoded frame is one that a reader can walk through without care.
func sound(t testing.TB, f *Frame) {
	t.Helper()
	c := &f.Column
	if err := c.check(len(f.Schema.Series)); err != nil {
		t.Fatal(err)
	}
	for i := range c.Histograms {
		h := &c.Histograms[i]
		if x := h.Int; x != nil {
			_ = x.Validate()
			_ = x.String() + x.ToFloat(nil).String()
			_ = x.Copy().Compact(0)
		} else {
			_ = h.Float.Validate()
			_ = h.Float.String()
			_ = h.Float.Copy().Compact(0)
		}
	}
	for i := range c.Exemplars {
		_ = c.Exemplars[i].Labels.String()
	}
}

// FuzzRich takes its input as numbers, bounds and texts of histograms and exemplars.
func FuzzRich(f *testing.F) {
	f.Add(uint64(2), []byte("12345678abcdefgh12345678ABCDEFGH"))
	odd := []byte{}
	for _, v := range oddValues {
		odd = binary.LittleEndian.AppendUint64(odd, math.Float64bits(v))
	}
	f.Add(uint64(7), odd)
	f.Fuzz(func(t *testing.T, seed uint64, b []byte) {
		w := newWorld(seed, 1+int(seed%12))
		w.whole = true
		e := NewEncoder(seed, testTarget(seed, time.Second), EncoderOptions{KeyframeEvery: int(seed % 20)})
		d := NewDecoder(seed, DefaultLimits())
		for range 24 {
			at, c := w.scrape(seed&1 == 0)
			b = disturb(c, b)
			frame, err := e.AppendScrape(nil, at, Report{}, w.schema, c)
			if errors.Is(err, ErrMalformed) {
				continue // bounds out of order, text that is none
			}
			if err != nil {
				t.Fatal(err)
			}
			frames, err := decodeAll(d, frame, w.schema)
			if err != nil {
				t.Fatal(err)
			}
			sameColumn(t, &frames[0].Column, c)
			sound(t, frames[0])
			checkAccount(t, d)
		}
	})
}

// disturb puts bytes into a column, and gives those that are left.
func disturb(c *Column, b []byte) []byte {
	next := func() (u uint64) {
		if len(b) >= 8 {
			u = binary.LittleEndian.Uint64(b)
			b = b[8:]
		}
		return u
	}
	for i := range c.Histograms {
		if len(b) < 8 {
			break
		}
		switch x := c.Histograms[i].Int; {
		case x == nil:
			c.Histograms[i].Float.Sum = math.Float64frombits(next())
			for k := range c.Histograms[i].Float.PositiveBuckets {
				c.Histograms[i].Float.PositiveBuckets[k] += math.Float64frombits(next())
			}
		case len(x.CustomValues) > 0:
			x.CustomValues[0] = math.Float64frombits(next())
			x.Count += next()
		default:
			x.ZeroThreshold, x.Sum = math.Float64frombits(next()), math.Float64frombits(next())
			for k := range x.PositiveBuckets {
				x.PositiveBuckets[k] += int64(next())
			}
		}
	}
	for i := range c.Exemplars {
		if n := min(len(b), 1+i%40); n > 0 {
			c.Exemplars[i].Labels = labels.FromStrings("trace_id", string(b[:n]))
			b = b[n:]
			c.Exemplars[i].Value, c.Exemplars[i].Timestamp = math.Float64frombits(next()), int64(next())
		}
	}
	return b
}

// FuzzSchema takes its input as a message, as the content of a full one, and as that of a delta.
func FuzzSchema(f *testing.F) {
	addGolden(f, "0*.bin")
	w := newWorld(9, 12)
	parent := w.schema
	w.insert()
	w.remake()
	f.Add(w.schema.content())
	f.Add(w.schema.appendDelta(nil, parent.Text))
	f.Add(w.schema.MarshalDelta(parent))
	f.Fuzz(func(t *testing.T, b []byte) {
		lim := fuzzLimits()
		if _, err := UnmarshalSchemaDelta(SchemaID{}, b, parents(parent), lim); err == nil || !readable(err) {
			t.Fatalf("a message under no id: %v", err)
		}
		full, err := parseContent(b, lim)
		if !readable(err) {
			t.Fatalf("content is refused with %v", err)
		}
		delta, err2 := parseDelta(b, parent, lim)
		if !readable(err2) {
			t.Fatalf("a delta is refused with %v", err2)
		}
		for _, s := range []*Schema{full, delta} {
			if s == nil {
				continue
			}
			again, err := UnmarshalSchemaDelta(s.ID, s.MarshalDelta(parent), parents(parent), lim)
			if err != nil {
				t.Fatal(err)
			}
			sameSchema(t, again, s)
			if again, err = parseContent(s.content(), lim); err != nil {
				t.Fatal(err)
			}
			sameSchema(t, again, s)
		}
	})
}

// FuzzStored takes its input as what a spool on disk has of two schemas, the second maybe as a change of the first.
func FuzzStored(f *testing.F) {
	w := newWorld(9, 12)
	parent := w.schema
	w.insert()
	w.remake()
	f.Add(w.schema.MarshalDelta(parent), w.schema.appendDelta(nil, parent.Text))
	f.Add(w.schema.Marshal(), w.schema.content())
	f.Fuzz(func(t *testing.T, message, content []byte) {
		lim := fuzzLimits()
		messages := map[SchemaID][]byte{parent.ID: parent.Marshal(), {1}: message, {2}: content}
		made, _ := parseDelta(content, parent, lim)
		if made != nil && made.ID == parent.ID { // nothing changed
			made = nil
		}
		if made != nil {
			messages[made.ID] = made.MarshalDelta(parent)
		}
		good, bad := UnmarshalStored(messages, lim)
		for id, err := range bad {
			if !readable(err) {
				t.Fatalf("%s is refused with %v", id, err)
			}
		}
		found := map[SchemaID]*Schema{}
		for _, s := range good {
			forget(s.Stored())
			found[s.ID] = s.Open()
		}
		if found[parent.ID] == nil || made != nil && found[made.ID] == nil {
			t.Fatalf("%d read, %v", len(good), bad)
		}
		if made != nil {
			sameSchema(t, found[made.ID], made)
		}
	})
}

// FuzzRoundTrip takes its input as the values of some scrapes, eight bytes each.
func FuzzRoundTrip(f *testing.F) {
	f.Add(uint64(1), []byte("12345678abcdefgh12345678ABCDEFGH"))
	odd := []byte{}
	for _, v := range oddValues {
		odd = binary.LittleEndian.AppendUint64(odd, math.Float64bits(v))
	}
	f.Add(uint64(2), odd)
	f.Fuzz(func(t *testing.T, seed uint64, b []byte) {
		w := newWorld(seed, 1+int(seed%20))
		e := NewEncoder(seed, testTarget(seed, time.Second), EncoderOptions{KeyframeEvery: int(seed % 20)})
		d := NewDecoder(seed, DefaultLimits())
		for range 20 {
			at, c := w.scrape(seed&1 == 0)
			for i := 0; i < len(c.Values) && len(b) >= 8; i += 1 + int(seed%3) {
				c.Values[i] = math.Float64frombits(binary.LittleEndian.Uint64(b))
				b = b[8:]
			}
			frame, err := e.AppendScrape(nil, at, Report{}, w.schema, c)
			if err != nil {
				t.Fatal(err)
			}
			frames, err := decodeAll(d, frame, w.schema)
			if err != nil {
				t.Fatal(err)
			}
			sameColumn(t, &frames[0].Column, c)
		}
	})
}
