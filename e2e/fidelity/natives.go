//go:build fidelity

package fidelity

import (
	"fmt"
	"math"
	"time"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// natives are native histograms: of integers and of floats, counters and gauges, whose schemas, spans and buckets change
// from scrape to scrape, with classic buckets and without.
func (w *world) natives(name string, number int) []*dto.MetricFamily {
	integers := family("native_seconds", "Integers.", dto.MetricType_HISTOGRAM)
	floats := family("native_rate", "Floats.", dto.MetricType_HISTOGRAM)
	classic := family("float_classic", "Classic, of floats.", dto.MetricType_HISTOGRAM)
	gauges := family("native_gauge", "Gauges.", dto.MetricType_GAUGE_HISTOGRAM)
	for i := range 6 {
		kv := pairs("n", fmt.Sprint(i))
		integers.Metric = append(integers.Metric, &dto.Metric{Label: kv, Histogram: w.integer(name, i, number)})
		floats.Metric = append(floats.Metric, &dto.Metric{Label: kv, Histogram: w.float(name, i, number)})
		classic.Metric = append(classic.Metric, &dto.Metric{Label: kv, Histogram: w.floatClassic(name, i, number)})
		gauges.Metric = append(gauges.Metric, &dto.Metric{Label: kv, Histogram: w.integer(name+"g", i, number)})
	}
	// Some come and go as others do.
	if w.phase(number)%5 == 0 {
		integers.Metric, floats.Metric = integers.Metric[1:], floats.Metric[:4]
	}
	return []*dto.MetricFamily{integers, floats, classic, gauges}
}

// spans are those of a histogram at a scrape: mostly as before, now and then others.
func (w *world) spans(name string, i, number int) (spans []*dto.BucketSpan, buckets int) {
	n := number / (2 + i)
	for s := range 1 + w.hash(name, i, n)%4 {
		h := w.hash(name, i, n, s)
		offset := int32(h % 7)
		if s == 0 {
			offset = int32(h%40) - 20
		}
		length := uint32(1 + h>>8%5)
		spans = append(spans, &dto.BucketSpan{Offset: proto.Int32(offset), Length: proto.Uint32(length)})
		buckets += int(length)
	}
	return spans, buckets
}

func (w *world) integer(name string, i, number int) *dto.Histogram {
	h := &dto.Histogram{
		Schema: proto.Int32([]int32{3, 0, -2, 8, 5, -4}[(i+number/40)%6]), ZeroThreshold: proto.Float64(2.938735877055719e-39),
		ZeroCount: proto.Uint64(w.hash(name, i) % 9), SampleSum: proto.Float64(w.value(2, name, i, number)),
	}
	total := h.GetZeroCount()
	fill := func(salt string) (spans []*dto.BucketSpan, deltas []int64) {
		spans, n := w.spans(name+salt, i, number)
		last := int64(0)
		for b := range n {
			v := int64(w.hash(name, salt, i, b)%20) + int64(number)
			deltas = append(deltas, v-last)
			last = v
			total += uint64(v)
		}
		return spans, deltas
	}
	h.PositiveSpan, h.PositiveDelta = fill("+")
	if i%2 == 1 {
		h.NegativeSpan, h.NegativeDelta = fill("-")
	}
	switch i {
	case 2:
		h.ZeroThreshold = proto.Float64(0)
	case 3: // no bucket at all
		h.PositiveSpan, h.PositiveDelta, h.NegativeSpan, h.NegativeDelta, total = []*dto.BucketSpan{{Offset: proto.Int32(0), Length: proto.Uint32(0)}}, nil, nil, nil, h.GetZeroCount()
	case 4: // observed NaN
		h.SampleSum = proto.Float64(math.NaN())
		total++
	case 5: // has classic buckets too
		h.Bucket = []*dto.Bucket{{UpperBound: proto.Float64(1), CumulativeCount: proto.Uint64(total / 2)}, {UpperBound: proto.Float64(10), CumulativeCount: proto.Uint64(total)}}
	}
	h.SampleCount = proto.Uint64(total)
	h.CreatedTimestamp = timestamppb.New(w.begin.Add(-2 * time.Hour))
	if number <= w.last {
		at := func(ms int) time.Time {
			return w.begin.Add(time.Duration(number)*time.Second + time.Duration(ms)*time.Millisecond - 10*time.Minute)
		}
		h.Exemplars = []*dto.Exemplar{
			exemplar(0.25, at(1), "trace_id", fmt.Sprintf("%s%d.%d", name, i, number)),
			exemplar(4, at(2), "trace_id", fmt.Sprintf("%s%d.%d b", name, i, number/3)),
			exemplar(8, time.Time{}, "trace_id", "has no time and is left out"),
		}
	}
	return h
}

func (w *world) float(name string, i, number int) *dto.Histogram {
	h := &dto.Histogram{
		Schema: proto.Int32(int32(i - 2)), ZeroThreshold: proto.Float64(0.001), ZeroCountFloat: proto.Float64(float64(number) / 3),
		SampleSum: proto.Float64(w.value(2, name, i, number)),
	}
	spans, n := w.spans(name+"f", i, number)
	total := h.GetZeroCountFloat()
	h.PositiveSpan = spans
	for b := range n {
		v := float64(w.hash(name, i, b)%1000)/7 + float64(number)*0.1
		h.PositiveCount = append(h.PositiveCount, v)
		total += v
	}
	if i%2 == 1 {
		h.NegativeSpan = []*dto.BucketSpan{{Offset: proto.Int32(int32(-i)), Length: proto.Uint32(2)}}
		h.NegativeCount = []float64{float64(number) / 7, 0.5}
		total += float64(number)/7 + 0.5
	}
	h.SampleCountFloat = proto.Float64(total)
	return h
}

// floatClassic has classic buckets of floats.
func (w *world) floatClassic(name string, i, number int) *dto.Histogram {
	h := &dto.Histogram{SampleSum: proto.Float64(w.value(2, name, i, number))}
	total := 0.0
	for b, le := range []float64{-1, 0.25, 10, math.Inf(1)} {
		total += float64(number)/3 + float64(w.hash(name, "classic", i, b)%10)
		h.Bucket = append(h.Bucket, &dto.Bucket{CumulativeCountFloat: proto.Float64(total), UpperBound: proto.Float64(le)})
	}
	h.SampleCountFloat = proto.Float64(total)
	return h
}
