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

	"github.com/klauspost/compress/snappy"
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
	starts  map[string]int64
	samples int
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
	if len(m.Symbols) == 0 || m.Symbols[0] != "" {
		s.fault("the first symbol is not empty")
	}
	if sorted := slices.Sorted(slices.Values(m.Symbols)); len(slices.Compact(sorted)) != len(m.Symbols) {
		s.fault("a symbol is there twice")
	}
	samples, histograms, exemplars := 0, 0, 0
	for i := range m.Timeseries {
		s.take(&m.Timeseries[i], m.Symbols)
		samples += len(m.Timeseries[i].Samples)
		histograms += len(m.Timeseries[i].Histograms)
		exemplars += len(m.Timeseries[i].Exemplars)
	}
	s.samples += samples + histograms
	w.Header().Set("X-Prometheus-Remote-Write-Samples-Written", fmt.Sprint(samples))
	w.Header().Set("X-Prometheus-Remote-Write-Histograms-Written", fmt.Sprint(histograms))
	w.Header().Set("X-Prometheus-Remote-Write-Exemplars-Written", fmt.Sprint(exemplars))
	w.WriteHeader(http.StatusNoContent)
}

func (s *strict) take(ts *writev2.TimeSeries, symbols []string) {
	var b labels.ScratchBuilder
	l, err := ts.ToLabels(&b, symbols)
	if err != nil {
		s.fault("labels: %v", err)
		return
	}
	said, err := ts.ToMetadata(symbols)
	if err != nil {
		s.fault("metadata: %v", err)
		return
	}
	name := l.String()
	last := ""
	for i := 0; i < len(ts.LabelsRefs); i += 2 {
		n := symbols[ts.LabelsRefs[i]]
		if n <= last {
			s.fault("labels of %s are not sorted", name)
		}
		if last = n; symbols[ts.LabelsRefs[i+1]] == "" {
			s.fault("label %s of %s is empty", n, name)
		}
	}
	if len(ts.Samples) > 0 && len(ts.Histograms) > 0 {
		s.fault("%s has samples and histograms", name)
	}
	times := make([]int64, 0, 1)
	start := func(v float64, at int64) {
		if !value.IsStaleNaN(v) {
			s.starts[name] = at
		}
	}
	for _, x := range ts.Samples {
		times = append(times, x.Timestamp)
		start(x.Value, x.StartTimestamp)
	}
	for _, x := range ts.Histograms {
		times = append(times, x.Timestamp)
		start(x.Sum, x.StartTimestamp)
	}
	for _, at := range times {
		// Times of its own may be in any order: Prometheus' own writer does not send those that are not in order.
		if newest, ok := s.newest[name]; ok && at < newest && !strings.Contains(name, `__name__="timed`) && !strings.Contains(name, `__name__="batch_total`) {
			s.fault("%s is not in order", name)
		}
		s.newest[name] = max(s.newest[name], at)
	}
	s.said[name] = description(string(said.Type), said.Help, said.Unit)
}

// description is that of a series.
func description(kind, help, unit string) string {
	if (kind == "" || kind == "unknown") && help == "" && unit == "" {
		return none
	}
	return fmt.Sprintf("type %q help %q unit %q", kind, help, unit)
}
