package outsider

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Types of frames.
const (
	Keyframe byte = 0x81 + iota
	Samples
	Down
	End
	EpochEnd
)

// The bits of the first byte of a body.
const (
	flagCompact byte = 0x10
	flagTrack   byte = 0x20
)

// Totals count frames and samples.
type Totals struct{ Frames, Samples uint64 }

// Predecessor is the epoch before.
type Predecessor struct {
	Epoch, Seq uint64
	Totals     Totals
	Clean      bool
}

// Bundle is a message with frames.
type Bundle struct {
	Publisher, Lane string
	Epoch, Seq      uint64
	Predecessor     *Predecessor
	Totals          *Totals
	Frames          []*Frame
}

// Definition is what is said of a target. Interval and Timeout are in milliseconds.
type Definition struct {
	Interval, Timeout uint64
	Labels            []Label
	Track             bool
}

// Frame is one scrape of one target, or its end. Frames that may be skipped are not there.
type Frame struct {
	Type             byte
	Target, Position uint64
	Time             int64
	Distance, Mask   uint64 // of frames with values
	Reason           byte   // of an END

	Definition                            // of SAMPLES that of the newest frame with one
	Duration, Scraped, PostRelabel, Added uint64

	Schema *Schema // of frames with values
	Rows   []Row
	// Err is why the frame could not be read: ErrNoBase, ErrNoSchema, ErrWrongBase, or that it is malformed.
	Err error
}

// Why a frame that is well formed could not be read.
var (
	ErrNoBase    = errors.New("the state of the base is not there")
	ErrNoSchema  = errors.New("the schema is not there")
	ErrWrongBase = errors.New("wrong checksum")
)

// Bundle reads a bundle and its frames.
func (r *Reader) Bundle(message []byte) (b *Bundle, err error) {
	defer catch(&err)
	in := &input{message}
	must(string(in.take(3)) == "PSB", "no bundle")
	version := in.byte()
	known(version == 2, "version %d", version)
	must(len(in.b) >= 4 && crc32c(message[:len(message)-4]) == binary.LittleEndian.Uint32(message[len(message)-4:]), "checksum")
	in.b = in.b[:len(in.b)-4]
	flags := in.byte()
	known(flags&0x0f == 0, "flags %#x", flags)
	b = &Bundle{Publisher: in.string(), Lane: in.string(), Epoch: in.u64(), Seq: in.uvarint()}
	in.fields(func(id uint64, content *input) bool {
		switch id {
		case 1:
			b.Predecessor = &Predecessor{content.u64(), content.uvarint(), Totals{content.uvarint(), content.uvarint()}, content.byte() != 0}
		case 2:
			b.Totals = &Totals{content.uvarint(), content.uvarint()}
		}
		return id == 1 || id == 2
	})
	for len(in.b) > 0 {
		if f := r.frame(in, b); f != nil {
			b.Frames = append(b.Frames, f)
		}
	}
	return b, nil
}

// frame reads the next frame; nil if it is skipped.
func (r *Reader) frame(in *input, b *Bundle) *Frame {
	kind := in.byte()
	f := &Frame{Type: kind, Target: in.uvarint(), Position: in.uvarint(), Time: in.varint()}
	body := in.bytes()
	sum := in.u32()
	if kind < Keyframe || kind > EpochEnd {
		known(kind&0x80 == 0, "frame of type %#x", kind)
		return nil
	}
	key := targetKey{b.Publisher, b.Lane, b.Epoch, f.Target}
	t := r.targets[key]
	if t == nil {
		t = &target{states: make(map[uint64]*state)}
		r.targets[key] = t
	}
	f.Err = func() (err error) {
		defer catch(&err)
		p := &parse{reader: r, target: t, frame: f, in: &input{body}}
		p.body()
		if crc32c(f.checked(b.Epoch, p.state, body)) != sum {
			t.states = make(map[uint64]*state)
			panic(failure{ErrWrongBase})
		}
		p.keep()
		return nil
	}()
	if f.Err != nil {
		f.Rows = nil
	}
	return f
}

// parse is the reading of one frame.
type parse struct {
	reader *Reader
	target *target
	frame  *Frame
	in     *input

	sections map[uint64]*input
	base     *state // that of the frame's own schema, rows moved to where they are now
	state    *state
}

