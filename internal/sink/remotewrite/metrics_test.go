package remotewrite

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/choria-io/prometheus-streams/internal/sink"
)

// TestMetrics has two sinks in one registry, and looks at their metrics as promlint does.
func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	for _, name := range []string{"a", "b"} {
		s, err := New(Options{URL: "http://a", Name: name, Registerer: reg})
		if err != nil {
			t.Fatal(err)
		}
		s.metrics.dropped.WithLabelValues(tooOld, "p").Inc()
		s.metrics.already.WithLabelValues("p").Inc()
		s.metrics.droppedExemplars.WithLabelValues(tooOld, "p").Inc()
		s.metrics.late.WithLabelValues("p").Inc()
		s.metrics.lateLost.WithLabelValues("p", lostFull).Inc()
		s.metrics.requests.WithLabelValues("204").Inc()
		s.metrics.frames.WithLabelValues(sink.Malformed).Inc()
	}
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
	if n, err := testutil.GatherAndCount(reg); err != nil || n != 2*19 {
		t.Errorf("%d series, %v", n, err)
	}
}
