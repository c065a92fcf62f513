package harness

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"time"

	"github.com/klauspost/compress/snappy"
	promvalue "github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
)

// Raw is one series as a Prometheus stores it.
type Raw struct {
	Labels  map[string]string
	Samples []RawSample
}

// RawSample is one sample; Stale tells that it is a stale marker.
type RawSample struct {
	Time  time.Time
	Value float64
	Stale bool
}

// Raw reads the series with these labels by remote read, stale markers and all, as queries do not show them.
func (p *Prometheus) Raw(want Labels) ([]Raw, error) {
	all, err := p.read(want)
	if err != nil {
		return nil, err
	}
	var out []Raw
	for _, ts := range all {
		s := Raw{Labels: make(map[string]string)}
		for _, l := range ts.Labels {
			s.Labels[l.Name] = l.Value
		}
		for _, x := range ts.Samples {
			s.Samples = append(s.Samples, RawSample{time.UnixMilli(x.Timestamp), x.Value, promvalue.IsStaleNaN(x.Value)})
		}
		out = append(out, s)
	}
	return out, nil
}

// read asks for the series with these labels by remote read.
func (p *Prometheus) read(want Labels) ([]*prompb.TimeSeries, error) {
	q := &prompb.Query{StartTimestampMs: 0, EndTimestampMs: time.Now().Add(time.Hour).UnixMilli()}
	for name, v := range want {
		q.Matchers = append(q.Matchers, &prompb.LabelMatcher{Type: prompb.LabelMatcher_EQ, Name: name, Value: v})
	}
	body, err := (&prompb.ReadRequest{Queries: []*prompb.Query{q}}).Marshal()
	if err != nil {
		return nil, err
	}
	answer, err := p.post("/api/v1/read", body)
	if err != nil {
		return nil, err
	}
	if answer, err = snappy.Decode(nil, answer); err != nil {
		return nil, err
	}
	var r prompb.ReadResponse
	if err := r.Unmarshal(answer); err != nil {
		return nil, err
	}
	var out []*prompb.TimeSeries
	for _, result := range r.Results {
		out = append(out, result.Timeseries...)
	}
	return out, nil
}

// OneRaw reads exactly one series.
func (p *Prometheus) OneRaw(want Labels) ([]RawSample, error) {
	all, err := p.Raw(want)
	if err != nil {
		return nil, err
	}
	if len(all) != 1 {
		return nil, fmt.Errorf("%d series %v", len(all), want)
	}
	return all[0].Samples, nil
}

// Write stores one sample by remote write.
func (p *Prometheus) Write(l Labels, at time.Time, v float64) error {
	ts := prompb.TimeSeries{Samples: []prompb.Sample{{Timestamp: at.UnixMilli(), Value: v}}}
	for name, v := range l {
		ts.Labels = append(ts.Labels, prompb.Label{Name: name, Value: v})
	}
	body, err := (&prompb.WriteRequest{Timeseries: []prompb.TimeSeries{ts}}).Marshal()
	if err != nil {
		return err
	}
	_, err = p.post("/api/v1/write", body)
	return err
}

func (p *Prometheus) post(path string, body []byte) ([]byte, error) {
	r, err := http.NewRequest(http.MethodPost, p.URL+path, bytes.NewReader(snappy.Encode(nil, body)))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Encoding", "snappy")
	r.Header.Set("Content-Type", "application/x-protobuf")
	r.Header.Set("X-Prometheus-Remote-Write-Version", "0.1.0")
	client := http.Client{Timeout: requestLimit}
	res, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, math.MaxInt32))
	if err == nil && res.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: status %d: %s", path, res.StatusCode, answer)
	}
	return answer, err
}

// Histograms reads the native histograms of exactly one series, stale markers and all.
func (p *Prometheus) Histograms(want Labels) ([]prompb.Histogram, error) {
	all, err := p.read(want)
	if err != nil {
		return nil, err
	}
	if len(all) != 1 {
		return nil, fmt.Errorf("%d series %v", len(all), want)
	}
	return all[0].Histograms, nil
}

// Exemplar is one exemplar as a Prometheus stores it.
type Exemplar struct {
	Labels map[string]string
	Value  string
	Time   time.Time
}

// Exemplars asks for the exemplars of a selector, by the text of their series' label of a name, or without one of all labels.
func (p *Prometheus) Exemplars(selector, label string) (map[string][]Exemplar, error) {
	status, body, err := Get(fmt.Sprintf("%s/api/v1/query_exemplars?query=%s&start=%d&end=%d", p.URL, url.QueryEscape(selector),
		0, time.Now().Add(time.Hour).Unix()))
	if err != nil {
		return nil, err
	}
	var answer struct {
		Data []struct {
			SeriesLabels map[string]string
			Exemplars    []struct {
				Labels    map[string]string
				Value     string
				Timestamp float64
			}
		}
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || status != http.StatusOK {
		return nil, fmt.Errorf("exemplars of %s: status %d: %s: %w", selector, status, body, err)
	}
	out := make(map[string][]Exemplar)
	for _, s := range answer.Data {
		for _, e := range s.Exemplars {
			x := Exemplar{e.Labels, e.Value, time.UnixMilli(int64(math.Round(e.Timestamp * 1000)))}
			series := s.SeriesLabels[label]
			if label == "" {
				series = fmt.Sprint(s.SeriesLabels)
			}
			out[series] = append(out[series], x)
		}
	}
	return out, nil
}

// Everything reads the series with these labels as they are stored, samples, histograms and stale markers; a label that has to
// be absent has an empty value here.
func (p *Prometheus) Everything(want Labels) ([]*prompb.TimeSeries, error) { return p.read(want) }
