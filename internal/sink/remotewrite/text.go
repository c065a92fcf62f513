package remotewrite

import (
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// ofTarget marks in text.refs a place in prepared.target instead of a number of symbols.
const ofTarget = 1 << 31

// text is how the series of one schema, or those of a scrape's report, are written.
//
// In 2.0 a label is two numbers, those of its name and value; in 1.0 it is one, that of both as they stand in a message.
type text struct {
	source
	shape *sink.Shape // for which it is kept in Sink.texts; nil if it is for one target only
	// protocol for which the following was made; 0 if it was not yet.
	protocol int
	refs     []uint32
	ends     []uint32 // where the refs of each series end
	families []family
	// dropped are series that relabelling took away.
	dropped frame.Bitmap
	users   int // prepared that use it
}

// source is what a text is made of, again if the protocol changes.
type source struct {
	schema *frame.Schema // nil for a report
	// prepared has the final labels, for a text of one target.
	prepared *sink.Prepared
	// names are those of the target's final labels, for a text of many targets.
	names []string
}

// family is what 2.0 says of the type, help and unit of series.
type family struct{ kind, help, unit uint32 }

// series is the number of series of the text.
func (t *text) series() int {
	if t.schema == nil {
		return sink.ReportSeries
	}
	return len(t.schema.Series)
}

// prepared is a target with a schema, ready to be written.
type prepared struct {
	*sink.Prepared
	text     *text // nil if no schema is known
	report   *text
	protocol int      // for which target was made
	target   []uint32 // the target's labels, in the form of text.refs
	users    int      // the target, while it is its newest, and parts that are not done
}

// prepare makes what is needed to write a target; schema may be nil.
func (s *Sink) prepare(schema *frame.Schema, raw labels.Labels, publisher string) *prepared {
	p := &prepared{Prepared: s.labels.Prepare(schema, raw, publisher), users: 1}
	p.report = &text{source: source{prepared: p.Prepared}, users: 1}
	if schema == nil {
		return p
	}
	if p.HasMixed() || len(s.WriteRelabel) > 0 {
		p.text = &text{source: source{schema: schema, prepared: p.Prepared}, users: 1}
		return p
	}
	t := s.texts[p.Shape]
	if t == nil {
		t = &text{source: source{schema: schema}, shape: p.Shape}
		p.Target.Range(func(l labels.Label) { t.names = append(t.names, l.Name) })
		s.texts[p.Shape] = t
	}
	t.users++
	p.text = t
	return p
}

// release takes back one use.
func (s *Sink) release(p *prepared) {
	if p == nil {
		return
	}
	if p.users--; p.users > 0 {
		return
	}
	s.encoder.forget(p.target)
	p.report.forget(s.encoder)
	if t := p.text; t != nil {
		if t.users--; t.users == 0 {
			t.forget(s.encoder)
			if t.shape != nil {
				delete(s.texts, t.shape)
			}
		}
	}
}

// forget releases all symbols.
func (t *text) forget(e *encoder) {
	e.forget(t.refs)
	for _, f := range t.families {
		e.release(f.help)
		e.release(f.unit)
	}
	t.refs, t.ends, t.families, t.dropped, t.protocol = nil, nil, nil, nil, 0
}

func (e *encoder) forget(refs []uint32) {
	for _, r := range refs {
		if r&ofTarget == 0 {
			e.release(r)
		}
	}
}

// ready makes a target's text for the protocol spoken now, if it is not there.
func (s *Sink) ready(p *prepared, t *text) {
	if p.protocol != s.protocol {
		s.encoder.forget(p.target)
		p.target, p.protocol = p.target[:0], s.protocol
		p.Target.Range(func(l labels.Label) { p.target = s.encoder.label(p.target, l, s.protocol) })
	}
	if t.protocol == s.protocol {
		return
	}
	t.forget(s.encoder)
	t.protocol = s.protocol
	t.ends = make([]uint32, 0, t.series())
	for i := range t.series() {
		if t.prepared != nil {
			s.writeWhole(t, i)
		} else {
			s.writeBeside(t, i)
		}
		t.ends = append(t.ends, uint32(len(t.refs)))
	}
	if s.protocol == 2 && !s.NoMetadata {
		s.writeFamilies(t)
	}
}

// label appends the form of one label.
func (e *encoder) label(refs []uint32, l labels.Label, protocol int) []uint32 {
	if l.Value == "" {
		return refs
	}
	if protocol == 2 {
		return append(refs, e.acquire(l.Name), e.acquire(l.Value))
	}
	e.row = appendLabel(e.row[:0], l)
	return append(refs, e.acquire(string(e.row)))
}

// writeWhole makes series i of a text of one target.
func (s *Sink) writeWhole(t *text, i int) {
	var l labels.Labels
	if t.schema == nil {
		l = t.prepared.Report[i]
	} else {
		l = t.prepared.SeriesLabels(i, s.builder)
	}
	if len(s.WriteRelabel) > 0 {
		s.builder.Reset(l)
		if keep := relabel.ProcessBuilder(s.builder, s.WriteRelabel...); keep {
			l = s.builder.Labels()
		} else {
			l = labels.EmptyLabels()
		}
	}
	if l.IsEmpty() {
		if t.dropped == nil {
			t.dropped = frame.NewBitmap(t.series())
		}
		t.dropped.Set(i)
		return
	}
	l.Range(func(l labels.Label) { t.refs = s.encoder.label(t.refs, l, s.protocol) })
}

// writeBeside makes series i of a text of many targets: its own labels and the places of the target's, in order.
func (s *Sink) writeBeside(t *text, i int) {
	k := 0
	place := func() {
		if s.protocol == 2 {
			t.refs = append(t.refs, ofTarget|uint32(2*k), ofTarget|uint32(2*k+1))
		} else {
			t.refs = append(t.refs, ofTarget|uint32(k))
		}
		k++
	}
	t.schema.Series[i].Labels.Range(func(l labels.Label) {
		for k < len(t.names) && t.names[k] < l.Name {
			place()
		}
		t.refs = s.encoder.label(t.refs, l, s.protocol)
	})
	for k < len(t.names) {
		place()
	}
}

// writeFamilies notes type, help and unit for each series.
func (s *Sink) writeFamilies(t *text) {
	add := func(m model.MetricType, help, unit string) {
		t.families = append(t.families, family{kind(m), s.encoder.acquire(help), s.encoder.acquire(unit)})
	}
	if t.schema == nil {
		for _, r := range reportFamilies() {
			add(model.MetricTypeGauge, r.Help, r.Unit)
		}
		return
	}
	for i := range t.schema.Families {
		f := &t.schema.Families[i]
		add(f.Type, f.Help, f.Unit)
	}
}

// reportFamilies are what Prometheus says of the series of sink.ReportNames.
func reportFamilies() [sink.ReportSeries]frame.Family {
	return [sink.ReportSeries]frame.Family{
		{Help: "Health of the scrape target. 1 means the target is healthy, 0 if the scrape failed.", Unit: "targets"},
		{Help: "Duration of the last scrape in seconds.", Unit: "seconds"},
		{Help: "Number of samples last scraped.", Unit: "samples"},
		{Help: "Number of samples remaining after metric relabeling was applied.", Unit: "samples"},
		{Help: "Number of series in the last scrape.", Unit: "series"},
	}
}

// family gives the index of the family of series i, or -1.
func (t *text) family(i int) int {
	if t.schema == nil {
		return i
	}
	return t.schema.Series[i].Family
}

// kind is the number of a type in remote write 2.0.
func kind(t model.MetricType) uint32 {
	switch t {
	case model.MetricTypeCounter:
		return 1
	case model.MetricTypeGauge:
		return 2
	case model.MetricTypeHistogram:
		return 3
	case model.MetricTypeGaugeHistogram:
		return 4
	case model.MetricTypeSummary:
		return 5
	case model.MetricTypeInfo:
		return 6
	case model.MetricTypeStateset:
		return 7
	}
	return 0
}
