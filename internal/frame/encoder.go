package frame

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"time"
)

// EncoderOptions are the policy of an Encoder. A decoder need not know them.
type EncoderOptions struct {
	// KeyframeEvery is how many scrapes a keyframe and what builds on it are, at most 64; 0 means 16. With more than
	// 16 each target takes more memory on both sides.
	KeyframeEvery int
	// KeyframeMaxAge is after how long another keyframe comes at the latest; 0 means 5 minutes.
	KeyframeMaxAge time.Duration
	// Always makes every scrape a keyframe, so that each can be read alone.
	Always bool
}

// The defaults of EncoderOptions.
const (
	DefaultKeyframeEvery  = 16
	DefaultKeyframeMaxAge = 5 * time.Minute
	maxKeyframeEvery      = 64
)

// generation is how many scrapes of a target, interval apart, a keyframe covers.
func (o EncoderOptions) generation(interval time.Duration) int {
	if o.Always {
		return 1
	}
	n := o.KeyframeEvery
	if n <= 0 {
		n = DefaultKeyframeEvery
	}
	if interval > 0 {
		n = int(min(int64(n), int64(o.maxAge()/interval)))
	}
	return min(max(n, 1), maxKeyframeEvery)
}

func (o EncoderOptions) maxAge() time.Duration {
	if o.KeyframeMaxAge <= 0 {
		return DefaultKeyframeMaxAge
	}
	return o.KeyframeMaxAge
}

// Encoder writes the frames of one target in one epoch. It gives them their positions, and keeps the integers of the
// few frames that later ones build on: at most two columns of int64 with the default options. It is not safe for
// concurrent use.
type Encoder struct {
	epoch    uint64
	target   *Target
	opts     EncoderOptions
	position uint64 // of the last frame

	// The generation: scrapes since the keyframe, how many there will be, and when it began.
	index, length int
	started       int64

	states  []*state // that later frames build on, by rising position
	spare   []*state // whose memory waits for the next
	schema  *Schema  // that habits belong to
	habits  []habit
	classes []uint8
	div     scales
	codes   *residualCodes
	stamps  []int64
	groups  *groups
	escapes []int32
	hidden  Bitmap        // rows of the column without a value
	extra   *extrasWriter // made when a column has more than values
}

// NewEncoder makes the encoder of a target for an epoch. All targets of an epoch have different ids, and an id is not
// used again for another one.
func NewEncoder(epoch uint64, t *Target, opts EncoderOptions) *Encoder {
	e := &Encoder{epoch: epoch, target: t, opts: opts, div: newScales(), codes: newResidualCodes()}
	// The first generation is cut short by chance, so that targets which start together have their keyframes apart.
	e.length = 1 + int(t.Labels.Hash()%uint64(opts.generation(t.Interval)))
	return e
}

// Position is that of the frame appended last, 0 before the first.
func (e *Encoder) Position() uint64 { return e.position }

// Retarget gives the target another interval and timeout from the next frame on. Its id and labels stay.
func (e *Encoder) Retarget(t *Target) {
	e.target = t
	e.Reset()
}

// Reset makes the next scrape a keyframe: after frames were dropped that later ones would build on.
func (e *Encoder) Reset() {
	for _, s := range e.states {
		e.release(s)
	}
	e.states = e.states[:0]
	if e.index > 0 {
		e.index = 0
		e.length = e.opts.generation(e.target.Interval)
	}
}

// open appends the start of a frame; close completes it.
func (e *Encoder) open(dst []byte, typ byte, timeMs int64) ([]byte, int) {
	e.position++
	dst = append(dst, typ)
	dst = binary.AppendUvarint(dst, e.target.ID)
	dst = binary.AppendUvarint(dst, e.position)
	dst = appendVarint(dst, timeMs)
	flags := byte(encodingVarint)
	if e.target.TrackTimestamps && typ != typeSamples {
		flags |= trackTimestamps
	}
	return append(dst, flags), len(dst)
}

func (e *Encoder) close(dst []byte, body int, typ byte, timeMs int64, s *Schema, c *Column) []byte {
	f := RawFrame{Type: typ, Target: e.target.ID, Position: e.position, Time: timeMs, Body: dst[body:]}
	return closeFrame(dst, body, e.epoch, &f, s, c, e.hidden)
}

func closeFrame(dst []byte, body int, epoch uint64, f *RawFrame, s *Schema, c *Column, hidden Bitmap) []byte {
	var id SchemaID
	scratch := 64
	if s != nil {
		id = s.ID
		scratch = max(scratch, min(sumBytes, 8*s.Len()))
	}
	n := len(dst)
	dst = slices.Grow(dst, scratch+binary.MaxVarintLen64+4)
	f.Body = dst[body:n]
	sum := checksum(epoch, f, id, c, hidden, dst[n:n+scratch])
	var head [binary.MaxVarintLen64]byte
	dst = slices.Insert(dst, body, binary.AppendUvarint(head[:0], uint64(n-body))...)
	return binary.LittleEndian.AppendUint32(dst, sum)
}

