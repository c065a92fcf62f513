package frame

import (
	"fmt"
	"slices"
)

// Decoder turns the frames of one epoch of a lane into frames with values. It has no policy: each frame says what it
// builds on and what is needed after it. It is not safe for concurrent use.
type Decoder struct {
	epoch   uint64
	lim     Limits
	targets map[uint64]*targetState
	bytes   int64
	div     scales
	codes   *residualTables
	buf     [sumBytes]byte
	spare   [][]int64
	// histogramCodes are made for the first histogram.
	histogramCodes *histogramTables
	fixed          int64           // bytes of targets
	idle           int64           // bytes of spare
	limit          int64           // of SetLimit
	named          map[*Schema]int // how many states are of a schema
	schemaBytes    int64
}

// targetState is what a decoder keeps of a target.
type targetState struct {
	target     *Target
	definition []byte // as it came, to see at once that it comes again
	states     []*state
}

// NewDecoder makes the decoder of one epoch of a lane.
func NewDecoder(epoch uint64, lim Limits) *Decoder {
	return &Decoder{
		epoch: epoch, lim: lim, targets: make(map[uint64]*targetState), div: newScales(), codes: newResidualTables(),
		limit: noLimit, named: make(map[*Schema]int),
	}
}

// Targets is how many targets the decoder holds states of, Bytes the memory of the states.
func (d *Decoder) Targets() int { return len(d.targets) }

// Bytes is the memory that states take: what Limits.StateBytes bounds.
func (d *Decoder) Bytes() int64 { return d.bytes }

// StateBytes is about how much memory the decoder holds: states, the targets they belong to, and memory that waits
// for the next ones. It costs nothing to ask. What states share with each other and with frames that were handed out
// counts for each state.
func (d *Decoder) StateBytes() int64 { return d.bytes + d.fixed + d.idle }

// Decode reads one frame. Frames of a target are handed over in the order of their positions; one that comes late is
// read if its base is still there, and changes nothing for those after it.
//
// schema gives a schema by its id; its error is passed on wrapped. The frame returned shares nothing with the
// decoder's further work and is not changed any more.
//
// On an error the decoder's state is as before, so that a frame may be tried again once its schema (or, after
// ErrNoBase, its base) is there; only ErrChecksum, which says that the state was not the sender's, discards all
// states of the target.
func (d *Decoder) Decode(raw RawFrame, schema func(SchemaID) (*Schema, error)) (*Frame, error) {
	f, err := d.decode(raw, schema)
	if err != nil {
		return nil, fmt.Errorf("frame %d of target %d: %w", raw.Position, raw.Target, err)
	}
	return f, nil
}

func (d *Decoder) decode(raw RawFrame, schema func(SchemaID) (*Schema, error)) (*Frame, error) {
	r := &reader{b: raw.Body}
	flags := r.byte()
	if r.err != nil {
		return nil, r.err
	}
	if x := flags & encodingMask; x != encodingVarint {
		return nil, &VersionError{What: "encoding", Got: uint64(x)}
	}
	known := byte(encodingMask | compactReport)
	if raw.defines() {
		known |= trackTimestamps
	}
	if flags&^known != 0 {
		return nil, &VersionError{What: "flags of a frame", Got: uint64(flags)}
	}
	p := &pending{
		Decoder: d, raw: raw, r: r, compact: flags&compactReport != 0, track: flags&trackTimestamps != 0, lookup: schema,
	}
	p.frame = &Frame{Position: raw.Position, Time: raw.Time}
	switch raw.Type {
	case typeKeyframe:
		return p.keyframe()
	case typeSamples:
		return p.samples()
	case typeDown:
		return p.down()
	case typeEnd:
		return p.end()
	case typeEpochEnd:
		p.frame.Kind = EpochEnd
		return p.plain()
	default:
		return nil, &VersionError{What: "frame type", Got: uint64(raw.Type)}
	}
}

// free drops the states up to a position that are not in the mask, which counts back from it.
func (d *Decoder) free(t *targetState, mask, position uint64) {
	if t == nil {
		return
	}
	for i := 0; i < len(t.states); {
		if needed(t.states[i], mask, position) {
			i++
			continue
		}
		d.drop(t, i)
	}
}

// needed tells whether a state goes on after a frame at position with this mask.
func needed(s *state, mask, position uint64) bool {
	back := position - s.position
	return s.position > position || back > 0 && back < 64 && mask>>back&1 != 0
}

func (d *Decoder) drop(t *targetState, i int) {
	d.bytes -= t.states[i].bytes()
	d.name(t.states[i].schema, -1)
	d.recycle(t.states[i])
	t.states = slices.Delete(t.states, i, i+1)
}

// keep adds a state to those of a target, in the order of their positions.
func (d *Decoder) keep(t *targetState, st *state) {
	i, _ := slices.BinarySearchFunc(t.states, st.position, func(s *state, at uint64) int {
		if s.position < at {
			return -1
		}
		return 1
	})
	t.states = slices.Insert(t.states, i, st)
	d.bytes += st.bytes()
	d.name(st.schema, 1)
	for len(t.states) > max(d.lim.States, 1) {
		d.drop(t, 0)
	}
}

// Adopt takes what another decoder of the same epoch and lane holds and this one does not, as far as there is room: its
// states of targets that are not known here, and for those that are, of frames that are not. The other one is empty then.
func (d *Decoder) Adopt(other *Decoder) {
	for id, from := range other.targets {
		t := d.targets[id]
		if t == nil {
			if len(d.targets) >= d.lim.Targets {
				continue
			}
			t = &targetState{target: from.target, definition: from.definition}
			d.targets[id] = t
			d.fixed += t.bytes()
		}
		for _, st := range from.states {
			need := st.bytes()
			known := slices.ContainsFunc(t.states, func(s *state) bool { return s.position == st.position })
			if known || d.bytes+need > d.lim.StateBytes {
				continue
			}
			if d.named[st.schema] == 0 {
				need += st.schema.Bytes()
			}
			if d.held()+need <= d.limit {
				d.keep(t, st)
			}
		}
	}
	*other = *NewDecoder(other.epoch, other.lim)
}

// forget discards all states of a target.
func (d *Decoder) forget(id uint64) {
	if t := d.targets[id]; t != nil {
		for len(t.states) > 0 {
			d.drop(t, 0)
		}
		d.remove(id, t)
	}
}

// remove takes a target without states out.
func (d *Decoder) remove(id uint64, t *targetState) {
	d.fixed -= t.bytes()
	delete(d.targets, id)
}

// bytes is about the memory of a target besides its states: its definition, and that again as labels.
func (t *targetState) bytes() int64 { return targetBytes + 2*int64(len(t.definition)) }

const targetBytes = 256

// maxSpare bounds the memory that waits for the next states.
const maxSpare = 8

func (d *Decoder) recycle(s *state) {
	if s != nil && len(d.spare) < maxSpare {
		d.spare = append(d.spare, s.integers)
		d.idle += 8 * int64(cap(s.integers))
	}
}

func (d *Decoder) integers(n int) []int64 {
	for i, x := range d.spare {
		if cap(x) >= n && cap(x) <= 2*n+64 {
			d.spare[i] = d.spare[len(d.spare)-1]
			d.spare = d.spare[:len(d.spare)-1]
			d.idle -= 8 * int64(cap(x))
			return x[:n]
		}
	}
	return make([]int64, n)
}
