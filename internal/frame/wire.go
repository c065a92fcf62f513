package frame

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"time"
	"unicode/utf8"

	"github.com/prometheus/prometheus/model/labels"
)

// zigzag maps small numbers of either sign to small unsigned ones.
func zigzag(v int64) uint64 { return uint64(v<<1) ^ uint64(v>>63) }

func unzigzag(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }

func appendVarint(dst []byte, v int64) []byte { return binary.AppendUvarint(dst, zigzag(v)) }

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func appendLabels(dst []byte, ls labels.Labels) []byte {
	dst = binary.AppendUvarint(dst, uint64(ls.Len()))
	ls.Range(func(l labels.Label) {
		dst = appendString(dst, l.Name)
		dst = appendString(dst, l.Value)
	})
	return dst
}

// castagnoli is made once by the standard library; asking for it is cheap.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// reader takes bytes apart. After its first error it gives zeros, so that a caller may check once for several reads.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.b = nil
}

func (r *reader) malformed(format string, args ...any) {
	r.fail(fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...)))
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail(ErrTruncated)
		return 0
	}
	b := r.b[0]
	r.b = r.b[1:]
	return b
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	switch {
	case n > 0:
		r.b = r.b[n:]
		return v
	case n == 0:
		r.fail(ErrTruncated)
	default:
		r.malformed("a number of more than 64 bits")
	}
	return 0
}

func (r *reader) varint() int64 { return unzigzag(r.uvarint()) }

// bytes gives a part of what is read, not a copy.
func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.fail(ErrTruncated)
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) uint32() uint32 {
	if b := r.bytes(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.bytes(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (r *reader) float() float64 { return math.Float64frombits(r.uint64()) }

func (r *reader) schemaID() (id SchemaID) {
	copy(id[:], r.bytes(uint64(len(id))))
	return id
}

// string copies.
func (r *reader) string() string { return string(r.bytes(r.uvarint())) }

// text is a string that must be UTF-8.
func (r *reader) text(what string) string {
	s := r.string()
	if !utf8.ValidString(s) {
		r.malformed("%s %q is not UTF-8", what, s)
		return ""
	}
	return s
}

// count is a number of things of which each takes at least size bytes of what is still to be read.
func (r *reader) count(what string, max, size int) int {
	n := r.uvarint()
	if r.err != nil {
		return 0
	}
	if err := within(what, n, max); err != nil {
		r.fail(err)
		return 0
	}
	if n > uint64(len(r.b)/size) {
		r.fail(ErrTruncated)
		return 0
	}
	return int(n)
}

// milliseconds reads a duration.
func (r *reader) milliseconds(what string) time.Duration {
	ms := r.uvarint()
	if ms > uint64(math.MaxInt64/time.Millisecond) {
		r.malformed("%s of %d ms", what, ms)
		return 0
	}
	return time.Duration(ms) * time.Millisecond
}

// labels reads the labels of a target: in order of their names, each once, none empty.
func (r *reader) labels(max int) labels.Labels {
	n := r.count("labels", max, 2)
	b := labels.NewScratchBuilder(n)
	last := ""
	for i := range n {
		name, value := r.text("label name"), r.text("label value")
		if r.err != nil {
			return labels.EmptyLabels()
		}
		if name == "" || value == "" || i > 0 && name <= last {
			r.malformed("label %q is empty or not in order", name)
			return labels.EmptyLabels()
		}
		b.Add(name, value)
		last = name
	}
	return b.Labels()
}
