package pushgateway

import (
	"encoding/binary"
	"math"
	"slices"
	"strconv"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/exposition"
	"github.com/choria-io/prometheus-streams/internal/frame"
)

// form is what a row of a frame holds.
type form uint8

const (
	floatRow form = iota
	// nativeRow: a native histogram, which only the protobuf format can hold.
	nativeRow
	// customRow: a native histogram of custom buckets, which is written as the classic one that it is.
	customRow
)

// rowForm is a row that is a histogram.
type rowForm struct {
	row  int
	form form
}

// rowForms are the histograms of a frame by rising row. A layout depends on them: a histogram stands in a family of
// another type than a float.
type rowForms []rowForm

func formsOf(f *frame.Frame) rowForms {
	if len(f.Column.Histograms) == 0 {
		return nil
	}
	forms := make(rowForms, len(f.Column.Histograms))
	for i := range f.Column.Histograms {
		forms[i] = rowForm{f.Column.Histograms[i].Row, formOf(&f.Column.Histograms[i])}
	}
	return forms
}

func formOf(h *frame.Histogram) form {
	if h.Int != nil && h.Int.UsesCustomBuckets() || h.Float != nil && h.Float.UsesCustomBuckets() {
		return customRow
	}
	return nativeRow
}

// same tells whether these are the forms of a frame.
func (fs rowForms) same(f *frame.Frame) bool {
	return slices.EqualFunc(fs, f.Column.Histograms, func(x rowForm, h frame.Histogram) bool {
		return x.row == h.Row && x.form == formOf(&h)
	})
}

func (fs rowForms) key() string {
	var b []byte
	for _, x := range fs {
		b = append(binary.AppendUvarint(b, uint64(x.row)), byte(x.form))
	}
	return string(b)
}

// native tells whether a content can only be written in the protobuf format.
func (c *content) native() bool {
	return slices.ContainsFunc(c.families, family.native)
}

func (f family) native() bool {
	return slices.ContainsFunc(f.series, func(s series) bool { return s.form == nativeRow })
}

// classic gives a content without its native histograms.
func (c *content) classic() *content {
	n := &content{left: append([]left(nil), c.left...)}
	for i := range n.left {
		n.left[i].series = append([]series(nil), n.left[i].series...)
	}
	for _, f := range c.families {
		kept := f
		if f.native() {
			kept.series = nil
			for _, s := range f.series {
				if s.form == nativeRow {
					n.leave(leftNative, s)
				} else {
					kept.series = append(kept.series, s)
				}
			}
		}
		if len(kept.series) > 0 {
			n.families = append(n.families, kept)
		}
	}
	return n
}

// The parts that a histogram needs; a summary needs the first two.
const (
	hasCount = 1 << iota
	hasSum
	hasLast
	// odd: a bucket or quantile whose label does not read as it would be written.
	odd
)

// whole gives a histogram or summary without what lacks a part of it, which is left out: the protobuf format has no place
// for that, and beside the rest of it the gateway refuses its names.
func (c *content) whole(f family) family {
	set := func(s *series) string {
		return string(s.labels.BytesWithoutLabels(nil, model.MetricNameLabel, model.BucketLabel, model.QuantileLabel))
	}
	need, label := hasCount|hasSum|hasLast, model.BucketLabel
	if f.typ == model.MetricTypeSummary {
		need, label = hasCount|hasSum, model.QuantileLabel
	}
	parts := make(map[string]int)
	for i := range f.series {
		s := &f.series[i]
		if s.form != floatRow {
			continue
		}
		part := 0
		switch s.labels.Get(model.MetricNameLabel) {
		case f.name + "_count":
			part = hasCount
		case f.name + "_sum":
			part = hasSum
		default:
			text := s.labels.Get(label)
			v, err := strconv.ParseFloat(text, 64)
			if err != nil || labels.FormatOpenMetricsFloat(v) != text {
				part = odd
			} else if math.IsInf(v, 1) {
				part = hasLast
			}
		}
		parts[set(s)] |= part
	}
	kept := f
	kept.series = nil
	for i := range f.series {
		if s := &f.series[i]; s.form != floatRow || parts[set(s)]&(need|odd) == need {
			kept.series = append(kept.series, *s)
		} else {
			c.leave(leftPart, *s)
		}
	}
	return kept
}

// enrich completes a sample by what is rare: the histogram that a row is, its exemplars and its start timestamp.
func enrich(x *exposition.Sample, s *series, c *frame.Column) {
	if s.index < 0 {
		return
	}
	if s.form != floatRow {
		if i, ok := slices.BinarySearchFunc(c.Histograms, s.index, func(h frame.Histogram, row int) int { return h.Row - row }); ok {
			x.Value = 0
			x.Int, x.Float = counting(&c.Histograms[i])
		}
	}
	if c.Starts != nil {
		x.Start = c.Starts[s.index]
	}
	if len(c.Exemplars) > 0 {
		compare := func(e frame.Exemplar, row int) int { return e.Row - row }
		from, _ := slices.BinarySearchFunc(c.Exemplars, s.index, compare)
		to, _ := slices.BinarySearchFunc(c.Exemplars, s.index+1, compare)
		x.Exemplars = c.Exemplars[from:to]
	}
}

// counting gives a histogram as one that only grows. That of a gauge has another type, at which the gateway's page in
// the text format breaks off.
func counting(h *frame.Histogram) (*histogram.Histogram, *histogram.FloatHistogram) {
	switch {
	case h.Int != nil && h.Int.CounterResetHint == histogram.GaugeType:
		x := *h.Int
		x.CounterResetHint = histogram.UnknownCounterReset
		return &x, nil
	case h.Float != nil && h.Float.CounterResetHint == histogram.GaugeType:
		x := *h.Float
		x.CounterResetHint = histogram.UnknownCounterReset
		return nil, &x
	}
	return h.Int, h.Float
}
