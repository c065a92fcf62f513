package scrape

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/target"
)

func textScraper(t *testing.T, tg *target.Target, o Options) *Scraper {
	t.Helper()
	o.TextBody = true
	s, err := New(tg, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func lastBody(t *testing.T, s *Scraper) string {
	t.Helper()
	b, err := s.LastBody()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestLastBodyIsWhatTheTargetSaid(t *testing.T) {
	const body = "# HELP a What?\n# TYPE a counter\na{x=\"y\"}   1 1700000000000\r\n\n# a comment"
	var accept string
	status := http.StatusOK
	s := textScraper(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		accept = r.Header.Get("Accept")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(strings.ReplaceAll(body, "\r", "")))
	}), Options{})
	if got := lastBody(t, s); got != "" {
		t.Errorf("before the first scrape: %q", got)
	}
	scrape(t, s)
	if got := lastBody(t, s); got != strings.ReplaceAll(body, "\r", "") {
		t.Errorf("body %q", got)
	}
	if strings.Contains(accept, "openmetrics") || !strings.Contains(accept, "text/plain;version=0.0.4") {
		t.Errorf("asked for %q", accept)
	}
	status = http.StatusInternalServerError
	if f := scrape(t, s); f.Kind != frame.Down || lastBody(t, s) != "" {
		t.Errorf("after a failed scrape there is a body: %q", lastBody(t, s))
	}
}

// A target that gives OpenMetrics all the same: what reads the body could not tell, so it is written as text.
func TestLastBodyOfOpenMetrics(t *testing.T) {
	s := textScraper(t, serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/openmetrics-text; version=1.0.0")
		_, _ = w.Write([]byte("# TYPE a counter\n# HELP a What?\na_total{job=\"own\"} 1 # {trace_id=\"x\"} 0.5\n# TYPE h histogram\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n# EOF\n"))
	}), Options{})
	scrape(t, s)
	want := "# HELP a_total What?\n# TYPE a_total counter\na_total{exported_job=\"own\"} 1\n# TYPE h histogram\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n"
	if got := lastBody(t, s); got != want {
		t.Errorf("body\n%s, want\n%s", got, want)
	}
}

func TestLastBodyOfItself(t *testing.T) {
	reg := prometheus.NewRegistry()
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "c_total", Help: "C."})
	reg.MustRegister(c)
	self, err := target.FromSelf("me", "", target.Schedule{Interval: time.Second}, labels.EmptyLabels())
	if err != nil {
		t.Fatal(err)
	}
	s := textScraper(t, self, Options{Self: reg})
	scrape(t, s)
	if got := lastBody(t, s); got != "# HELP c_total C.\n# TYPE c_total counter\nc_total 0\n" {
		t.Errorf("body %q", got)
	}
}
