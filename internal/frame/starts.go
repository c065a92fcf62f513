package frame

import (
	"encoding/binary"
	"slices"
)

// start is the start timestamp of a row, 0 if it has none.
func start(starts []int64, i int) int64 {
	if starts == nil {
		return 0
	}
	return starts[i]
}

// anyStart tells whether a row that is there has a start timestamp.
func anyStart(starts []int64, absent Bitmap) bool {
	for i, t := range starts {
		if t != 0 && !absent.Has(i) {
			return true
		}
	}
	return false
}

// The lowest bits of the head of a run of start timestamps.
const (
	startKnown = 1 << iota // one that was written before in this section
	startGap               // rows are passed over first

	startShift = 2
)

// startWriter writes start timestamps against those of the base. What it holds is reused.
type startWriter struct {
	index map[int64]int // of the distinct ones written
	last  []int64       // those of the state made last
}

// append writes the rows whose start timestamp is not that of the base, and gives those of the state after this frame:
// absent rows have theirs from the base. It writes nothing if there is no such row.
func (w *startWriter) append(dst []byte, base, now []int64, absent Bitmap, n int, time int64) ([]byte, []int64) {
	from := len(dst)
	next, last := 0, time
	for i := 0; i < n; i++ {
		t := start(now, i)
		if t == start(base, i) || absent.Has(i) {
			continue
		}
		run := 1
		for i+run < n && start(now, i+run) == t && start(base, i+run) != t && !absent.Has(i+run) {
			run++
		}
		if w.index == nil {
			w.index = make(map[int64]int)
		}
		if len(dst) == from {
			clear(w.index)
		}
		head := uint64(run-1) << startShift
		k, known := w.index[t]
		if known || t == 0 {
			head |= startKnown
		}
		if i > next {
			head |= startGap
		}
		dst = binary.AppendUvarint(dst, head)
		if i > next {
			dst = binary.AppendUvarint(dst, uint64(i-next-1))
		}
		switch {
		case t == 0:
			dst = append(dst, 0)
		case known:
			dst = binary.AppendUvarint(dst, uint64(len(w.index)-k))
		default:
			dst = appendVarint(dst, last-t)
			last = t
			w.index[t] = len(w.index)
		}
		i += run - 1
		next = i + 1
	}
	if len(dst) == from {
		return dst, base
	}
	return endSection(dst, from, keyStarts), w.settle(base, now, absent, n)
}

// settle gives the start timestamps of a state. They are not changed any more, so that states may share them.
func (w *startWriter) settle(base, now []int64, absent Bitmap, n int) []int64 {
	of := func(i int) int64 {
		if absent.Has(i) {
			return start(base, i)
		}
		return start(now, i)
	}
	same, some := len(w.last) == n, false
	for i := range n {
		t := of(i)
		some = some || t != 0
		same = same && w.last[i] == t
	}
	switch {
	case !some:
		return nil
	case !same:
		w.last = make([]int64, n)
		for i := range n {
			w.last[i] = of(i)
		}
	}
	return w.last
}

// parseStarts is the other side of append: those of the base, if there is no section.
func parseStarts(b []byte, base []int64, absent Bitmap, n int, time int64) ([]int64, error) {
	if b == nil {
		return base, nil
	}
	r := &reader{b: b}
	starts := make([]int64, n)
	copy(starts, base)
	var distinct []int64
	next, last := uint64(0), time
	for len(r.b) > 0 && r.err == nil {
		head := r.uvarint()
		if head&startGap != 0 {
			gap := r.uvarint()
			if gap >= uint64(n) {
				r.malformed("%d of %d rows without a start timestamp", gap, n)
			}
			next += gap + 1
		}
		t := int64(0)
		if x := r.uvarint(); head&startKnown == 0 {
			t = last - unzigzag(x)
			last = t
			distinct = append(distinct, t)
		} else if x > uint64(len(distinct)) {
			r.malformed("start timestamp %d of %d before", x, len(distinct))
		} else if x > 0 {
			t = distinct[uint64(len(distinct))-x]
		}
		run := head>>startShift + 1
		if r.err == nil && (next >= uint64(n) || run > uint64(n)-next) {
			r.malformed("a start timestamp of row %d and %d more of %d", next, run-1, n)
		}
		if r.err != nil {
			break
		}
		for i := next; i < next+run; i++ {
			if absent.Has(int(i)) {
				r.malformed("a start timestamp of row %d, which is absent", i)
			}
			starts[i] = t
		}
		next += run
	}
	if r.err != nil {
		return nil, r.err
	}
	if !slices.ContainsFunc(starts, func(t int64) bool { return t != 0 }) {
		return nil, nil
	}
	return starts, nil
}
