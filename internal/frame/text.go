package frame

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
)

// Dumper prints messages for people. It keeps decoders, so that frames are shown with their values when the messages
// come in their order; and the schemas it saw, if they were there before.
type Dumper struct {
	// Values prints a line for each sample.
	Values bool

	w        *bufio.Writer
	lim      Limits
	lookup   func(SchemaID) (*Schema, error)
	schemas  map[SchemaID]*Schema
	decoders map[dumpLane]*Decoder
}

type dumpLane struct {
	publisher, lane string
	epoch           uint64
}

// NewDumper prints to w. schema gives what is not among the messages; it may be nil.
func NewDumper(w io.Writer, lim Limits, schema func(SchemaID) (*Schema, error)) *Dumper {
	return &Dumper{w: bufio.NewWriter(w), lim: lim, lookup: schema,
		schemas: make(map[SchemaID]*Schema), decoders: make(map[dumpLane]*Decoder)}
}

var errNoSchema = errors.New("schema not at hand")

func (d *Dumper) schema(id SchemaID) (*Schema, error) {
	if s := d.schemas[id]; s != nil {
		return s, nil
	}
	if d.lookup == nil {
		return nil, errNoSchema
	}
	return d.lookup(id)
}

// Message prints one message, a bundle or a schema. A frame that cannot be decoded is a line that says why; the error
// is that the message is neither, or cannot be printed.
func (d *Dumper) Message(msg []byte) error {
	var err error
	if IsSchema(msg) {
		err = d.schemaMessage(msg)
	} else {
		err = d.bundle(msg)
	}
	return errors.Join(err, d.w.Flush())
}

func (d *Dumper) printf(format string, args ...any) { fmt.Fprintf(d.w, format, args...) }

func (d *Dumper) bundle(msg []byte) error {
	b, err := ParseBundle(msg, d.lim)
	if err != nil {
		return err
	}
	d.printf("bundle publisher=%q lane=%q epoch=%016x seq=%d bytes=%d checksum=%08x\n",
		b.Publisher, b.Lane, b.Epoch, b.Seq, len(msg), b.Checksum)
	if p := b.Predecessor; p != nil {
		d.printf("  predecessor epoch=%016x seq=%d frames=%d samples=%d clean=%t\n",
			p.Epoch, p.Seq, p.Totals.Frames, p.Totals.Samples, p.Clean)
	}
	if t := b.Totals; t != nil {
		d.printf("  totals frames=%d samples=%d\n", t.Frames, t.Samples)
	}
	key := dumpLane{b.Publisher, b.Lane, b.Epoch}
	dec := d.decoders[key]
	if dec == nil {
		dec = NewDecoder(b.Epoch, d.lim)
		d.decoders[key] = dec
	}
	for raw, err := range b.Frames() {
		if err != nil {
			return err
		}
		d.frame(dec, raw)
	}
	return nil
}

// typeText names a frame as the format does.
func typeText(t byte) string {
	switch t {
	case typeKeyframe:
		return "KEYFRAME"
	case typeSamples:
		return "SAMPLES"
	case typeDown:
		return "DOWN"
	case typeEnd:
		return "END"
	case typeEpochEnd:
		return "EPOCH_END"
	default:
		return fmt.Sprintf("type %#x", t)
	}
}

func timeText(ms int64) string {
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z")
}

// String names the reason in lower case, as it stands in logs.
func (r EndReason) String() string {
	switch r {
	case Removed:
		return "removed"
	case Relabelled:
		return "relabelled"
	case Paused:
		return "paused"
	default:
		return "reason " + strconv.Itoa(int(r))
	}
}

// String names the kind in lower case, as it stands in logs.
func (k Kind) String() string {
	switch k {
	case Scraped:
		return "scraped"
	case Down:
		return "down"
	case End:
		return "end"
	case EpochEnd:
		return "epoch end"
	default:
		return "kind " + strconv.Itoa(int(k))
	}
}

func (d *Dumper) frame(dec *Decoder, raw RawFrame) {
	d.printf("  %s target=%d position=%d time=%s bytes=%d", typeText(raw.Type), raw.Target, raw.Position, timeText(raw.Time), len(raw.Body))
	if back, mask, ok := raw.builds(); ok {
		d.printf(" base=%d needed=%b", raw.Position-back, mask)
	}
	f, err := dec.Decode(raw, d.schema)
	if err != nil {
		if t := raw.definition(d.lim); t != nil {
			d.target(t)
		}
		d.printf("\n    not decoded: %v\n", err)
		return
	}
	if t := f.Target; t != nil {
		d.target(t)
	}
	switch f.Kind {
	case End:
		d.printf(" reason=%s", f.Reason)
	case Scraped:
		n := len(f.Schema.Series)
		d.printf(" schema=%s series=%d absent=%d", f.Schema.ID, n, f.Column.Absent.count(n))
		fallthrough
	case Down:
		d.printf(" duration=%s scraped=%d post_relabel=%d added=%d", f.Report.Duration, f.Report.Scraped, f.Report.PostRelabel, f.Report.Added)
	}
	d.printf("\n")
	if d.Values && f.Kind == Scraped {
		d.column(f)
	}
}

func (d *Dumper) target(t *Target) {
	d.printf(" labels=%s interval=%s timeout=%s", t.Labels, t.Interval, t.Timeout)
	if t.TrackTimestamps {
		d.printf(" track_timestamps")
	}
}

