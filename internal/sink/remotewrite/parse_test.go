package remotewrite

import (
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
)

func (f *server) parse1(raw []byte) (out []sent) {
	var r prompb.WriteRequest
	if err := r.Unmarshal(raw); err != nil {
		f.t.Errorf("1.0: %v", err)
	}
	for _, ts := range r.Timeseries {
		var pairs []labels.Label
		for _, l := range ts.Labels {
			pairs = append(pairs, labels.Label{Name: l.Name, Value: l.Value})
		}
		s := sent{labels: f.checkLabels(pairs)}
		for _, p := range ts.Samples {
			s.points = append(s.points, point{p.Timestamp, math.Float64bits(p.Value)})
		}
		for _, h := range ts.Histograms {
			if len(h.CustomValues) > 0 || h.Schema == histogram.CustomBucketsSchema {
				f.t.Errorf("custom buckets in 1.0: %v", h)
			}
			x := native1{ms: h.Timestamp, int: h.ToIntHistogram()}
			if h.IsFloatHistogram() {
				x.float = h.ToFloatHistogram()
			}
			s.natives = append(s.natives, x)
		}
		for _, e := range ts.Exemplars {
			var pairs []labels.Label
			for _, l := range e.Labels {
				pairs = append(pairs, labels.Label{Name: l.Name, Value: l.Value})
			}
			s.exemplars = append(s.exemplars, exemplar1{e.Timestamp, e.Value, f.checkExemplar(pairs)})
		}
		if len(s.natives) > 0 && len(s.exemplars) > 0 {
			f.t.Errorf("exemplars of %s beside a histogram in 1.0: Prometheus reads them before there is a series", s.labels)
		}
		f.checkSeries(&s, false)
		out = append(out, s)
	}
	return out
}

func (f *server) parse2(raw []byte) (out []sent) {
	var r writev2.Request
	if err := r.Unmarshal(raw); err != nil {
		f.t.Errorf("2.0: %v", err)
	}
	if len(r.Symbols) == 0 || r.Symbols[0] != "" {
		f.t.Errorf("the first symbol is not empty: %q", r.Symbols)
	}
	seen, used := make(map[string]bool), make([]bool, len(r.Symbols))
	for _, s := range r.Symbols {
		if seen[s] {
			f.t.Errorf("symbol %q twice", s)
		}
		if !utf8.ValidString(s) {
			f.t.Errorf("symbol %q is not UTF-8", s)
		}
		seen[s] = true
	}
	used[0] = true
	symbol := func(n uint32) string {
		if int(n) >= len(r.Symbols) {
			f.t.Fatalf("symbol %d of %d", n, len(r.Symbols))
		}
		used[n] = true
		return r.Symbols[n]
	}
	for _, ts := range r.Timeseries {
		if len(ts.LabelsRefs)%2 != 0 || len(ts.LabelsRefs) == 0 {
			f.t.Fatalf("%d refs of labels", len(ts.LabelsRefs))
		}
		var pairs []labels.Label
		for i := 0; i < len(ts.LabelsRefs); i += 2 {
			pairs = append(pairs, labels.Label{Name: symbol(ts.LabelsRefs[i]), Value: symbol(ts.LabelsRefs[i+1])})
		}
		s := sent{labels: f.checkLabels(pairs)}
		s.family = fmt.Sprint(ts.Metadata.Type, "|", symbol(ts.Metadata.HelpRef), "|", symbol(ts.Metadata.UnitRef))
		for _, p := range ts.Samples {
			s.points = append(s.points, point{p.Timestamp, math.Float64bits(p.Value)})
			s.start = p.StartTimestamp
		}
		for _, h := range ts.Histograms {
			x := native1{ms: h.Timestamp, int: h.ToIntHistogram()}
			if h.IsFloatHistogram() {
				x.float = h.ToFloatHistogram()
			}
			s.natives, s.start = append(s.natives, x), h.StartTimestamp
		}
		for _, e := range ts.Exemplars {
			if len(e.LabelsRefs)%2 != 0 {
				f.t.Fatalf("%d refs of an exemplar's labels", len(e.LabelsRefs))
			}
			var own []labels.Label
			for i := 0; i < len(e.LabelsRefs); i += 2 {
				own = append(own, labels.Label{Name: symbol(e.LabelsRefs[i]), Value: symbol(e.LabelsRefs[i+1])})
			}
			s.exemplars = append(s.exemplars, exemplar1{e.Timestamp, e.Value, f.checkExemplar(own)})
		}
		f.checkSeries(&s, true)
		out = append(out, s)
	}
	for n, u := range used {
		if !u {
			f.t.Errorf("symbol %q is not used", r.Symbols[n])
		}
	}
	return out
}

// What follows, with checkHeaders and why, is each MUST that the specification has for senders' requests: a POST of a
// snappy block with the four headers; symbols that begin with the empty one, each once, none without use, and references
// among them; for each series its whole labels in order, none empty, samples or histograms but not both, in the order of
// time; exemplars with a time. How answers are taken is in the tests of verdicts.

// checkLabels is what the specification says of a series.
func (f *server) checkLabels(pairs []labels.Label) labels.Labels {
	for i, l := range pairs {
		if l.Name == "" || l.Value == "" || i > 0 && pairs[i-1].Name >= l.Name {
			f.t.Errorf("labels %v: empty or not in order at %d", pairs, i)
		}
		if !utf8.ValidString(l.Name) || !utf8.ValidString(l.Value) {
			f.t.Errorf("labels %v: not UTF-8 at %d", pairs, i)
		}
	}
	all := labels.New(pairs...)
	if all.Get("__name__") == "" {
		f.t.Errorf("series %v without a name", all)
	}
	return all
}

// checkSeries is what the specification says of what a series has.
func (f *server) checkSeries(s *sent, two bool) {
	if len(s.natives) > 1 || len(s.natives) > 0 && len(s.points) > 0 || len(s.natives)+len(s.points) == 0 && (two || len(s.exemplars) == 0) {
		f.t.Errorf("%d samples and %d histograms of %s", len(s.points), len(s.natives), s.labels)
	}
	for i, p := range s.points {
		if i > 0 && s.points[i-1].ms >= p.ms {
			f.t.Errorf("samples of %s are not in order: %v", s.labels, s.points)
		}
	}
	for _, h := range s.natives {
		switch {
		case h.int != nil && !value.IsStaleNaN(h.int.Sum):
			if err := h.int.Validate(); err != nil {
				f.t.Errorf("histogram of %s: %v", s.labels, err)
			}
		case h.float != nil && !value.IsStaleNaN(h.float.Sum):
			if err := h.float.Validate(); err != nil {
				f.t.Errorf("histogram of %s: %v", s.labels, err)
			}
		}
	}
	for i, e := range s.exemplars {
		if e.ms == 0 || i > 0 && s.exemplars[i-1].ms > e.ms {
			f.t.Errorf("exemplars of %s are not in order, or without a time: %v", s.labels, s.exemplars)
		}
	}
}

// checkExemplar gives the labels of an exemplar as text.
func (f *server) checkExemplar(pairs []labels.Label) string {
	runes := 0
	for i, l := range pairs {
		runes += utf8.RuneCountInString(l.Name + l.Value)
		if l.Name == "" || l.Value == "" || i > 0 && pairs[i-1].Name >= l.Name {
			f.t.Errorf("labels %v of an exemplar: empty or not in order at %d", pairs, i)
		}
	}
	if runes > 128 {
		f.t.Errorf("labels of an exemplar with %d characters", runes)
	}
	return labels.New(pairs...).String()
}
