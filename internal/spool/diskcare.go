package spool

import (
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/choria-io/prometheus-streams/internal/bounded"
)

// careEvery is how often old things are looked for, and a failing disk is tried again.
const careEvery = time.Second

// collectEvery is how often schemas are looked for that nothing needs: all that segments name has to be gone through.
const collectEvery = time.Minute

// maintain looks after the disk until the spool is released.
func (d *Disk) maintain() {
	every := careEvery
	if s := d.opts.SyncEvery; s > 0 && s < every {
		every = s
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	synced, cared := time.Now(), time.Now()
	for {
		select {
		case <-d.stop:
			return
		case <-ticker.C:
		}
		if time.Since(synced)+every > d.opts.SyncEvery { // the next tick would be too late
			synced = time.Now()
			d.sync()
		}
		if time.Since(cared)+every/2 >= careEvery {
			d.care()
			cared = time.Now()
		}
	}
}

// care does what is due now and then.
func (d *Disk) care() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failing == nil {
		if s := d.active(); s != nil && s.first > 0 {
			if _, err := os.Stat(s.path); err != nil { // writing to a file that is gone goes well for ever
				d.vanished(err)
			}
		}
	}
	if d.failing != nil {
		d.retry()
	}
	for _, s := range d.segments {
		if s.recount {
			d.count(s)
			break // one at a time: it takes a while
		}
	}
	d.expire()
	d.removeDone(false)
	if time.Since(d.collected) >= collectEvery {
		d.collected = time.Now()
		d.collect(false, nil)
	}
	d.voice.say(d.used(), d.opts.MaxBytes, false)
	if d.failing == nil {
		if err := d.savePosition(); err != nil {
			d.diskError(opPosition)
		}
	}
}

// vanished writes again, elsewhere, what is still in memory of files that are gone; mu is held.
func (d *Disk) vanished(err error) {
	d.fail(err)
	d.schemas.forgetFiles()
	if len(d.tail) == 0 {
		return
	}
	var gone []*segment
	for _, s := range d.segments {
		if _, err := os.Stat(s.path); errors.Is(err, os.ErrNotExist) {
			gone = append(gone, s)
		}
	}
	from := d.tail[0].Position
	for _, s := range gone {
		if s.last < from || s.first == 0 {
			continue
		}
		for p := max(s.first, from, d.floor+1); p <= s.last; p++ {
			if c, ok := d.inTail(p); ok {
				s.held = s.held.less(c)
			}
		}
		if s.last = from - 1; s.last < s.first {
			s.first, s.last = 0, 0
		}
		d.saved = min(d.saved, from-1)
	}
}

// expire drops the segments whose newest record is too old, and begins a new one now and then so that there are some;
// mu is held.
func (d *Disk) expire() {
	if d.opts.MaxAge <= 0 {
		return
	}
	now := d.clock()
	for len(d.segments) > 1 && now-d.segments[0].newest > d.opts.MaxAge {
		s := d.segments[0]
		if s.last > d.floor {
			if !s.counted {
				d.count(s)
			}
			d.voice.lose(reasonAge, s.held)
			d.forgetUpTo(s.last)
		}
		s.held = counts{}
		if s.last == d.saved || !d.remove(s) {
			break
		}
	}
	for i := d.tailIndex(max(d.saved, d.floor) + 1); i < len(d.tail) && now-d.tail[i].clock > d.opts.MaxAge; i = d.tailIndex(max(d.saved, d.floor) + 1) {
		d.dropUnsaved(reasonAge)
	}
	d.boundTail()
	if s := d.active(); d.failing == nil && s != nil && s.first > 0 && now-s.oldest > d.opts.MaxAge/8 {
		d.rotate()
	}
}

// sync has the disk keep what it got. It does not hold up those who append.
func (d *Disk) sync() {
	d.mu.Lock()
	s := d.active()
	if !d.dirty || s == nil || d.failing != nil {
		d.mu.Unlock()
		return
	}
	d.dirty = false
	path, schemas := s.path, d.schemas.takeDirty()
	d.mu.Unlock()
	if err := errors.Join(syncSchemas(schemas), syncFile(path)); err != nil && !errors.Is(err, os.ErrNotExist) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.dirty = true
		d.diskError(opSync)
		d.fail(err) // what was written since the last time may be gone; a new segment is begun
	}
}

// syncLocked is sync at each append; mu is held.
func (d *Disk) syncLocked() {
	s := d.active()
	if !d.dirty || s == nil {
		return
	}
	d.dirty = false
	if err := errors.Join(syncSchemas(d.schemas.takeDirty()), syncFile(s.path)); err != nil {
		d.dirty = true
		d.diskError(opSync)
		d.fail(err)
	}
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// savePosition writes down how far the spool was trimmed; mu is held. It is not synced: an older one only means that some
// records are sent again.
func (d *Disk) savePosition() error {
	clock := d.clock()
	if d.floor == d.writtenFloor && clock-d.writtenClock < time.Minute && !d.released {
		return nil
	}
	text := fmt.Sprintf("%d %d", d.floor, clock.Milliseconds())
	if err := writeFile(d.positionFile(), fmt.Appendf(nil, "%s %08x\n", text, crc32.Checksum([]byte(text), castagnoli))); err != nil {
		return err
	}
	d.writtenFloor, d.writtenClock = d.floor, clock
	return nil
}

// readPosition reads what savePosition wrote; it is all zero if there is no file.
func readPosition(file string) (floor Position, clock time.Duration, err error) {
	b, err := bounded.ReadFile(file, maxNote)
	if errors.Is(err, os.ErrNotExist) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	var ms int64
	var sum uint32
	if _, err := fmt.Sscanf(string(b), "%d %d %x\n", &floor, &ms, &sum); err != nil {
		return 0, 0, fmt.Errorf("%s: %w", file, err)
	}
	if crc32.Checksum(fmt.Appendf(nil, "%d %d", floor, ms), castagnoli) != sum || ms < 0 || ms > int64(math.MaxInt64/time.Millisecond) {
		return 0, 0, fmt.Errorf("%s: wrong checksum", file)
	}
	return floor, time.Duration(ms) * time.Millisecond, nil
}

// writeFile writes a file so that there is the old one or the new one.
func writeFile(file string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
