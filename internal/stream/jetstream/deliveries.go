package jetstream

import (
	"fmt"
	"sync"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/nats-io/nats.go"
)

// deliveries are the messages handed out since the last restart and not acknowledged.
type deliveries struct {
	c *Conn
	// mu is held for reading while an acknowledgement is sent, so that none of before a restart can be sent after it: an
	// old server would take it for one of the new deliveries and skip what lies before.
	mu   sync.RWMutex
	gen  uint64
	held sync.Map // stream sequence → struct{}
}

// restart makes all messages handed out before strangers.
func (d *deliveries) restart() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gen++
	d.held.Clear()
}

// repeated tells whether a delivery repeats one of ours since the last restart. One that is still being worked on is
// kept in progress; one whose acknowledgement was lost is acknowledged again. ordered says that deliveries come in the
// order of the stream, so that what is not after last must have been handed out.
func (d *deliveries) repeated(m *nats.Msg, seq, last uint64, ordered bool) bool {
	if _, ok := d.held.Load(seq); ok {
		_ = d.c.nats().Publish(m.Reply, ackProgress) // lost: it comes once more
		return true
	}
	if ordered && seq <= last {
		_ = d.c.nats().Publish(m.Reply, ackAck)
		return true
	}
	return false
}

var (
	ackAck      = []byte("+ACK")
	ackProgress = []byte("+WPI")
)

func (d *deliveries) message(m *nats.Msg, meta *nats.MsgMetadata) *stream.Message {
	gen, seq := d.gen, meta.Sequence.Stream // only restart changes gen, and it is called by the same goroutine
	d.held.Store(seq, struct{}{})
	send := func(what []byte, done bool) error {
		d.mu.RLock()
		defer d.mu.RUnlock()
		if d.gen != gen {
			return nil
		}
		if done {
			d.held.Delete(seq)
		}
		if err := d.c.nats().Publish(m.Reply, what); err != nil {
			return fmt.Errorf("acknowledging message %d: %w to NATS", seq, stream.ErrDisconnected)
		}
		return nil
	}
	return &stream.Message{
		Subject: m.Subject, Data: m.Data, Sequence: seq, Stored: meta.Timestamp, Redelivered: meta.NumDelivered > 1,
		Ack:        func() error { return send(ackAck, true) },
		InProgress: func() error { return send(ackProgress, false) },
	}
}
