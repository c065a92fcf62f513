package frame

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"iter"
)

// The first bytes of the two messages of format 2. Neither can start JSON, which is format 1.
const (
	bundleMagic = "PSB"
	schemaMagic = "PSS"
	version     = 2

	bundleTail = 4 // the checksum
)

// Optional fields and sections are (key, length, bytes); the key is the id doubled, plus one if a reader that does
// not know the id must not go on. A key of 0 ends them.
const (
	keyEnd         = 0
	keyPredecessor = 1 << 1
	keyTotals      = 2 << 1
)

// Header says which bundle of which lane a message is.
type Header struct {
	// Publisher and Lane name where the bundle comes from.
	Publisher, Lane string
	// Epoch is random for each start of a poller and lane; Seq counts its bundles from 1 without a hole.
	Epoch, Seq uint64
	// Predecessor is set in the first bundle of an epoch, if the publisher knows what it sent before.
	Predecessor *Predecessor
	// Totals are those of the epoch up to and with this bundle; nil if they are not told.
	Totals *Totals
}

// Predecessor says where the epoch before this one ended.
type Predecessor struct {
	Epoch, Seq uint64
	Totals     Totals
	// Clean: that epoch was ended in good order, nothing was left behind.
	Clean bool
}

// Totals count what an epoch has sent so far.
type Totals struct{ Frames, Samples uint64 }

// AppendBundle makes a message of frames that Encoders appended to one slice, and appends it to dst.
func AppendBundle(dst []byte, h Header, frames []byte) []byte {
	start := len(dst)
	dst = append(dst, bundleMagic...)
	dst = append(dst, version, 0)
	dst = appendString(dst, h.Publisher)
	dst = appendString(dst, h.Lane)
	dst = binary.LittleEndian.AppendUint64(dst, h.Epoch)
	dst = binary.AppendUvarint(dst, h.Seq)
	if p := h.Predecessor; p != nil {
		b := binary.LittleEndian.AppendUint64(make([]byte, 0, 48), p.Epoch)
		b = binary.AppendUvarint(b, p.Seq)
		b = binary.AppendUvarint(b, p.Totals.Frames)
		b = binary.AppendUvarint(b, p.Totals.Samples)
		if p.Clean {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
		dst = appendField(dst, keyPredecessor, b)
	}
	if t := h.Totals; t != nil {
		b := binary.AppendUvarint(make([]byte, 0, 20), t.Frames)
		dst = appendField(dst, keyTotals, binary.AppendUvarint(b, t.Samples))
	}
	dst = append(dst, keyEnd)
	dst = append(dst, frames...)
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli()))
}

