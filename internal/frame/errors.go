package frame

import (
	"errors"
	"fmt"
)

// Errors of reading. Besides these there are *VersionError and *LimitError, and whatever a schema lookup returned.
var (
	// ErrMalformed: the bytes break the rules of the format. No other try will read them.
	ErrMalformed = errors.New("malformed")
	// ErrTruncated: the bytes end too early. It is an ErrMalformed too.
	ErrTruncated = fmt.Errorf("%w: truncated", ErrMalformed)
	// ErrNoBase: a frame builds on one that the decoder does not hold. It can be read once that one was decoded.
	ErrNoBase = errors.New("base frame not at hand")
	// ErrChecksum: bytes, or the values decoded from them, are not those that were sent.
	ErrChecksum = errors.New("checksum differs")
	// ErrNoParent: a schema in delta form builds on one that cannot be had here.
	ErrNoParent = errors.New("parent schema not at hand")
)

// checksumError is an ErrChecksum of a frame.
type checksumError struct{ told, found uint32 }

func (e *checksumError) Error() string {
	return fmt.Sprintf("%v: the frame says %08x, its values give %08x", ErrChecksum, e.told, e.found)
}

func (e *checksumError) Unwrap() error { return ErrChecksum }

// VersionError says that a message uses something that this program is too old (or too new) to read.
type VersionError struct {
	// What is unknown: the version of a bundle or schema, a frame type, an encoding, a section.
	What string
	// Got is its number.
	Got uint64
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("unknown %s %d: written by another version of prometheus-streams", e.What, e.Got)
}

// LimitError says that something is larger than the reader's Limits allow.
type LimitError struct {
	// What is too large or too many.
	What string
	// Got is how much there was, Max how much may be.
	Got, Max uint64
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("%s: %d is above the limit of %d", e.What, e.Got, e.Max)
}

// Limits bound what reading may cost. Every limit is checked before memory is taken; a zero means nothing is allowed.
type Limits struct {
	// MessageBytes is the size of one message, bundle or schema.
	MessageBytes int
	// SchemaBytes is the size of one schema, decompressed and with all labels written out.
	SchemaBytes int
	// Series is how many one schema may have; Families likewise.
	Series, Families int
	// Labels is how many a series or a target may have.
	Labels int
	// Histograms is how many native histograms a frame may have, Buckets how many buckets one of them (spans and custom
	// bounds likewise), FrameBuckets how many of all three are made for one frame.
	Histograms, Buckets, FrameBuckets int
	// Exemplars is how many a frame may have, ExemplarBytes how much the labels of one.
	Exemplars, ExemplarBytes int
	// Earlier is how many earlier samples a frame may have.
	Earlier int
	// SchemaDepth is how many parents a schema in delta form may need.
	SchemaDepth int
	// Targets is how many a decoder keeps states of.
	Targets int
	// States is how many states a decoder keeps of one target; the oldest go.
	States int
	// StateBytes is the memory of all states of a decoder.
	StateBytes int64
}

// DefaultLimits are wide enough for any target seen in the field.
func DefaultLimits() Limits {
	return Limits{
		MessageBytes: 64 << 20,
		SchemaBytes:  128 << 20,
		Series:       500_000,
		Families:     50_000,
		Labels:       256,

		Histograms:    200_000,
		Buckets:       50_000,
		FrameBuckets:  16 << 20,
		Exemplars:     500_000,
		ExemplarBytes: 64 << 10,
		Earlier:       1_000_000,

		SchemaDepth: 32,
		Targets:     50_000,
		States:      4,
		StateBytes:  1 << 30,
	}
}

// within checks one limit.
func within(what string, got uint64, max int) error {
	if max < 0 || got > uint64(max) {
		return &LimitError{What: what, Got: got, Max: uint64(max)}
	}
	return nil
}
