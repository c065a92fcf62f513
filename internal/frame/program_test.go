package frame

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
)

// program is a server instrumented with client_golang, as one sees them: requests by handler and code with an
// exemplar each, some handlers busy and some hardly used.
type program struct {
	*rand.Rand
	registry  *prometheus.Registry
	requests  *prometheus.CounterVec
	latency   *prometheus.HistogramVec
	size      *prometheus.HistogramVec
	classic   *prometheus.HistogramVec
	temp      prometheus.Gauge
	now       int64
	starts    map[string]int64
	exemplars map[string]int64
	schema    *Schema
}

const programHandlers = 20

func newProgram(seed uint64) *program {
	p := &program{Rand: rand.New(rand.NewPCG(seed, 5)), registry: prometheus.NewRegistry(), now: 1_790_000_000_000,
		starts: map[string]int64{}, exemplars: map[string]int64{}}
	native := func(name string, factor float64) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: name, NativeHistogramBucketFactor: factor,
			NativeHistogramMaxBucketNumber: 160, NativeHistogramExemplarTTL: time.Hour}, []string{"handler", "code"})
	}
	p.latency, p.size = native("request_duration_seconds", 1.1), native("response_size_bytes", 1.5)
	p.classic = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "queue_seconds", Help: "q", Buckets: prometheus.DefBuckets}, []string{"handler"})
	p.requests = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "requests_total", Help: "r"}, []string{"handler", "code"})
	p.temp = prometheus.NewGauge(prometheus.GaugeOpts{Name: "temperature"})
	p.registry.MustRegister(p.latency, p.size, p.classic, p.requests, p.temp)
	return p
}

// serve is what happens in one scrape interval.
func (p *program) serve() {
	for h := range programHandlers {
		busy := 400 / (1 + h*h)
		n := p.IntN(2*busy + 1)
		if busy < 3 && p.IntN(4) > 0 {
			n = 0
		}
		for range n {
			p.request(fmt.Sprintf("/api/v1/thing%02d", h), []string{"200", "200", "200", "500"}[p.IntN(4)])
		}
	}
	p.temp.Set(20 + math.Round(p.Float64()*100)/10)
	p.now += 15000
}

func (p *program) request(handler, code string) {
	ids := prometheus.Labels{"trace_id": hexID(p.Rand, 16), "span_id": hexID(p.Rand, 8)}
	took := time.Duration(math.Exp(p.NormFloat64()-4) * 1e9).Seconds()
	p.requests.WithLabelValues(handler, code).(prometheus.ExemplarAdder).AddWithExemplar(1, ids)
	p.latency.WithLabelValues(handler, code).(prometheus.ExemplarObserver).ObserveWithExemplar(took, ids)
	p.size.WithLabelValues(handler, code).Observe(math.Round(math.Exp(p.NormFloat64()*2 + 7)))
	p.classic.WithLabelValues(handler).(prometheus.ExemplarObserver).ObserveWithExemplar(took/10, ids)
}

// programRow is one series of a scrape.
type programRow struct {
	series    Series
	value     float64
	start     int64
	histogram *histogram.Histogram
	exemplars []Exemplar
}

// scrape gives what a scrape by protobuf gives; the schema is remade when there are series more.
func (p *program) scrape(t testing.TB) (int64, *Schema, *Column) {
	t.Helper()
	p.serve()
	families, err := p.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var rows []programRow
	for i, f := range families {
		for _, m := range f.Metric {
			rows = append(rows, p.rows(f, i, m)...)
		}
	}
	if p.schema == nil || len(p.schema.Series) != len(rows) {
		p.remake(t, families, rows)
	}
	n := len(rows)
	c := &Column{Values: make([]float64, n), Starts: make([]int64, n)}
	for i, r := range rows {
		c.Values[i], c.Starts[i] = r.value, r.start
		if r.histogram != nil {
			c.Histograms = append(c.Histograms, Histogram{Row: i, Int: r.histogram})
		}
		for _, e := range r.exemplars {
			e.Row = i
			c.Exemplars = append(c.Exemplars, e)
		}
	}
	return p.now, p.schema, c
}

