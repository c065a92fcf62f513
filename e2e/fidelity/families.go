//go:build fidelity

package fidelity

import (
	"bytes"
	"fmt"
	"math"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// format is one of the five that targets answer in.
type format int

const (
	text004 format = iota
	text100
	openMetrics
	protobuf
	native // protobuf with native histograms
	formats
)

func (f format) String() string {
	return [...]string{"text004", "text100", "openmetrics", "protobuf", "native"}[f]
}

func (f format) contentType() string {
	return [...]string{
		"text/plain; version=0.0.4; charset=utf-8",
		"text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8",
		"application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8",
		"application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
		"application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
	}[f]
}

// encode writes families in a format.
func (f format) encode(all []*dto.MetricFamily) answer {
	var b bytes.Buffer
	for _, m := range all {
		var err error
		switch f {
		case text004, text100:
			_, err = expfmt.MetricFamilyToText(&b, m)
		case openMetrics:
			_, err = expfmt.MetricFamilyToOpenMetrics(&b, m, expfmt.WithCreatedLines())
		default:
			_, err = protodelim.MarshalTo(&b, m)
		}
		if err != nil {
			panic(fmt.Sprintf("%s of %s: %v", f, m.GetName(), err))
		}
	}
	if f == openMetrics {
		b.WriteString("# EOF\n")
	}
	return answer{contentType: f.contentType(), body: b.Bytes()}
}

// world is what the numbers of a run depend on.
type world struct {
	seed  uint64
	begin time.Time
	// last is the last scrape that is compared: nothing with a time of its own is shown after it.
	last int
	// steady worlds have the same series at each scrape.
	steady bool
	// version is that of remote write.
	version int
}

// hash is a number that depends on all of what is given: texts and ints.
func (w *world) hash(parts ...any) uint64 {
	h := w.seed ^ 0x9e3779b97f4a7c15
	for _, p := range parts {
		switch x := p.(type) {
		case string:
			for i := range len(x) {
				h = (h ^ uint64(x[i])) * 0x100000001b3
			}
		case int:
			h = (h ^ uint64(x)) * 0x9fb21c651e98df25
		case uint64:
			h = (h ^ x) * 0x9fb21c651e98df25
		default:
			panic(fmt.Sprintf("hash of a %T", p))
		}
		h ^= h >> 29
	}
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	return h ^ h>>32
}

// specials are the values that formats and codecs get wrong.
var specials = []float64{0, math.Copysign(0, -1), math.NaN(), math.Inf(1), math.Inf(-1), math.MaxFloat64, math.SmallestNonzeroFloat64,
	-1.5, 1e22, 1e23, 1 << 53, 1<<53 + 2, 0.1, 1.0 / 3, -123456789.125, math.Float64frombits(0x7ff8000000abcdef), math.Float64frombits(0xfff0000000000001)}

// value is that of a series at a scrape: a mixture of what targets show.
func (w *world) value(kind int, target string, series, number int) float64 {
	h := w.hash(target, series, number)
	switch kind % 6 {
	case 0: // counts up
		return float64(w.hash(target, series)%1e6) + float64(number*(series%50)) + float64(h%5)
	case 1:
		return float64(int64(h%2000) - 1000)
	case 2:
		return float64(h%1_000_000) / 1000
	case 3:
		return math.Float64frombits(h &^ (1 << 62)) // any, small
	case 4:
		return float64(w.hash(target, series) % 7) // constant
	default:
		return float64(number) * 0.015625
	}
}

func pairs(kv ...string) []*dto.LabelPair {
	var out []*dto.LabelPair
	for i := 0; i < len(kv); i += 2 {
		out = append(out, &dto.LabelPair{Name: proto.String(kv[i]), Value: proto.String(kv[i+1])})
	}
	return out
}

func family(name, help string, kind dto.MetricType, all ...*dto.Metric) *dto.MetricFamily {
	return &dto.MetricFamily{Name: proto.String(name), Help: proto.String(help), Type: kind.Enum(), Metric: all}
}

func gauge(v float64, kv ...string) *dto.Metric {
	return &dto.Metric{Label: pairs(kv...), Gauge: &dto.Gauge{Value: proto.Float64(v)}}
}

func counter(v float64, kv ...string) *dto.Metric {
	return &dto.Metric{Label: pairs(kv...), Counter: &dto.Counter{Value: proto.Float64(v)}}
}

func untyped(v float64, kv ...string) *dto.Metric {
	return &dto.Metric{Label: pairs(kv...), Untyped: &dto.Untyped{Value: proto.Float64(v)}}
}

func exemplar(v float64, at time.Time, kv ...string) *dto.Exemplar {
	e := &dto.Exemplar{Label: pairs(kv...), Value: proto.Float64(v)}
	if !at.IsZero() {
		e.Timestamp = timestamppb.New(at)
	}
	return e
}

// scrapeNumber is in every body.
func scrapeNumber(number int) *dto.MetricFamily {
	return family("scrape_number", "Which scrape this is.", dto.MetricType_GAUGE, gauge(float64(number)))
}
