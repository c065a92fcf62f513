//go:build fidelity

package fidelity

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/klauspost/compress/snappy"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
)

// The strict server finds each thing that the specification of remote write 2.0 forbids in what a sender sends, and nothing in what
// it allows.
func TestStrict(t *testing.T) {
	second := func(m *writev2.Request) *writev2.TimeSeries { return &m.Timeseries[1] }
	for name, c := range map[string]struct {
		plant func(*writev2.Request, http.Header)
		want  string
	}{
		"well":                {func(*writev2.Request, http.Header) {}, ""},
		"version":             {func(_ *writev2.Request, h http.Header) { h.Set("X-Prometheus-Remote-Write-Version", "2.0") }, "header X-Prometheus-Remote-Write-Version"},
		"content type":        {func(_ *writev2.Request, h http.Header) { h.Set("Content-Type", "application/x-protobuf") }, "header Content-Type"},
		"encoding":            {func(_ *writev2.Request, h http.Header) { h.Del("Content-Encoding") }, "header Content-Encoding"},
		"user agent":          {func(_ *writev2.Request, h http.Header) { h.Set("User-Agent", "") }, "no User-Agent"},
		"no empty symbol":     {func(m *writev2.Request, _ http.Header) { m.Symbols[0] = "x" }, "the first symbol is not empty"},
		"symbol twice":        {func(m *writev2.Request, _ http.Header) { m.Symbols[4] = m.Symbols[2] }, "a symbol is there twice"},
		"symbol of no use":    {func(m *writev2.Request, _ http.Header) { m.Symbols = append(m.Symbols, "extra") }, `symbol "extra" is of no use`},
		"symbol not UTF-8":    {func(m *writev2.Request, _ http.Header) { m.Symbols[4] = "\xff" }, "is not UTF-8"},
		"symbol out of range": {func(m *writev2.Request, _ http.Header) { m.Timeseries[0].LabelsRefs[3] = 99 }, "symbol 99 of"},
		"odd references":      {func(m *writev2.Request, _ http.Header) { m.Timeseries[0].LabelsRefs = m.Timeseries[0].LabelsRefs[:3] }, "odd number"},
		"labels not sorted": {func(m *writev2.Request, _ http.Header) {
			r := m.Timeseries[0].LabelsRefs
			r[0], r[1], r[2], r[3] = r[2], r[3], r[0], r[1]
		}, "are not sorted"},
		"label twice":   {func(m *writev2.Request, _ http.Header) { m.Timeseries[0].LabelsRefs[2] = 1 }, "are not sorted"},
		"empty label":   {func(m *writev2.Request, _ http.Header) { m.Timeseries[0].LabelsRefs[3] = 0 }, "is empty"},
		"no name":       {func(m *writev2.Request, _ http.Header) { m.Symbols[1] = "__nome__" }, "has no name"},
		"type":          {func(m *writev2.Request, _ http.Header) { second(m).Metadata.Type = 77 }, "is of the type 77"},
		"help":          {func(m *writev2.Request, _ http.Header) { second(m).Metadata.HelpRef = 77 }, "symbol 77 of"},
		"nothing":       {func(m *writev2.Request, _ http.Header) { second(m).Samples = nil }, "0 samples and 0 histograms"},
		"both":          {func(m *writev2.Request, _ http.Header) { second(m).Histograms = []writev2.Histogram{{Timestamp: 9}} }, "1 samples and 1 histograms"},
		"no order":      {func(m *writev2.Request, _ http.Header) { m.Timeseries[0].Samples[1].Timestamp = 1 }, "in a request are not in order"},
		"exemplar":      {func(m *writev2.Request, _ http.Header) { second(m).Exemplars[0].Timestamp = 0 }, "has no time"},
		"bad histogram": {func(m *writev2.Request, _ http.Header) { *second(m) = badHistogram(*second(m)) }, "histogram of"},
	} {
		t.Run(name, func(t *testing.T) {
			s := startStrict(t)
			m := wellFormed()
			header := http.Header{"Content-Encoding": {"snappy"}, "Content-Type": {"application/x-protobuf;proto=io.prometheus.write.v2.Request"},
				"X-Prometheus-Remote-Write-Version": {"2.0.0"}, "User-Agent": {"x"}}
			c.plant(m, header)
			post(t, s.url, m, header)
			s.mu.Lock()
			defer s.mu.Unlock()
			if got := fmt.Sprint(s.faults); c.want == "" && len(s.faults) > 0 || !strings.Contains(got, c.want) {
				t.Errorf("faults %v, want %q", got, c.want)
			}
			if c.want == "" && (s.samples != 3 || s.exemplars != 1) {
				t.Errorf("%d samples, %d exemplars", s.samples, s.exemplars)
			}
		})
	}
}

// wellFormed is a request with a series of two samples, and one with one, an exemplar and a description.
func wellFormed() *writev2.Request {
	return &writev2.Request{
		Symbols: []string{"", "__name__", "m", "x", "1", "2", "What m is.", "things", "trace_id"},
		Timeseries: []writev2.TimeSeries{
			{LabelsRefs: []uint32{1, 2, 3, 4}, Samples: []writev2.Sample{{Timestamp: 5}, {Timestamp: 6}}},
			{LabelsRefs: []uint32{1, 2, 3, 5}, Samples: []writev2.Sample{{Timestamp: 5}}, Metadata: writev2.Metadata{Type: writev2.Metadata_METRIC_TYPE_GAUGE, HelpRef: 6, UnitRef: 7},
				Exemplars: []writev2.Exemplar{{LabelsRefs: []uint32{8, 4}, Timestamp: 4}}},
		},
	}
}

func badHistogram(ts writev2.TimeSeries) writev2.TimeSeries {
	ts.Samples = nil
	ts.Histograms = []writev2.Histogram{{Timestamp: 5, Count: &writev2.Histogram_CountInt{CountInt: 1},
		PositiveSpans: []writev2.BucketSpan{{Length: 2}}, PositiveDeltas: []int64{1}}}
	return ts
}

func post(t *testing.T, url string, m *writev2.Request, header http.Header) {
	t.Helper()
	body, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(snappy.Encode(nil, body)))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = header
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
}
