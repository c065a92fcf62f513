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

// Between these scrapes the targets have the same series: the two find at different ones that a target refuses connections.
const quietFrom, quietTo = 58, 68

// phase is the scrape that the series of a body depend on.
func (w *world) phase(number int) int {
	switch {
	case w.steady:
		return 1
	case number <= quietFrom:
		return number
	case number <= quietTo:
		return quietFrom
	default:
		return number - (quietTo - quietFrom)
	}
}

// bulk is a large target of plain series.
func (w *world) bulk(name string, f format, series int) func(int) answer {
	return func(number int) answer {
		c, g := family("bulk_events_total", "Events.", dto.MetricType_COUNTER), family("bulk_level", "A level.", dto.MetricType_GAUGE)
		for i := range series - 1 {
			kv := []string{"shard", fmt.Sprint(i), "kind", []string{"read", "write", "wait"}[i%3]}
			if i%2 == 0 {
				c.Metric = append(c.Metric, counter(math.Abs(w.value(i/2, name, i, number)), kv...))
			} else {
				g.Metric = append(g.Metric, gauge(w.value(i/2, name, i, number), kv...))
			}
		}
		return f.encode([]*dto.MetricFamily{scrapeNumber(number), c, g})
	}
}

// mixed shows all kinds of metrics, with series that come, go and flap.
func (w *world) mixed(name string, f format) func(int) answer {
	return func(number int) answer {
		all := []*dto.MetricFamily{scrapeNumber(number), w.requests(name, number), w.special(name, number), w.flapping(name, number),
			w.passing(name, number), w.summaries(name, number), w.classic(name, number, f)}
		if f != text004 {
			all = append(all, w.utf8(name, number))
		}
		if f == native {
			all = append(all, w.natives(name, number)...)
		}
		if n := w.phase(number); n%4 == 0 { // the families change their places
			all[2], all[4] = all[4], all[2]
		}
		return f.encode(all)
	}
}

// requests are counters with exemplars and the time at which they were created.
func (w *world) requests(name string, number int) *dto.MetricFamily {
	m := family("requests_total", "Requests, \\ and \"quotes\"\nin two lines.", dto.MetricType_COUNTER)
	for i := range 12 {
		c := counter(math.Abs(w.value(0, name, i, number)), "code", fmt.Sprint(200+i), "path", "/a\\b\"c\n/"+fmt.Sprint(i))
		c.Counter.CreatedTimestamp = timestamppb.New(w.begin.Add(-time.Hour).Add(time.Duration(i) * time.Second))
		// Of some a new one at each scrape, of others every third or only one; half have a time.
		if every := []int{1, 3, 1000}[i%3]; i < 9 && number <= w.last {
			shown := number - number%every
			var at time.Time
			if i%2 == 0 {
				at = w.begin.Add(time.Duration(shown)*time.Second - 10*time.Minute)
			}
			c.Counter.Exemplar = exemplar(float64(shown)+0.5, at, "trace_id", fmt.Sprintf("%016x", w.hash(name, i, shown)))
		}
		m.Metric = append(m.Metric, c)
	}
	return m
}

func (w *world) special(name string, number int) *dto.MetricFamily {
	m := family("special", "Values that are easily lost.", dto.MetricType_UNTYPED)
	for i := range specials {
		m.Metric = append(m.Metric, untyped(specials[(i+number)%len(specials)], "n", fmt.Sprint(i)))
	}
	for i, v := range specials {
		m.Metric = append(m.Metric, untyped(v, "constant", fmt.Sprint(i)))
	}
	return m
}

// flapping series are there in about two of three scrapes.
func (w *world) flapping(name string, number int) *dto.MetricFamily {
	m := family("flapping", "", dto.MetricType_GAUGE, gauge(float64(number), "n", "always"))
	m.Help = nil
	for i := range 25 {
		if w.hash("flap", name, i, w.phase(number)/(1+i%3))%3 > 0 {
			m.Metric = append(m.Metric, gauge(w.value(i, name, i, number), "n", fmt.Sprint(i)))
		}
	}
	return m
}

// passing series come one after the other and stay for a while; some come back.
func (w *world) passing(name string, number int) *dto.MetricFamily {
	m := family("passing", "Series that come and go.", dto.MetricType_GAUGE, gauge(1, "pod", "first"))
	n := w.phase(number)
	for i := n - 8; i <= n; i++ {
		m.Metric = append(m.Metric, gauge(w.value(i+8, name, i, number), "pod", fmt.Sprintf("%x", w.hash(name, (i+100)%40))))
	}
	return m
}

func (w *world) summaries(name string, number int) *dto.MetricFamily {
	m := family("latency_seconds", "Latencies.", dto.MetricType_SUMMARY)
	m.Unit = proto.String("seconds")
	for i := range 3 {
		s := &dto.Summary{SampleCount: proto.Uint64(uint64(number * (i + 1))), SampleSum: proto.Float64(w.value(2, name, i, number))}
		for _, q := range []float64{0.5, 0.9, 0.99, 1} {
			v := w.value(2, name, int(q*1000)+i, number)
			if i == 1 && number%2 == 0 {
				v = math.NaN()
			}
			s.Quantile = append(s.Quantile, &dto.Quantile{Quantile: proto.Float64(q), Value: proto.Float64(v)})
		}
		m.Metric = append(m.Metric, &dto.Metric{Label: pairs("op", fmt.Sprint(i)), Summary: s})
	}
	return m
}

// classic histograms, some of whose buckets have exemplars.
func (w *world) classic(name string, number int, f format) *dto.MetricFamily {
	m := family("size_bytes", "Sizes.", dto.MetricType_HISTOGRAM)
	for i := range 4 {
		h := &dto.Histogram{SampleSum: proto.Float64(w.value(2, name, i, number))}
		total := uint64(0)
		for b, le := range []float64{0.005, 0.1, 1, 10, 2500, 1e6, math.Inf(1)} {
			total += uint64(number*(i+1)) + w.hash(name, i, b)%100
			bucket := &dto.Bucket{CumulativeCount: proto.Uint64(total), UpperBound: proto.Float64(le)}
			if (f == openMetrics || f == protobuf || f == native) && (b+i+number)%3 == 0 && number <= w.last {
				at := w.begin.Add(time.Duration(number)*time.Second + time.Duration(b)*time.Millisecond - 10*time.Minute)
				if i == 3 {
					at = time.Time{}
				}
				bucket.Exemplar = exemplar(min(le, 1e9), at, "trace_id", fmt.Sprintf("%x-%d-%d", i, b, number), "span", "ü")
			}
			h.Bucket = append(h.Bucket, bucket)
		}
		h.SampleCount = proto.Uint64(total)
		m.Metric = append(m.Metric, &dto.Metric{Label: pairs("dir", fmt.Sprint(i)), Histogram: h})
	}
	return m
}

func (w *world) utf8(name string, number int) *dto.MetricFamily {
	m := family("größe.des speichers", "Ein Maß für Ω.", dto.MetricType_GAUGE)
	for i := range 5 {
		m.Metric = append(m.Metric, gauge(w.value(i, name, i, number), "label with.dots", fmt.Sprintf("wert %d ∀", i), "名", "x"))
	}
	return m
}
