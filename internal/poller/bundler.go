package poller

import (
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

const (
	// spoolRetry is how often a bundle is offered to a spool that is full.
	spoolRetry = time.Second
	// bundleOverhead is about what a bundle takes besides its frames and names.
	bundleOverhead = 96
)

// bundler gathers frames into bundles and hands them to the spool.
type bundler struct {
	cfg     Config
	epoch   uint64
	log     *slog.Logger
	metrics *metrics

	mu      sync.Mutex
	age     time.Duration
	timer   *time.Timer // flushes the open bundle when it is old enough
	frames  []byte      // of the open bundle
	open    content
	opened  time.Time
	seq     uint64
	totals  frame.Totals
	waiting []Bundle    // those that the full spool did not take yet, in order
	retry   *time.Timer // offers them again
	stuck   bool        // the spool is full
	losing  bool        // the spool refused the last bundle for good
	losses  uint64      // how often it did
	closed  bool

	used   map[frame.SchemaID]int // by how many targets
	untold bool                   // Live does not know yet what is used
}

// content counts what is in the open bundle.
type content struct {
	frames, samples int
	schemas         map[frame.SchemaID]*frame.Schema
}

func newBundler(c Config, epoch uint64, m *metrics) *bundler {
	b := &bundler{cfg: c, epoch: epoch, log: c.Logger, metrics: m, age: c.FlushAge, used: map[frame.SchemaID]int{}}
	if b.age <= 0 {
		b.age = time.Second
	}
	b.frames = make([]byte, 0, c.FlushSize+c.FlushSize/4)
	b.open.schemas = map[frame.SchemaID]*frame.Schema{}
	b.timer = stoppedTimer(b.flushOld)
	b.retry = stoppedTimer(b.offerAgain)
	return b
}

func stoppedTimer(f func()) *time.Timer {
	t := time.AfterFunc(time.Hour, f)
	t.Stop()
	return t
}

// setAge says how long the oldest frame of a bundle may wait, from the next bundle on.
func (b *bundler) setAge(age time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.age = age
}

// add copies an encoded frame into the open bundle. After close it is too late: the frame counts as lost.
func (b *bundler) add(encoded []byte, samples int, s *frame.Schema) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		b.metrics.lose(lostStopped, 1, samples)
		return
	}
	if len(b.frames) > 0 && len(b.frames)+len(encoded) > b.cfg.FlushSize {
		b.flush()
	}
	if len(b.frames) == 0 {
		b.opened = time.Now()
		b.timer.Reset(b.age)
	}
	b.frames = append(b.frames, encoded...)
	b.open.frames++
	b.open.samples += samples
	if s != nil {
		b.open.schemas[s.ID] = s
	}
	if len(b.frames) >= b.cfg.FlushSize {
		b.flush()
	}
}

// flushOld is the timer's.
func (b *bundler) flushOld() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.frames) == 0 || b.closed {
		return
	}
	if left := b.age - time.Since(b.opened); left > 0 { // it fired for the bundle before this one
		b.timer.Reset(left)
		return
	}
	b.flush()
}

// flush finishes the open bundle; mu is held.
func (b *bundler) flush() {
	b.timer.Stop()
	b.seq++
	b.totals.Frames += uint64(b.open.frames)
	b.totals.Samples += uint64(b.open.samples)
	totals := b.totals
	h := frame.Header{Publisher: b.cfg.Publisher, Lane: b.cfg.Lane, Epoch: b.epoch, Seq: b.seq, Totals: &totals}
	if b.seq == 1 {
		h.Predecessor = b.cfg.Predecessor
	}
	room := len(b.frames) + len(h.Publisher) + len(h.Lane) + bundleOverhead
	done := Bundle{
		Message: frame.AppendBundle(make([]byte, 0, room), h, b.frames),
		Frames:  b.open.frames, Samples: b.open.samples,
		Schemas: make([]*frame.Schema, 0, len(b.open.schemas)),
	}
	for _, s := range b.open.schemas {
		done.Schemas = append(done.Schemas, s)
	}
	b.metrics.bundle(done, time.Since(b.opened))

	if cap(b.frames) > 4*b.cfg.FlushSize { // a frame that large is rare, its memory is not worth keeping
		b.frames = make([]byte, 0, b.cfg.FlushSize+b.cfg.FlushSize/4)
	}
	b.frames = b.frames[:0]
	b.open.frames, b.open.samples = 0, 0
	clear(b.open.schemas)

	b.tellLive(done.Schemas)
	b.waiting = append(b.waiting, done)
	b.offer()
}

// offer hands the spool what it has not got yet; mu is held.
func (b *bundler) offer() {
	for len(b.waiting) > 0 {
		next := b.waiting[0]
		err := b.cfg.Spool.Append(next)
		if errors.Is(err, ErrSpoolFull) {
			if !b.stuck {
				b.log.Error("the spool is full: nothing is scraped until it has room", "error", err)
			}
			b.stuck = true
			set(b.metrics.full, true)
			b.retry.Reset(spoolRetry)
			return
		}
		b.waiting[0] = Bundle{}
		b.waiting = b.waiting[1:]
		b.appended(next, err)
	}
	b.waiting = nil
	if b.stuck {
		b.stuck = false
		set(b.metrics.full, false)
		b.log.Info("the spool has room again")
	}
}

// appended notes what became of a bundle.
func (b *bundler) appended(n Bundle, err error) {
	if err != nil {
		b.losses++
		b.metrics.lose(lostSpool, n.Frames, n.Samples)
		if !b.losing {
			b.log.Error("the spool does not take bundles: their samples are lost", "bytes", len(n.Message), "count", n.Samples, "error", err)
		}
	} else if b.losing {
		b.log.Info("the spool takes bundles again")
	}
	b.losing = err != nil
}

func (b *bundler) offerAgain() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.offer()
	}
}

// full tells that bundles wait for room in the spool, so that nothing may be scraped.
func (b *bundler) full() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.waiting) > 0
}

// lost counts the bundles that did not come into the spool: later frames must not build on theirs.
func (b *bundler) lost() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.losses
}

// use notes that a target goes over from one schema to another; either may be nil.
func (b *bundler) use(old, new *frame.Schema) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if new != nil {
		if b.used[new.ID]++; b.used[new.ID] == 1 {
			b.untold = true
		}
	}
	if old != nil {
		if b.used[old.ID]--; b.used[old.ID] == 0 {
			delete(b.used, old.ID)
			b.untold = true
		}
	}
}

// tellLive says which schemas are in use, if that changed. Those of the bundle about to be appended stay among them
// until the next one; mu is held.
func (b *bundler) tellLive(needed []*frame.Schema) {
	if !b.untold || b.cfg.Live == nil {
		return
	}
	b.untold = false
	ids := make([]frame.SchemaID, 0, len(b.used)+len(needed))
	for id := range b.used {
		ids = append(ids, id)
	}
	for _, s := range needed {
		if b.used[s.ID] == 0 {
			ids = append(ids, s.ID)
			b.untold = true
		}
	}
	b.cfg.Live(ids)
}

// close ends the epoch: everything is in the spool, or counted as lost, when it returns.
func (b *bundler) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cfg.Format1 == nil {
		b.frames = frame.AppendEpochEnd(b.frames, b.epoch, time.Now().UnixMilli())
		if b.open.frames == 0 {
			b.opened = time.Now()
		}
		b.flush()
	}
	b.closed = true
	b.retry.Stop()
	for _, n := range b.waiting {
		b.appended(n, ErrSpoolFull)
	}
	b.waiting = nil
}
