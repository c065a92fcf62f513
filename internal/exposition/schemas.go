package exposition

import (
	"hash/maphash"
	"math/bits"
	"runtime"
	"slices"
	"sync"
	"time"
	"weak"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// keepKnown is for how long after the start schemas from before it are kept for targets that were not scraped yet.
const keepKnown = 30 * time.Minute

// Schemas holds what the layouts of all targets share: targets of equal shape have one schema, and one copy of the
// lines of their expositions. What no layout uses any more is let go. It is safe for concurrent use.
type Schemas struct {
	packed bool
	// seed is the secret of the hashes of lines.
	seed maphash.Seed

	mu sync.Mutex
	// known are schemas from before the start, until a layout asks for their shape, or until it is too late for that.
	known     map[frame.SchemaID]*frame.Schema
	knownTill time.Time
	catalogs  map[frame.SchemaID]weak.Pointer[catalog]
	skeletons map[uint64]weak.Pointer[skeleton]
	// passes is memory for parses that need more than the lines they know; turns has one place for each that may run.
	passes sync.Pool
	turns  chan struct{}
}

// NewSchemas makes a store that finds the known schemas again, so that a restart gives the same series the same id.
func NewSchemas(known ...*frame.Schema) *Schemas { return newSchemas(false, known) }

// NewPackedSchemas is NewSchemas for those who seldom ask for labels: the schemas that its layouts give are packed, and
// those known had better be.
func NewPackedSchemas(known ...*frame.Schema) *Schemas { return newSchemas(true, known) }

func newSchemas(packed bool, known []*frame.Schema) *Schemas {
	s := &Schemas{
		packed:    packed,
		seed:      maphash.MakeSeed(),
		turns:     make(chan struct{}, runtime.GOMAXPROCS(0)),
		known:     make(map[frame.SchemaID]*frame.Schema, len(known)),
		catalogs:  make(map[frame.SchemaID]weak.Pointer[catalog]),
		skeletons: make(map[uint64]weak.Pointer[skeleton]),
	}
	for _, k := range known {
		s.known[k.Shape()] = k
	}
	s.knownTill = time.Now().Add(keepKnown)
	return s
}

// turn waits until a parse may begin that needs more than the lines it knows; what it gives ends the turn. Such a parse
// only computes, and takes some thousand bytes for each series: more of them at once than there are processors would be
// no faster, and after a start, when all targets are new, take many times the memory.
func (s *Schemas) turn() (end func()) {
	s.turns <- struct{}{}
	return func() { <-s.turns }
}

// catalog gives the shared schema of this shape. last is what the target had before, or nil.
func (s *Schemas) catalog(made *frame.Schema, last *catalog) *catalog {
	shape := made.Shape()
	s.mu.Lock()
	c := s.catalogs[shape].Value()
	if len(s.known) > 0 && time.Now().After(s.knownTill) {
		s.known = nil
	}
	known := s.known[shape]
	s.mu.Unlock()
	if c != nil {
		return c
	}
	c = newCatalog(made)
	switch {
	case known != nil && s.packed:
		c.schema = known.Pack(nil)
	case known != nil:
		c.schema = known.Open()
	case s.packed && last != nil:
		c.schema = made.PackAfter(last.schema)
	case s.packed:
		c.schema = made.Pack(nil)
	}
	return s.share(c)
}

// share keeps a catalog unless another of its shape came first, and gives the one kept.
func (s *Schemas) share(c *catalog) *catalog {
	shape := c.schema.Shape()
	p := weak.Make(c)
	s.mu.Lock()
	defer s.mu.Unlock()
	if first := s.catalogs[shape].Value(); first != nil {
		return first
	}
	delete(s.known, shape)
	s.catalogs[shape] = p
	runtime.AddCleanup(c, func(shape frame.SchemaID) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.catalogs[shape] == p {
			delete(s.catalogs, shape)
		}
	}, shape)
	return c
}

// skeleton gives the shared skeleton equal to sk, which is kept if there is none.
func (s *Schemas) skeleton(sk *skeleton) *skeleton {
	hash := sk.hash(s.seed)
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.skeletons[hash].Value(); old != nil {
		if old.equal(sk) {
			return old
		}
		return sk
	}
	p := weak.Make(sk)
	s.skeletons[hash] = p
	runtime.AddCleanup(sk, func(hash uint64) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.skeletons[hash] == p {
			delete(s.skeletons, hash)
		}
	}, hash)
	return sk
}

// catalog is a schema, which may be packed, with what each parse asks of it. It is immutable.
type catalog struct {
	schema   *frame.Schema
	families int          // how many it has
	single   frame.Bitmap // series that are of no family; nil if there are none
}

func newCatalog(s *frame.Schema) *catalog {
	c := &catalog{schema: s, families: len(s.Families)}
	for i := range s.Series {
		if s.Series[i].Family >= 0 {
			continue
		}
		if c.single == nil {
			c.single = frame.NewBitmap(len(s.Series))
		}
		c.single.Set(i)
	}
	return c
}

// index is an open hash table of small integers that name their keys: eight bytes for each, or twice as many.
type index struct {
	slots  []int32
	memory []int32 // of the slots
	shift  int
}

func newIndex(n int) (x index) {
	x.begin(n)
	return x
}

// begin makes the index one for n keys, of which there is none yet.
func (x *index) begin(n int) {
	log := bits.Len(uint(max(2, 2*n) - 1))
	x.memory = slices.Grow(x.memory[:0], 1<<log)
	x.slots = x.memory[:1<<log]
	for i := range x.slots {
		x.slots[i] = -1
	}
	x.shift = 64 - log
}

// find gives the entry of this hash for which equal holds, or -1.
func (x index) find(hash uint64, equal func(int32) bool) int32 {
	if len(x.slots) == 0 {
		return -1
	}
	for s := hash * 0x9e3779b97f4a7c15 >> x.shift; ; s = (s + 1) & uint64(len(x.slots)-1) {
		if e := x.slots[s]; e < 0 || equal(e) {
			return e
		}
	}
}

// add puts an entry in unless equal holds for one that is there.
func (x index) add(hash uint64, entry int32, equal func(int32) bool) {
	for s := hash * 0x9e3779b97f4a7c15 >> x.shift; ; s = (s + 1) & uint64(len(x.slots)-1) {
		e := x.slots[s]
		if e < 0 {
			x.slots[s] = entry
			return
		}
		if equal(e) {
			return
		}
	}
}
