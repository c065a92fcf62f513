package receiver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/choria-io/prometheus-streams/internal/bounded"
)

// The done table's file is a log of records behind one line of text:
//
//	record  = length (uvarint, of payload) payload crc32c(payload, 4 bytes little endian)
//	payload = 'L' id (uvarint) unix seconds (uvarint) epoch (8 bytes) publisher (uvarint length, bytes) lane (same)
//	        | 'B' id seq (uvarints)       this bundle is being delivered
//	        | 'D' id seq (uvarints)       this bundle is done
//	        | 'U' id seq (uvarints)       this bundle and all before it are done
//
// An 'L' binds a small id to a lane for the rest of the file. A torn record at the end is cut off; it costs one repeat.
const (
	maxDoneTable     = 1 << 30 // bytes; a whole one of 20,000 lanes has some MB
	doneMagic        = "prometheus-streams done table 1\n"
	doneMaxRecord    = 64 << 10
	doneMaxLanes     = 1 << 20
	doneMaxScattered = 1 << 20
	doneMaxEpochs    = 64 // of one publisher's lane: a publisher must not fill the table with epochs
	doneCompactAt    = 4 << 20
)

// laneKey names one lane of one epoch.
type laneKey struct {
	publisher, lane string
	epoch           uint64
}

// epochText is the epoch as inspect and the poller write it.
func (k laneKey) epochText() string { return strconv.FormatUint(k.epoch, 16) }

// doneLane is what is done of one lane: everything up to upTo, and the scattered ones above it. What was begun and is
// not done may have been delivered.
type doneLane struct {
	id        uint64
	upTo      uint64
	scattered map[uint64]struct{}
	begun     map[uint64]struct{}
	touched   time.Time
}

func (d *doneLane) has(seq uint64) bool {
	if d == nil {
		return false
	}
	_, ok := d.scattered[seq]
	return ok || seq <= d.upTo
}

func (d *doneLane) hasBegun(seq uint64) bool {
	if d == nil {
		return false
	}
	_, ok := d.begun[seq]
	return ok
}

func (d *doneLane) begin(seq uint64) {
	if d.begun == nil {
		d.begun = make(map[uint64]struct{})
	}
	d.begun[seq] = struct{}{}
}

func (d *doneLane) add(seq uint64) {
	delete(d.begun, seq)
	if seq <= d.upTo {
		return
	}
	if seq != d.upTo+1 {
		if d.scattered == nil {
			d.scattered = make(map[uint64]struct{})
		}
		d.scattered[seq] = struct{}{}
		return
	}
	d.upTo = seq
	d.settle()
}

// raise makes everything up to seq done.
func (d *doneLane) raise(seq uint64) {
	if seq > d.upTo {
		for s := range d.scattered {
			if s <= seq {
				delete(d.scattered, s)
			}
		}
		for s := range d.begun {
			if s <= seq {
				delete(d.begun, s)
			}
		}
		d.upTo = seq
	}
	d.settle()
}

// settle moves scattered ones that have become part of the unbroken beginning into it.
func (d *doneLane) settle() {
	for {
		if _, ok := d.scattered[d.upTo+1]; !ok {
			return
		}
		d.upTo++
		delete(d.scattered, d.upTo)
	}
}

// doneTable remembers which bundles a sink is done with, across restarts if it has a file. It is for one goroutine.
type doneTable struct {
	path  string // empty: in memory only
	file  *os.File
	size  int64
	base  int64 // size after the last compaction
	keep  time.Duration
	now   func() time.Time
	lanes map[laneKey]*doneLane
	ids   uint64
	buf   []byte
	err   error // the first error of writing; sticky
}

// openDone opens or makes the table's file; with an empty path nothing is kept on disk. Lanes that were not touched for
// keep are forgotten.
func openDone(path string, keep time.Duration, now func() time.Time) (*doneTable, error) {
	t := &doneTable{path: path, keep: keep, now: now, lanes: make(map[laneKey]*doneLane)}
	if path == "" {
		return t, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("state directory of the receiver: %w", err)
	}
	b, err := bounded.ReadFile(path, maxDoneTable)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("done table: %w", err)
	}
	if len(b) > 0 {
		if err := t.read(b); err != nil {
			return nil, fmt.Errorf("done table %s: %w", path, err)
		}
	}
	// Starting from a fresh file cuts off a torn tail and drops old lanes.
	if err := t.compact(); err != nil {
		return nil, err
	}
	return t, nil
}

// lane gives what is done of a lane, or nil.
func (t *doneTable) lane(k laneKey) *doneLane { return t.lanes[k] }

