package exposition

import (
	"math/bits"
	"runtime"
	"sync"
	"weak"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// Schemas holds what the layouts of all targets share: targets of equal shape have one schema, and one copy of the
// lines of their exposition. What no layout uses any more is let go. It is safe for concurrent use.
type Schemas struct {
	mu sync.Mutex
	// known are schemas from before the start, until a layout asks for their shape.
	known     map[frame.SchemaID]*frame.Schema
	catalogs  map[frame.SchemaID]weak.Pointer[catalog]
	skeletons map[uint64]weak.Pointer[skeleton]
	// passes is memory for parses that need more than the lines they know.
	passes sync.Pool
}

// NewSchemas makes a store that finds the known schemas again, so that a restart gives the same series the same id.
func NewSchemas(known ...*frame.Schema) *Schemas {
	s := &Schemas{
		known:     make(map[frame.SchemaID]*frame.Schema, len(known)),
		catalogs:  make(map[frame.SchemaID]weak.Pointer[catalog]),
		skeletons: make(map[uint64]weak.Pointer[skeleton]),
	}
	for _, k := range known {
		s.known[k.Shape()] = k
	}
	return s
}

// catalog gives the shared schema of this shape.
func (s *Schemas) catalog(made *frame.Schema) *catalog {
	shape := made.Shape()
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.catalogs[shape].Value(); c != nil {
		return c
	}
	if k := s.known[shape]; k != nil {
		made = k
		delete(s.known, shape)
	}
	c := &catalog{schema: made}
	p := weak.Make(c)
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
	hash := sk.hash()
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

// catalog is a schema with a way to find a series in it. It is immutable but for the index, made when first wanted.
type catalog struct {
	schema *frame.Schema
	once   sync.Once
	index  index
}

// find gives the index of the series with these labels, or -1.
func (c *catalog) find(ls labels.Labels) int32 {
	c.once.Do(func() {
		c.index = newIndex(len(c.schema.Series))
		for i := range c.schema.Series {
			c.index.add(c.schema.Series[i].Labels.Hash(), int32(i), func(int32) bool { return false })
		}
	})
	return c.index.find(ls.Hash(), func(i int32) bool { return labels.Equal(c.schema.Series[i].Labels, ls) })
}

// index is an open hash table of small integers that name their keys: eight bytes for each.
type index struct {
	slots []int32
	shift int
}

func newIndex(n int) index {
	size := max(2, 2*n)
	log := bits.Len(uint(size - 1))
	slots := make([]int32, 1<<log)
	for i := range slots {
		slots[i] = -1
	}
	return index{slots: slots, shift: 64 - log}
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

func hashBytes(b []byte) uint64 { return xxhash.Sum64(b) }
