package exposition

import (
	"math"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// The types of io.prometheus.client.MetricFamily.
const (
	protoCounter = iota
	protoGauge
	protoSummary
	protoUntyped
	protoHistogram
	protoGaugeHistogram
)

// The fields of io.prometheus.client.MetricFamily and of what is in it.
const (
	familyName, familyHelp, familyType, familyMetric, familyUnit = 1, 2, 3, 4, 5

	metricLabel, metricGauge, metricCounter, metricSummary   = 1, 2, 3, 4
	metricUntyped, metricTimestamp, metricHistogram          = 5, 6, 7
	counterValue, counterExemplar, counterStart              = 1, 2, 3
	summaryCount, summarySum, summaryQuantile, summaryStart  = 1, 2, 3, 4
	bucketCount, bucketBound, bucketExemplar, bucketFloat    = 1, 2, 3, 4
	exemplarLabel, exemplarValue, exemplarTimestamp          = 1, 2, 3
	histogramCount, histogramSum, histogramBucket            = 1, 2, 3
	histogramCountFloat, histogramSchema, histogramThreshold = 4, 5, 6
	histogramZero, histogramZeroFloat                        = 7, 8
	histogramStart, histogramExemplar                        = 15, 16
	negativeSpan, negativeDelta, negativeCount               = 9, 10, 11
	positiveSpan, positiveDelta, positiveCount               = 12, 13, 14
)

// messages writes a family in the protobuf format. A histogram or summary becomes one metric for each set of labels if
// all parts of it are there; what does not fit together stands behind it, series by series and without a type, so that
// a reader gets the same series and values.
func (w *Writer) messages(f frame.Family, samples []Sample) {
	h := w.header(f, samples)
	var rest []*Sample
	switch f.Type {
	case model.MetricTypeHistogram, model.MetricTypeGaugeHistogram:
		typ := protoHistogram
		if f.Type == model.MetricTypeGaugeHistogram {
			typ = protoGaugeHistogram
		}
		rest = w.assemblies(f, typ, samples)
	case model.MetricTypeSummary:
		rest = w.assemblies(f, protoSummary, samples)
	default:
		typ := protoUntyped
		switch h.typ {
		case "counter":
			typ = protoCounter
		case "gauge":
			typ = protoGauge
		}
		w.begin(h.name, h.help, h.unit, typ)
		for i := range samples {
			s := &samples[i]
			if s.native() || s.Labels.Get(model.MetricNameLabel) != h.name {
				rest = append(rest, s)
				continue
			}
			w.simple(typ, s)
		}
		w.end()
	}
	w.strays(rest)
}

// strays writes samples that no family explains, by name.
func (w *Writer) strays(rest []*Sample) {
	for len(rest) > 0 {
		name := rest[0].Labels.Get(model.MetricNameLabel)
		var others []*Sample
		for _, typ := range [...]int{protoUntyped, protoHistogram, protoGaugeHistogram} {
			w.begin(name, "", "", typ)
			for _, s := range rest {
				switch {
				case s.Labels.Get(model.MetricNameLabel) != name:
					if typ == protoUntyped {
						others = append(others, s)
					}
				case typ == protoUntyped && !s.native():
					w.simple(typ, s)
				case s.native() && typ == s.histogramType():
					w.metric(s, metricHistogram, func(b []byte) []byte { return w.appendHistogram(b, &assembly{native: s}) })
				}
			}
			w.end()
		}
		rest = others
	}
}

// begin begins the message of a family.
func (w *Writer) begin(name, help, unit string, typ int) {
	b := protowire.AppendTag(w.message[:0], familyName, protowire.BytesType)
	b = protowire.AppendString(b, model.EscapeName(name, w.format.scheme()))
	if help != "" {
		b = protowire.AppendString(protowire.AppendTag(b, familyHelp, protowire.BytesType), help)
	}
	b = protowire.AppendVarint(protowire.AppendTag(b, familyType, protowire.VarintType), uint64(typ))
	if unit != "" {
		b = protowire.AppendString(protowire.AppendTag(b, familyUnit, protowire.BytesType), unit)
	}
	w.message, w.empty = b, true
}

// end writes the message if there is a metric in it.
func (w *Writer) end() {
	if w.empty {
		return
	}
	w.buf = protowire.AppendVarint(w.buf, uint64(len(w.message)))
	if len(w.message) < writerBuffer {
		w.buf = append(w.buf, w.message...)
		w.flush(writerBuffer)
		return
	}
	w.flush(0)
	if w.err == nil {
		_, w.err = w.w.Write(w.message)
	}
	w.message = nil
}

// metric adds one metric to the message, with the labels and the timestamp of s.
func (w *Writer) metric(s *Sample, field protowire.Number, content func([]byte) []byte) {
	w.empty = false
	w.message = nest(w.message, familyMetric, func(b []byte) []byte {
		s.Labels.Range(func(l labels.Label) {
			if l.Name != model.MetricNameLabel {
				b = w.appendLabel(b, metricLabel, l)
			}
		})
		b = nest(b, field, content)
		if s.Timestamp != frame.NoTimestamp {
			b = protowire.AppendVarint(protowire.AppendTag(b, metricTimestamp, protowire.VarintType), uint64(s.Timestamp))
		}
		return b
	})
}

// simple adds a counter, gauge or untyped metric.
func (w *Writer) simple(typ int, s *Sample) {
	field := protowire.Number(metricUntyped)
	switch typ {
	case protoCounter:
		field = metricCounter
	case protoGauge:
		field = metricGauge
	}
	w.metric(s, field, func(b []byte) []byte {
		b = appendDouble(b, counterValue, s.Value)
		if typ == protoCounter {
			b = w.appendStart(b, counterStart, s.Start)
			return w.appendNewest(b, counterExemplar, s)
		}
		w.omit(s)
		return b
	})
}

func (w *Writer) appendLabel(b []byte, field protowire.Number, l labels.Label) []byte {
	return nest(b, field, func(b []byte) []byte {
		b = protowire.AppendString(protowire.AppendTag(b, 1, protowire.BytesType), model.EscapeName(l.Name, w.format.scheme()))
		return protowire.AppendString(protowire.AppendTag(b, 2, protowire.BytesType), l.Value)
	})
}

// appendNewest writes the newest exemplar of a sample where there is room for one.
func (w *Writer) appendNewest(b []byte, field protowire.Number, s *Sample) []byte {
	if len(s.Exemplars) == 0 {
		return b
	}
	w.omitted.Exemplars += len(s.Exemplars) - 1
	return w.appendExemplar(b, field, newest(s.Exemplars))
}

func (w *Writer) appendExemplar(b []byte, field protowire.Number, e *frame.Exemplar) []byte {
	return nest(b, field, func(b []byte) []byte {
		e.Labels.Range(func(l labels.Label) { b = w.appendLabel(b, exemplarLabel, l) })
		b = appendDouble(b, exemplarValue, e.Value)
		if e.Timestamp != frame.NoTimestamp {
			b = appendTime(b, exemplarTimestamp, e.Timestamp)
		}
		return b
	})
}

func (w *Writer) appendStart(b []byte, field protowire.Number, ms int64) []byte {
	if ms == 0 {
		return b
	}
	return appendTime(b, field, ms)
}

// appendHistogram writes a classic histogram, a native one or both.
func (w *Writer) appendHistogram(b []byte, a *assembly) []byte {
	s := a.native
	if s == nil {
		s = a.count
		b = appendCount(b, histogramCount, histogramCountFloat, s.Value)
		b = appendDouble(b, histogramSum, a.sum.Value)
	}
	for _, p := range a.parts {
		b = nest(b, histogramBucket, func(b []byte) []byte {
			b = appendCount(b, bucketCount, bucketFloat, p.sample.Value)
			b = appendDouble(b, bucketBound, p.bound)
			return w.appendNewest(b, bucketExemplar, p.sample)
		})
	}
	b = w.appendStart(b, histogramStart, s.Start)
	if a.native == nil {
		return b
	}
	for i := range s.Exemplars {
		b = w.appendExemplar(b, histogramExemplar, &s.Exemplars[i])
	}
	if s.Int != nil {
		return appendInt(b, s.Int)
	}
	return appendFloat(b, s.Float)
}

func appendInt(b []byte, h *histogram.Histogram) []byte {
	b = protowire.AppendVarint(protowire.AppendTag(b, histogramCount, protowire.VarintType), h.Count)
	b = appendDouble(b, histogramSum, h.Sum)
	b = protowire.AppendVarint(protowire.AppendTag(b, histogramZero, protowire.VarintType), h.ZeroCount)
	deltas := func(field protowire.Number, all []int64) {
		for _, d := range all {
			b = protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), protowire.EncodeZigZag(d))
		}
	}
	deltas(negativeDelta, h.NegativeBuckets)
	deltas(positiveDelta, h.PositiveBuckets)
	return appendSpans(b, h.Schema, h.ZeroThreshold, h.NegativeSpans, h.PositiveSpans)
}