func (p *parse) body() {
	f, in := p.frame, p.in
	first := in.byte()
	flags := flagCompact
	if f.Type == Keyframe || f.Type == Down || f.Type == End {
		flags |= flagTrack
	}
	known(first&^flags == 0, "first byte %#x", first)
	switch f.Type {
	case Keyframe:
		p.definition(first)
		id := in.id()
		p.report(first)
		f.Mask = in.uvarint()
		p.schema(id)
		p.base = keyframeBase(f.Schema)
		p.classes()
		p.readSections(2, 3, 4, 5, 6, 7)
		p.values()
	case Samples:
		f.Distance = in.uvarint()
		p.report(first)
		f.Mask = in.uvarint()
		p.findBase()
		p.readSections(1, 2, 3, 4, 5, 6, 7)
		p.change()
		p.values()
	case Down:
		p.definition(first)
		p.report(first)
		p.readSections()
	case End:
		p.definition(first)
		f.Reason = in.byte()
		p.readSections()
	case EpochEnd:
		must(f.Target == 0 && f.Position == 0, "an EPOCH_END with a target")
		p.readSections()
	}
	p.in.done("the body")
	if p.state != nil && first&flagCompact != 0 {
		f.Scraped = uint64(p.state.present())
		f.PostRelabel = f.Scraped
	}
}

func (p *parse) definition(first byte) {
	d := &p.target.definition
	*d = Definition{Interval: p.in.uvarint(), Timeout: p.in.uvarint(), Track: first&flagTrack != 0}
	for range p.in.count(16) {
		d.Labels = append(d.Labels, Label{p.in.string(), p.in.string()})
	}
	p.frame.Definition = *d
}

func (p *parse) report(first byte) {
	f := p.frame
	f.Duration = p.in.uvarint()
	if first&flagCompact == 0 {
		f.Scraped, f.PostRelabel, f.Added = p.in.uvarint(), p.in.uvarint(), p.in.uvarint()
	}
}

func (p *parse) schema(id ID) {
	p.frame.Schema = p.reader.schemas[id]
	if p.frame.Schema == nil {
		panic(failure{fmt.Errorf("%w: %x", ErrNoSchema, id)})
	}
}

func (p *parse) findBase() {
	f := p.frame
	f.Definition = p.target.definition
	base := p.target.states[f.Position-f.Distance]
	if base == nil || f.Distance == 0 || f.Distance >= f.Position {
		panic(failure{ErrNoBase})
	}
	p.base, f.Schema = base.clone(), base.schema
}

// readSections reads the sections; ids are those that such a frame may have.
func (p *parse) readSections(ids ...uint64) {
	p.sections = make(map[uint64]*input)
	last := uint64(0)
	p.in.fields(func(id uint64, content *input) bool {
		must(id > last, "section %d behind %d", id, last)
		last = id
		for _, x := range ids {
			if x == id {
				p.sections[id] = content
				return true
			}
		}
		return false
	})
}

// section takes the section of an id, if there is one.
func (p *parse) section(id uint64) *input {
	return p.sections[id]
}

// keep changes the states of the target to what the frame says.
func (p *parse) keep() {
	f := p.frame
	switch f.Type {
	case EpochEnd:
		return
	case Down, End:
		f.Mask = 0
	}
	for position := range p.target.states {
		if back := f.Position - position; position <= f.Position && (back > 63 || f.Mask>>back&1 == 0) {
			delete(p.target.states, position)
		}
	}
	if p.state != nil && f.Mask&1 != 0 {
		p.target.states[f.Position] = p.state
	}
}

// checked is what the checksum of a frame is of.
func (f *Frame) checked(epoch uint64, s *state, body []byte) []byte {
	u64 := binary.LittleEndian.AppendUint64
	b := u64(u64(u64(u64([]byte{f.Type}, epoch), f.Target), f.Position), uint64(f.Time))
	if s == nil {
		return append(append(b, make([]byte, 16)...), body...)
	}
	b = append(b, f.Schema.ID[:]...)
	for i := range s.rows {
		if s.rows[i].absent || s.rows[i].histogram != nil {
			b = u64(b, 0)
		} else {
			b = u64(b, s.rows[i].value())
		}
	}
	b = s.checkedStarts(b)
	b = s.checkedHistograms(b)
	b = s.checkedExemplars(b)
	return append(b, body...)
}
