package jetstream

import (
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

// A stream that is at its limit refuses messages; one whose disk is in trouble may take them later.
func TestAtLimit(t *testing.T) {
	for description, want := range map[string]bool{
		"maximum bytes exceeded":                     true,
		"maximum messages exceeded":                  true,
		"maximum messages per subject exceeded":      true,
		"write /data/1.blk: no space left on device": false,
		"insufficient storage resources available":   false,
	} {
		e := &jetstream.APIError{Code: 503, ErrorCode: storeFailed, Description: description}
		if got := atLimit(e); got != want {
			t.Errorf("%q: %v", description, got)
		}
	}
	if atLimit(&jetstream.APIError{Code: 503, ErrorCode: 10047, Description: "maximum bytes exceeded"}) {
		t.Error("another code")
	}
}