func appendFloat(b []byte, h *histogram.FloatHistogram) []byte {
	b = appendDouble(b, histogramCountFloat, h.Count)
	b = appendDouble(b, histogramSum, h.Sum)
	b = appendDouble(b, histogramZeroFloat, h.ZeroCount)
	for _, v := range h.NegativeBuckets {
		b = appendDouble(b, negativeCount, v)
	}
	for _, v := range h.PositiveBuckets {
		b = appendDouble(b, positiveCount, v)
	}
	return appendSpans(b, h.Schema, h.ZeroThreshold, h.NegativeSpans, h.PositiveSpans)
}

func appendSpans(b []byte, schema int32, threshold float64, negative, positive []histogram.Span) []byte {
	b = protowire.AppendVarint(protowire.AppendTag(b, histogramSchema, protowire.VarintType), protowire.EncodeZigZag(int64(schema)))
	b = appendDouble(b, histogramThreshold, threshold)
	spans := func(field protowire.Number, all []histogram.Span) {
		for _, s := range all {
			b = nest(b, field, func(b []byte) []byte {
				b = protowire.AppendVarint(protowire.AppendTag(b, 1, protowire.VarintType), protowire.EncodeZigZag(int64(s.Offset)))
				return protowire.AppendVarint(protowire.AppendTag(b, 2, protowire.VarintType), uint64(s.Length))
			})
		}
	}
	spans(negativeSpan, negative)
	spans(positiveSpan, positive)
	if len(negative)+len(positive) == 0 {
		// Readers take a histogram for a native one by its spans, its zero bucket or this one of no buckets.
		spans(positiveSpan, []histogram.Span{{}})
	}
	return b
}

