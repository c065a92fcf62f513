package web

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are what the server tells of itself.
type metrics struct {
	requests *prometheus.CounterVec
}

// newMetrics makes the metrics and registers them; reg may be nil.
func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{requests: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "prometheus_streams_http_requests_total",
		Help: "Requests that the HTTP server answered, by path and HTTP status code.",
	}, []string{"handler", "code"})}
	if reg != nil {
		reg.MustRegister(m.requests)
	}
	return m
}

// count counts the requests of one path.
func (m *metrics) count(path string, h http.Handler) http.Handler {
	return promhttp.InstrumentHandlerCounter(m.requests.MustCurryWith(prometheus.Labels{"handler": path}), h)
}
