package streaming

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

const namespace = "prometheus_streams"

// metrics are those of the other carrier, under the same names: a process that uses both shares the collectors.
type metrics struct {
	connected  *prometheus.GaugeVec   // connection
	reconnects *prometheus.CounterVec // connection
	errors     *prometheus.CounterVec // connection, kind
	published  *prometheus.CounterVec // connection, outcome
	restarts   *prometheus.CounterVec // connection, consumer, reason
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		connected: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: "stream_connected",
			Help: "Whether the connection to NATS is up."}, []string{"connection"}),
		reconnects: counter("stream_reconnects_total", "Times the connection to NATS was made again.", "connection"),
		errors:     counter("stream_errors_total", "Errors that NATS reported apart from any request, by kind.", "connection", "kind"),
		published:  counter("stream_publishes_total", "Messages published, by what became of them.", "connection", "outcome"),
		restarts:   counter("consumer_restarts_total", "Times a consumer made the server deliver again what is not acknowledged, by reason.", "connection", "consumer", "reason"),
	}
	if reg == nil {
		return m, nil
	}
	return m, errors.Join(register(reg, &m.connected), register(reg, &m.reconnects), register(reg, &m.errors),
		register(reg, &m.published), register(reg, &m.restarts))
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
}

// register takes the collector that another connection registered, if there is one.
func register[C prometheus.Collector](reg prometheus.Registerer, c *C) error {
	err := reg.Register(*c)
	var there prometheus.AlreadyRegisteredError
	if errors.As(err, &there) {
		old, ok := there.ExistingCollector.(C)
		if !ok {
			return fmt.Errorf("registering metrics of streams: %w", err)
		}
		*c, err = old, nil
	}
	return err
}
