package spool

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"
)

// Append takes a record and those of its schemas that the spool may not have yet, as Memory does. It also takes what the
// disk does not, as long as there is memory for it.
func (d *Disk) Append(r Record, schemas ...Schema) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("append to the spool: %w", ErrClosed)
	}
	e := stamped{Entry: Entry{Record: r, Position: d.last + 1, Appended: time.Now()}, clock: d.clock()}
	size := r.size()
	given := newOffer(schemas)
	lookUp := given.over(d.schemas.parent)
	for _, id := range r.Schemas {
		if !lookUp.whole(id) {
			return fmt.Errorf("append to the spool: record on %q: %w: %s", r.Subject, ErrNoSchema, id)
		}
	}
	for _, s := range given.taken(r.Schemas, d.schemas.live, d.schemas.parent) {
		size += onDisk(s.size())
	}
	if size > d.opts.MaxBytes {
		return fmt.Errorf("append to the spool: %w: %d bytes, limit %d", ErrTooLarge, size, d.opts.MaxBytes)
	}
	if err := d.makeRoom(size, lookUp.withParents(r.Schemas)); err != nil {
		return fmt.Errorf("append to the spool: %w", err)
	}
	d.schemas.add(r.Schemas, given)
	d.last++
	d.tail = append(d.tail, e)
	d.tailSize += r.size()
	d.metrics.appended.Inc()
	d.save()
	if d.opts.SyncEvery <= 0 && d.failing == nil {
		d.syncLocked()
	}
	d.boundTail()
	d.voice.say(d.used(), d.opts.MaxBytes, false)
	d.wakeUp()
	return nil
}

// used is what counts against the limit: what is on disk, the records that are in memory alone, and the schemas that only
// records keep; mu is held.
func (d *Disk) used() int64 {
	n := d.schemas.kept() + d.unsaved()
	for _, s := range d.segments {
		n += s.bytes
	}
	return n
}

// unsaved is the size of the records that are in memory alone; mu is held.
func (d *Disk) unsaved() int64 {
	var n int64
	for i := len(d.tail) - 1; i >= 0 && d.tail[i].Position > max(d.saved, d.floor); i-- {
		n += d.tail[i].size()
	}
	return n
}

// makeRoom removes what is not needed, and drops the oldest if it must; mu is held. The schemas named in keep are needed.
func (d *Disk) makeRoom(size int64, keep []string) error {
	for d.used()+size > d.opts.MaxBytes {
		if d.removeDone(true) || d.collect(true, keep) {
			continue
		}
		if d.opts.Refuse {
			return fmt.Errorf("%w: %d bytes, limit %d", ErrFull, d.used()+size, d.opts.MaxBytes)
		}
		if !d.dropOldest(reasonFull) {
			return fmt.Errorf("%w: %d bytes, limit %d", ErrFull, d.used()+size, d.opts.MaxBytes)
		}
	}
	for d.failing != nil && d.unsaved()+size > d.opts.MemoryBytes {
		if d.opts.Refuse {
			return fmt.Errorf("%w: the disk takes nothing: %w", ErrFull, d.failing)
		}
		if d.full && len(d.segments) > 1 && d.dropOldest(reasonFull) {
			d.retry()
			continue
		}
		if !d.dropUnsaved(reasonDisk) {
			return fmt.Errorf("%w: the disk takes nothing: %w", ErrFull, d.failing)
		}
	}
	return nil
}

// dropOldest gives up the oldest segment that holds something, or what is in memory alone; mu is held.
func (d *Disk) dropOldest(reason string) bool {
	for _, s := range d.segments {
		if s.first == 0 || s.last <= d.floor {
			continue
		}
		if s == d.active() && !d.rotate() {
			break
		}
		if !s.counted {
			d.count(s)
		}
		d.voice.lose(reason, s.held)
		d.drop(s)
		return true
	}
	return d.dropUnsaved(reason)
}

// drop removes a segment whose records are accounted for; mu is held.
func (d *Disk) drop(s *segment) {
	if s.last > d.floor {
		d.forgetUpTo(s.last)
	}
	s.held = counts{}
	d.remove(s)
	d.boundTail()
}

// dropUnsaved gives up the oldest record that is in memory alone; mu is held.
func (d *Disk) dropUnsaved(reason string) bool {
	i := d.tailIndex(max(d.saved, d.floor) + 1)
	if i == len(d.tail) {
		return false
	}
	d.voice.lose(reason, d.tail[i].counts())
	for _, e := range d.tail[:i+1] {
		d.tailSize -= e.size()
	}
	d.tail = slices.Delete(d.tail, 0, i+1)
	return true
}

// remove takes a segment off the disk; mu is held. What cannot be removed is no longer read and tried again.
func (d *Disk) remove(s *segment) bool {
	if err := os.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		d.diskError(opRemove)
		return false
	}
	d.segments = slices.DeleteFunc(d.segments, func(t *segment) bool { return t == s })
	return true
}