func (p *program) remake(t testing.TB, families []*dto.MetricFamily, rows []programRow) {
	t.Helper()
	fs := make([]Family, len(families))
	for i, f := range families {
		fs[i] = Family{Name: f.GetName(), Help: f.GetHelp(), Type: model.MetricTypeUnknown}
	}
	series := make([]Series, len(rows))
	bases := map[string]float64{}
	if p.schema != nil {
		for _, s := range p.schema.Series {
			bases[s.Labels.String()] = s.Base
		}
	}
	for i, r := range rows {
		series[i] = r.series
		if series[i].Base = r.value; bases[r.series.Labels.String()] != 0 {
			series[i].Base = bases[r.series.Labels.String()]
		}
	}
	p.schema = mustSchema(t, fs, series)
}

func (p *program) rows(f *dto.MetricFamily, family int, m *dto.Metric) []programRow {
	row := func(suffix string, v float64, extra ...string) programRow {
		b := labels.NewBuilder(labels.FromStrings(append(extra, "__name__", f.GetName()+suffix)...))
		for _, l := range m.Label {
			b.Set(l.GetName(), l.GetValue())
		}
		return programRow{series: Series{Labels: b.Labels(), Family: family}, value: v}
	}
	switch {
	case m.Gauge != nil:
		return []programRow{row("", m.Gauge.GetValue())}
	case m.Counter != nil:
		r := row("", m.Counter.GetValue())
		r.start = p.start(r.series.Labels)
		r.exemplars = p.exemplar(m.Counter.Exemplar)
		return []programRow{r}
	case m.Histogram.Schema != nil:
		r := row("", 0)
		r.start = p.start(r.series.Labels)
		r.histogram = nativeOf(m.Histogram)
		for _, e := range m.Histogram.Exemplars {
			r.exemplars = append(r.exemplars, p.exemplar(e)...)
		}
		return []programRow{r}
	}
	h := m.Histogram
	rows := []programRow{row("_count", float64(h.GetSampleCount())), row("_sum", h.GetSampleSum())}
	begin := p.start(rows[0].series.Labels)
	for _, b := range h.Bucket {
		rows = append(rows, row("_bucket", float64(b.GetCumulativeCount()), "le", fmt.Sprint(b.GetUpperBound())))
		rows[len(rows)-1].exemplars = p.exemplar(b.Exemplar)
	}
	rows = append(rows, row("_bucket", float64(h.GetSampleCount()), "le", "+Inf"))
	for i := range rows {
		rows[i].start = begin
	}
	return rows
}

// start is a moment between the scrape before the one that first had the series and that one.
func (p *program) start(ls labels.Labels) int64 {
	key := ls.String()
	if p.starts[key] == 0 {
		p.starts[key] = p.now - int64(p.IntN(15000))
	}
	return p.starts[key]
}

func (p *program) exemplar(e *dto.Exemplar) []Exemplar {
	if e == nil {
		return nil
	}
	x := Exemplar{Value: e.GetValue()}
	b := labels.NewBuilder(labels.EmptyLabels())
	for _, l := range e.Label {
		b.Set(l.GetName(), l.GetValue())
	}
	x.Labels = b.Labels()
	key := x.Labels.Get("trace_id")
	if p.exemplars[key] == 0 {
		p.exemplars[key] = p.now - int64(p.IntN(15000))
	}
	x.Timestamp = p.exemplars[key]
	return []Exemplar{x}
}

func nativeOf(h *dto.Histogram) *histogram.Histogram {
	spans := func(in []*dto.BucketSpan) (out []histogram.Span) {
		for _, s := range in {
			out = append(out, histogram.Span{Offset: s.GetOffset(), Length: s.GetLength()})
		}
		return out
	}
	x := &histogram.Histogram{Schema: h.GetSchema(), ZeroThreshold: h.GetZeroThreshold(), ZeroCount: h.GetZeroCount(),
		Count: h.GetSampleCount(), Sum: h.GetSampleSum(), PositiveSpans: spans(h.PositiveSpan), NegativeSpans: spans(h.NegativeSpan),
		PositiveBuckets: slices.Clone(h.PositiveDelta), NegativeBuckets: slices.Clone(h.NegativeDelta)}
	return x.Compact(0)
}

