package scrape

import (
	"fmt"
	"runtime"
)

// smallBody is how large a buffer may become without asking whether there is memory for it: the scrapes of ordinary
// targets never wait for others.
const smallBody = 1 << 20

// mostLoose is how much of large buffers the garbage collector may leave lying about: one that doubles up to its limit leaves
// as much behind as it has in the end, and the collector by itself may come after the next ones have done so too.
const mostLoose = 32 << 20

// BodyMemoryError says that there is no memory for a body beside those of the other targets that are read at the moment.
type BodyMemoryError struct {
	// Want is what the body needs, in bytes; Held is what the others have, Limit what all may have together.
	Want, Held, Limit int64
}

func (e *BodyMemoryError) Error() string {
	return fmt.Sprintf("body_memory_limit exceeded: %d bytes for this body beside the %d of other targets, limit %d", e.Want, e.Held, e.Limit)
}

// share is what a buffer in use has of the memory for bodies. The Buffers' mu guards it.
type share struct {
	// held is counted; want is that with what is waited for.
	held, want int64
	number     uint64          // rises with each scrape: of two equal ones the later gives way
	done       <-chan struct{} // the scrape's context
	abort      func()          // ends the scrape; nil if it cannot be
	evicted    *BodyMemoryError
}

// NewBuffers makes buffers that take so many bytes together at most while they are in use, besides 1 MiB for each and 256 KiB
// for what it was compressed to; 0 or less is no bound.
//
// Who gives way is decided by size, so that a target that sends without end harms none that is smaller: if there is no
// room for a body to grow, the largest of those being read fails. The largest itself waits for room, until its scrape's
// timeout. So nobody waits for ever: of those who wait all but the largest end it.
func NewBuffers(limit int64) *Buffers {
	return &Buffers{limit: max(limit, 0), freed: make(chan struct{})}
}

// begin counts a buffer as in use; b.mu is held.
func (b *Buffers) begin(x *buffer) *buffer {
	x.bytes = x.bytes[:0]
	b.numbers++
	x.share = share{held: x.size(), number: b.numbers}
	b.held += x.share.held
	x.owner = b
	return x
}

// size is what a buffer takes, but for what decompresses.
func (x *buffer) size() int64 { return int64(cap(x.bytes) + cap(x.whole)) }

// watch says how the scrape that uses a buffer is ended, by others and by itself.
func (x *buffer) watch(done <-chan struct{}, abort func()) {
	if x.owner == nil {
		return
	}
	x.owner.mu.Lock()
	defer x.owner.mu.Unlock()
	x.share.done, x.share.abort = done, abort
}

// end counts a buffer as not in use; b.mu is held.
func (b *Buffers) end(x *buffer) {
	b.held -= x.share.held
	b.discard(x.share.held)
	delete(b.large, x)
	x.share, x.owner = share{}, nil
	b.wake()
}

// discard counts what the garbage collector has yet to take, of large buffers; b.mu is held.
func (b *Buffers) discard(bytes int64) {
	if b.limit > 0 && bytes > smallBody {
		b.loose += bytes
	}
}

// wake has those who wait look again; b.mu is held.
func (b *Buffers) wake() {
	if b.waiting > 0 {
		close(b.freed)
		b.freed = make(chan struct{})
	}
}

// whyEvicted is why a scrape was ended for others, or nil.
func (x *buffer) whyEvicted() error {
	if x.owner == nil {
		return nil
	}
	x.owner.mu.Lock()
	defer x.owner.mu.Unlock()
	if e := x.share.evicted; e != nil {
		return e
	}
	return nil
}

// grow makes the buffer larger, but not larger than a body of limit bytes needs. If that is near it is all of it at once: not
// a copy more for the last few bytes.
func (x *buffer) grow(limit int64) error {
	size := 2 * int64(cap(x.bytes))
	if size > limit-limit/4 {
		size = limit + 2
	}
	return x.enlarge(&x.bytes, size, smallBody)
}

// enlarge gives a part of the buffer so much room; up to small it does not ask. While it is copied both are there.
func (x *buffer) enlarge(part *[]byte, size, small int64) error {
	if x.owner != nil {
		if err := x.owner.claim(x, size, small); err != nil {
			return err
		}
	}
	old := *part
	*part = make([]byte, len(old), size)
	copy(*part, old)
	if x.owner != nil {
		x.owner.settle(x)
		x.owner.tidy()
	}
	return nil
}

// claim waits until there are so many bytes more for a buffer, if that is more than small.
func (b *Buffers) claim(x *buffer, more, small int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := &x.share
	s.want = s.held + more
	if b.limit > 0 && more > small {
		if b.large == nil {
			b.large = map[*buffer]struct{}{}
		}
		b.large[x] = struct{}{}
		if err := b.await(x, more); err != nil {
			return err
		}
	}
	s.held += more
	b.held += more
	return nil
}

// await waits for room, and makes it; b.mu is held, but not while it waits.
func (b *Buffers) await(x *buffer, more int64) error {
	for first := true; ; first = false {
		if x.share.evicted != nil {
			return x.share.evicted
		}
		if b.held+b.loose+more <= b.limit {
			return nil
		}
		if b.held+more <= b.limit && !b.collecting {
			b.collect()
			continue
		}
		if x.share.want > b.limit {
			return b.refusal(x)
		}
		if b.held+more > b.limit && b.evict(x, more) || first {
			b.wake()
		}
		b.waiting++
		freed := b.freed
		b.mu.Unlock()
		timedOut := false
		select {
		case <-freed:
		case <-x.share.done:
			timedOut = true
		}
		b.mu.Lock()
		b.waiting--
		if timedOut && x.share.evicted == nil {
			return b.refusal(x)
		}
	}
}

// tidy collects if too much is loose. Only bodies of tens of megabytes make so much.
func (b *Buffers) tidy() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.loose > mostLoose && !b.collecting {
		b.collect()
	}
}

// collect has the garbage collector take what is loose. b.mu is held, but not meanwhile.
func (b *Buffers) collect() {
	loose := b.loose
	b.collecting = true
	b.mu.Unlock()
	runtime.GC()
	b.mu.Lock()
	b.collecting = false
	b.loose -= loose
	b.wake()
}

// evict ends scrapes that are larger than that of x, the largest first, until there will be room for it. It tells whether
// there was one.
func (b *Buffers) evict(x *buffer, more int64) (any bool) {
	var coming int64 // what those that were ended give back soon
	for y := range b.large {
		if y.share.evicted != nil {
			coming += y.share.held
		}
	}
	for b.held-coming+more > b.limit {
		largest := x
		for y := range b.large {
			if y.share.evicted == nil && y.share.outweighs(&largest.share) {
				largest = y
			}
		}
		if largest == x {
			return any
		}
		largest.share.evicted, any = b.refusal(largest), true
		coming += largest.share.held
		if largest.share.abort != nil {
			largest.share.abort()
		}
	}
	return any
}

// outweighs tells which of two gives way.
func (s *share) outweighs(other *share) bool {
	a, b := max(s.held, s.want), max(other.held, other.want)
	return a > b || a == b && s.number > other.number
}

func (b *Buffers) refusal(x *buffer) *BodyMemoryError {
	return &BodyMemoryError{Want: max(x.share.want, x.share.held), Held: b.held - x.share.held, Limit: b.limit}
}

// settle counts what a buffer has once its old memory is gone.
func (b *Buffers) settle(x *buffer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	freed := x.share.held - x.size()
	x.share.held -= freed
	x.share.want = x.share.held
	b.held -= freed
	b.discard(freed)
	b.wake()
}
