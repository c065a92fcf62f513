package frame

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"reflect"
	"runtime"
	"testing"
	"time"
)

func appendUvarint(b []byte, v uint64) []byte { return binary.AppendUvarint(b, v) }

// allocated is how many bytes a call takes from the heap in all.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// sealed puts the right checksum under a message that was changed.
func sealed(msg []byte) []byte {
	msg = bytes.Clone(msg[:len(msg)-bundleTail])
	return binary.LittleEndian.AppendUint32(msg, crc32.Checksum(msg, castagnoli()))
}

func TestBundleHeader(t *testing.T) {
	for _, h := range []Header{
		{Publisher: "p", Lane: "live", Epoch: 1, Seq: 1},
		{Publisher: "ü.example/1", Lane: "backlog", Epoch: 1<<64 - 1, Seq: 1<<64 - 1},
		{Totals: &Totals{1, 2}},
		{Publisher: "p", Lane: "l", Epoch: 9, Seq: 1, Totals: &Totals{1 << 40, 1 << 60},
			Predecessor: &Predecessor{Epoch: 8, Seq: 100, Totals: Totals{5, 6}, Clean: true}},
		{Predecessor: &Predecessor{}},
	} {
		msg := AppendBundle([]byte("before"), h, nil)[len("before"):]
		b, err := ParseBundle(msg, DefaultLimits())
		if err != nil || !reflect.DeepEqual(b.Header, h) {
			t.Errorf("%+v reads back as %+v, %v", h, b, err)
		}
		if !IsBundle(msg) || IsSchema(msg) || b.Checksum != binary.LittleEndian.Uint32(msg[len(msg)-4:]) {
			t.Errorf("%+v: checksum %x", h, b.Checksum)
		}
	}
}

func TestBundleVersions(t *testing.T) {
	msg := AppendBundle(nil, Header{Publisher: "p", Lane: "l", Seq: 1}, AppendEpochEnd(nil, 0, 5))
	fields := bytes.Index(msg, []byte{1, keyEnd, typeEpochEnd}) + 1 // behind seq
	insert := func(at int, b ...byte) []byte {
		return sealed(append(append(bytes.Clone(msg[:at]), b...), msg[at:]...))
	}
	replace := func(at int, x byte) []byte {
		b := bytes.Clone(msg)
		b[at] = x
		return sealed(b)
	}
	for what, c := range map[string]struct {
		msg     []byte
		unknown string // what the VersionError names; "" if the message is fine
		frames  int
	}{
		"as it is":                   {msg, "", 1},
		"version":                    {replace(3, 3), "bundle version", 0},
		"version, unsealed":          {append([]byte("PSB\x09"), make([]byte, 50)...), "bundle version", 0},
		"flags to understand":        {replace(4, 1), "bundle flags", 0},
		"flags to ignore":            {replace(4, 0x10), "", 1},
		"field to skip":              {insert(fields, 9<<1, 3, 'a', 'b', 'c'), "", 1},
		"field to understand":        {insert(fields, 9<<1|1, 0), "bundle field", 0},
		"longer known field":         {insert(fields, keyTotals, 4, 1, 2, 3, 4), "", 1},
		"frame to skip":              {insert(fields+1, 0x30, 1, 1, 1, 2, 'x', 'y', 0, 0, 0, 0), "", 1},
		"frame to understand":        {insert(fields+1, 0x80|0x30, 1, 1, 1, 0, 0, 0, 0, 0), "frame type", 0},
		"known type without its bit": {replace(fields+1, typeEpochEnd&^mustUnderstand), "", 0},
	} {
		frames := 0
		b, err := ParseBundle(c.msg, DefaultLimits())
		if err == nil {
			for _, e := range b.Frames() {
				if err = e; err == nil {
					frames++
				}
			}
		}
		var unknown *VersionError
		if errors.As(err, &unknown); (unknown == nil) != (c.unknown == "") || unknown != nil && unknown.What != c.unknown || frames != c.frames {
			t.Errorf("%s: %d frames, %v", what, frames, err)
		}
	}
}

// TestBundleDamage: any cut and any changed byte of a message is found.
func TestBundleDamage(t *testing.T) {
	w := newWorld(11, 15)
	e := NewEncoder(4, &Target{ID: 1, Labels: corpusLabels, Interval: time.Second}, EncoderOptions{})
	var frames []byte
	for range 6 {
		at, c := w.scrape(false)
		frames, _ = e.AppendScrape(frames, at, Report{}, w.schema, c)
	}
	msg := AppendBundle(nil, Header{Publisher: "p", Lane: "l", Epoch: 4, Seq: 1, Totals: &Totals{}}, frames)
	for i := range msg {
		if _, err := ParseBundle(msg[:i], DefaultLimits()); err == nil {
			t.Fatalf("cut at %d of %d it is taken", i, len(msg))
		}
		for _, x := range []byte{1, 2, 4, 8, 16, 32, 64, 128, 255} {
			b := bytes.Clone(msg)
			b[i] ^= x
			if _, err := ParseBundle(b, DefaultLimits()); err == nil {
				t.Fatalf("with byte %d changed by %#x it is taken", i, x)
			}
		}
	}
}