// appendCount writes a count: as an integer if it is one.
func appendCount(b []byte, field, float protowire.Number, v float64) []byte {
	if n, ok := wholeNumber(v); ok {
		return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), n)
	}
	return appendDouble(b, float, v)
}

// wholeNumber gives the integer that a reader turns into just this double again.
func wholeNumber(v float64) (uint64, bool) {
	if v >= 0 && v < 1<<64 && v == math.Trunc(v) && !math.Signbit(v) {
		return uint64(v), true
	}
	return 0, false
}

func appendDouble(b []byte, field protowire.Number, v float64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(b, field, protowire.Fixed64Type), math.Float64bits(v))
}

// appendTime writes milliseconds since the Unix epoch as a google.protobuf.Timestamp.
func appendTime(b []byte, field protowire.Number, ms int64) []byte {
	seconds, rest := ms/1000, ms%1000
	if rest < 0 {
		seconds, rest = seconds-1, rest+1000
	}
	return nest(b, field, func(b []byte) []byte {
		b = protowire.AppendVarint(protowire.AppendTag(b, 1, protowire.VarintType), uint64(seconds))
		return protowire.AppendVarint(protowire.AppendTag(b, 2, protowire.VarintType), uint64(rest*1_000_000))
	})
}

// nest appends a field that is a message.
func nest(b []byte, field protowire.Number, content func([]byte) []byte) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	at := len(b)
	b = content(b)
	n := len(b) - at
	var size [10]byte
	prefix := protowire.AppendVarint(size[:0], uint64(n))
	b = append(b, prefix...)
	copy(b[at+len(prefix):], b[at:at+n])
	copy(b[at:], prefix)
	return b
}
