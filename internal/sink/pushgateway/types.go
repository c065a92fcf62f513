package pushgateway

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

// types knows under which type each metric stands in the gateway. All groups are scraped as one page, in which a metric
// has one type: a push that says another one is refused, or, where the gateway does not check, breaks the whole page.
// So the first group's type counts, and what comes later with another one is written with that type, or as plain
// series, or left out.
type types struct {
	names map[string]*usage
	// helps are the help texts that the gateway insists on, for metrics of its own.
	helps map[string]string
}

// usage is one name on the gateway's page.
type usage struct {
	typ model.MetricType
	// base is the histogram or summary whose series has this name; empty for a name of its own.
	base   string
	groups int
}

// newTypes knows the metrics of a Go process, which the gateway exposes of itself on the same page.
func newTypes() *types {
	t := &types{names: make(map[string]*usage), helps: make(map[string]string)}
	reg := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		_ = reg.Register(c) // of the same name: nothing to know twice
	}
	families, _ := reg.Gather() // as much as there is
	for _, f := range families {
		t.fix(f.GetName(), typeOf(f.GetType()))
	}
	return t
}

func typeOf(t dto.MetricType) model.MetricType {
	switch t {
	case dto.MetricType_COUNTER:
		return model.MetricTypeCounter
	case dto.MetricType_GAUGE:
		return model.MetricTypeGauge
	case dto.MetricType_HISTOGRAM, dto.MetricType_GAUGE_HISTOGRAM:
		return model.MetricTypeHistogram
	case dto.MetricType_SUMMARY:
		return model.MetricTypeSummary
	default:
		return model.MetricTypeUnknown
	}
}

// fix notes a type that the gateway insists on, for ever.
func (t *types) fix(name string, typ model.MetricType) {
	t.drop(name)
	t.take(name, typ)
	t.names[name].groups = forever
}

// forever is more groups than ever release a name.
const forever = 1 << 30

func (t *types) drop(name string) {
	u := t.names[name]
	if u == nil {
		return
	}
	for _, c := range components(name, u.typ) {
		if t.names[c] != nil && t.names[c].base == name {
			delete(t.names, c)
		}
	}
	delete(t.names, name)
}

// components are the names under which a histogram or summary stands besides its own.
func components(name string, typ model.MetricType) []string {
	switch typ {
	case model.MetricTypeHistogram:
		return []string{name + "_bucket", name + "_sum", name + "_count"}
	case model.MetricTypeSummary:
		return []string{name + "_sum", name + "_count"}
	}
	return nil
}

func structured(typ model.MetricType) bool {
	return typ == model.MetricTypeHistogram || typ == model.MetricTypeSummary
}

// take notes that one more group has a family.
func (t *types) take(name string, typ model.MetricType) {
	u := t.names[name]
	if u == nil {
		u = &usage{typ: typ}
		t.names[name] = u
		for _, c := range components(name, typ) {
			t.names[c] = &usage{typ: typ, base: name}
		}
	}
	u.groups++
}

// release notes that a group no longer has what settle gave it.
func (t *types) release(c *content) {
	for i := range c.families {
		name := c.families[i].name
		if u := t.names[name]; u != nil && u.base == "" {
			if u.groups--; u.groups <= 0 {
				t.drop(name)
			}
		}
	}
}

// settle gives what a group may write of what it wants to, and notes it.
func (t *types) settle(want *content) *content {
	c := &content{left: append([]left(nil), want.left...)}
	for i := range c.left {
		c.left[i].series = append([]series(nil), c.left[i].series...)
	}
	protobuf := want.native()
	folded := make(map[string]bool) // families that a histogram or summary has swallowed
	for i := range want.families {
		f := want.families[i]
		if folded[f.name] {
			continue
		}
		switch {
		case structured(f.typ):
			if protobuf {
				f = c.whole(f)
			}
			if len(f.series) > 0 {
				t.settleStructured(c, f)
			}
		case t.fits(f):
			if u := t.names[f.name]; u != nil {
				f.typ = u.typ
			}
			t.put(c, f)
		case t.fold(c, want, f, folded):
		default:
			c.leave(leftType, f.series...)
		}
	}
	return c
}

func (t *types) put(c *content, f family) {
	if help, ok := t.helps[f.name]; ok {
		f.help = help
	}
	t.take(f.name, f.typ)
	c.families = append(c.families, f)
}

// fits tells whether a plain family may stand on the page, if need be with another plain type.
func (t *types) fits(f family) bool {
	u := t.names[f.name]
	return u == nil || u.base == "" && !structured(u.typ)
}

