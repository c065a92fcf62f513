package frame

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
)

// Sections of the frames with values. They stand in rising order of their ids.
const (
	// keyChange: the base is of another schema.
	keyChange = 1<<1 | 1
	// keyAbsent: which rows are absent differs from the base.
	keyAbsent = 2<<1 | 1
	// keyTimestamps: some rows have timestamps of their own.
	keyTimestamps = 3<<1 | 1
	// keyStarts, keyHistograms, keyExemplars: start timestamps, native histograms or exemplars differ from the base.
	keyStarts     = 4<<1 | 1
	keyHistograms = 5<<1 | 1
	keyExemplars  = 6<<1 | 1
	// keyEarlier: some rows have earlier samples besides their own. A reader that does not know it may go on.
	keyEarlier = 7 << 1
)

// sections are those of one frame, as bytes; nil for one that it does not have.
type sections struct{ change, absent, timestamps, starts, histograms, exemplars, earlier []byte }

// sections reads up to the end mark. Those that nobody knows are skipped if they may be.
func (r *reader) sections() (s sections) {
	last := uint64(0)
	for r.err == nil {
		key := r.uvarint()
		if key == keyEnd {
			return s
		}
		if key>>1 <= last {
			r.malformed("section %d behind section %d", key>>1, last)
			return s
		}
		last = key >> 1
		b := r.bytes(r.uvarint())
		switch key {
		case keyChange:
			s.change = b
		case keyAbsent:
			s.absent = b
		case keyTimestamps:
			s.timestamps = b
		case keyStarts:
			s.starts = b
		case keyHistograms:
			s.histograms = b
		case keyExemplars:
			s.exemplars = b
		case keyEarlier:
			s.earlier = b
		default:
			if key&1 != 0 {
				r.fail(&VersionError{What: "section", Got: key >> 1})
			}
		}
	}
	return s
}

// endSection puts key and length before what was appended since start.
func endSection(dst []byte, start int, key uint64) []byte {
	var head [2 * binary.MaxVarintLen64]byte
	h := binary.AppendUvarint(head[:0], key)
	h = binary.AppendUvarint(h, uint64(len(dst)-start))
	return slices.Insert(dst, start, h...)
}

// word gives 64 members of a set.
func (b Bitmap) word(i int) uint64 {
	if i < len(b) {
		return b[i]
	}
	return 0
}

// count is the number of members below n.
func (b Bitmap) count(n int) int {
	c := 0
	for i := range min(len(b), (n+63)/64) {
		x := b[i]
		if rest := n - 64*i; rest < 64 {
			x &= 1<<rest - 1
		}
		c += bits.OnesCount64(x)
	}
	return c
}

// appendAbsent writes where two sets differ, as lengths of runs: alike, different, alike, …; the last one, which
// reaches to n, is left out. It writes nothing if they do not.
func appendAbsent(dst []byte, was, is Bitmap, n int) []byte {
	start := len(dst)
	run, differ := 0, false
	for i := 0; i < n; i++ {
		if i&63 == 0 && !differ && n-i >= 64 && was.word(i>>6) == is.word(i>>6) {
			run += 64
			i += 63
			continue
		}
		if (was.Has(i) != is.Has(i)) != differ {
			dst = binary.AppendUvarint(dst, uint64(run))
			run, differ = 0, !differ
		}
		run++
	}
	if differ {
		dst = binary.AppendUvarint(dst, uint64(run))
	}
	if len(dst) == start {
		return dst
	}
	return endSection(dst, start, keyAbsent)
}

// parseAbsent gives the set that appendAbsent was given, nil if it is empty.
func parseAbsent(b []byte, was Bitmap, n int) (Bitmap, error) {
	if b == nil {
		return was, nil
	}
	is := NewBitmap(n)
	copy(is, was)
	r := &reader{b: b}
	at, differ := uint64(0), false
	for len(r.b) > 0 {
		run := r.uvarint()
		if r.err != nil {
			return nil, r.err
		}
		if run > uint64(n)-at {
			return nil, fmt.Errorf("%w: a run of %d rows at row %d of %d", ErrMalformed, run, at, n)
		}
		if differ {
			for i := at; i < at+run; i++ {
				is[i>>6] ^= 1 << (i & 63)
			}
		}
		at += run
		differ = !differ
	}
	if is.count(n) == 0 {
		return nil, nil
	}
	return is, nil
}

// groups says which rows have their timestamps from the same source: rows of one group had equal ones so far. Group 0
// is that of the rows without. It is immutable.
type groups struct {
	of    []uint32
	count int // without group 0
}

// member is group 0 for all rows of nil.
func (g *groups) member(i int) uint32 {
	if g == nil {
		return 0
	}
	return g.of[i]
}

func (g *groups) size() int {
	if g == nil {
		return 0
	}
	return g.count
}

