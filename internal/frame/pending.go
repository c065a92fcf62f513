package frame

import (
	"bytes"
	"fmt"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

// target reads a definition.
func (r *reader) target(id uint64, lim Limits) *Target {
	return &Target{ID: id, Interval: r.milliseconds("interval"), Timeout: r.milliseconds("timeout"), Labels: r.labels(lim.Labels)}
}

// pending is one frame on its way through the decoder.
type pending struct {
	*Decoder
	raw     RawFrame
	r       *reader
	compact bool
	track   bool // Target.TrackTimestamps
	lookup  func(SchemaID) (*Schema, error)
	frame   *Frame
	known   *targetState // nil if the target is new
	defined []byte       // its definition in this frame
	hidden  Bitmap       // rows without a value
}

// target reads the definition that every frame but SAMPLES has.
func (p *pending) target() error {
	start := p.r.b
	p.known = p.targets[p.raw.Target]
	if p.known != nil && p.known.target.TrackTimestamps == p.track && bytes.HasPrefix(start, p.known.definition) {
		p.r.b = start[len(p.known.definition):]
		p.defined, p.frame.Target = p.known.definition, p.known.target
		return nil
	}
	t := p.r.target(p.raw.Target, p.lim)
	if p.r.err != nil {
		return fmt.Errorf("target: %w", p.r.err)
	}
	if p.known != nil && !labels.Equal(p.known.target.Labels, t.Labels) {
		return fmt.Errorf("%w: target id is bound to %s and to %s", ErrMalformed, p.known.target.Labels, t.Labels)
	}
	t.TrackTimestamps = p.track
	p.defined = bytes.Clone(start[:len(start)-len(p.r.b)])
	p.frame.Target = t
	return nil
}

// plain ends a frame without values.
func (p *pending) plain() (*Frame, error) {
	p.r.sections()
	if p.r.err == nil && len(p.r.b) > 0 {
		p.r.malformed("%d bytes too many", len(p.r.b))
	}
	if p.r.err != nil {
		return nil, p.r.err
	}
	return p.frame, p.verify(SchemaID{}, nil)
}

// verify compares checksums; it is the last thing that may fail.
func (p *pending) verify(id SchemaID, c *Column) error {
	found := checksum(p.epoch, &p.raw, id, c, p.hidden, p.buf[:])
	if found == p.raw.Checksum {
		return nil
	}
	p.forget(p.raw.Target)
	return &checksumError{told: p.raw.Checksum, found: found}
}

func (p *pending) down() (*Frame, error) {
	p.frame.Kind = Down
	if err := p.target(); err != nil {
		return nil, err
	}
	p.report().fill(p, 0)
	f, err := p.plain()
	if err == nil {
		p.free(p.known, 0, p.raw.Position)
	}
	return f, err
}

func (p *pending) end() (*Frame, error) {
	p.frame.Kind = End
	if err := p.target(); err != nil {
		return nil, err
	}
	p.frame.Reason = EndReason(p.r.byte())
	f, err := p.plain()
	if err == nil && p.known != nil {
		if p.free(p.known, 0, p.raw.Position); len(p.known.states) == 0 {
			p.remove(p.raw.Target, p.known)
		}
	}
	return f, err
}

func (p *pending) keyframe() (*Frame, error) {
	if err := p.target(); err != nil {
		return nil, err
	}
	id := p.r.schemaID()
	if p.r.err != nil {
		return nil, p.r.err
	}
	s, err := p.schema(id)
	if err != nil {
		return nil, err
	}
	h := p.head()
	classes := p.r.classes(s)
	if p.r.err != nil {
		return nil, p.r.err
	}
	if p.known == nil && h.mask != 0 {
		if err := within("targets", uint64(len(p.targets)+1), p.lim.Targets); err != nil {
			return nil, err
		}
	}
	base := baseState(s, classes, p.integers(len(classes)), &p.div)
	return p.values(h, base, base)
}

func (p *pending) schema(id SchemaID) (*Schema, error) {
	s, err := p.lookup(id)
	if err != nil {
		return nil, fmt.Errorf("schema %s: %w", id, err)
	}
	return s, within("series", uint64(len(s.Series)), p.lim.Series)
}

func (p *pending) samples() (*Frame, error) {
	back := p.r.uvarint()
	if p.r.err != nil {
		return nil, p.r.err
	}
	if back == 0 || back >= p.raw.Position {
		return nil, fmt.Errorf("%w: base %d positions back", ErrMalformed, back)
	}
	var base *state
	if p.known = p.targets[p.raw.Target]; p.known != nil {
		base = p.known.at(p.raw.Position - back)
	}
	if base == nil {
		return nil, fmt.Errorf("%w: frame %d", ErrNoBase, p.raw.Position-back)
	}
	p.defined, p.frame.Target = p.known.definition, p.known.target
	return p.values(p.head(), base, nil)
}

func (t *targetState) at(position uint64) *state {
	for _, s := range t.states {
		if s.position == position {
			return s
		}
	}
	return nil
}

// head is what stands before the values.
type head struct {
	duration uint64
	counts   [3]uint64
	mask     uint64
}

func (p *pending) report() (h head) {
	h.duration = p.r.uvarint()
	if !p.compact {
		h.counts = [3]uint64{p.r.uvarint(), p.r.uvarint(), p.r.uvarint()}
	}
	return h
}

func (p *pending) head() head {
	h := p.report()
	h.mask = p.r.uvarint()
	return h
}

// fill gives the frame its report; present is how many samples it has.
func (h head) fill(p *pending, present int) {
	rep := &p.frame.Report
	rep.Duration = time.Duration(h.duration)
	if p.compact {
		rep.Scraped, rep.PostRelabel = present, present
		return
	}
	rep.Scraped, rep.PostRelabel, rep.Added = int(h.counts[0]), int(h.counts[1]), int(h.counts[2])
}

// values reads sections and values against base. st becomes the frame's state; if it is nil and one is needed, it
// is made.
func (p *pending) values(h head, base, st *state) (*Frame, error) {
	sec := p.r.sections()
	if p.r.err != nil {
		return nil, p.r.err
	}
	if sec.change != nil {
		if st != nil {
			return nil, fmt.Errorf("%w: a keyframe changes its schema", ErrMalformed)
		}
		var err error
		if base, err = p.change(sec.change, base); err != nil {
			return nil, fmt.Errorf("change of schema: %w", err)
		}
	}
	n := len(base.integers)
	c := &p.frame.Column
	var err error
	if c.Absent, err = parseAbsent(sec.absent, base.absent, n); err != nil {
		return nil, fmt.Errorf("absent rows: %w", err)
	}
	var g *groups
	if g, c.Timestamps, err = parseTimestamps(sec.timestamps, base.groups, n, c.Absent, p.raw.Time); err != nil {
		return nil, fmt.Errorf("timestamps: %w", err)
	}
	extra, err := p.extras(&sec, &base.extras, c, n)
	if err != nil {
		return nil, err
	}
	if st == nil && h.mask&1 != 0 {
		st = &state{integers: p.integers(n)}
	}
	w := rowDecoder{codes: p.codes, rows: rows{pred: base.schema.pred, classes: base.classes, div: &p.div,
		base: base.integers, raw: base.raw, absent: p.hidden}}
	if st != nil {
		w.out = st.integers
	}
	c.Values = make([]float64, n)
	if err := w.decode(p.r, c.Values); err != nil {
		return nil, err
	}
	if err := p.earlier(sec.earlier, c); err != nil {
		return nil, fmt.Errorf("earlier samples: %w", err)
	}
	if st != nil {
		*st = state{position: p.raw.Position, schema: base.schema, classes: base.classes, integers: st.integers,
			raw: rawAfter(base.raw, w.escapes, n), absent: c.Absent, groups: g, extras: extra}
		if err := p.room(st, h.mask); err != nil {
			return nil, err
		}
	}
	if err := p.verify(base.schema.ID, c); err != nil {
		return nil, err
	}
	p.frame.Kind, p.frame.Schema = Scraped, base.schema
	h.fill(p, n-c.Absent.count(n))
	p.settle(h.mask, st)
	return p.frame, nil
}

// change reads which rows of the base go on in another schema.
func (p *pending) change(b []byte, base *state) (*state, error) {
	r := &reader{b: b}
	id := r.schemaID()
	if r.err != nil {
		return nil, r.err
	}
	s, err := p.schema(id)
	if err != nil {
		return nil, err
	}
	o := r.origins("series", len(base.integers), len(s.Series))
	if r.err != nil {
		return nil, r.err
	}
	if len(o) != len(s.Series) || len(r.b) > 0 {
		return nil, fmt.Errorf("%w: %d rows for %d series", ErrMalformed, len(o), len(s.Series))
	}
	return base.change(s, o, &p.div), nil
}

// room checks that one more state may be kept.
func (p *pending) room(st *state, mask uint64) error {
	if mask&1 == 0 {
		return nil
	}
	if got := p.bytes + st.bytes(); got > p.lim.StateBytes {
		return &LimitError{What: "bytes of states", Got: uint64(got), Max: uint64(max(p.lim.StateBytes, 0))}
	}
	return p.fits(st, mask)
}

// settle frees what the mask does not name and keeps st if it does.
func (p *pending) settle(mask uint64, st *state) {
	t := p.known
	if t == nil {
		alone := mask&1 == 0 // nothing will build on this frame
		if len(p.targets) >= p.lim.Targets || alone && p.held()+targetBytes+2*int64(len(p.defined)) > p.limit {
			p.recycle(st)
			return
		}
		t = &targetState{}
		p.targets[p.raw.Target] = t
	} else {
		p.fixed -= t.bytes()
	}
	t.target, t.definition = p.frame.Target, p.defined
	p.fixed += t.bytes()
	p.free(t, mask, p.raw.Position)
	if st == nil {
		return
	}
	if mask&1 == 0 {
		p.recycle(st)
		return
	}
	p.keep(t, st)
}
