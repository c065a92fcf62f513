package exposition

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"slices"
	"sync"

	"github.com/prometheus/common/model"
)

// skeleton is an exposition without its values: its lines in order, each with the series that it gives. Of their text it
// has hashes alone, 64 bits of a hash with a secret of this process: the text itself would take several times the memory
// of all the rest, and that a changed line has the hash of the one in its place is less likely (2⁻⁶⁴) than a fault of
// the memory that would hold it. It is immutable but for the index, and shared by the targets that expose the same.
type skeleton struct {
	catalog *catalog
	kind    kind
	// positional says that the lines tell of all bytes of the exposition but the values and the tail, so that the next
	// one can be compared with it. Else they tell of the keys alone.
	positional bool
	lines      []line
	// tail is what follows the last value.
	tail []byte
	// kept is the number of lines that relabelling does not drop.
	kept int
	// starts are the start timestamps by series, nil if there are none: what gives them stands between the lines, so that
	// they are the same whenever those are.
	starts []int64

	once  sync.Once
	index index
}

// line is one sample line.
type line struct {
	// text is the hash of its bytes up to the value, from the end of the value before it; size is how many they are.
	text uint64
	// key is the hash of its name and labels, as they are written.
	key  uint64
	size uint32
	// series is the index of its series, or dropped.
	series int32
	// family is the index of the family that was described last before the line, or noFamily or lostFamily.
	family int32
	// typ is what the last # TYPE before it said, which decides how le and quantile are written.
	typ   metricType
	flags lineFlags
}

const (
	// dropped is the series of a line that relabelling drops.
	dropped = -1
	// noFamily: nothing was described before the line. lostFamily: a family that the schema does not keep, because
	// it has no series in it.
	noFamily, lostFamily = -1, -2
)

type lineFlags uint8

const (
	// repeated: an earlier line of the same exposition has the same key.
	repeated lineFlags = 1 << iota
	// untaken: the sample was not taken, so the series still counts as new when it is.
	untaken
	// saysFamily and saysType: a # HELP or # TYPE, a # TYPE stands between the line before it and this one.
	saysFamily
	saysType
)

type metricType uint8

// name is how # TYPE names it in the text format.
func (t metricType) name() string {
	return [...]string{"untyped", "counter", "gauge", "histogram", "summary"}[t]
}

func metricTypeOf(t model.MetricType) metricType {
	switch t {
	case model.MetricTypeCounter:
		return 1
	case model.MetricTypeGauge:
		return 2
	case model.MetricTypeHistogram:
		return 3
	case model.MetricTypeSummary:
		return 4
	}
	return 0
}

// find gives the first line with this key, or -1. A line whose sample was not taken is none: its series was forgotten.
func (sk *skeleton) find(key uint64) int32 {
	if sk == nil {
		return -1
	}
	sk.once.Do(func() {
		sk.index = newIndex(len(sk.lines))
		for i := range sk.lines {
			if sk.lines[i].flags&untaken != 0 {
				continue
			}
			k := sk.lines[i].key
			sk.index.add(k, int32(i), func(j int32) bool { return sk.lines[j].key == k })
		}
	})
	return sk.index.find(key, func(i int32) bool { return sk.lines[i].key == key })
}

func (sk *skeleton) equal(o *skeleton) bool {
	return sk.catalog == o.catalog && sk.kind == o.kind && sk.positional == o.positional &&
		slices.Equal(sk.lines, o.lines) && bytes.Equal(sk.tail, o.tail) && slices.Equal(sk.starts, o.starts)
}

func (sk *skeleton) hash(seed maphash.Seed) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	_, _ = h.Write(sk.catalog.schema.ID[:])
	_, _ = h.Write(sk.tail)
	var b [8]byte
	for i := range sk.lines {
		binary.LittleEndian.PutUint64(b[:], sk.lines[i].text)
		_, _ = h.Write(b[:])
	}
	return h.Sum64()
}