func appendField(dst []byte, key uint64, b []byte) []byte {
	dst = binary.AppendUvarint(dst, key)
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

// Bundle is a message taken apart. It refers to the message's bytes, which must not change while it is used.
type Bundle struct {
	Header
	// Checksum of the whole message: two bundles of one epoch and seq with different ones come from two publishers
	// that take themselves for the same.
	Checksum uint32

	frames []byte
}

// IsBundle tells whether msg starts as a bundle of any version does.
func IsBundle(msg []byte) bool {
	return len(msg) > len(bundleMagic) && string(msg[:len(bundleMagic)]) == bundleMagic
}

// IsSchema tells whether msg starts as a schema's message of any version does.
func IsSchema(msg []byte) bool {
	return len(msg) > len(schemaMagic) && string(msg[:len(schemaMagic)]) == schemaMagic
}

// ParseBundle checks a message and reads its header. A message of another version is a *VersionError.
func ParseBundle(msg []byte, lim Limits) (*Bundle, error) {
	if err := within("bytes of a message", uint64(len(msg)), lim.MessageBytes); err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	if !IsBundle(msg) {
		return nil, fmt.Errorf("bundle: %w: starts with %q", ErrMalformed, msg[:min(len(msg), 4)])
	}
	if v := msg[len(bundleMagic)]; v != version {
		return nil, fmt.Errorf("bundle: %w", &VersionError{What: "bundle version", Got: uint64(v)})
	}
	end := len(msg) - bundleTail
	if end <= len(bundleMagic)+1 {
		return nil, fmt.Errorf("bundle: %w", ErrTruncated)
	}
	b := &Bundle{Checksum: binary.LittleEndian.Uint32(msg[end:])}
	if crc32.Checksum(msg[:end], castagnoli()) != b.Checksum {
		return nil, fmt.Errorf("bundle: %w", ErrChecksum)
	}
	r := &reader{b: msg[len(bundleMagic)+1 : end]}
	if flags := r.byte(); flags&0x0f != 0 { // the upper half may be ignored
		return nil, fmt.Errorf("bundle: %w", &VersionError{What: "bundle flags", Got: uint64(flags)})
	}
	b.Publisher, b.Lane = r.text("publisher"), r.text("lane")
	b.Epoch, b.Seq = r.uint64(), r.uvarint()
	b.readFields(r)
	if r.err != nil {
		return nil, fmt.Errorf("bundle of %q: %w", b.Publisher, r.err)
	}
	b.frames = r.b
	return b, nil
}

func (b *Bundle) readFields(r *reader) {
	for r.err == nil {
		key := r.uvarint()
		if key == keyEnd {
			return
		}
		f := reader{b: r.bytes(r.uvarint())}
		if r.err != nil {
			return
		}
		switch key &^ 1 {
		case keyPredecessor:
			b.Predecessor = &Predecessor{
				Epoch: f.uint64(), Seq: f.uvarint(),
				Totals: Totals{Frames: f.uvarint(), Samples: f.uvarint()},
				Clean:  f.byte() != 0,
			}
		case keyTotals:
			b.Totals = &Totals{Frames: f.uvarint(), Samples: f.uvarint()}
		default:
			if key&1 != 0 {
				r.fail(&VersionError{What: "bundle field", Got: key >> 1})
			}
		}
		if f.err != nil { // what a later version adds behind the known content is skipped
			r.fail(f.err)
		}
	}
}

// The types of frames on the wire. With mustUnderstand set a reader that does not know the type must not go on;
// without it, it may skip the frame.
const (
	typeKeyframe = mustUnderstand | 1
	typeSamples  = mustUnderstand | 2
	typeDown     = mustUnderstand | 3
	typeEnd      = mustUnderstand | 4
	typeEpochEnd = mustUnderstand | 5

	mustUnderstand = 0x80
)

// RawFrame is a frame still encoded. It refers to the message's bytes.
type RawFrame struct {
	// Type on the wire.
	Type byte
	// Target and Position name the frame within its epoch.
	Target, Position uint64
	// Time of the scrape in milliseconds.
	Time int64
	Body []byte
	// Checksum over the decoded content.
	Checksum uint32
}

// Keyframe tells that the frame can be decoded without any earlier one.
func (f RawFrame) Keyframe() bool { return f.Type != typeSamples }

// Frames gives the frames of the bundle in order. After an error it stops: a *VersionError for a type of frame that
// must be understood and is not, else ErrMalformed.
func (b *Bundle) Frames() iter.Seq2[RawFrame, error] {
	return func(yield func(RawFrame, error) bool) {
		r := &reader{b: b.frames}
		for len(r.b) > 0 {
			f := readFrame(r)
			if r.err != nil {
				yield(RawFrame{}, fmt.Errorf("bundle %d of %q: %w", b.Seq, b.Publisher, r.err))
				return
			}
			if f.Type < typeKeyframe || f.Type > typeEpochEnd {
				if f.Type&mustUnderstand == 0 {
					continue
				}
				yield(RawFrame{}, fmt.Errorf("bundle %d of %q: %w", b.Seq, b.Publisher,
					&VersionError{What: "frame type", Got: uint64(f.Type)}))
				return
			}
			if !yield(f, nil) {
				return
			}
		}
	}
}

func readFrame(r *reader) RawFrame {
	return RawFrame{
		Type: r.byte(), Target: r.uvarint(), Position: r.uvarint(), Time: r.varint(),
		Body: r.bytes(r.uvarint()), Checksum: r.uint32(),
	}
}