// stamps finds the timestamp of each group; if rows of one group differ now, it splits the group and gives another
// grouping.
func (g *groups) stamps(c *Column, dst []int64) (*groups, []int64) {
	dst = append(dst[:0], NoTimestamp)
	for range g.size() {
		dst = append(dst, NoTimestamp)
	}
	var split *groups
	type part struct {
		group uint32
		time  int64
	}
	var parts map[part]uint32
	for i, t := range c.Timestamps {
		if c.Absent.Has(i) {
			continue
		}
		m := g.member(i)
		switch {
		case m != 0 && dst[m] == NoTimestamp && t != NoTimestamp:
			dst[m] = t
			continue
		case dst[m] == t && (m == 0 || t != NoTimestamp):
			continue
		}
		if split == nil {
			split = &groups{of: make([]uint32, len(c.Timestamps)), count: g.size()}
			if g != nil {
				copy(split.of, g.of)
			}
			parts = make(map[part]uint32)
		}
		p := part{m, t}
		x, ok := parts[p]
		if !ok && t != NoTimestamp {
			x = uint32(len(dst))
			parts[p] = x
			dst = append(dst, t)
			split.count++
		}
		split.of[i] = x
	}
	if split != nil {
		return split, dst
	}
	return g, dst
}

// renumber drops the groups that no row is in.
func (g *groups) renumber(stamps []int64) (*groups, []int64) {
	if g == nil {
		return nil, stamps
	}
	to := make([]uint32, g.count+1)
	fresh := &groups{of: make([]uint32, len(g.of))}
	out := []int64{NoTimestamp}
	for i, m := range g.of {
		if m != 0 && to[m] == 0 {
			fresh.count++
			to[m] = uint32(fresh.count)
			out = append(out, stamps[m])
		}
		fresh.of[i] = to[m]
	}
	return fresh, out
}

// guess predicts the group of each row: that of the base, or without one what came last time after the group of the
// row before (at first the same group again).
type guess struct {
	base *groups
	last uint32
	next []uint32 // by group: the one that came after it, plus 1; 0 is not known
}

func newGuess(base *groups, count int) guess {
	g := guess{base: base}
	if base == nil {
		g.next = make([]uint32, count+1)
	}
	return g
}

func (p *guess) row(i int) uint32 {
	if p.base != nil {
		return p.base.of[i]
	}
	if g := p.next[p.last]; g != 0 {
		return g - 1
	}
	return p.last
}

func (p *guess) saw(g uint32) {
	if p.base == nil {
		p.next[p.last] = g + 1
		p.last = g
	}
}

// Forms of the grouping.
const (
	groupsOfBase = iota
	groupsCoded
)

// appendTimestamps writes the grouping unless it is that of the base, and the time of each group as its distance
// from that of the frame.
func appendTimestamps(dst []byte, base, g *groups, stamps []int64, time int64) []byte {
	start := len(dst)
	if base == g && base != nil {
		dst = append(dst, groupsOfBase)
	} else {
		dst = append(dst, groupsCoded)
		dst = binary.AppendUvarint(dst, uint64(g.size()))
		p := newGuess(base, g.count)
		hits := uint64(0)
		for i, m := range g.of {
			if p.row(i) == m {
				hits++
			} else {
				dst = binary.AppendUvarint(dst, hits)
				dst = binary.AppendUvarint(dst, uint64(m))
				hits = 0
			}
			p.saw(m)
		}
		if hits > 0 {
			dst = binary.AppendUvarint(dst, hits)
		}
	}
	for _, t := range stamps[1:] {
		if t == NoTimestamp { // no row of the group is there now
			t = time
		}
		dst = appendVarint(dst, time-t)
	}
	return endSection(dst, start, keyTimestamps)
}

// parseTimestamps gives the grouping and each row's timestamp; nil, nil if the section is not there.
func parseTimestamps(b []byte, base *groups, n int, absent Bitmap, time int64) (*groups, []int64, error) {
	if b == nil {
		return nil, nil, nil
	}
	r := &reader{b: b}
	g := base
	switch form := r.byte(); {
	case r.err != nil:
	case form == groupsCoded:
		g = r.groups(base, n)
	case form != groupsOfBase:
		return nil, nil, &VersionError{What: "form of timestamps", Got: uint64(form)}
	case base == nil:
		r.malformed("timestamps as those of a frame that has none")
	}
	if r.err != nil {
		return nil, nil, r.err
	}
	if g.count > len(r.b) {
		return nil, nil, ErrTruncated
	}
	stamps := make([]int64, g.count+1)
	stamps[0] = NoTimestamp
	for i := range g.count {
		stamps[i+1] = time - r.varint()
	}
	if r.err == nil && len(r.b) > 0 {
		r.malformed("%d bytes behind the last timestamp", len(r.b))
	}
	if r.err != nil {
		return nil, nil, r.err
	}
	ts := make([]int64, n)
	for i := range ts {
		if ts[i] = stamps[g.of[i]]; absent.Has(i) {
			ts[i] = NoTimestamp
		}
	}
	return g, ts, nil
}

func (r *reader) groups(base *groups, n int) *groups {
	g := &groups{count: r.count("groups of timestamps", n, 1), of: make([]uint32, n)}
	p := newGuess(base, g.count)
	for i := 0; i < n && r.err == nil; i++ {
		hits := r.uvarint()
		if hits > uint64(n-i) {
			r.malformed("%d rows of %d", hits, n-i)
			break
		}
		for range hits {
			g.of[i] = p.row(i)
			if int(g.of[i]) > g.count { // a group of the base that is not there any more
				r.malformed("row %d is of group %d of %d", i, g.of[i], g.count)
				return g
			}
			p.saw(g.of[i])
			i++
		}
		if i == n {
			break
		}
		m := r.uvarint()
		if m > uint64(g.count) {
			r.malformed("row %d is of group %d of %d", i, m, g.count)
			break
		}
		g.of[i] = uint32(m)
		p.saw(g.of[i])
	}
	return g
}
