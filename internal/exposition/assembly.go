package exposition

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// assembly is one histogram or summary, put together from its samples.
type assembly struct {
	count, sum *Sample
	// parts are the buckets or the quantiles.
	parts []part
	// native is the native histogram of the same labels.
	native *Sample
	// members are all samples but the native one.
	members []*Sample
	broken  bool
}

type part struct {
	bound  float64
	sample *Sample
}

// assemblies writes the histograms or summaries of a family and gives what did not fit.
func (w *Writer) assemblies(f frame.Family, typ int, samples []Sample) (rest []*Sample) {
	label := model.BucketLabel
	if typ == protoSummary {
		label = model.QuantileLabel
	}
	all, rest := assemble(f.Name, label, samples)
	for _, want := range [...]int{protoSummary, protoHistogram, protoGaugeHistogram} {
		w.begin(f.Name, f.Help, f.Unit, want)
		for _, a := range all {
			if a.typeIn(typ) != want {
				continue
			}
			if !a.complete(typ == protoSummary) || a.native != nil && !a.sameTotals() {
				rest = append(rest, a.members...)
				a.members, a.parts = nil, nil
			}
			if len(a.members) > 0 || a.native != nil {
				w.assembly(typ == protoSummary, a)
			}
		}
		w.end()
	}
	return rest
}

// typeIn is the type of the message in which a metric of a family stands: a gauge histogram does not go with those
// that only grow.
func (a *assembly) typeIn(family int) int {
	if family == protoHistogram && a.native != nil {
		return a.native.histogramType()
	}
	return family
}

// assembly writes one histogram or summary.
func (w *Writer) assembly(summary bool, a *assembly) {
	s := a.native
	if s == nil {
		s = a.count
	}
	for _, m := range a.members {
		if m == a.count || m == a.sum || summary {
			w.omitted.Exemplars += len(m.Exemplars)
		}
	}
	if !summary {
		w.metric(s, metricHistogram, func(b []byte) []byte { return w.appendHistogram(b, a) })
		return
	}
	w.metric(s, metricSummary, func(b []byte) []byte {
		n, _ := wholeNumber(s.Value)
		b = protowire.AppendVarint(protowire.AppendTag(b, summaryCount, protowire.VarintType), n)
		b = appendDouble(b, summarySum, a.sum.Value)
		for _, p := range a.parts {
			b = nest(b, summaryQuantile, func(b []byte) []byte {
				return appendDouble(appendDouble(b, 1, p.bound), 2, p.sample.Value)
			})
		}
		return w.appendStart(b, summaryStart, s.Start)
	})
}

// assemble sorts the samples of a family by their labels. What is no part of a histogram or summary is the rest.
func assemble(family, label string, samples []Sample) (all []*assembly, rest []*Sample) {
	byLabels := make(map[string]*assembly)
	var key []byte
	for i := range samples {
		s := &samples[i]
		suffix, ok := strings.CutPrefix(s.Labels.Get(model.MetricNameLabel), family)
		at, labelled := bound(s, label)
		plain := !s.Labels.Has(label)
		quantile := label == model.QuantileLabel
		isPart := labelled && !s.native() && (quantile && suffix == "" || !quantile && suffix == "_bucket")
		native := s.native() && suffix == "" && !quantile
		total := plain && !s.native() && (suffix == "_count" || suffix == "_sum")
		if !ok || !isPart && !native && !total {
			rest = append(rest, s)
			continue
		}
		if native {
			key = s.Labels.BytesWithoutLabels(key, model.MetricNameLabel)
		} else {
			key = s.Labels.BytesWithoutLabels(key, model.MetricNameLabel, label)
		}
		a := byLabels[string(key)]
		if a == nil {
			a = &assembly{}
			byLabels[string(key)] = a
			all = append(all, a)
		}
		if !native {
			a.members = append(a.members, s)
		}
		switch {
		case native:
			a.native = s
		case isPart:
			a.parts = append(a.parts, part{at, s})
		case suffix == "_count":
			a.broken = a.broken || a.count != nil
			a.count = s
		default:
			a.broken = a.broken || a.sum != nil
			a.sum = s
		}
	}
	return all, rest
}

// bound reads the label of a bucket or quantile, which must be written as a reader will write it again.
func bound(s *Sample, label string) (float64, bool) {
	text := s.Labels.Get(label)
	v, err := strconv.ParseFloat(text, 64)
	return v, err == nil && v == v && labels.FormatOpenMetricsFloat(v) == text
}