// TestProgram measures what start timestamps, native histograms and exemplars of an instrumented program take.
func TestProgram(t *testing.T) {
	p := newProgram(1)
	const scrapes = 160
	parts := map[string]func(*Column){
		"all":        func(*Column) {},
		"values":     func(c *Column) { c.Starts, c.Histograms, c.Exemplars = nil, nil, nil },
		"starts":     func(c *Column) { c.Histograms, c.Exemplars = nil, nil },
		"histograms": func(c *Column) { c.Starts, c.Exemplars = nil, nil },
		"exemplars":  func(c *Column) { c.Starts, c.Histograms = nil, nil },
	}
	encoders, sizes, keys := map[string]*Encoder{}, map[string]int{}, map[string]int{}
	for name := range parts {
		encoders[name] = NewEncoder(1, benchTarget, EncoderOptions{})
	}
	d := NewDecoder(1, DefaultLimits())
	var samples, keyframes, starts, histograms, buckets, exemplars, fresh int
	known := map[SchemaID]*Schema{}
	before := map[string]bool{}
	for i := range scrapes {
		at, s, c := p.scrape(t)
		known[s.ID] = s
		samples += len(c.Values)
		histograms += len(c.Histograms)
		exemplars += len(c.Exemplars)
		for k := range c.Histograms {
			buckets += len(c.Histograms[k].Int.PositiveBuckets)
		}
		for _, t := range c.Starts {
			if t != 0 {
				starts++
			}
		}
		now := map[string]bool{}
		for _, x := range c.Exemplars {
			key := fmt.Sprint(x.Row, x.Labels)
			if now[key] = true; !before[key] {
				fresh++
			}
		}
		before = now
		for name, cut := range parts {
			x := *c
			cut(&x)
			b, err := encoders[name].AppendScrape(nil, at, Report{}, s, &x)
			if err != nil {
				t.Fatal(err)
			}
			if sizes[name] += len(b); b[0] == typeKeyframe {
				keys[name] += len(b)
			}
			if name == "all" {
				f, err := d.Decode(rawFrames(t, b)[0], func(id SchemaID) (*Schema, error) { return known[id], nil })
				if err != nil {
					t.Fatalf("scrape %d: %v", i, err)
				}
				sameColumn(t, &f.Column, c)
				if b[0] == typeKeyframe {
					keyframes++
				}
			}
		}
	}
	per := func(name string, n int) (all, keyframes float64) {
		return float64(sizes[name]-sizes["values"]) / float64(n), float64(keys[name]-keys["values"]) / float64(n)
	}
	t.Logf("%d scrapes (%d keyframes), each %d samples (%d B), %d native histograms of %d buckets, %d exemplars (%d new), %d start timestamps", scrapes, keyframes,
		samples/scrapes, sizes["values"]/scrapes, histograms/scrapes, buckets/histograms, exemplars/scrapes, fresh/scrapes, starts/scrapes)
	for _, x := range []struct {
		name string
		n    int
		most float64
	}{{"histograms", histograms, 25}, {"exemplars", exemplars, 25}, {"starts", starts, 0.5}} {
		all, key := per(x.name, x.n)
		t.Logf("%s: %.2f B each (%.2f of it in keyframes)", x.name, all, key)
		if all > x.most {
			t.Errorf("%s take %.2f B each, want %.2f at most", x.name, all, x.most)
		}
	}
	all, _ := per("exemplars", fresh)
	t.Logf("exemplars: %.2f B for each new one", all)
	if n := d.StateBytes(); n < d.Bytes() || n > 4<<20 {
		t.Errorf("%d bytes are held, %d in states", n, d.Bytes())
	}
}
