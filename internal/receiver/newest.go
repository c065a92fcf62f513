package receiver

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// The newest scrapes' file is a log of records behind one line of text:
//
//	record  = length (uvarint, of payload) payload crc32c(payload, 4 bytes little endian)
//	payload = 'T' id (uvarint) publisher (uvarint length, bytes) job (same) instance (same)
//	        | 'N' id (uvarint) seconds (varint) within (uvarint) sum (8 bytes)   the sink is done with this scrape
//
// A 'T' binds a small id to a target for the rest of the file. A torn record at the end is cut off: its scrape may be
// delivered once more.
const (
	newestMagic     = "prometheus-streams newest scrapes 1\n"
	newestMaxRecord = 16 << 10
	newestKept      = 2 * format1Targets
	newestCompactAt = 4 << 20
	newestRetry     = time.Minute
)

// newest is the newest scrape of a target of format 1: that which was handed to the sink, and that which the sink is done
// with.
type newest struct {
	latest
	done    latest
	id      uint64 // in the file; 0: not there yet
	touched time.Time
}

// latest are the last messages of a target.
type latest struct {
	time   int64 // seconds: of the newest
	within int64 // how many messages of that second came before it
	recent []format1Seen
}

// note takes a message that is not older than the newest one.
func (l *latest) note(seen format1Seen) {
	if seen.time == l.time && len(l.recent) > 0 {
		l.within++
	} else {
		l.time, l.within = seen.time, 0
	}
	if len(l.recent) == format1Recent {
		l.recent = append(l.recent[:0], l.recent[1:]...)
	}
	l.recent = append(l.recent, seen)
}

// settle takes a message that the sink is done with, in any order of times; only those of the newest second are kept.
func (l *latest) settle(seen format1Seen, within int64) {
	switch {
	case len(l.recent) > 0 && seen.time < l.time:
		return
	case len(l.recent) == 0 || seen.time > l.time:
		l.time, l.within, l.recent = seen.time, within, append(l.recent[:0], seen)
	case !slices.Contains(l.recent, seen) && len(l.recent) < format1Recent:
		l.recent = append(l.recent, seen)
	}
	l.within = max(l.within, within)
}

// shorten forgets what is not of the newest second: a message as old as that is late, whether it came before or not.
func (l *latest) shorten() {
	l.recent = slices.DeleteFunc(slices.Clone(l.recent), func(s format1Seen) bool { return s.time != l.time })
}

// newestTable remembers the newest scrape of each target of format 1, across restarts if it has a file. What a process
// that was killed had noted is there; the file's content is that of whole records. It is for one goroutine.
//
// Without it a receiver would go on without knowing what it delivered last, and deliver what comes late over that.
type newestTable struct {
	path    string // empty: in memory only
	file    *os.File
	size    int64
	base    int64 // size after the last compaction
	keep    time.Duration
	logger  *slog.Logger
	targets map[format1Key]*newest
	ids     uint64
	buf     []byte
	failed  time.Time // when writing failed last; zero if it did not
}

// openNewest reads the table's file, which is made when there is something to keep. Targets of which nothing came for keep
// are forgotten.
func openNewest(path string, keep time.Duration, logger *slog.Logger) (*newestTable, error) {
	t := &newestTable{path: path, keep: keep, logger: logger, targets: make(map[format1Key]*newest)}
	if path == "" {
		return t, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("state directory of the receiver: %w", err)
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return t, nil
	}
	if err == nil {
		err = errors.Join(t.read(bufio.NewReader(f), time.Now()), f.Close())
	}
	if err == nil {
		err = t.compact(time.Now()) // cuts off a torn tail and drops old targets
	}
	if err != nil {
		return nil, fmt.Errorf("newest scrapes %s: %w", path, err)
	}
	return t, nil
}

// add takes in a target that was not known.
func (t *newestTable) add(k format1Key, n *newest) {
	if len(t.targets) >= newestKept {
		t.makeRoom()
	}
	t.targets[k] = n
}

// makeRoom forgets the tenth of the targets that was silent for longest.
func (t *newestTable) makeRoom() {
	type one struct {
		key     format1Key
		touched time.Time
	}
	all := make([]one, 0, len(t.targets))
	for k, n := range t.targets {
		all = append(all, one{k, n.touched})
	}
	slices.SortFunc(all, func(a, b one) int { return a.touched.Compare(b.touched) })
	for _, o := range all[:len(all)/10] {
		t.targets[o.key].id = 0
		delete(t.targets, o.key)
	}
}

// done notes that the sink is done with a scrape, before its message is acknowledged.
func (t *newestTable) done(k format1Key, n *newest, seen format1Seen, within int64, now time.Time) {
	n.done.settle(seen, within)
	if t.path == "" || !t.failed.IsZero() {
		return
	}
	if t.targets[k] == nil {
		t.add(k, n) // there was no room for it meanwhile
	}
	t.buf = t.buf[:0]
	if n.id == 0 {
		t.ids++
		n.id = t.ids
		t.define(k, n)
	}
	t.record(n.id, seen, within)
	var err error
	if t.file == nil || t.size > newestCompactAt && t.size > 4*t.base {
		err = t.compact(now) // it has this one
	} else {
		var count int
		count, err = t.file.Write(t.buf)
		t.size += int64(count)
	}
	if err != nil {
		t.failed = now
		t.logger.Error("which scrapes were delivered cannot be noted: after a restart older ones may be delivered over them",
			"file", t.path, "error", err)
	}
}

