package spool

import "time"

// trimMark remembers when something was trimmed.
type trimMark struct {
	at   time.Time
	upTo Position
}

// Trim forgets all records up to and with a position: they are stored, or accounted for elsewhere. It does not fail: what
// cannot be removed from the disk is counted and tried again.
func (d *Disk) Trim(upTo Position) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	upTo = min(upTo, d.last)
	if upTo <= d.floor {
		return nil
	}
	for p := d.floor + 1; p <= upTo; p++ {
		s := d.segmentOf(p)
		if s == nil { // in memory alone, or dropped
			continue
		}
		if s.last <= upTo {
			s.held, p = counts{}, s.last
			continue
		}
		c, known := d.given[p]
		if !known {
			c, known = d.inTail(p)
		}
		s.held = s.held.less(c)
		s.recount = s.recount || !known
	}
	d.forgetUpTo(upTo)
	if n := len(d.trimmed); n == 0 || time.Since(d.trimmed[n-1].at) > time.Second {
		d.trimmed = append(d.trimmed, trimMark{time.Now(), upTo})
	} else {
		d.trimmed[n-1].upTo = upTo
	}
	d.boundTail()
	return nil
}

// forgetUpTo moves the floor; mu is held.
func (d *Disk) forgetUpTo(upTo Position) {
	if uint64(upTo-d.floor) > uint64(len(d.given)) {
		for p := range d.given {
			if p <= upTo {
				delete(d.given, p)
			}
		}
	} else {
		for p := d.floor + 1; p <= upTo; p++ {
			delete(d.given, p)
		}
	}
	d.floor = upTo
}

// inTail gives what a record in memory holds; mu is held.
func (d *Disk) inTail(p Position) (counts, bool) {
	if i := d.tailIndex(p); i < len(d.tail) && d.tail[i].Position == p {
		return d.tail[i].counts(), true
	}
	return counts{}, false
}

// Rewind makes records readable again that were trimmed not longer ago than Retain, and returns the position before the
// first of them: a stream that lost what it had acknowledged is to get it again.
func (d *Disk) Rewind() Position {
	d.mu.Lock()
	defer d.mu.Unlock()
	to := d.retained()
	if len(d.segments) > 0 {
		for _, s := range d.segments { // no further than what is there
			if s.first > 0 {
				to = max(to, s.first-1)
				break
			}
		}
	}
	if to >= d.floor {
		return d.floor
	}
	d.floor, d.trimmed = to, nil
	for _, s := range d.segments {
		if s.last > to {
			d.count(s)
		}
	}
	return to
}

// Retain changes how long records stay readable after they were trimmed.
func (d *Disk) Retain(after time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opts.Retain = after
}

// retained is the position up to which records were trimmed longer than Retain ago; mu is held.
func (d *Disk) retained() Position {
	if d.opts.Retain <= 0 || len(d.trimmed) == 0 {
		return d.floor
	}
	var to Position
	for len(d.trimmed) > 0 && time.Since(d.trimmed[0].at) > d.opts.Retain {
		to = d.trimmed[0].upTo
		if len(d.trimmed) == 1 {
			break
		}
		d.trimmed = d.trimmed[1:]
	}
	return to
}