func appendTarget(dst []byte, t *Target) []byte {
	dst = binary.AppendUvarint(dst, uint64(max(t.Interval, 0)/time.Millisecond))
	dst = binary.AppendUvarint(dst, uint64(max(t.Timeout, 0)/time.Millisecond))
	return appendLabels(dst, t.Labels)
}

// AppendDown appends the frame of a failed scrape. What follows is a keyframe.
func (e *Encoder) AppendDown(dst []byte, timeMs int64, rep Report) []byte {
	e.Reset()
	dst, body := e.open(dst, typeDown, timeMs)
	dst = appendTarget(dst, e.target)
	dst = appendReport(dst, body, rep, 0)
	dst = append(dst, keyEnd)
	return e.close(dst, body, typeDown, timeMs, nil, nil)
}

// AppendEnd appends the last frame of the target.
func (e *Encoder) AppendEnd(dst []byte, timeMs int64, reason EndReason) []byte {
	e.Reset()
	dst, body := e.open(dst, typeEnd, timeMs)
	dst = appendTarget(dst, e.target)
	dst = append(dst, byte(reason), keyEnd)
	return e.close(dst, body, typeEnd, timeMs, nil, nil)
}

// AppendEpochEnd appends the last frame of an epoch that ends in good order.
func AppendEpochEnd(dst []byte, epoch uint64, timeMs int64) []byte {
	f := RawFrame{Type: typeEpochEnd, Time: timeMs}
	dst = append(dst, typeEpochEnd, 0, 0)
	dst = appendVarint(dst, timeMs)
	body := len(dst)
	return closeFrame(append(dst, encodingVarint, keyEnd), body, epoch, &f, nil, nil, nil)
}

// AppendScrape appends the frame of a scrape that succeeded. It neither keeps nor changes the column. The only error
// is a column that does not fit the schema; nothing is appended then.
func (e *Encoder) AppendScrape(dst []byte, timeMs int64, rep Report, s *Schema, c *Column) ([]byte, error) {
	if err := c.check(s.Len()); err != nil {
		return dst, fmt.Errorf("schema %s: %w", s.ID, err)
	}
	if age := timeMs - e.started; e.index >= e.length || age < 0 || age >= e.opts.maxAge().Milliseconds() {
		e.Reset()
	}
	e.adopt(s)
	e.hide(c)
	base := e.base()
	present := len(c.Values)
	if c.Absent != nil {
		present -= c.Absent.count(len(c.Values))
	}
	if base == nil {
		e.Reset()
		dst = e.appendKeyframe(dst, timeMs, rep, s, c, present)
	} else {
		dst = e.appendSamples(dst, timeMs, rep, s, c, present, base)
	}
	e.index++
	e.hidden = nil
	return dst, nil
}

func (e *Encoder) appendKeyframe(dst []byte, timeMs int64, rep Report, s *Schema, c *Column, present int) []byte {
	e.started = timeMs
	e.chooseClasses(s, c)
	dst, body := e.open(dst, typeKeyframe, timeMs)
	dst = appendTarget(dst, e.target)
	dst = append(dst, s.ID[:]...)
	dst = appendReport(dst, body, rep, present)
	mask := e.keep()
	dst = binary.AppendUvarint(dst, mask)
	dst = appendClasses(dst, s, e.classes)

	st := e.take(s.Len())
	base := baseState(s, e.classes, st.integers, &e.div)
	dst = e.appendValues(dst, timeMs, c, base, st)
	if mask != 0 {
		e.states = append(e.states, st)
	} else {
		e.release(st)
	}
	return e.close(dst, body, typeKeyframe, timeMs, s, c)
}

// base is the state that the next frame builds on, nil if that one is a keyframe: the frame whose number in the
// generation is that of the next with the lowest set bit cleared.
func (e *Encoder) base() *state {
	if e.index == 0 {
		return nil
	}
	position := e.position + 1 - uint64(e.index&-e.index)
	for _, s := range e.states {
		if s.position == position {
			return s
		}
	}
	return nil
}