// settleStructured writes a histogram or summary as such, or where its names are those of plain metrics already,
// as plain series of unknown type, which have the same names, labels and values.
func (t *types) settleStructured(c *content, f family) {
	u := t.names[f.name]
	free := u == nil
	for _, name := range components(f.name, f.typ) {
		free = free && t.names[name] == nil
	}
	if free || u != nil && u.base == "" && u.typ == f.typ {
		t.put(c, f)
		return
	}
	for _, s := range f.series {
		if s.form != floatRow {
			c.leave(leftType, s) // there are no plain series of it
		}
	}
	for _, flat := range flatten(f) {
		if !t.fits(flat) {
			c.leave(leftType, flat.series...)
			continue
		}
		if u := t.names[flat.name]; u != nil {
			flat.typ = u.typ
		}
		t.put(c, flat)
	}
}

// flatten writes a family as one of unknown type for each name of its series that are floats.
func flatten(f family) []family {
	var flat []family
	at := make(map[string]int)
	for _, s := range f.series {
		if s.form != floatRow {
			continue
		}
		name := s.labels.Get(model.MetricNameLabel)
		n, ok := at[name]
		if !ok {
			n = len(flat)
			at[name] = n
			flat = append(flat, family{name: name, typ: model.MetricTypeUnknown})
		}
		flat[n].series = append(flat[n].series, s)
	}
	return flat
}

// fold writes plain series as the histogram or summary that the page has under their name: a federated Prometheus hands
// on every metric without its type. Only whole ones are folded, as the gateway would invent what is missing.
func (t *types) fold(c, want *content, f family, folded map[string]bool) bool {
	u := t.names[f.name]
	base, typ := f.name, u.typ
	if u.base != "" {
		base = u.base
	}
	names := components(base, typ)
	if typ == model.MetricTypeSummary {
		names = append([]string{base}, names...)
	}
	if !slices.Contains(names, f.name) {
		return false
	}
	whole := family{name: base, typ: typ}
	sets := make(map[string]int) // how many of the needed series each label set has
	need := map[string]bool{base + "_sum": true, base + "_count": true}
	if typ == model.MetricTypeHistogram {
		need[base+"_bucket"] = true
	}
	var bounded []string
	for i := range want.families {
		o := &want.families[i]
		if o.typ != model.MetricTypeUnknown || !slices.Contains(names, o.name) {
			continue
		}
		seen := make(map[string]bool)
		for _, s := range o.series {
			set := string(s.labels.BytesWithoutLabels(nil, model.MetricNameLabel, model.BucketLabel, model.QuantileLabel))
			bounded = append(bounded, set)
			if need[o.name] && !seen[set] {
				seen[set] = true
				sets[set]++
			}
		}
		whole.series = append(whole.series, o.series...)
		if whole.help == "" {
			whole.help = o.help
		}
	}
	for _, set := range bounded {
		if sets[set] != len(need) {
			return false
		}
	}
	for _, n := range names {
		folded[n] = true
	}
	if want.native() {
		whole = c.whole(whole)
	}
	if len(whole.series) > 0 {
		t.put(c, whole)
	}
	return true
}

// without gives a content without the families named in refused and, if legacy is set, without names that only
// gateways with UTF-8 names take.
func (c *content) without(refused map[string]bool, legacy bool) *content {
	if len(refused) == 0 && !legacy {
		return c
	}
	n := &content{left: append([]left(nil), c.left...)}
	for i := range n.left {
		n.left[i].series = append([]series(nil), n.left[i].series...)
	}
	for _, f := range c.families {
		if refused[f.name] {
			n.leave(leftRefused, f.series...)
			continue
		}
		if !legacy {
			n.families = append(n.families, f)
			continue
		}
		kept := f
		kept.series = nil
		for _, s := range f.series {
			if legacyNames(s.labels) {
				kept.series = append(kept.series, s)
			} else {
				n.leave(leftName, s)
			}
		}
		if len(kept.series) > 0 {
			n.families = append(n.families, kept)
		}
	}
	return n
}

// hasUTF8Names tells whether without(nil, true) would leave something out.
func (c *content) hasUTF8Names() bool {
	for _, f := range c.families {
		for _, s := range f.series {
			if !legacyNames(s.labels) {
				return true
			}
		}
	}
	return false
}

func legacyNames(ls labels.Labels) bool {
	ok := true
	ls.Range(func(l labels.Label) {
		if l.Name == model.MetricNameLabel {
			ok = ok && model.LegacyValidation.IsValidMetricName(l.Value)
		} else {
			ok = ok && model.LegacyValidation.IsValidLabelName(l.Name)
		}
	})
	return ok
}