// removeDone removes the segments of which nothing is held, except the one with the newest record, which says what the
// epoch before the next one was; mu is held. At once is without regard to Retain. It tells whether it removed any.
func (d *Disk) removeDone(atOnce bool) bool {
	upTo := d.floor
	if !atOnce {
		upTo = min(upTo, d.retained())
	}
	done := false
	for len(d.segments) > 1 { // from the front: their numbers must have no hole
		s := d.segments[0]
		if s.last > upTo || s.last != 0 && s.last == d.saved || !d.remove(s) {
			break
		}
		done = true
	}
	return done
}

// segmentOf finds the segment of a position; nil if it is not on disk. mu is held.
func (d *Disk) segmentOf(p Position) *segment {
	for _, s := range d.segments {
		if s.first > 0 && s.first <= p && p <= s.last {
			return s
		}
	}
	return nil
}

// active is the segment that is written to; mu is held.
func (d *Disk) active() *segment {
	if len(d.segments) == 0 {
		return nil
	}
	return d.segments[len(d.segments)-1]
}

// boundTail takes off memory what is trimmed, and what is on disk if it is much; mu is held.
func (d *Disk) boundTail() {
	n := 0
	for n < len(d.tail) {
		e := &d.tail[n]
		if e.Position > d.floor && (e.Position > d.saved || d.tailSize <= maxTail) {
			break
		}
		d.tailSize -= e.size()
		n++
	}
	if n > 0 {
		d.tail = slices.Delete(d.tail, 0, n)
	}
}

// save writes the records that are in memory alone; mu is held.
func (d *Disk) save() {
	if d.failing != nil {
		return
	}
	for i := d.tailIndex(max(d.saved, d.floor) + 1); i < len(d.tail); i++ {
		e := &d.tail[i]
		if err := d.schemas.write(e.Schemas); err != nil {
			d.fail(err)
			return
		}
		if e.Position > d.saved+1 {
			gap := stamped{Entry: Entry{Position: d.saved + 1}, clock: e.clock, gap: true}
			if !d.write(&gap) {
				return
			}
		}
		if !d.write(e) {
			return
		}
		d.saved = e.Position
	}
}

// write puts one record into the log; mu is held.
func (d *Disk) write(e *stamped) bool {
	d.buffer = appendRecord(d.buffer[:0], e)
	size := int64(len(d.buffer))
	s := d.active()
	if s == nil || s.bytes > 0 && s.bytes+size > d.segmentSize {
		if !d.rotate() {
			return false
		}
		s = d.active()
	}
	if err := d.wal.Log(d.buffer); err != nil {
		d.fail(err)
		return false
	}
	if s.first == 0 {
		s.first, s.oldest = e.Position, e.clock
	}
	s.last, s.newest = e.Position, e.clock
	s.bytes += size + 7*(1+size/pageSize)
	if !e.gap {
		s.held.add(e.counts())
		s.name(e.Schemas)
	}
	d.dirty = true
	if cap(d.buffer) > maxTail {
		d.buffer = nil
	}
	return true
}

// rotate begins a new segment; mu is held.
func (d *Disk) rotate() bool {
	index, err := d.wal.NextSegment()
	if err != nil {
		d.fail(err)
		return false
	}
	if s := d.active(); s != nil {
		if info, err := os.Stat(s.path); err == nil {
			s.bytes = info.Size()
		}
	}
	d.segments = append(d.segments, d.newSegment(index))
	return true
}

// fail notes that the disk takes nothing; mu is held.
func (d *Disk) fail(err error) {
	d.diskError(opWrite)
	if d.failing == nil {
		d.log.Error("the spool's disk takes nothing: what is scraped waits in memory, and is lost if the process ends",
			"file", d.opts.Directory, "limit", d.opts.MemoryBytes, "error", err)
		d.metrics.failing.Set(1)
	}
	d.failing, d.full = err, errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// retry tries to write again what waits in memory, in a new segment: the old one may end in half a record. mu is held.
func (d *Disk) retry() {
	since := d.failing
	err := os.MkdirAll(d.walDir(), 0o750)
	if err == nil {
		err = errors.Join(os.MkdirAll(d.schemas.dir, 0o750), d.checkFormat(), d.takeLock())
	}
	if err != nil {
		d.fail(err)
		return
	}
	if !d.rotate() {
		return
	}
	d.failing = nil
	d.save()
	if d.failing == nil {
		d.metrics.failing.Set(0)
		d.log.Info("the spool's disk takes records again", "file", d.opts.Directory, "reason", since.Error())
	}
}

func (d *Disk) diskError(operation string) { d.metrics.diskErrors.WithLabelValues(operation).Inc() }
