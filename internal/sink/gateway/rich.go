package gateway

import (
	"bytes"
	"hash/maphash"
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/value"

	"github.com/choria-io/prometheus-streams/internal/exposition"
	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// messageSamples is after how many samples a family of the protobuf format goes on in another message, between two
// targets: a message has to be held whole.
const messageSamples = 5000

// endOfPage is what OpenMetrics ends with.
const endOfPage = "# EOF\n"

// messages writes the whole page in the protobuf format.
func (g *page) messages() error {
	w := exposition.NewWriter(g.w, g.negotiated)
	for i := range g.plan.families {
		s := &g.plan.families[i]
		var samples []exposition.Sample
		for _, e := range g.entriesOf(s) {
			if samples = g.samplesOf(samples, s, e); len(samples) >= messageSamples {
				if err := w.Family(s.family, samples); err != nil {
					return err
				}
				clear(samples)
				samples = samples[:0]
			}
		}
		if err := g.ctx.Err(); err != nil {
			return err
		}
		if err := w.Family(s.family, samples); err != nil {
			return err
		}
	}
	err := w.Close()
	g.omit(w.Omitted())
	return err
}

// omit notes what the format has no place for.
func (g *page) omit(o exposition.Omitted) {
	g.omitted.Histograms += o.Histograms
	g.omitted.Exemplars += o.Exemplars
}

// rich tells whether a family has something that prepared text does not do for: native histograms, or, in OpenMetrics,
// exemplars.
func (g *page) rich(entries []entry) bool {
	for _, e := range entries {
		if e.family == nil {
			continue
		}
		c := &g.targets[e.target].frame.Column
		has := func(row int) bool {
			_, found := slices.BinarySearch(e.family.series, uint32(row))
			return found
		}
		if slices.ContainsFunc(c.Histograms, func(h frame.Histogram) bool { return has(h.Row) }) {
			return true
		}
		if g.format.openMetrics && slices.ContainsFunc(c.Exemplars, func(x frame.Exemplar) bool { return has(x.Row) }) {
			return true
		}
	}
	return false
}

// richSection writes one family of text, all of it at once, with what is rare in it.
func (g *page) richSection(s *section, entries []entry) {
	var samples []exposition.Sample
	for _, e := range entries {
		samples = g.samplesOf(samples, s, e)
	}
	var b bytes.Buffer
	w := exposition.NewWriter(&b, g.negotiated)
	if g.err = w.Family(s.family, samples); g.err == nil {
		g.err = w.Close()
	}
	g.omit(w.Omitted())
	g.buf = append(g.buf, bytes.TrimSuffix(b.Bytes(), []byte(endOfPage))...)
	g.flush()
}

// samplesOf appends the samples of one target in one family.
func (g *page) samplesOf(samples []exposition.Sample, s *section, e entry) []exposition.Sample {
	t := &g.targets[e.target]
	check := s.check || g.plan.checkAll || t.slow
	if e.family == nil {
		l := t.prepared.Report[s.report]
		if !g.filter.matches(l) || check && g.repeatsEscaped(t, -1, s.report) {
			return samples
		}
		g.series++
		return append(samples, exposition.Sample{Labels: l, Value: sink.ReportValues(t.frame)[s.report], Timestamp: g.timeOf(t, -1)})
	}
	c := &t.frame.Column
	for _, n := range e.family.series {
		i := int(n)
		if c.Absent.Has(i) || t.bits != nil && !t.bits.Has(i) {
			continue
		}
		x := exposition.Sample{Value: c.Values[i], Timestamp: g.timeOf(t, i), Exemplars: exemplarsOf(c, i)}
		if at, native := slices.BinarySearchFunc(c.Histograms, i, func(h frame.Histogram, row int) int { return h.Row - row }); native {
			x.Value, x.Int, x.Float = 0, c.Histograms[at].Int, c.Histograms[at].Float
		}
		if isStale(&x) || check && g.repeatsEscaped(t, i, -1) {
			continue
		}
		if c.Starts != nil {
			x.Start = c.Starts[i]
		}
		x.Labels = t.prepared.SeriesLabels(i, g.builder)
		samples = append(samples, x)
		g.series++
	}
	return samples
}

func isStale(x *exposition.Sample) bool {
	switch {
	case x.Int != nil:
		return value.IsStaleNaN(x.Int.Sum)
	case x.Float != nil:
		return value.IsStaleNaN(x.Float.Sum)
	}
	return value.IsStaleNaN(x.Value)
}

// exemplarsOf gives the exemplars of a row.
func exemplarsOf(c *frame.Column, row int) []frame.Exemplar {
	if len(c.Exemplars) == 0 {
		return nil
	}
	compare := func(x frame.Exemplar, row int) int { return x.Row - row }
	from, _ := slices.BinarySearchFunc(c.Exemplars, row, compare)
	to, _ := slices.BinarySearchFunc(c.Exemplars, row+1, compare)
	return c.Exemplars[from:to]
}

// repeatsEscaped tells whether series i of a target, or one of its report, stands on the page under the same labels, as
// they are with names escaped.
func (g *page) repeatsEscaped(t *shown, i, report int) bool {
	var hash uint64
	switch {
	case report >= 0 && t.slow:
		hash = maphash.Bytes(g.seed, escapedLabels(t.prepared.Report[report], g.format.escaping).Bytes(nil))
	case report >= 0:
		hash = maphash.Bytes(g.seed, t.prepared.Report[report].Bytes(nil))
	case t.slow:
		hash = maphash.Bytes(g.seed, escapedLabels(t.prepared.SeriesLabels(i, g.builder), g.format.escaping).Bytes(nil))
	default:
		hash = t.prepared.hashOf(uint32(i), g.seed)
	}
	if !g.repeats(hash) {
		return false
	}
	if report < 0 {
		g.leaveOut(t, i)
		return true
	}
	if g.twice++; g.example == "" {
		g.example = t.prepared.Report[report].String()
	}
	return true
}

// timeOf is the time that a sample of row i, or of the report if i is -1, has on the page.
func (g *page) timeOf(t *shown, i int) int64 {
	if !g.timestamps {
		return frame.NoTimestamp
	}
	if times := t.frame.Column.Timestamps; i >= 0 && times != nil && times[i] != frame.NoTimestamp {
		return times[i]
	}
	return t.frame.Time
}

// whole gives the family of a section in the terms of the targets.
func (d *draft) whole() frame.Family {
	f := frame.Family{Name: d.original, Type: model.MetricType(d.types.winner()), Help: d.help.winner(), Unit: d.unit.winner()}
	if f.Type == "" {
		f.Type = model.MetricTypeUnknown
	}
	return f
}