// begin notes that a bundle is being delivered.
func (t *doneTable) begin(k laneKey, seq uint64) error {
	t.buf = t.buf[:0]
	if l := t.bind(k); !l.has(seq) && !l.hasBegun(seq) {
		l.begin(seq)
		t.record('B', l.id, seq)
	}
	return t.write()
}

// done notes a bundle as done.
func (t *doneTable) done(k laneKey, seq uint64) error {
	t.buf = t.buf[:0]
	if l := t.bind(k); !l.has(seq) {
		l.add(seq)
		t.record('D', l.id, seq)
	}
	return t.write()
}

// skip notes everything up to seq as done: it was counted as lost or lies before the first bundle seen.
func (t *doneTable) skip(k laneKey, seq uint64) error {
	t.buf = t.buf[:0]
	l := t.bind(k)
	if seq <= l.upTo {
		return t.write()
	}
	l.raise(seq)
	t.record('U', l.id, seq)
	return t.write()
}

// bind finds or makes the lane's entry; a new one is put into the buffer.
func (t *doneTable) bind(k laneKey) *doneLane {
	l := t.lanes[k]
	if l == nil {
		t.makeRoom(k)
		t.ids++
		l = &doneLane{id: t.ids}
		t.lanes[k] = l
		l.touched = t.now()
		t.define(k, l)
	}
	l.touched = t.now()
	return l
}

// makeRoom forgets the oldest epoch of a publisher's lane that has too many.
func (t *doneTable) makeRoom(k laneKey) {
	var oldest laneKey
	count := 0
	for other, l := range t.lanes {
		if other.publisher != k.publisher || other.lane != k.lane {
			continue
		}
		if count++; count == 1 || l.touched.Before(t.lanes[oldest].touched) {
			oldest = other
		}
	}
	if count >= doneMaxEpochs {
		delete(t.lanes, oldest)
	}
}

func (t *doneTable) define(k laneKey, l *doneLane) {
	p := make([]byte, 0, 32+len(k.publisher)+len(k.lane))
	p = append(p, 'L')
	p = binary.AppendUvarint(p, l.id)
	p = binary.AppendUvarint(p, uint64(max(0, l.touched.Unix())))
	p = binary.LittleEndian.AppendUint64(p, k.epoch)
	p = appendString(p, k.publisher)
	p = appendString(p, k.lane)
	t.frame(p)
}

func (t *doneTable) record(kind byte, id, seq uint64) {
	var p [2*binary.MaxVarintLen64 + 1]byte
	b := append(p[:0], kind)
	b = binary.AppendUvarint(b, id)
	t.frame(binary.AppendUvarint(b, seq))
}

func (t *doneTable) frame(payload []byte) {
	t.buf = binary.AppendUvarint(t.buf, uint64(len(payload)))
	t.buf = append(t.buf, payload...)
	t.buf = binary.LittleEndian.AppendUint32(t.buf, crc32.Checksum(payload, castagnoli()))
}

func (t *doneTable) write() error {
	if t.err != nil || t.file == nil || len(t.buf) == 0 {
		return t.err
	}
	n, err := t.file.Write(t.buf)
	t.size += int64(n)
	switch {
	case err != nil:
		t.err = fmt.Errorf("done table: %w", err)
	case t.size > doneCompactAt && t.size > 4*t.base:
		t.err = t.compact()
	}
	return t.err
}

// compact writes what is known into a new file and puts it in the old one's place.
func (t *doneTable) compact() error {
	tmp := t.path + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("done table: %w", err)
	}
	t.buf = append(t.buf[:0], doneMagic...)
	for k, l := range t.lanes {
		if t.now().Sub(l.touched) > t.keep {
			delete(t.lanes, k)
			continue
		}
		t.define(k, l)
		t.record('U', l.id, l.upTo)
		for seq := range l.scattered {
			t.record('D', l.id, seq)
		}
		for seq := range l.begun {
			t.record('B', l.id, seq)
		}
	}
	if _, err = f.Write(t.buf); err == nil {
		if err = f.Sync(); err == nil {
			err = os.Rename(tmp, t.path)
		}
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("done table: %w", err)
	}
	if t.file != nil {
		t.file.Close()
	}
	t.file, t.size, t.base = f, int64(len(t.buf)), int64(len(t.buf))
	return nil
}

// close closes the file. The table must not be written to any more.
func (t *doneTable) close() error {
	if t.file == nil {
		return nil
	}
	return t.file.Close()
}
