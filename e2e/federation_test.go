package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/prometheus/model/histogram"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// relay stands before /federate of a Prometheus and notes each sample that it gives, by series and time.
type relay struct {
	*httptest.Server
	mu    sync.Mutex
	given map[string]bool
	bad   error
}

func startRelay(t *testing.T, origin string) *relay {
	t.Helper()
	r := &relay{given: map[string]bool{}}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		out, err := http.NewRequestWithContext(q.Context(), http.MethodGet, origin+q.URL.RequestURI(), nil)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		out.Header.Set("Accept", q.Header.Get("Accept"))
		resp, err := http.DefaultClient.Do(out)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
		if _, err := w.Write(body); err == nil && q.Context().Err() == nil {
			r.note(body, resp.Header)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

// config are the scrape configs that ask it: in text, and in protobuf with native histograms. Each has all the time of its
// interval, so that nothing is given to a scrape that gives up.
func (r *relay) config() string {
	address := r.Listener.Addr()
	return fmt.Sprintf(`
- {job_name: federate, scrape_interval: 2s, scrape_timeout: 2s, honor_labels: true, metrics_path: /federate, params: {'match[]': ['{job="fed"}']}, static_configs: [{targets: ['%s']}]}
- {job_name: federate-app, scrape_interval: 2s, scrape_timeout: 2s, honor_labels: true, scrape_native_histograms: true, metrics_path: /federate, params: {'match[]': ['{job="fed-app"}']}, static_configs: [{targets: ['%s']}]}
`, address, address)
}

func (r *relay) note(body []byte, header http.Header) {
	r.mu.Lock()
	defer r.mu.Unlock()
	decoder := expfmt.NewDecoder(bytes.NewReader(body), expfmt.ResponseFormat(header))
	for {
		var f dto.MetricFamily
		if err := decoder.Decode(&f); err != nil {
			if !errors.Is(err, io.EOF) {
				r.bad = err
			}
			return
		}
		for _, m := range f.Metric {
			labels := map[string]string{"__name__": f.GetName()}
			for _, l := range m.Label {
				labels[l.GetName()] = l.GetValue()
			}
			var b strings.Builder
			for _, name := range slices.Sorted(maps.Keys(labels)) {
				fmt.Fprintf(&b, "%s=%q ", name, labels[name])
			}
			r.given[fmt.Sprint(b.String(), m.GetTimestampMs())] = true
		}
	}
}

func (r *relay) noted(t *testing.T) map[string]bool {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bad != nil {
		t.Fatalf("/federate gave what cannot be read: %v", r.bad)
	}
	return maps.Clone(r.given)
}

// storedOf are all samples of jobs in a store, by series and time.
func storedOf(p *harness.Prometheus, jobs ...string) (map[string]string, error) {
	out := map[string]string{}
	for _, job := range jobs {
		all, err := p.Everything(harness.Labels{"job": job})
		if err != nil {
			return nil, err
		}
		for _, ts := range all {
			name := labelText(ts)
			for _, x := range ts.Samples {
				out[fmt.Sprint(name, x.Timestamp)] = bitsText(x.Value)
			}
			for _, h := range ts.Histograms {
				// /federate writes all histograms with floats.
				x := h.ToFloatHistogram()
				x.CounterResetHint = histogram.UnknownCounterReset
				out[fmt.Sprint(name, h.Timestamp)] = fmt.Sprint("native histogram ", bitsText(x.Sum), " ", *x)
			}
		}
	}
	return out, nil
}

// compare checks that the centre has each sample that /federate gave and no other, under the labels, with the time and the
// value that it has at the site: of all series, native histograms among them.
func (r *relay) compare(t *testing.T, central, theirs *harness.Prometheus) {
	t.Helper()
	jobs := []string{"fed", "fed-app"}
	const series = (1 + 5 + 5) + (16 + 5) // at least, of both
	var given map[string]bool
	harness.Wait(t, 90*time.Second, "/federate gave ten samples of each series", func() error {
		if given = r.noted(t); len(given) < 10*series {
			return fmt.Errorf("%d samples", len(given))
		}
		return nil
	})
	harness.Wait(t, 60*time.Second, "all that /federate gave is at the centre", func() error {
		got, err := storedOf(central, jobs...)
		if err != nil {
			return err
		}
		var missing []string
		for x := range given {
			if _, ok := got[x]; !ok {
				missing = append(missing, x)
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("%d of %d samples are missing: %q", len(missing), len(given), missing[:min(len(missing), 5)])
		}
		return nil
	})
	got, err := storedOf(central, jobs...)
	if err != nil {
		t.Fatal(err)
	}
	want, err := storedOf(theirs, jobs...)
	if err != nil {
		t.Fatal(err)
	}
	given = r.noted(t)
	native, wrong := 0, 0
	for x, v := range got {
		if strings.HasPrefix(v, "native histogram ") {
			native++
		}
		if !given[x] || want[x] != v {
			if wrong++; wrong <= 10 {
				t.Errorf("%s: %s at the centre, %q at the site, given by /federate: %t", x, v, want[x], given[x])
			}
		}
	}
	if native < 5 {
		t.Errorf("%d native histograms came through /federate", native)
	}
}
