package pushgateway

import (
	"weak"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// layout says into which groups the series of a schema go, and how each group writes them. It is immutable, and shared
// by targets where it can be: most targets fill one group and differ in nothing but its name.
type layout struct {
	// parts has the target's own group first, then those that series with their own job or instance name.
	parts []part
}

// part is what a layout puts into one group.
type part struct {
	// own is the target's own group: its job and instance are the target's, whatever the fields below say.
	own           bool
	job, instance string
	content
}

// content is what a push writes, in the families of the text format.
type content struct {
	families []family
	// left are the series that the gateway cannot take.
	left []left
}

type family struct {
	name string
	// typ is counter, gauge, histogram, summary or unknown.
	typ    model.MetricType
	help   string
	series []series
}

// series is one line of a push: where its value comes from and its labels without those of the group.
type series struct {
	// index in the schema; below zero, the report series -1-index.
	index  int
	labels labels.Labels
	form   form
}

type left struct {
	reason string
	series []series
}

// The reasons for which series are left out of a push.
const (
	// leftPushTime: the gateway makes series of this name itself, for each group.
	leftPushTime = "push_time"
	// leftDuplicate: another series of the group has the same labels.
	leftDuplicate = "duplicate"
	// leftType: another group has the metric with a type that cannot stand beside it.
	leftType = "type_conflict"
	// leftName: a metric or label name that this gateway does not take.
	leftName = "utf8_name"
	// leftRefused: the gateway refused the push because of this metric.
	leftRefused = "refused"
	// leftNoJob: the gateway has no group without a job.
	leftNoJob = "no_job"
	// leftNative: a native histogram, and this gateway does not take the protobuf format.
	leftNative = "native_histogram"
	// leftPart: a part of a histogram or summary that lacks others, in the protobuf format.
	leftPart = "incomplete"
)

// layouts makes layouts and shares them. It keeps nothing that no target uses any more.
type layouts struct {
	labelling sink.Labelling
	known     map[layoutKey]weak.Pointer[layout]
	swept     int
	scratch   *labels.Builder
}

// layoutKey is what a layout depends on.
type layoutKey struct {
	schema frame.SchemaID
	// labels of the target; without job and instance if no series has its own.
	labels string
	// rows that are histograms.
	rows string
}

func newLayouts(l sink.Labelling) *layouts {
	return &layouts{
		labelling: l, known: make(map[layoutKey]weak.Pointer[layout]),
		scratch: labels.NewBuilder(labels.EmptyLabels()),
	}
}

// get gives the layout of a schema for a target; s is nil for a failed scrape. forms are those of its rows that are
// histograms.
func (ls *layouts) get(s *frame.Schema, target labels.Labels, forms rowForms) *layout {
	k := layoutKey{labels: string(target.BytesWithoutLabels(nil, model.MetricNameLabel, model.InstanceLabel, model.JobLabel)), rows: forms.key()}
	if s != nil {
		k.schema = s.ID
		if splits(s) {
			k.labels = "split" + string(target.Bytes(nil))
		}
	}
	if l := ls.known[k].Value(); l != nil {
		return l
	}
	if len(ls.known) > 2*ls.swept+64 {
		for k, p := range ls.known {
			if p.Value() == nil {
				delete(ls.known, k)
			}
		}
		ls.swept = len(ls.known)
	}
	l := ls.build(s, target, forms)
	ls.known[k] = weak.Make(l)
	return l
}

// splits tells whether a series of the schema has a job or instance that is not its target's.
func splits(s *frame.Schema) bool {
	for i := range s.Series {
		if l := s.Series[i].Labels; l.Has(model.JobLabel) || l.Has(model.InstanceLabel) {
			return true
		}
	}
	return false
}

// builder puts series into parts.
type builder struct {
	layout   *layout
	parts    map[[2]string]int // by job and instance
	families []map[string]int  // of each part, by name
	taken    []map[string]bool // label sets of each part
	scratch  *labels.Builder
	buf      []byte
}

func (ls *layouts) build(s *frame.Schema, target labels.Labels, forms rowForms) *layout {
	b := &builder{layout: &layout{}, parts: make(map[[2]string]int), scratch: ls.scratch}
	own := b.part(target.Get(model.JobLabel), target.Get(model.InstanceLabel))
	b.layout.parts[own].own = true
	// The report comes first, so that it wins over series that a target exposes in its name.
	plain := frame.Family{Type: model.MetricTypeUnknown}
	for i, name := range sink.ReportNames() {
		ls.scratch.Reset(ls.labelling.Target(target, "-", labels.NewBuilder(labels.EmptyLabels())))
		ls.scratch.Set(model.MetricNameLabel, name)
		b.add(own, &plain, series{index: -1 - i, labels: ls.withoutGroup(ls.scratch)})
	}
	if s == nil {
		return b.layout
	}
	for i := range s.Series {
		form := floatRow
		if len(forms) > 0 && forms[0].row == i {
			form, forms = forms[0].form, forms[1:]
		}
		// The publisher's name itself does not matter: its label is the group's and is taken out again.
		full := ls.labelling.Series(s, i, target, "-", ls.scratch)
		p := b.part(full.Get(model.JobLabel), full.Get(model.InstanceLabel))
		f := &plain
		if n := s.Series[i].Family; n >= 0 {
			f = &s.Families[n]
		}
		ls.scratch.Reset(full)
		b.add(p, f, series{index: i, labels: ls.withoutGroup(ls.scratch), form: form})
	}
	return b.layout
}

// withoutGroup gives the labels in b without those that the gateway sets itself.
func (ls *layouts) withoutGroup(b *labels.Builder) labels.Labels {
	b.Del(model.JobLabel, model.InstanceLabel)
	if ls.labelling.Publisher != "" {
		b.Del(ls.labelling.Publisher)
	}
	return b.Labels()
}

func (b *builder) part(job, instance string) int {
	k := [2]string{job, instance}
	n, ok := b.parts[k]
	if !ok {
		n = len(b.layout.parts)
		b.parts[k] = n
		b.layout.parts = append(b.layout.parts, part{job: job, instance: instance})
		b.families = append(b.families, make(map[string]int))
		b.taken = append(b.taken, make(map[string]bool))
	}
	return n
}

// add puts a series into its part's family of the text format, or leaves it out.
func (b *builder) add(p int, f *frame.Family, s series) {
	part := &b.layout.parts[p]
	metric := s.labels.Get(model.MetricNameLabel)
	b.buf = s.labels.Bytes(b.buf)
	switch {
	case part.job == "" && !part.own:
		b.layout.parts[0].leave(leftNoJob, s) // counted with the target's own group
		return
	case metric == "push_time_seconds" || metric == "push_failure_time_seconds":
		part.leave(leftPushTime, s)
		return
	case b.taken[p][string(b.buf)]:
		part.leave(leftDuplicate, s)
		return
	}
	b.taken[p][string(b.buf)] = true
	name, typ := textFamily(f, metric)
	if s.form != floatRow {
		name, typ = metric, model.MetricTypeHistogram
	}
	n, ok := b.families[p][name]
	if ok && misfit(part.families[n].typ, typ, s.form) {
		part.leave(leftType, s)
		return
	}
	if !ok {
		n = len(part.families)
		b.families[p][name] = n
		part.families = append(part.families, family{name: name, typ: typ, help: f.Help})
	}
	part.families[n].series = append(part.families[n].series, s)
}

// misfit tells whether a series cannot stand in a family that is there already: a histogram among floats, or a float
// that is no part of the histogram or summary whose name it has.
func misfit(there, typ model.MetricType, f form) bool {
	if f != floatRow {
		return there != model.MetricTypeHistogram
	}
	return structured(there) && !structured(typ)
}

func (c *content) leave(reason string, s ...series) {
	for i := range c.left {
		if c.left[i].reason == reason {
			c.left[i].series = append(c.left[i].series, s...)
			return
		}
	}
	c.left = append(c.left, left{reason: reason, series: s})
}

// textFamily gives the family under which the text format, as the gateway reads it, writes a metric, and its type there.
func textFamily(f *frame.Family, metric string) (string, model.MetricType) {
	switch f.Type {
	case model.MetricTypeHistogram:
		if metric == f.Name+"_bucket" || metric == f.Name+"_sum" || metric == f.Name+"_count" {
			return f.Name, f.Type
		}
	case model.MetricTypeSummary:
		if metric == f.Name || metric == f.Name+"_sum" || metric == f.Name+"_count" {
			return f.Name, f.Type
		}
	case model.MetricTypeCounter:
		if metric == f.Name || metric == f.Name+"_total" {
			return metric, f.Type
		}
	case model.MetricTypeGauge, model.MetricTypeInfo, model.MetricTypeStateset:
		return metric, model.MetricTypeGauge
	default:
		return metric, model.MetricTypeUnknown
	}
	if metric == f.Name+"_created" {
		return metric, model.MetricTypeGauge
	}
	return metric, model.MetricTypeUnknown
}
