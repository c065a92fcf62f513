package exposition

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/common/model"
)

// skeleton is an exposition without its values: its lines in order, each with the series that it gives. It is immutable
// but for the index, and shared by the targets that expose the same.
type skeleton struct {
	catalog *catalog
	kind    kind
	// positional says that the arena holds all bytes of the exposition but the values, so that the next one can be
	// compared with it. Else it holds the keys alone.
	positional bool
	arena      []byte
	lines      []line
	// tail is what follows the last value.
	tail []byte
	// kept is the number of lines that relabelling does not drop.
	kept int
	// starts are the start timestamps by series, nil if there are none: what gives them stands in the arena, so that
	// they are the same whenever it is.
	starts []int64

	once  sync.Once
	index index
}

// line is one sample line. Its bytes up to the value reach in the arena from the end of the line before it to end.
type line struct {
	end    uint32
	key    uint32
	keyLen uint32
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

func (sk *skeleton) keyOf(i int32) []byte {
	l := &sk.lines[i]
	return sk.arena[l.key : l.key+l.keyLen]
}

// find gives the first line with this key, or -1. A line whose sample was not taken is none: its series was forgotten.
func (sk *skeleton) find(key []byte) int32 {
	if sk == nil {
		return -1
	}
	sk.once.Do(func() {
		sk.index = newIndex(len(sk.lines))
		for i := range sk.lines {
			if sk.lines[i].flags&untaken != 0 {
				continue
			}
			k := sk.keyOf(int32(i))
			sk.index.add(hashBytes(k), int32(i), func(j int32) bool { return bytes.Equal(sk.keyOf(j), k) })
		}
	})
	return sk.index.find(hashBytes(key), func(i int32) bool { return bytes.Equal(sk.keyOf(i), key) })
}

// start gives where in the arena line i begins.
func (sk *skeleton) start(i int) uint32 {
	if i == 0 {
		return 0
	}
	return sk.lines[i-1].end
}

func (sk *skeleton) equal(o *skeleton) bool {
	return sk.catalog == o.catalog && sk.kind == o.kind && sk.positional == o.positional &&
		bytes.Equal(sk.arena, o.arena) && slices.Equal(sk.lines, o.lines) && bytes.Equal(sk.tail, o.tail) &&
		slices.Equal(sk.starts, o.starts)
}

func (sk *skeleton) hash() uint64 {
	h := xxhash.New()
	_, _ = h.Write(sk.catalog.schema.ID[:])
	_, _ = h.Write(sk.arena)
	_, _ = h.Write(sk.tail)
	var b [8]byte
	for i := range sk.lines {
		binary.LittleEndian.PutUint32(b[:], uint32(sk.lines[i].series))
		binary.LittleEndian.PutUint32(b[4:], uint32(sk.lines[i].flags)<<16|uint32(sk.lines[i].family))
		_, _ = h.Write(b[:])
	}
	return h.Sum64()
}
