package e2e

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	promvalue "github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// same stands before an exporter and gives to all who ask alike the bytes of its first answer, so that two who scrape it
// at different times have to have the same values. Until s.open it is not there, so that the exporter has something to show.
func (s *site) same(t *testing.T, origin string) (address string) {
	t.Helper()
	type answer struct {
		header http.Header
		body   []byte
	}
	var mu sync.Mutex
	kept := map[string]answer{}
	transport := &http.Transport{DisableCompression: true} // it passes on what is asked for
	x := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.open.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		key := r.Header.Get("Accept") + " " + r.Header.Get("Accept-Encoding")
		a, ok := kept[key]
		if !ok {
			out := r.Clone(r.Context())
			out.URL, out.RequestURI = &url.URL{Scheme: "http", Host: origin, Path: r.URL.Path}, ""
			resp, err := transport.RoundTrip(out)
			if err == nil {
				a.header = resp.Header
				a.body, err = io.ReadAll(resp.Body)
				resp.Body.Close()
			}
			if err != nil || resp.StatusCode != http.StatusOK {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			kept[key] = a
		}
		for _, name := range []string{"Content-Type", "Content-Encoding"} {
			if v := a.header.Get(name); v != "" {
				w.Header().Set(name, v)
			}
		}
		_, _ = w.Write(a.body)
	}))
	t.Cleanup(func() {
		x.Close()
		transport.CloseIdleConnections()
	})
	return x.Listener.Addr().String()
}

// labelText names a stored series.
func labelText(ts *prompb.TimeSeries) string {
	var b strings.Builder
	for _, l := range ts.Labels {
		fmt.Fprintf(&b, "%s=%q ", l.Name, l.Value)
	}
	return b.String()
}

// histogramText is all of a native histogram but its time, and what a store makes of its chunks.
func histogramText(h prompb.Histogram) string {
	h.Timestamp, h.ResetHint = 0, 0
	return h.String()
}

func bitsText(v float64) string { return fmt.Sprintf("%016x (%v)", math.Float64bits(v), v) }

// latest is what a store has last of each series of a job that is not stale, bit for bit.
func latest(p *harness.Prometheus, job string) (map[string]string, error) {
	all, err := p.Everything(harness.Labels{"job": job})
	out := map[string]string{}
	for _, ts := range all {
		at := int64(math.MinInt64)
		text := ""
		if n := len(ts.Samples); n > 0 {
			at, text = ts.Samples[n-1].Timestamp, bitsText(ts.Samples[n-1].Value)
			if promvalue.IsStaleNaN(ts.Samples[n-1].Value) {
				text = ""
			}
		}
		if n := len(ts.Histograms); n > 0 && ts.Histograms[n-1].Timestamp > at {
			text = histogramText(ts.Histograms[n-1])
		}
		if name := labelText(ts); text != "" && !strings.Contains(name, `"scrape_duration_seconds"`) {
			out[name] = text
		}
	}
	return out, err
}

// alikeStored waits until the centre has the series of a job that a real Prometheus has, with the same values if they stay as
// they are.
func alikeStored(t *testing.T, central, theirs *harness.Prometheus, job string, least int, values bool) {
	t.Helper()
	harness.Wait(t, 90*time.Second, job+" is at the centre as Prometheus has it", func() error {
		got, err := latest(central, job)
		if err != nil {
			return err
		}
		want, err := latest(theirs, job)
		if err != nil {
			return err
		}
		if a, b := only(got, want, values), only(want, got, values); len(a)+len(b) > 0 || len(got) < least {
			return fmt.Errorf("%d series; only at the centre: %q; only at the site: %q", len(got), a[:min(len(a), 5)], b[:min(len(b), 5)])
		}
		return nil
	})
}

// histograms counts the series of native histograms of a job.
func histograms(t *testing.T, p *harness.Prometheus, job string) (n int) {
	t.Helper()
	all, err := p.Everything(harness.Labels{"job": job})
	if err != nil {
		t.Fatal(err)
	}
	for _, ts := range all {
		if len(ts.Histograms) > 0 {
			n++
		}
	}
	return n
}

// sameExemplars compares all exemplars of the targets that have some.
func sameExemplars(t *testing.T, central, theirs *harness.Prometheus) {
	t.Helper()
	for selector, least := range map[string]int{`{job="native"}`: 7, `{job="openmetrics"}`: 6} {
		got, err := central.Exemplars(selector, "")
		if err != nil {
			t.Fatal(err)
		}
		want, err := theirs.Exemplars(selector, "")
		if err != nil {
			t.Fatal(err)
		}
		if len(want) < least || !reflect.DeepEqual(got, want) {
			t.Errorf("exemplars of %s: %v, Prometheus' %v", selector, got, want)
		}
	}
}