// complete tells whether all parts are there, belong to one time and have values that the format can hold.
func (a *assembly) complete(summary bool) bool {
	if a.broken || a.count == nil || a.sum == nil {
		return false
	}
	for _, s := range a.members {
		if s.Timestamp != a.count.Timestamp {
			return false
		}
	}
	holds := func(v float64) bool { return v != 0 || !math.Signbit(v) }
	if summary {
		_, ok := wholeNumber(a.count.Value)
		return ok
	}
	slices.SortFunc(a.parts, func(x, y part) int {
		switch {
		case x.bound < y.bound:
			return -1
		case x.bound > y.bound:
			return 1
		}
		return 0
	})
	for i, p := range a.parts {
		if !holds(p.sample.Value) || i > 0 && p.bound == a.parts[i-1].bound {
			return false
		}
	}
	return holds(a.count.Value) && len(a.parts) > 0 && math.IsInf(a.parts[len(a.parts)-1].bound, 1)
}

// sameTotals tells whether the native histogram has the count and the sum of the classic one, which they share.
func (a *assembly) sameTotals() bool {
	count, sum := 0.0, 0.0
	if a.native.Int != nil {
		count, sum = float64(a.native.Int.Count), a.native.Int.Sum
	} else {
		count, sum = a.native.Float.Count, a.native.Float.Sum
	}
	return a.native.Timestamp == a.count.Timestamp && count == a.count.Value &&
		math.Float64bits(sum) == math.Float64bits(a.sum.Value)
}

// native tells whether the sample is a native histogram.
func (s *Sample) native() bool { return s.Int != nil || s.Float != nil }

// histogramType is the type of the family that a native histogram says it is of.
func (s *Sample) histogramType() int {
	if s.Int != nil && s.Int.CounterResetHint == histogram.GaugeType || s.Float != nil && s.Float.CounterResetHint == histogram.GaugeType {
		return protoGaugeHistogram
	}
	return protoHistogram
}

// customBuckets tells whether the sample is a classic histogram in the form of a native one.
func (s *Sample) customBuckets() bool {
	return s.Int != nil && s.Int.UsesCustomBuckets() || s.Float != nil && s.Float.UsesCustomBuckets()
}

// classics gives the samples of a family with native histograms of custom buckets turned back into the classic ones
// that they are, as Prometheus' federation does, unless those stand beside them. It does not change the samples.
func classics(samples []Sample) []Sample {
	if !slices.ContainsFunc(samples, func(s Sample) bool { return s.customBuckets() }) {
		return samples
	}
	counted := make(map[string]bool)
	key := func(name string, ls labels.Labels) string {
		return name + "\xff" + string(ls.BytesWithoutLabels(nil, model.MetricNameLabel))
	}
	for i := range samples {
		if name, ok := strings.CutSuffix(samples[i].Labels.Get(model.MetricNameLabel), "_count"); ok {
			counted[key(name, samples[i].Labels)] = true
		}
	}
	out := make([]Sample, 0, len(samples))
	for i := range samples {
		s := &samples[i]
		if !s.customBuckets() {
			out = append(out, *s)
			continue
		}
		if !counted[key(s.Labels.Get(model.MetricNameLabel), s.Labels)] {
			out = appendClassic(out, s)
		}
	}
	return out
}

// appendClassic appends the buckets, the sum and the count of a histogram of custom buckets.
func appendClassic(out []Sample, s *Sample) []Sample {
	h := s.Float
	if h == nil {
		h = s.Int.ToFloat(nil)
	}
	name, b := s.Labels.Get(model.MetricNameLabel), labels.NewBuilder(s.Labels)
	series := func(suffix, le string, v float64) {
		b.Set(model.MetricNameLabel, name+suffix)
		if le != "" {
			b.Set(model.BucketLabel, le)
		} else {
			b.Del(model.BucketLabel)
		}
		out = append(out, Sample{Labels: b.Labels(), Value: v, Timestamp: s.Timestamp, Start: s.Start})
	}
	bounds := append(slices.Clone(h.CustomValues), math.Inf(1))
	buckets, first := h.PositiveBucketIterator(), len(out)
	more, total := buckets.Next(), 0.0
	for i, le := range bounds {
		for more && int(buckets.At().Index) <= i {
			total += buckets.At().Count
			more = buckets.Next()
		}
		v := total
		if i == len(bounds)-1 {
			v = h.Count
		}
		series("_bucket", labels.FormatOpenMetricsFloat(le), v)
	}
	for _, e := range s.Exemplars {
		i, _ := slices.BinarySearch(bounds, e.Value)
		x := &out[first+min(i, len(bounds)-1)]
		x.Exemplars = append(x.Exemplars, e)
	}
	series("_sum", "", h.Sum)
	series("_count", "", h.Count)
	return out
}
