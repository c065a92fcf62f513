package receiver

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"time"
)

// The reading of a done table's file; done.go says what is in it.

var errDoneRecord = errors.New("not a record of a done table")

// read takes a whole file. What follows the first damaged record is ignored: the bundles noted there come again.
func (t *doneTable) read(b []byte) error {
	if len(b) < len(doneMagic) || string(b[:len(doneMagic)]) != doneMagic {
		return errors.New("is not a done table (move it away to start afresh: bundles already delivered may come again)")
	}
	b = b[len(doneMagic):]
	byID := make(map[uint64]*doneLane)
	for len(b) > 0 {
		n, w := binary.Uvarint(b)
		if w <= 0 || n > doneMaxRecord || uint64(len(b)-w) < n+4 {
			return nil
		}
		payload := b[w : w+int(n)]
		if binary.LittleEndian.Uint32(b[w+int(n):]) != crc32.Checksum(payload, castagnoli()) {
			return nil
		}
		if err := t.take(payload, byID); err != nil {
			return err
		}
		b = b[w+int(n)+4:]
	}
	return nil
}

func (t *doneTable) take(p []byte, byID map[uint64]*doneLane) error {
	if len(p) == 0 {
		return errDoneRecord
	}
	kind := p[0]
	id, p, ok := cutUvarint(p[1:])
	if !ok {
		return errDoneRecord
	}
	if kind == 'L' {
		return t.takeLane(id, p, byID)
	}
	seq, _, ok := cutUvarint(p)
	l := byID[id]
	if !ok || l == nil {
		return errDoneRecord
	}
	switch kind {
	case 'B':
		if len(l.begun) < doneMaxScattered && !l.has(seq) {
			l.begin(seq)
		}
	case 'D':
		if len(l.scattered) < doneMaxScattered {
			l.add(seq)
		}
	case 'U':
		l.raise(seq)
	default:
		return errDoneRecord
	}
	return nil
}

func (t *doneTable) takeLane(id uint64, p []byte, byID map[uint64]*doneLane) error {
	at, p, ok := cutUvarint(p)
	if !ok || len(p) < 8 || len(t.lanes) >= doneMaxLanes {
		return errDoneRecord
	}
	k := laneKey{epoch: binary.LittleEndian.Uint64(p)}
	p = p[8:]
	var err error
	if k.publisher, p, err = cutString(p); err != nil {
		return err
	}
	if k.lane, _, err = cutString(p); err != nil {
		return err
	}
	l := t.lanes[k]
	if l == nil {
		l = &doneLane{id: id}
		t.lanes[k] = l
	}
	l.touched = time.Unix(int64(min(at, 1<<40)), 0)
	byID[id] = l
	t.ids = max(t.ids, id)
	return nil
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func cutUvarint(b []byte) (uint64, []byte, bool) {
	v, n := binary.Uvarint(b)
	if n <= 0 {
		return 0, nil, false
	}
	return v, b[n:], true
}

func cutString(b []byte) (string, []byte, error) {
	n, b, ok := cutUvarint(b)
	if !ok || n > uint64(len(b)) {
		return "", nil, io.ErrUnexpectedEOF
	}
	return string(b[:n]), b[n:], nil
}
