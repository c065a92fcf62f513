package access

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// namespace of the metrics.
const namespace = "prometheus_streams"

// metrics of all connections of a process: they share the collectors and differ in the label `connection`.
type metrics struct {
	connected  *prometheus.GaugeVec   // connection
	reconnects *prometheus.CounterVec // connection
	errors     *prometheus.CounterVec // connection, kind
	published  *prometheus.CounterVec // connection, outcome
	restarts   *prometheus.CounterVec // connection, consumer, reason
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		connected:  Gauge("stream_connected", "Whether the connection to NATS is up.", "connection"),
		reconnects: Counter("stream_reconnects_total", "Times the connection to NATS was made again.", "connection"),
		errors:     Counter("stream_errors_total", "Errors that NATS reported apart from any request, by kind.", "connection", "kind"),
		published:  Counter("stream_publishes_total", "Messages published, by what became of them.", "connection", "outcome"),
		restarts:   Counter("consumer_restarts_total", "Times a consumer made the server deliver again what is not acknowledged, by reason.", "connection", "consumer", "reason"),
	}
	return m, errors.Join(Register(reg, &m.connected), Register(reg, &m.reconnects), Register(reg, &m.errors),
		Register(reg, &m.published), Register(reg, &m.restarts))
}

// Register registers a collector, or takes the one that another connection of the process registered. Without a registerer
// it does nothing.
func Register[C prometheus.Collector](reg prometheus.Registerer, c *C) error {
	if reg == nil {
		return nil
	}
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

// Gauge makes a gauge that connections share.
func Gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, labels)
}

// Counter makes a counter that connections share.
func Counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
}