// TestFrameDamage: the same one level lower, where the checksum of the bundle does not help: a frame that is changed
// in any byte is refused, or what it says is what was sent.
func TestFrameDamage(t *testing.T) {
	for seed := range uint64(6) {
		w := newWorld(seed, 12)
		e := NewEncoder(4, &Target{ID: 1, Labels: corpusLabels, Interval: time.Second}, EncoderOptions{})
		d := NewDecoder(4, DefaultLimits())
		for i := range 5 {
			at, c := w.scrape(true)
			good, err := e.AppendScrape(nil, at, Report{Duration: 5}, w.schema, c)
			if err != nil {
				t.Fatal(err)
			}
			try := func(b []byte, what string, k int) {
				for raw, err := range (&Bundle{frames: b}).Frames() {
					if err != nil {
						return
					}
					// A damaged frame that reaches the checksum discards the target: each gets a decoder of its own.
					f, err := d.clone().Decode(raw, known(w.schema))
					if err != nil {
						continue
					}
					if f.Time != at || f.Position != uint64(i+1) || f.Report.Duration != 5 {
						t.Fatalf("seed %d, frame %d, %s %d: taken as %+v", seed, i, what, k, f)
					}
					sameColumn(t, &f.Column, c)
				}
			}
			for k := range good {
				try(good[:k], "cut at", k)
				for _, x := range []byte{1, 2, 0x10, 0x80, 0xff} {
					b := bytes.Clone(good)
					b[k] ^= x
					try(b, "changed at", k)
				}
			}
			if _, err := decodeAll(d, good, w.schema); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// clone copies a decoder so far that decoding with one does not change the other.
func (d *Decoder) clone() *Decoder {
	c := NewDecoder(d.epoch, d.lim)
	c.bytes, c.fixed = d.bytes, d.fixed
	for id, t := range d.targets {
		x := *t
		x.states = append([]*state(nil), t.states...)
		c.targets[id] = &x
	}
	return c
}

// TestHostileLengths: what a frame says of its size is checked before it is believed.
func TestHostileLengths(t *testing.T) {
	huge := func(b ...byte) []byte { return appendUvarint(b, 1<<40) }
	s := plainSchema(t, 100, 0)
	key := func(rest []byte) []byte { // a keyframe of s up to its mask
		b := appendTarget([]byte{compactReport}, testTarget(1, time.Second))
		return append(append(append(b, s.ID[:]...), 0, 1), rest...)
	}
	section := func(k uint64, b []byte) []byte {
		return append(appendString(appendUvarint([]byte{0}, k), string(b)), keyEnd)
	}
	for what, body := range map[string][]byte{
		"nothing":          {},
		"interval":         append([]byte{0}, bytes.Repeat([]byte{0xff}, 9)...),
		"labels":           huge(0, 1, 1),
		"label":            huge(0, 1, 1, 1),
		"classes":          key(huge()),
		"class":            key([]byte{1, 0, 0x41}),
		"class row":        key([]byte{1, 100, 1}),
		"class run":        key(huge(1, 0, 0x81)),
		"section":          key(huge(0, 9<<1)),
		"sections in turn": key([]byte{0, 9 << 1, 0, 8 << 1, 0, 0}),
		"change":           key(section(keyChange, nil)),
		"absent":           key(section(keyAbsent, huge(0))),
		"groups":           key(section(keyTimestamps, huge(groupsCoded))),
		"groups of base":   key(section(keyTimestamps, []byte{groupsOfBase})),
		"rows of a group":  key(section(keyTimestamps, huge(groupsCoded, 1))),
		"escapes":          key(huge(0, keyEnd)),
		"escape":           key([]byte{0, keyEnd, 1, 100, 0, 0}),
		"rows above":       key([]byte{0, keyEnd, 0, 0, 0x80, 0xff}),
		"no residuals":     key([]byte{0, keyEnd, 0, 1, 0, 1}),
		"escape unchanged": key([]byte{0, keyEnd, 1, 0, 0, 0}),
		"too many bytes":   key([]byte{0, keyEnd, 0, 0, 0, 0}),
	} {
		var err error
		d := NewDecoder(1, DefaultLimits())
		grown := allocated(func() {
			_, err = d.Decode(RawFrame{Type: typeKeyframe, Target: 1, Position: 1, Body: body}, known(s))
		})
		var limit *LimitError
		if !errors.Is(err, ErrMalformed) && !errors.As(err, &limit) || grown > 64<<10 || d.Targets() > 0 {
			t.Errorf("%s: %v, %d bytes were taken", what, err, grown)
		}
	}
	b := &Bundle{frames: huge(typeDown, 1, 1, 1)}
	for _, err := range b.Frames() {
		if !errors.Is(err, ErrTruncated) {
			t.Errorf("body: %v", err)
		}
	}
	lim := DefaultLimits()
	lim.MessageBytes = 10
	var limit *LimitError
	if _, err := ParseBundle(make([]byte, 11), lim); !errors.As(err, &limit) || limit.Got != 11 || limit.Max != 10 {
		t.Errorf("message: %v", err)
	}
}
