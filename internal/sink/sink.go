// Package sink holds what sinks agree on: how a frame is handed to them, how they refuse one, and which publisher
// speaks for a target. The sinks themselves live in the folders below.
package sink

import (
	"errors"
	"fmt"
	"time"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// Delivery is one frame on its way into a sink, with where it came from.
type Delivery struct {
	Frame     *frame.Frame
	Publisher string
	Lane      string
	// Epoch and Seq name the bundle that carried the frame.
	Epoch, Seq uint64
	// Stored is when the stream stored that bundle.
	Stored time.Time
	// Repeated tells that the frame may have been delivered before: the receiver was stopped between a delivery
	// and its note of it.
	Repeated bool
}

// Rejection is the verdict that a frame is not wanted and never will be: it is counted by its reason and acknowledged.
// Every other error of a sink means: not delivered, keep it and try again.
type Rejection struct {
	// Reason is a short constant for metrics: conflict, aged, future, …
	Reason string
	// Detail is for the log; it may be empty.
	Detail string
}

func (r *Rejection) Error() string {
	if r.Detail == "" {
		return "rejected: " + r.Reason
	}
	return "rejected: " + r.Reason + ": " + r.Detail
}

// Reject makes a Rejection.
func Reject(reason, format string, args ...any) error {
	return &Rejection{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

// Rejected tells whether err is a Rejection, and its reason.
func Rejected(err error) (string, bool) {
	var r *Rejection
	if errors.As(err, &r) {
		return r.Reason, true
	}
	return "", false
}
