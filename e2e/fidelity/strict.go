//go:build fidelity

package fidelity

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
)

// strict is a receiver of remote write 2.0 that checks what the specification asks for and keeps what each series is said to be.
type strict struct {
	url string

	mu     sync.Mutex
	faults map[string]int
	// said is type, help and unit by series, as they were last.
	said map[string]string
	// newest is the time of each series' last sample.
	newest map[string]int64
	// starts is the start timestamp of each series' last sample; stale markers have none.
	starts map[string]int64
	// samples and exemplars are how many it took, custom how many of the former are histograms with custom buckets.
	samples, exemplars, custom int
}

func startStrict(t testing.TB) *strict {
	s := &strict{starts: map[string]int64{}, faults: map[string]int{}, said: map[string]string{}, newest: map[string]int64{}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

func (s *strict) fault(format string, args ...any) { s.faults[fmt.Sprintf(format, args...)]++ }

// ServeHTTP takes one request.
func (s *strict) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err == nil {
		body, err = snappy.Decode(nil, body)
	}
	var m writev2.Request
	if err == nil {
		err = m.Unmarshal(body)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.fault("body: %v", err)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.headers(r)
	t := s.table(m.Symbols)
	samples, histograms, exemplars := 0, 0, 0
	for i := range m.Timeseries {
		s.take(&m.Timeseries[i], t)
		samples += len(m.Timeseries[i].Samples)
		histograms += len(m.Timeseries[i].Histograms)
		exemplars += len(m.Timeseries[i].Exemplars)
	}
	for i, used := range t.used {
		if !used {
			s.fault("symbol %q is of no use", t.symbols[i])
		}
	}
	s.samples += samples + histograms
	s.exemplars += exemplars
	w.Header().Set("X-Prometheus-Remote-Write-Samples-Written", fmt.Sprint(samples))
	w.Header().Set("X-Prometheus-Remote-Write-Histograms-Written", fmt.Sprint(histograms))
	w.Header().Set("X-Prometheus-Remote-Write-Exemplars-Written", fmt.Sprint(exemplars))
	w.WriteHeader(http.StatusNoContent)
}

func (s *strict) headers(r *http.Request) {
	if r.Method != http.MethodPost {
		s.fault("method %s", r.Method)
	}
	for name, want := range map[string]string{
		"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request",
		"X-Prometheus-Remote-Write-Version": "2.0.0",
	} {
		if got := r.Header.Get(name); got != want {
			s.fault("header %s is %q", name, got)
		}
	}
	if r.UserAgent() == "" {
		s.fault("no User-Agent")
	}
}

// table is the symbols of a request, and which of them are of use.
type table struct {
	symbols []string
	used    []bool
}

func (s *strict) table(symbols []string) *table {
	t := &table{symbols, make([]bool, len(symbols))}
	if len(symbols) == 0 || symbols[0] != "" {
		s.fault("the first symbol is not empty")
	} else {
		t.used[0] = true
	}
	if sorted := slices.Sorted(slices.Values(symbols)); len(slices.Compact(sorted)) != len(symbols) {
		s.fault("a symbol is there twice")
	}
	for _, x := range symbols {
		if !utf8.ValidString(x) {
			s.fault("symbol %q is not UTF-8", x)
		}
	}
	return t
}

// text is a symbol.
func (s *strict) text(t *table, ref uint32) string {
	if int(ref) >= len(t.symbols) {
		s.fault("symbol %d of %d", ref, len(t.symbols))
		return ""
	}
	t.used[ref] = true
	return t.symbols[ref]
}

// labels are those of a series, or of one of its exemplars: in order, each once, none empty.
func (s *strict) labels(t *table, refs []uint32, of string) labels.Labels {
	if len(refs)%2 != 0 {
		s.fault("an odd number of references to labels of %s", of)
		refs = refs[:len(refs)-1]
	}
	var b labels.ScratchBuilder
	last := ""
	for i := 0; i < len(refs); i += 2 {
		n, v := s.text(t, refs[i]), s.text(t, refs[i+1])
		if n <= last {
			s.fault("labels of %s are not sorted", of)
		}
		if last = n; n == "" || v == "" {
			s.fault("a label of %s is empty", of)
		}
		b.Add(n, v)
	}
	b.Sort()
	return b.Labels()
}

func (s *strict) take(ts *writev2.TimeSeries, t *table) {
	l := s.labels(t, ts.LabelsRefs, "a series")
	name := l.String()
	if !l.Has("__name__") {
		s.fault("%s has no name", name)
	}
	kind := writev2.Metadata_MetricType_name[int32(ts.Metadata.Type)]
	if kind == "" {
		s.fault("%s is of the type %d", name, ts.Metadata.Type)
	}
	help, unit := s.text(t, ts.Metadata.HelpRef), s.text(t, ts.Metadata.UnitRef)
	said, err := ts.ToMetadata(t.symbols)
	if err == nil && (said.Help != help || said.Unit != unit) {
		err = fmt.Errorf("help %q and unit %q", help, unit)
	}
	if err != nil {
		s.fault("metadata of %s: %v", name, err)
		return
	}
	if (len(ts.Samples) > 0) == (len(ts.Histograms) > 0) {
		s.fault("%s has %d samples and %d histograms", name, len(ts.Samples), len(ts.Histograms))
	}
	s.times(ts, name)
	for _, e := range ts.Exemplars {
		s.labels(t, e.LabelsRefs, "an exemplar of "+name)
		if e.Timestamp == 0 {
			s.fault("an exemplar of %s has no time", name)
		}
	}
	s.said[name] = description(string(said.Type), said.Help, said.Unit)
}

// times checks those of the samples, of a series in a request and since the one before, and histograms for what they are.
func (s *strict) times(ts *writev2.TimeSeries, name string) {
	times := make([]int64, 0, 1)
	note := func(v float64, at, start int64) {
		if times = append(times, at); !value.IsStaleNaN(v) {
			s.starts[name] = start
		}
	}
	for _, x := range ts.Samples {
		note(x.Value, x.Timestamp, x.StartTimestamp)
	}
	for _, x := range ts.Histograms {
		note(x.Sum, x.Timestamp, x.StartTimestamp)
		if value.IsStaleNaN(x.Sum) {
			continue
		}
		if x.Schema == histogram.CustomBucketsSchema {
			s.custom++
		}
		err := x.ToFloatHistogram().Validate()
		if !x.IsFloatHistogram() {
			err = x.ToIntHistogram().Validate()
		}
		if err != nil {
			s.fault("histogram of %s: %v", name, err)
		}
	}
	for i, at := range times {
		if i > 0 && at <= times[i-1] {
			s.fault("samples of %s in a request are not in order", name)
		}
		// Times of its own may be in any order: Prometheus' own writer does not send those that are not in order.
		if newest, ok := s.newest[name]; ok && at < newest && !strings.Contains(name, `__name__="timed`) && !strings.Contains(name, `__name__="batch_total`) {
			s.fault("%s is not in order", name)
		}
		s.newest[name] = max(s.newest[name], at)
	}
}

// description is that of a series.
func description(kind, help, unit string) string {
	if (kind == "" || kind == "unknown") && help == "" && unit == "" {
		return none
	}
	return fmt.Sprintf("type %q help %q unit %q", kind, help, unit)
}
