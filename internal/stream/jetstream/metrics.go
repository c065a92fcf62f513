package jetstream

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/choria-io/prometheus-streams/internal/stream/access"
)

// metrics of all connections of a process, beside those that every carrier has.
type metrics struct {
	shared  *prometheus.CounterVec // connection, consumer
	pending *prometheus.GaugeVec   // connection, consumer
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		shared:  access.Counter("consumer_shared_total", "Times it was seen that another receiver uses the same consumer.", "connection", "consumer"),
		pending: access.Gauge("consumer_pending_messages", "Messages in the stream that the consumer was not yet handed.", "connection", "consumer"),
	}
	return m, errors.Join(access.Register(reg, &m.shared), access.Register(reg, &m.pending))
}
