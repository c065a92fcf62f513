package streaming

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream/access"
)

// Options say where the NATS Streaming server is, and who we are.
type Options struct {
	access.Server
	// ClusterID of the server and our ClientID there: letters, digits, - and _. Nobody else may use the client id at the
	// same time.
	ClusterID, ClientID string
	// Topic is the one subject of all messages.
	Topic string
	// SessionPings is how often a silent session is checked (3 s, whole seconds); it is given up after three pings without
	// an answer. Attempts to begin one are ReconnectWait apart, growing to ten times that.
	SessionPings time.Duration
}

func (o *Options) setDefaults() error {
	legal := regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	switch {
	case !legal.MatchString(o.ClusterID):
		return fmt.Errorf("illegal cluster id %q: only letters, digits, - and _ are allowed", o.ClusterID)
	case !legal.MatchString(o.ClientID):
		return fmt.Errorf("illegal client id %q: only letters, digits, - and _ are allowed", o.ClientID)
	case o.Topic == "" || strings.ContainsAny(o.Topic, "*> \t\r\n"):
		return fmt.Errorf("illegal topic %q", o.Topic)
	}
	if o.Name == "" {
		o.Name = o.ClientID
	}
	if o.SessionPings <= 0 {
		o.SessionPings = 3 * time.Second
	}
	return o.Server.SetDefaults()
}

// pings is SessionPings as stan.go wants it.
func (o *Options) pings() int { return max(1, int(o.SessionPings/time.Second)) }
