package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/prometheus/prometheus/tsdb/wlog"
)

// A record in a segment:
//
//	kind      byte: 1, or 2 for a gap, which has no content
//	position  uvarint
//	clock     uvarint: milliseconds that the spool's processes had run when it was appended, all of them together
//	frames, samples  uvarint
//	schemas   uvarint: how many; then for each its length and its id
//	subject   length and bytes
//	message   the rest
//
// A gap tells that the positions from its own to that of the next record were accounted for before they came to the disk.
// The log around it all has a checksum for each piece.
const (
	recordKind = 1
	gapKind    = 2
)

// maxSchemas and maxText bound what one record may name, against damage that a checksum missed.
const (
	maxSchemas = 1 << 20
	maxText    = 1 << 16
)

// errRecord: the bytes are not a record.
var errRecord = errors.New("not a record of a spool")

// stamped is an entry with the spool's clock.
type stamped struct {
	Entry
	clock time.Duration
	gap   bool
}

func appendRecord(dst []byte, e *stamped) []byte {
	if e.gap {
		dst = append(dst, gapKind)
	} else {
		dst = append(dst, recordKind)
	}
	dst = binary.AppendUvarint(dst, uint64(e.Position))
	dst = binary.AppendUvarint(dst, uint64(e.clock.Milliseconds()))
	dst = binary.AppendUvarint(dst, uint64(e.Frames))
	dst = binary.AppendUvarint(dst, uint64(e.Samples))
	dst = binary.AppendUvarint(dst, uint64(len(e.Schemas)))
	for _, id := range e.Schemas {
		dst = appendText(dst, id)
	}
	dst = appendText(dst, e.Subject)
	return append(dst, e.Message...)
}

func appendText(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

// parser takes values off the front of bytes; after the first that is not there, bad is set and all are zero.
type parser struct {
	b   []byte
	bad bool
}

func (p *parser) number(most uint64) uint64 {
	v, n := binary.Uvarint(p.b)
	if n <= 0 || v > most {
		p.b, p.bad = nil, true
		return 0
	}
	p.b = p.b[n:]
	return v
}

func (p *parser) text() []byte {
	n := p.number(maxText)
	if n > uint64(len(p.b)) {
		p.b, p.bad = nil, true
		return nil
	}
	s := p.b[:n]
	p.b = p.b[n:]
	return s
}

// parseRecord reads a record. The message shares b; with brief set it is left out, as is the subject.
func parseRecord(b []byte, brief bool) (stamped, error) {
	var e stamped
	if len(b) == 0 || b[0] != recordKind && b[0] != gapKind {
		return e, errRecord
	}
	e.gap = b[0] == gapKind
	p := parser{b: b[1:]}
	e.Position = Position(p.number(math.MaxUint64))
	e.clock = time.Duration(p.number(math.MaxInt64/uint64(time.Millisecond))) * time.Millisecond
	e.Frames, e.Samples = int(p.number(math.MaxInt32)), int(p.number(math.MaxInt32))
	n := p.number(maxSchemas)
	if n > uint64(len(p.b)) { // each takes a byte at least
		return e, errRecord
	}
	for range n {
		e.Schemas = append(e.Schemas, string(p.text()))
	}
	subject := p.text()
	if p.bad || e.Position == 0 {
		return e, errRecord
	}
	if !brief {
		e.Subject, e.Message = string(subject), p.b
	}
	return e, nil
}

// segmentReader reads the records of one segment until its end or the first damage.
type segmentReader struct {
	log *wlog.Reader
	err error
}

func newSegmentReader(r io.Reader) *segmentReader { return &segmentReader{log: wlog.NewReader(r)} }

// next gives the next record, whose message is valid until the next call. It ends with io.EOF, or with what is wrong.
func (r *segmentReader) next(brief bool) (stamped, error) {
	if r.err != nil {
		return stamped{}, r.err
	}
	if !r.log.Next() {
		if r.err = r.log.Err(); r.err == nil {
			r.err = io.EOF
		}
		return stamped{}, r.err
	}
	e, err := parseRecord(r.log.Record(), brief)
	if err != nil {
		r.err = fmt.Errorf("%w at byte %d", err, r.log.Offset())
	}
	return e, r.err
}