// mend writes the file anew some time after writing failed.
func (t *newestTable) mend(now time.Time) {
	if t.failed.IsZero() || now.Sub(t.failed) < newestRetry {
		return
	}
	t.failed = now
	if t.compact(now) == nil {
		t.failed = time.Time{}
		t.logger.Info("which scrapes were delivered is noted again", "file", t.path)
	}
}

func (t *newestTable) define(k format1Key, n *newest) {
	p := binary.AppendUvarint(append(make([]byte, 0, 64), 'T'), n.id)
	p = appendString(appendString(appendString(p, k.publisher), k.job), k.instance)
	t.frame(p)
}

func (t *newestTable) record(id uint64, seen format1Seen, within int64) {
	var space [3*binary.MaxVarintLen64 + 9]byte
	p := binary.AppendUvarint(append(space[:0], 'N'), id)
	p = binary.AppendUvarint(binary.AppendVarint(p, seen.time), uint64(max(0, within)))
	t.frame(binary.LittleEndian.AppendUint64(p, seen.sum))
}

func (t *newestTable) frame(payload []byte) {
	t.buf = binary.AppendUvarint(t.buf, uint64(len(payload)))
	t.buf = append(t.buf, payload...)
	t.buf = binary.LittleEndian.AppendUint32(t.buf, crc32.Checksum(payload, castagnoli()))
}

// encode puts a whole file of what is known into the buffer.
func (t *newestTable) encode(now time.Time) {
	t.buf = append(t.buf[:0], newestMagic...)
	for k, n := range t.targets {
		switch {
		case now.Sub(n.touched) > t.keep:
			delete(t.targets, k)
			n.id = 0
			continue
		case len(n.done.recent) == 0:
			continue
		case n.id == 0: // it could not be noted before
			t.ids++
			n.id = t.ids
		}
		t.define(k, n)
		for _, seen := range n.done.recent {
			t.record(n.id, seen, n.done.within)
		}
	}
}

// compact writes what is known into a new file and puts it in the old one's place.
func (t *newestTable) compact(now time.Time) error {
	f, err := os.OpenFile(t.path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	t.encode(now)
	_, err = f.Write(t.buf)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(f.Name(), t.path)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	_ = t.close()
	t.file, t.size, t.base = f, int64(len(t.buf)), int64(len(t.buf))
	return nil
}

// close closes the file. The table must not be written to any more.
func (t *newestTable) close() error {
	if t.file == nil {
		return nil
	}
	return t.file.Close()
}

// read takes a whole file. What follows the first damaged record is ignored: it is as if it had not been noted.
func (t *newestTable) read(r *bufio.Reader, now time.Time) error {
	magic := make([]byte, len(newestMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != newestMagic {
		return errors.New("is no list of newest scrapes (move it away to start afresh: older scrapes may then be delivered over newer ones)")
	}
	byID := make(map[uint64]*newest)
	var space []byte
	for {
		size, err := binary.ReadUvarint(r)
		if err != nil || size > newestMaxRecord {
			break
		}
		if need := int(size) + 4; cap(space) < need {
			space = make([]byte, need)
		}
		b := space[:size+4]
		if _, err := io.ReadFull(r, b); err != nil || binary.LittleEndian.Uint32(b[size:]) != crc32.Checksum(b[:size], castagnoli()) {
			break
		}
		if !t.take(b[:size], byID, now) {
			break
		}
	}
	for k, n := range t.targets {
		if len(n.done.recent) == 0 {
			delete(t.targets, k)
			continue
		}
		n.latest = n.done
		n.recent = slices.Clone(n.done.recent)
	}
	return nil
}

// take takes one record; false means that it is none.
func (t *newestTable) take(p []byte, byID map[uint64]*newest, now time.Time) bool {
	if len(p) == 0 {
		return false
	}
	kind := p[0]
	id, p, ok := cutUvarint(p[1:])
	if !ok || id == 0 {
		return false
	}
	switch kind {
	case 'T':
		return t.takeTarget(id, p, byID)
	case 'N':
		at, w := binary.Varint(p)
		if w <= 0 {
			return false
		}
		within, p, ok := cutUvarint(p[w:])
		if !ok || len(p) != 8 || within > 1<<32 {
			return false
		}
		if n := byID[id]; n != nil {
			n.done.settle(format1Seen{at, binary.LittleEndian.Uint64(p)}, int64(within))
			n.touched = time.Unix(min(n.done.time, now.Unix()), 0)
		}
		return true
	}
	return false
}

func (t *newestTable) takeTarget(id uint64, p []byte, byID map[uint64]*newest) bool {
	var k format1Key
	var err error
	if k.publisher, p, err = cutString(p); err != nil {
		return false
	}
	if k.job, p, err = cutString(p); err != nil {
		return false
	}
	if k.instance, _, err = cutString(p); err != nil {
		return false
	}
	n := t.targets[k]
	if n == nil {
		n = &newest{}
		t.add(k, n)
	}
	n.id = id
	byID[id] = n
	t.ids = max(t.ids, id)
	return true
}
