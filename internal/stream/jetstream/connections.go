package jetstream

import (
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// Connections counts how often the connection came back: whoever keeps something alive on the other side does it again then.
func (p *Publisher) Connections() uint64 { return max(p.c.link.state().epoch, 1) - 1 }

// storeFailed is the server's code for a message that it could not store, for whatever reason.
const storeFailed jetstream.ErrorCode = 10077

// atLimit tells whether the stream refused a message because it is at one of its limits and discards the new ones.
func atLimit(e *jetstream.APIError) bool {
	return e.ErrorCode == storeFailed && strings.Contains(e.Description, "maximum") && strings.Contains(e.Description, "exceeded")
}
