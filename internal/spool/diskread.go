package spool

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"time"
)

// cursor is a place in a segment that is being read.
type cursor struct {
	segment *segment
	file    *os.File
	reader  *segmentReader
	at      Position // the last one read
	pending *stamped // read, and not given out
}

// read gives records after a position. Without any and without a channel to wait for, it is to be asked again.
func (d *Disk) read(after Position, most int) ([]Entry, <-chan struct{}, error) {
	d.readMu.Lock()
	defer d.readMu.Unlock()
	d.mu.Lock()
	after = max(after, d.floor)
	if d.gap[0] <= after && after < d.gap[1] {
		after = d.gap[1]
	}
	if d.released {
		d.mu.Unlock()
		return nil, nil, ErrClosed
	}
	newest := d.saved
	if n := len(d.tail); n > 0 {
		newest = d.tail[n-1].Position
	}
	if after >= newest {
		defer d.mu.Unlock()
		if d.closed {
			return nil, nil, ErrClosed
		}
		if d.wake == nil {
			d.wake = make(chan struct{})
		}
		return nil, d.wake, nil
	}
	if i := d.tailIndex(after + 1); i < len(d.tail) && (i > 0 || d.tail[0].Position == after+1 || after >= d.saved) {
		out := d.fromTail(i, most)
		d.mu.Unlock()
		return out, nil, nil
	}
	limit := d.saved
	if len(d.tail) > 0 {
		limit = min(limit, d.tail[0].Position-1)
	}
	d.mu.Unlock()
	return d.fromDisk(after, limit, most)
}

// tailIndex is the index of the first record in memory that is not before a position; mu is held.
func (d *Disk) tailIndex(p Position) int {
	return sort.Search(len(d.tail), func(i int) bool { return d.tail[i].Position >= p })
}

func (d *Disk) fromTail(i, most int) []Entry {
	var out []Entry
	size := 0
	for ; i < len(d.tail) && len(out) < most && (size == 0 || size+len(d.tail[i].Message) <= maxRead); i++ {
		e := &d.tail[i]
		size += len(e.Message)
		out = append(out, e.Entry)
		out[len(out)-1].Schemas = d.schemas.withParents(e.Schemas)
		d.given[e.Position] = e.counts()
	}
	return out
}

// fromDisk reads records after a position and not after the limit; readMu is held.
func (d *Disk) fromDisk(after, limit Position, most int) ([]Entry, <-chan struct{}, error) {
	fresh := d.cursor == nil || d.cursor.at != after
	if fresh {
		if again, err := d.seek(after, limit); again || err != nil {
			return nil, nil, err
		}
	}
	c := d.cursor
	var out []Entry
	size := 0
	now := time.Now()
	for len(out) < most {
		e, err := c.next()
		if err != nil {
			d.finished(c, limit, err, fresh && len(out) == 0)
			break
		}
		if e.Position <= after || e.gap {
			continue
		}
		if e.Position > limit || size > 0 && size+len(e.Message) > maxRead {
			c.pending = &e
			break
		}
		c.at = e.Position
		size += len(e.Message)
		e.Message = bytes.Clone(e.Message)
		e.Appended = now.Add(e.clock - d.clock())
		out = append(out, e.Entry)
	}
	d.mu.Lock()
	if len(out) == 0 && c.pending != nil { // nothing before what is in memory
		d.gap = [2]Position{after, limit}
	}
	for i := range out {
		out[i].Schemas = d.schemas.withParents(out[i].Schemas)
		if out[i].Position > d.floor {
			d.given[out[i].Position] = out[i].counts()
		}
	}
	d.mu.Unlock()
	return out, nil, nil
}

// next gives the next record of the cursor's segment. Its message is valid until the next call.
func (c *cursor) next() (stamped, error) {
	if e := c.pending; e != nil {
		c.pending = nil
		return *e, nil
	}
	return c.reader.next(false)
}

// seek opens the segment of the first record after a position. It tells to ask again if there is none to be read up to the
// limit: what was to come is counted as lost then, and left behind.
func (d *Disk) seek(after, limit Position) (again bool, err error) {
	d.closeCursor()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.segments {
		if s.last <= after || s.first == 0 {
			continue
		}
		f, err := os.Open(s.path)
		switch {
		case errors.Is(err, os.ErrNotExist):
			d.count(s) // counts it as lost
			s.first, s.last = 0, 0
			return true, nil
		case err != nil:
			d.diskError(opRead)
			return false, fmt.Errorf("read the spool: %w", err)
		}
		d.cursor = &cursor{segment: s, file: f, reader: newSegmentReader(bufio.NewReaderSize(f, 4*pageSize)), at: after}
		return false, nil
	}
	// What was there was counted when its segment was found damaged, or when it was dropped.
	d.gap = [2]Position{after, limit}
	return true, nil
}

// finished decides what the end of a segment means, and lets the next one be opened. What follows damage in a segment is
// lost: it is counted and passed over. The end of the segment that is written to may have moved since it was opened.
func (d *Disk) finished(c *cursor, limit Position, err error, fresh bool) {
	d.closeCursor()
	d.mu.Lock()
	defer d.mu.Unlock()
	s := c.segment
	if c.at >= min(s.last, limit) || !slices.Contains(d.segments, s) {
		return
	}
	if s == d.active() {
		if errors.Is(err, io.EOF) && !fresh {
			return
		}
		d.rotate()
	}
	d.count(s)
	if s.last = c.at; s.last < s.first {
		s.first, s.last = 0, 0
	}
}

func (d *Disk) closeCursor() {
	if d.cursor != nil {
		_ = d.cursor.file.Close()
		d.cursor = nil
	}
}