func (e *Encoder) appendSamples(dst []byte, timeMs int64, rep Report, s *Schema, c *Column, present int, base *state) []byte {
	from := base.position
	dst, body := e.open(dst, typeSamples, timeMs)
	dst = binary.AppendUvarint(dst, e.position-from)
	dst = appendReport(dst, body, rep, present)
	mask := e.keep()
	dst = binary.AppendUvarint(dst, mask)
	inPlace := mask>>(e.position-from)&1 == 0 // nothing else builds on the base
	if base.schema != s {
		o := seriesOrigins(base.schema.Open().Text, s.Open().Text)
		start := len(dst)
		dst = append(dst, s.ID[:]...)
		dst = o.append(dst, base.schema.Len())
		dst = endSection(dst, start, keyChange)
		base = base.change(s, o, &e.div)
		inPlace = true
	}
	var st *state
	switch {
	case mask&1 == 0:
	case inPlace:
		st = base
	default:
		st = e.take(s.Len())
	}
	dst = e.appendValues(dst, timeMs, c, base, st)
	e.settle(mask, st)
	return e.close(dst, body, typeSamples, timeMs, s, c)
}

// appendValues writes sections and values; st, if it is not nil, becomes the state of this frame.
func (e *Encoder) appendValues(dst []byte, timeMs int64, c *Column, base, st *state) []byte {
	n := len(base.integers)
	absent := c.Absent
	if absent != nil && absent.count(n) == 0 {
		absent = nil
	}
	dst = appendAbsent(dst, base.absent, absent, n)
	var g *groups
	if c.Timestamps != nil {
		dst, g = e.appendTimes(dst, timeMs, c, base, st)
	}
	dst, extra := e.appendExtras(dst, timeMs, c, &base.extras, st != nil)
	if len(c.Earlier) > 0 {
		dst = appendEarlier(dst, c, timeMs, &e.div)
	}
	dst = append(dst, keyEnd)
	w := rowEncoder{codes: e.codes, c: c, rows: rows{pred: base.schema.pred, classes: base.classes, div: &e.div,
		base: base.integers, raw: base.raw, absent: e.hidden, escapes: e.escapes}}
	if st != nil {
		w.out = st.integers
	}
	dst = w.encode(dst)
	e.escapes = w.escapes
	e.learn(c)
	if st == nil {
		return dst
	}
	st.position, st.schema, st.classes, st.groups = e.position, base.schema, base.classes, g
	st.raw, st.extras = rawAfter(base.raw, w.escapes, n), extra
	if st.absent = append(st.absent[:0], absent...); absent == nil {
		st.absent = nil
	}
	return dst
}

// appendTimes writes explicit timestamps. The grouping found so far goes on even when the base has an older one.
func (e *Encoder) appendTimes(dst []byte, timeMs int64, c *Column, base, st *state) ([]byte, *groups) {
	if e.groups == nil || len(e.groups.of) != len(c.Timestamps) {
		e.groups = base.groups
	}
	e.groups, e.stamps = e.groups.stamps(c, e.stamps)
	if e.groups == nil {
		return dst, nil // not one row has a timestamp
	}
	if e.index == 0 || e.groups != base.groups && e.groups.count > len(c.Timestamps) { // most of them empty by now
		e.groups, e.stamps = e.groups.renumber(e.stamps)
	}
	return appendTimestamps(dst, base.groups, e.groups, e.stamps, timeMs), e.groups
}

// keep gives the mask of what later frames of this generation build on: bit i stands for the frame i positions back.
func (e *Encoder) keep() uint64 {
	mask := uint64(0)
	for back := 0; back <= e.index; back++ {
		base := e.index - back
		low := base & -base
		if base == 0 {
			low = e.length
		}
		// It is the base of the frames at base + 1, 2, 4, … up to its own lowest bit.
		next := 1 << bits.Len(uint(back)) // the first power of two that is more than back
		if next < low && base+next < e.length {
			mask |= 1 << back
		}
	}
	return mask
}

// settle frees the states that the mask does not name, and takes the new one.
func (e *Encoder) settle(mask uint64, st *state) {
	kept := e.states[:0]
	for _, s := range e.states {
		switch {
		case s == st:
		case mask>>(e.position-s.position)&1 != 0:
			kept = append(kept, s)
		default:
			e.release(s)
		}
	}
	if st != nil {
		kept = append(kept, st)
	}
	if len(kept) < len(e.states) {
		clear(e.states[len(kept):])
	}
	e.states = kept
}

// take gives a state for n rows, its integers of any content.
func (e *Encoder) take(n int) *state {
	for len(e.spare) > 0 {
		s := e.spare[len(e.spare)-1]
		e.spare = e.spare[:len(e.spare)-1]
		if cap(s.integers) >= n {
			s.integers = s.integers[:n]
			return s
		}
	}
	return &state{integers: make([]int64, n)}
}

func (e *Encoder) release(s *state) {
	if len(e.spare) < maxSpare {
		s.raw, s.groups, s.schema, s.classes, s.extras = nil, nil, nil, nil, extras{}
		e.spare = append(e.spare, s)
	}
}
