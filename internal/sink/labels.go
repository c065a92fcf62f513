package sink

import (
	"fmt"
	"strings"
	"sync"
	"weak"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// Labelling makes the labels that a sink writes: those of target and series, and the publisher's if it is asked for. What
// has no publisher, which is what a receiver tells of itself, gets no label of one.
type Labelling struct {
	// Publisher is the name of the label with the publisher; empty adds none.
	Publisher string
}

// Target gives the final labels of a target. b is scratch space.
func (l Labelling) Target(target labels.Labels, publisher string, b *labels.Builder) labels.Labels {
	if l.Publisher == "" || publisher == "" {
		return target
	}
	b.Reset(target)
	l.add(b, publisher)
	return b.Labels()
}

// Series gives the final labels of series i of a schema for a target. b is scratch space.
func (l Labelling) Series(s *frame.Schema, i int, target labels.Labels, publisher string, b *labels.Builder) labels.Labels {
	full := s.SeriesLabels(i, target, b)
	if l.Publisher == "" || publisher == "" {
		return full
	}
	b.Reset(full)
	l.add(b, publisher)
	return b.Labels()
}

// add sets the publisher's label; a label that has its name already is renamed as Prometheus renames
// what clashes with a target's label.
func (l Labelling) add(b *labels.Builder, publisher string) {
	if old := b.Get(l.Publisher); old != "" {
		name := model.ExportedLabelPrefix + l.Publisher
		for b.Get(name) != "" {
			name = model.ExportedLabelPrefix + name
		}
		b.Set(name, old)
	}
	b.Set(l.Publisher, publisher)
}

// ReportSeries is the number of series that every scrape has besides those of its target.
const ReportSeries = 5

// ReportNames are the names of these series, in the order of ReportValues.
func ReportNames() [ReportSeries]string {
	return [ReportSeries]string{
		frame.UpName, frame.DurationName, frame.ScrapedName, frame.PostRelabelName, frame.AddedName,
	}
}

// ReportValues are the values of a Scraped or Down frame's report series.
func ReportValues(f *frame.Frame) [ReportSeries]float64 {
	up := 0.0
	if f.Kind == frame.Scraped {
		up = 1
	}
	return [ReportSeries]float64{
		up, f.Report.Duration.Seconds(), float64(f.Report.Scraped), float64(f.Report.PostRelabel), float64(f.Report.Added),
	}
}

// Shape is what all targets with the same schema and the same label names share. It is immutable.
//
// Most series only add labels to those of their target: their final labels are Schema.Series[i].Labels beside the
// target's final labels, whatever the values are, so that bytes made from either can be kept apart and put together.
// The others, in Mixed, change a label of the target or clash with the publisher's, and are made one by one.
type Shape struct {
	Schema *frame.Schema
	// Mixed has a bit for each series whose final labels are not simply its own beside the target's.
	Mixed frame.Bitmap
	mixed int
}

// Prepared is what a sink needs to know of the labels of one target with one schema. It is immutable.
type Prepared struct {
	// Shape is shared with other targets; nil for a target of which no scrape is known.
	*Shape
	// Target has the final labels of the target.
	Target labels.Labels
	// Report has the final labels of the report series, in the order of ReportNames.
	Report [ReportSeries]labels.Labels
	mixed  []labels.Labels // by series, set for those in Mixed; nil if there are none
}

// HasMixed tells whether any series is in Mixed.
func (p *Prepared) HasMixed() bool { return p.mixed != nil }

// SeriesLabels gives the final labels of series i. Those of a mixed one are at hand, the others are made in b, so it
// is for preparing what is then used many times. The target must have a schema.
func (p *Prepared) SeriesLabels(i int, b *labels.Builder) labels.Labels {
	if p.Mixed.Has(i) {
		return p.mixed[i]
	}
	return p.Schema.SeriesLabels(i, p.Target, b)
}

// Labels prepares labels for one sink and shares what can be shared. It keeps nothing that no Prepared uses any more.
// It is for concurrent use.
type Labels struct {
	Labelling

	mu     sync.Mutex
	shapes map[shapeKey]weak.Pointer[Shape]
	swept  int // number of shapes after the last sweep
}

type shapeKey struct {
	schema frame.SchemaID
	names  string // of the target's labels, before and after adding the publisher's
}

// NewLabels makes the preparation for a sink.
func NewLabels(l Labelling) *Labels {
	return &Labels{Labelling: l, shapes: make(map[shapeKey]weak.Pointer[Shape])}
}

// Prepare makes the labels of a target with a schema; s may be nil. The caller keeps the result for as long as
// the target has that schema: preparing costs some hundred nanoseconds for a known shape, plus what Mixed series cost.
func (l *Labels) Prepare(s *frame.Schema, target labels.Labels, publisher string) *Prepared {
	b := labels.NewBuilder(labels.EmptyLabels())
	p := &Prepared{Target: l.Target(target, publisher, b)}
	for i, name := range ReportNames() {
		b.Reset(p.Target)
		b.Set(model.MetricNameLabel, name)
		p.Report[i] = b.Labels()
	}
	if s == nil {
		return p
	}
	p.Shape = l.shape(s, target, p.Target)
	if p.Shape.mixed > 0 {
		p.mixed = make([]labels.Labels, len(s.Series))
		for i := range s.Series {
			if p.Mixed.Has(i) {
				p.mixed[i] = l.Series(s, i, target, publisher, b)
			}
		}
	}
	return p
}

// shape finds or makes the shape of a schema for targets with these label names.
func (l *Labels) shape(s *frame.Schema, target, final labels.Labels) *Shape {
	key := shapeKey{schema: s.ID, names: names(target) + "\xff" + names(final)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if sh := l.shapes[key].Value(); sh != nil {
		return sh
	}
	if len(l.shapes) > 2*l.swept+64 {
		for k, p := range l.shapes {
			if p.Value() == nil {
				delete(l.shapes, k)
			}
		}
		l.swept = len(l.shapes)
	}
	sh := newShape(s, target, final)
	l.shapes[key] = weak.Make(sh)
	return sh
}

func newShape(s *frame.Schema, target, final labels.Labels) *Shape {
	taken := make(map[string]bool)
	take := func(l labels.Label) { taken[l.Name] = true }
	target.Range(take)
	final.Range(take)
	sh := &Shape{Schema: s}
	for i, series := range s.Series {
		mixed := false
		series.Labels.Range(func(l labels.Label) { mixed = mixed || taken[l.Name] })
		if mixed {
			if sh.Mixed == nil {
				sh.Mixed = frame.NewBitmap(len(s.Series))
			}
			sh.Mixed.Set(i)
			sh.mixed++
		}
	}
	return sh
}

// names gives the names of labels as one string that no other set of names has.
func names(l labels.Labels) string {
	var b strings.Builder
	l.Range(func(l labels.Label) {
		fmt.Fprintf(&b, "%d:%s", len(l.Name), l.Name)
	})
	return b.String()
}
