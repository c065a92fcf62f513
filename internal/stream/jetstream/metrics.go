package jetstream

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

const namespace = "prometheus_streams"

// metrics of all connections of a process: they share the collectors and differ in the label `connection`.
type metrics struct {
	connected  *prometheus.GaugeVec   // connection
	reconnects *prometheus.CounterVec // connection
	errors     *prometheus.CounterVec // connection, kind
	published  *prometheus.CounterVec // connection, outcome
	restarts   *prometheus.CounterVec // connection, consumer, reason
	shared     *prometheus.CounterVec // connection, consumer
	pending    *prometheus.GaugeVec   // connection, consumer
}

// newMetrics registers the metrics, or takes those that another connection registered.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		connected:  gauge("stream_connected", "Whether the connection to NATS is up.", "connection"),
		reconnects: counter("stream_reconnects_total", "Times the connection to NATS was made again.", "connection"),
		errors:     counter("stream_errors_total", "Errors that NATS reported apart from any request, by kind.", "connection", "kind"),
		published:  counter("stream_publishes_total", "Messages published, by what became of them.", "connection", "outcome"),
		restarts:   counter("consumer_restarts_total", "Times a consumer made the server deliver again what is not acknowledged, by reason.", "connection", "consumer", "reason"),
		shared:     counter("consumer_shared_total", "Times it was seen that another receiver uses the same consumer.", "connection", "consumer"),
		pending:    gauge("consumer_pending_messages", "Messages in the stream that the consumer was not yet handed.", "connection", "consumer"),
	}
	if reg == nil {
		return m, nil
	}
	return m, errors.Join(
		register(reg, &m.connected), register(reg, &m.reconnects), register(reg, &m.errors), register(reg, &m.published),
		register(reg, &m.restarts), register(reg, &m.shared), register(reg, &m.pending))
}

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

func gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, labels)
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
}
