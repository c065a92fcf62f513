package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/prometheus/model/labels"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// told is a server of remote write 2.0 that keeps what it is told of each series: type, help and unit.
type told struct {
	*httptest.Server
	mu   sync.Mutex
	said map[string]map[string]string // by job and name
	bad  error
}

func startTold(t *testing.T) *told {
	s := &told{said: map[string]map[string]string{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
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
		var samples, histograms, exemplars int
		for i := range m.Timeseries {
			if err == nil {
				err = s.take(&m.Timeseries[i], m.Symbols)
			}
			samples += len(m.Timeseries[i].Samples)
			histograms += len(m.Timeseries[i].Histograms)
			exemplars += len(m.Timeseries[i].Exemplars)
		}
		if err != nil {
			s.bad = err
		}
		w.Header().Set("X-Prometheus-Remote-Write-Samples-Written", fmt.Sprint(samples))
		w.Header().Set("X-Prometheus-Remote-Write-Histograms-Written", fmt.Sprint(histograms))
		w.Header().Set("X-Prometheus-Remote-Write-Exemplars-Written", fmt.Sprint(exemplars))
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *told) take(ts *writev2.TimeSeries, symbols []string) error {
	var b labels.ScratchBuilder
	l, err := ts.ToLabels(&b, symbols)
	if err != nil {
		return err
	}
	said, err := ts.ToMetadata(symbols)
	if err != nil {
		return err
	}
	job := s.said[l.Get("job")]
	if job == nil {
		job = map[string]string{}
		s.said[l.Get("job")] = job
	}
	job[l.Get("__name__")] = fmt.Sprintf("%s %q %q", said.Type, said.Help, said.Unit)
	return nil
}

// compare checks that each series of a job came with what Prometheus' API says of its family. A name can be that of a series of
// more than one family: go_memstats_alloc_bytes_total is the counter of one whose name OpenMetrics cuts to that of a gauge.
func (s *told) compare(t *testing.T, theirs *harness.Prometheus, job string) {
	t.Helper()
	var all []struct{ Metric, Type, Help, Unit string }
	if err := ask(theirs.URL, "/api/v1/targets/metadata?match_target="+url.QueryEscape(fmt.Sprintf("{job=%q}", job)), &all); err != nil {
		t.Fatal(err)
	}
	families := map[string][]string{}
	for _, m := range all {
		families[m.Metric] = append(families[m.Metric], fmt.Sprintf("%s %q %q", m.Type, m.Help, m.Unit))
	}
	harness.Wait(t, 60*time.Second, job+": types, help and units are those that Prometheus has", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.bad != nil {
			return s.bad
		}
		compared := 0
		for name, said := range s.said[job] {
			var want []string
			for _, suffix := range []string{"", "_bucket", "_count", "_sum", "_total", "_info"} {
				if base, ok := strings.CutSuffix(name, suffix); ok {
					want = append(want, families[base]...)
				}
			}
			if len(want) > 0 {
				compared++
				if !slices.Contains(want, said) {
					return fmt.Errorf("%s: told %s, want one of %q", name, said, want)
				}
			} else if name != "up" && !strings.HasPrefix(name, "scrape_") && (!strings.HasSuffix(name, "_created") || said != `unknown "" ""`) {
				return fmt.Errorf("%s: told %s, and Prometheus knows no such family", name, said)
			}
		}
		if compared < 5 || compared < len(families)/2 {
			return fmt.Errorf("only %d names, of %d families", compared, len(families))
		}
		return nil
	})
}