// definition is the target as the frame alone tells it, nil if it does not.
func (f RawFrame) definition(lim Limits) *Target {
	if !f.defines() {
		return nil
	}
	r := &reader{b: f.Body}
	flags := r.byte()
	t := r.target(f.Target, lim)
	if r.err != nil {
		return nil
	}
	t.TrackTimestamps = flags&trackTimestamps != 0
	return t
}

// defines tells whether frames of this type have the definition of their target.
func (f RawFrame) defines() bool {
	return f.Type == typeKeyframe || f.Type == typeDown || f.Type == typeEnd
}

// builds gives the base and the mask of a frame with a base.
func (f RawFrame) builds() (back, mask uint64, ok bool) {
	if f.Type != typeSamples {
		return 0, 0, false
	}
	r := &reader{b: f.Body}
	compact := r.byte()&compactReport != 0
	back = r.uvarint()
	r.uvarint()
	for range 3 {
		if !compact {
			r.uvarint()
		}
	}
	mask = r.uvarint()
	return back, mask, r.err == nil && back < f.Position
}

func (d *Dumper) column(f *Frame) {
	b := labels.NewBuilder(labels.EmptyLabels())
	hs, xs, past := f.Column.Histograms, f.Column.Exemplars, f.Column.Earlier
	for i, v := range f.Column.Values {
		if f.Column.Absent.Has(i) {
			continue
		}
		for ; len(past) > 0 && past[0].Row == i; past = past[1:] {
			d.printf("    %s %s %s\n", f.Schema.SeriesLabels(i, f.Target.Labels, b), valueText(past[0].Value), timeText(past[0].Timestamp))
		}
		d.printf("    %s ", f.Schema.SeriesLabels(i, f.Target.Labels, b))
		if len(hs) > 0 && hs[0].Row == i {
			d.printf("%s", hs[0].text())
			hs = hs[1:]
		} else {
			d.printf("%s", valueText(v))
		}
		if ts := f.Column.Timestamps; ts != nil && ts[i] != NoTimestamp {
			d.printf(" %s", timeText(ts[i]))
		}
		if t := start(f.Column.Starts, i); t != 0 {
			d.printf(" start=%s", timeText(t))
		}
		d.printf("\n")
		for ; len(xs) > 0 && xs[0].Row == i; xs = xs[1:] {
			d.printf("      exemplar %s %s", xs[0].Labels, valueText(xs[0].Value))
			if t := xs[0].Timestamp; t != NoTimestamp {
				d.printf(" %s", timeText(t))
			}
			d.printf("\n")
		}
	}
}

// text shows a histogram: spans as the index of their first bucket and the counts from there on.
func (h *Histogram) text() string {
	l := h.layout()
	number := func(u uint64) string {
		if l.float {
			return valueText(math.Float64frombits(u))
		}
		return strconv.FormatUint(u, 10)
	}
	b := fmt.Appendf(nil, "{kind=%s hint=%d schema=%d", map[bool]string{false: "integer", true: "float"}[l.float], l.hint, l.schema)
	if l.usesCustom() {
		b = fmt.Appendf(b, " bounds=%v", l.custom)
	} else {
		b = fmt.Appendf(b, " threshold=%s zero=%s", valueText(l.threshold), number(h.zero()))
	}
	side := func(name string, spans []histogram.Span, s side) {
		if len(spans) == 0 {
			return
		}
		b = append(b, " "+name+"=["...)
		index := int64(0)
		for i, x := range spans {
			if i > 0 {
				b = append(b, ' ')
			}
			index += int64(x.Offset)
			b = fmt.Appendf(b, "%d:", index)
			for k := range x.Length {
				if s.next(); k > 0 {
					b = append(b, ',')
				}
				b = append(b, number(s.value)...)
			}
			index += int64(x.Length)
		}
		b = append(b, ']')
	}
	positive, negative := h.sides()
	side("positive", l.positive, positive)
	side("negative", l.negative, negative)
	return string(fmt.Appendf(b, " count=%s sum=%s}", number(h.count()), valueText(h.sum())))
}

// schemaMessage prints a schema, and keeps it for the bundles that come.
func (d *Dumper) schemaMessage(msg []byte) error {
	m, err := parseSchemaMessage(msg, d.lim)
	if err != nil {
		return fmt.Errorf("schema: %w", err)
	}
	form := "full"
	var parent *Schema
	if m.form&formDelta != 0 {
		form = "change of " + m.parent.String()
		if parent, err = d.schema(m.parent); err != nil {
			d.printf("schema form=%q bytes=%d content=%d\n  not decoded: parent: %v\n", form, len(msg), m.size, err)
			return nil
		}
	}
	s, err := m.schema(parent, d.lim)
	if err != nil {
		return err
	}
	d.schemas[s.ID] = s
	d.printf("schema id=%s form=%q shape=%s bytes=%d content=%d families=%d series=%d\n",
		s.ID, form, s.Shape(), len(msg), m.size, len(s.Families), len(s.Series))
	if !d.Values {
		return nil
	}
	for _, f := range s.Families {
		d.printf("  family %q type=%s unit=%q help=%q\n", f.Name, f.Type, f.Unit, f.Help)
	}
	for _, x := range s.Series {
		d.printf("  %s family=%d base=%s\n", x.Labels, x.Family, valueText(x.Base))
	}
	return nil
}

// valueText tells apart what NaN alone does not: a stale marker is one of them.
func valueText(v float64) string {
	if math.IsNaN(v) {
		return fmt.Sprintf("NaN(%#016x)", math.Float64bits(v))
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}
