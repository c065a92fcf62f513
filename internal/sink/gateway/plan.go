package gateway

import (
	"maps"
	"slices"
	"strings"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

// format is how a page is written.
type format struct {
	openMetrics bool
	protobuf    bool // families have the names of the text format
	escaping    model.EscapingScheme
}

// escapes tells whether names of a target have to be changed before they are written.
func (f format) escapes(p *prepared) bool {
	switch f.escaping {
	case model.NoEscaping:
		return false
	case model.DotsEscaping: // changes underscores too
		return true
	}
	return !p.legacy || p.text != nil && !p.text.legacy
}

// plan is the order of a page in one format: which families there are and which targets have them. It is made when
// the targets or their schemas change, and is immutable.
type plan struct {
	generation uint64
	keys       []string // of the targets, in the order of their labels
	families   []section
	// checkAll: names are escaped, so any series may come to be the same as another.
	checkAll bool
}

type plans map[format]*plan

// section is one family as it stands on the page.
type section struct {
	name   string
	header []byte
	// family is the same as the header, for what is not written from prepared text.
	family frame.Family
	parts  []part
	// report is the index of the report series of this name, or -1.
	report int
	// check: some of its series may stand on the page twice.
	check bool
}

// part is a family of one text.
type part struct {
	text   *text
	family *family
}

// snapshot gives the targets that are not stale, in order, and the plan for them.
func (g *Gateway) snapshot(f format) ([]*target, *plan) {
	now := g.now()
	g.tend(now)
	g.mu.RLock()
	p := g.plans[f]
	var all []*target
	if p != nil && p.generation == g.generation {
		all = make([]*target, 0, len(p.keys))
		for _, key := range p.keys {
			all = append(all, g.targets[key])
		}
		g.mu.RUnlock()
	} else {
		generation := g.generation
		all = slices.Collect(maps.Values(g.targets))
		g.mu.RUnlock()
		slices.SortFunc(all, func(a, b *target) int { return labels.Compare(a.prepared.Target, b.prepared.Target) })
		p = newPlan(all, f)
		p.generation = generation
		g.mu.Lock()
		maps.DeleteFunc(g.plans, func(_ format, old *plan) bool { return old.generation < generation })
		g.plans[f] = p
		g.mu.Unlock()
	}
	return slices.DeleteFunc(all, func(t *target) bool { return t.isStale(now) }), p
}

// newPlan makes the plan for targets in order.
func newPlan(targets []*target, f format) *plan {
	p := &plan{keys: make([]string, 0, len(targets))}
	var texts []*text // in order of appearance, so that the first of equals wins everywhere
	users := make(map[*text]int)
	taken := make(map[string]bool) // label names that any target has
	for _, t := range targets {
		p.keys = append(p.keys, t.key)
		t.prepared.Target.Range(func(l labels.Label) { taken[l.Name] = true })
		x := t.prepared.text
		p.checkAll = p.checkAll || f.escapes(t.prepared)
		if x == nil {
			continue
		}
		if users[x] == 0 {
			texts = append(texts, x)
		}
		users[x]++
	}
	risky := riskyNames(texts, taken)

	b := builder{format: f, sections: make(map[string]*draft)}
	for _, x := range texts {
		for i := range x.families {
			b.add(x, &x.families[i], users[x], risky)
		}
	}
	if len(targets) > 0 {
		b.addReports(len(targets), risky)
	}
	p.families = b.finish()
	return p
}

// riskyNames are the metric names whose series may stand on the page twice. Targets differ in their labels, so two of
// their series can be the same only if one has, of its own, a label that some target has too; or if a target exposes
// what every scrape is given besides.
func riskyNames(texts []*text, taken map[string]bool) map[string]bool {
	risky := make(map[string]bool)
	for _, x := range texts {
		for name, metrics := range x.withLabel {
			if taken[name] {
				for _, m := range metrics {
					risky[m] = true
				}
			}
		}
		for i := range x.families {
			for _, m := range x.families[i].metrics {
				if slices.Contains(reportNames(), m) {
					risky[m] = true
				}
			}
		}
	}
	return risky
}

func reportNames() []string {
	n := sink.ReportNames()
	return n[:]
}

// builder puts families together under the names that they have on the page.
type builder struct {
	format   format
	sections map[string]*draft
}

// draft is a section of which the header is still voted on: what most targets say counts, of equals the first.
type draft struct {
	section
	kind, help, unit ballot
	types            ballot // as the targets say it
	original         string // the name before it was escaped
}

type ballot struct {
	values []string
	votes  []int
}

func (b *ballot) add(value string, votes int) {
	if value == "" {
		return
	}
	i := slices.Index(b.values, value)
	if i < 0 {
		i = len(b.values)
		b.values, b.votes = append(b.values, value), append(b.votes, 0)
	}
	b.votes[i] += votes
}

func (b *ballot) winner() string {
	best := -1
	for i, n := range b.votes {
		if best < 0 || n > b.votes[best] {
			best = i
		}
	}
	if best < 0 {
		return ""
	}
	return b.values[best]
}

func (b *builder) draft(name string) *draft {
	original := name
	name = model.EscapeName(name, b.format.escaping)
	d := b.sections[name]
	if d == nil {
		d = &draft{section: section{name: name, report: -1}, original: original}
		b.sections[name] = d
	}
	return d
}

// add puts a family of a text with so many targets into its section.
func (b *builder) add(x *text, f *family, targets int, risky map[string]bool) {
	name, kind := b.format.family(f)
	d := b.draft(name)
	d.parts = append(d.parts, part{x, f})
	d.check = d.check || slices.ContainsFunc(f.metrics, func(m string) bool { return risky[m] })
	if f.bare {
		return
	}
	d.kind.add(kind, targets)
	d.types.add(string(f.Type), targets)
	d.help.add(f.Help, targets)
	d.unit.add(f.Unit, targets)
}

// addReports puts in the series that every scrape has.
func (b *builder) addReports(targets int, risky map[string]bool) {
	help := [sink.ReportSeries]string{
		"Whether the scrape of the target succeeded.",
		"Duration of the scrape in seconds.",
		"The number of samples that the target exposed.",
		"The number of samples left after metric relabelling.",
		"The number of series that were not in the scrape before.",
	}
	for i, name := range reportNames() {
		d := b.draft(name)
		d.report = i
		d.check = d.check || risky[name]
		d.kind.add("gauge", targets)
		d.types.add("gauge", targets)
		d.help.add(help[i], targets)
	}
}

func (b *builder) finish() []section {
	sections := make([]section, 0, len(b.sections))
	for _, d := range b.sections {
		d.header = b.format.header(d.name, d.kind.winner(), d.help.winner(), d.unit.winner())
		d.family = d.whole()
		sections = append(sections, d.section)
	}
	slices.SortFunc(sections, func(a, b section) int { return strings.Compare(a.name, b.name) })
	return sections
}

// family gives the name and type under which a family stands on the page. Where the name of a counter or an info
// carries its suffix depends on the format. OpenMetrics has no counters whose samples do not end in _total: they are
// unknown there, as client libraries have it too.
func (f format) family(x *family) (name, kind string) {
	name = x.Name
	whole := func(suffix string) bool { return slices.Contains(x.metrics, name+suffix) }
	kind = string(x.Type)
	if f.openMetrics {
		switch x.Type {
		case model.MetricTypeCounter:
			if short, ok := strings.CutSuffix(name, "_total"); ok {
				return short, kind
			}
			if !whole("_total") {
				return name, string(model.MetricTypeUnknown)
			}
		case model.MetricTypeGauge, model.MetricTypeHistogram, model.MetricTypeSummary,
			model.MetricTypeGaugeHistogram, model.MetricTypeInfo, model.MetricTypeStateset:
		default:
			kind = string(model.MetricTypeUnknown)
		}
		return name, kind
	}
	switch x.Type {
	case model.MetricTypeCounter:
		if whole("_total") {
			name += "_total"
		}
	case model.MetricTypeInfo:
		if kind = "gauge"; whole("_info") {
			name += "_info"
		}
	case model.MetricTypeStateset:
		kind = "gauge"
	case model.MetricTypeGaugeHistogram:
		kind = "histogram"
	case model.MetricTypeGauge, model.MetricTypeHistogram, model.MetricTypeSummary:
	default:
		kind = "untyped"
	}
	return name, kind
}

// header writes what is said of a family before its series.
func (f format) header(name, kind, help, unit string) []byte {
	var dst []byte
	line := func(word, content string) {
		dst = append(dst, "# "+word+" "...)
		if model.LegacyValidation.IsValidMetricName(name) {
			dst = append(dst, name...)
		} else {
			dst = append(dst, '"')
			dst = appendEscaped(dst, name, true)
			dst = append(dst, '"')
		}
		dst = append(dst, ' ')
		dst = appendEscaped(dst, content, f.openMetrics && word == "HELP")
		dst = append(dst, '\n')
	}
	if !validName(name) {
		return nil
	}
	if help != "" {
		line("HELP", help)
	}
	if kind != "" {
		line("TYPE", kind)
	}
	if f.openMetrics && unit != "" && strings.HasSuffix(name, "_"+unit) && model.LegacyValidation.IsValidLabelName(unit) {
		line("UNIT", unit)
	}
	return dst
}
