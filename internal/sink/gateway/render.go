package gateway

import (
	"cmp"
	"context"
	"hash/maphash"
	"io"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"

	"github.com/choria-io/prometheus-streams/internal/exposition"
	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// flushAt is how much of an answer is put together before it is written.
const flushAt = 64 << 10

// shown is one target as one answer shows it.
type shown struct {
	*target
	// bits are the series asked for; nil is all of them.
	bits frame.Bitmap
	// slow: its names have to be escaped, so that the prepared text is no use.
	slow bool
}

// page writes one answer: family by family, in each family target by target, in each target in the schema's order. It
// holds no more than a buffer of it.
type page struct {
	ctx        context.Context
	w          io.Writer
	format     format
	negotiated exposition.Format
	timestamps bool
	filter     *filter
	plan       *plan
	targets    []shown
	byText     map[*text][]int32 // the targets, by what they share

	buf     []byte
	builder *labels.Builder
	seed    maphash.Seed
	seen    map[uint64]struct{} // of the series that are checked
	entries []entry             // scratch
	series  int
	twice   int // series left out because another one has their labels
	example string
	omitted exposition.Omitted
	err     error
}

// entry is one target's share of a family; a family of nil stands for the report series.
type entry struct {
	target int32
	family *family
}

// page begins an answer.
func (g *Gateway) page(ctx context.Context, w io.Writer, negotiated exposition.Format, want *filter) *page {
	f := format{openMetrics: negotiated.OpenMetrics(), protobuf: negotiated.Protobuf(), escaping: negotiated.Escaping()}
	targets, plan := g.snapshot(f)
	p := &page{
		ctx: ctx, w: w, format: f, negotiated: negotiated, timestamps: g.opts.Timestamps, filter: want, plan: plan,
		targets: make([]shown, 0, len(targets)),
		byText:  make(map[*text][]int32), buf: make([]byte, 0, flushAt+flushAt/4),
		builder: labels.NewBuilder(labels.EmptyLabels()),
		seed:    g.seed, seen: make(map[uint64]struct{}),
	}
	selected := newSelection(want)
	for _, t := range targets {
		if !want.wants(t) {
			continue
		}
		s := shown{target: t, slow: f.escapes(t.prepared)}
		if x := t.prepared.text; x != nil {
			if len(want.selectors) > 0 {
				s.bits = selected.of(t.prepared)
			}
			if t.frame.Kind == frame.Scraped {
				p.byText[x] = append(p.byText[x], int32(len(p.targets)))
			}
		}
		p.targets = append(p.targets, s)
	}
	return p
}

// write writes the whole page.
func (g *page) write() error {
	if g.format.protobuf {
		return g.messages()
	}
	for i := range g.plan.families {
		g.section(&g.plan.families[i])
		if g.err != nil {
			return g.err
		}
	}
	if g.format.openMetrics {
		g.buf = append(g.buf, endOfPage...)
	}
	g.flush()
	return g.err
}

func (g *page) flush() {
	if g.err != nil || len(g.buf) == 0 {
		return
	}
	if g.err = g.ctx.Err(); g.err == nil {
		_, g.err = g.w.Write(g.buf)
	}
	g.buf = g.buf[:0]
}

// section writes one family; its header only if a series follows.
func (g *page) section(s *section) {
	entries := g.entriesOf(s)
	if g.rich(entries) {
		g.richSection(s, entries)
		return
	}
	before, start := g.series, len(g.buf)
	g.buf = append(g.buf, s.header...)
	check := s.check || g.plan.checkAll
	for _, e := range entries {
		t := &g.targets[e.target]
		if e.family == nil {
			g.report(t, s.report, check)
		} else {
			g.body(t, e.family, check)
		}
		if len(g.buf) >= flushAt && g.series > before {
			g.flush()
		}
		if g.err != nil {
			return
		}
	}
	if g.series == before {
		g.buf = g.buf[:start]
	}
}

// entriesOf gives the shares of a family in the order of the targets.
func (g *page) entriesOf(s *section) []entry {
	g.entries = g.entries[:0]
	lists := 0
	for _, p := range s.parts {
		ordinals := g.byText[p.text]
		if len(ordinals) > 0 {
			lists++
		}
		for _, i := range ordinals {
			g.entries = append(g.entries, entry{i, p.family})
		}
	}
	if s.report >= 0 {
		lists++
		for i := range g.targets {
			g.entries = append(g.entries, entry{int32(i), nil})
		}
	}
	if lists > 1 {
		// Stable, so that a series of the target itself stands before one of its report, and wins.
		slices.SortStableFunc(g.entries, func(a, b entry) int { return cmp.Compare(a.target, b.target) })
	}
	return g.entries
}

// body writes the series of one target in one family.
func (g *page) body(t *shown, f *family, check bool) {
	p, c := t.prepared, &t.frame.Column
	for _, i := range f.series {
		v := c.Values[i]
		if c.Absent.Has(int(i)) || value.IsStaleNaN(v) || t.bits != nil && !t.bits.Has(int(i)) {
			continue
		}
		if t.slow {
			g.slow(t, int(i), v)
			continue
		}
		if check && g.repeats(p.hashOf(i, g.seed)) {
			g.leaveOut(t, int(i))
			continue
		}
		if p.Mixed.Has(int(i)) {
			g.buf = append(g.buf, p.whole(i)...)
		} else {
			g.buf = append(g.buf, p.text.of(i)...)
			g.buf = append(g.buf, p.suffix...)
		}
		g.value(t, int(i), v)
		if len(g.buf) >= flushAt {
			if g.flush(); g.err != nil {
				return
			}
		}
	}
}

// report writes one report series of a target.
func (g *page) report(t *shown, i int, check bool) {
	l := t.prepared.Report[i]
	if !g.filter.matches(l) {
		return
	}
	text := t.prepared.report[i]
	if t.slow {
		l = escapedLabels(l, g.format.escaping)
		text = appendSeries(nil, l)
	}
	if check && g.repeats(maphash.Bytes(g.seed, l.Bytes(nil))) {
		if g.twice++; g.example == "" {
			g.example = l.String()
		}
		return
	}
	g.buf = append(g.buf, text...)
	g.value(t, -1, sink.ReportValues(t.frame)[i])
}

// slow writes a series whose names have to be escaped.
func (g *page) slow(t *shown, i int, v float64) {
	l := escapedLabels(t.prepared.SeriesLabels(i, g.builder), g.format.escaping)
	if g.repeats(maphash.Bytes(g.seed, l.Bytes(nil))) {
		g.leaveOut(t, i)
		return
	}
	g.buf = appendSeries(g.buf, l)
	g.value(t, i, v)
}

// value ends a line with the value of series i, or of a report series if i is -1.
func (g *page) value(t *shown, i int, v float64) {
	g.buf = appendValue(g.buf, v)
	if g.timestamps {
		at := t.frame.Time
		if times := t.frame.Column.Timestamps; i >= 0 && times != nil && times[i] != frame.NoTimestamp {
			at = times[i]
		}
		g.buf = append(g.buf, ' ')
		g.buf = appendTimestamp(g.buf, at, g.format.openMetrics)
	}
	g.buf = append(g.buf, '\n')
	g.series++
}

// repeats tells whether a series with this hash stands on the page already.
func (g *page) repeats(hash uint64) bool {
	if _, ok := g.seen[hash]; ok {
		return true
	}
	g.seen[hash] = struct{}{}
	return false
}

func (g *page) leaveOut(t *shown, i int) {
	if g.twice++; g.example == "" {
		g.example = t.prepared.SeriesLabels(i, g.builder).String()
	}
}
