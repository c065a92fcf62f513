package streaming

import "github.com/nats-io/nats.go"

// NATS is the connection itself, for who asks or answers beside the stream, until Replaced. It is not to be closed.
func (c *Conn) NATS() *nats.Conn { return c.way.Conn() }

// Replaced is closed when the connection that NATS gave is of no use any more and there is another one.
func (c *Conn) Replaced() <-chan struct{} { return c.way.Replaced() }
