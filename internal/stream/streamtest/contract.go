// Package streamtest is the contract that every carrier passes: what forward and receiver rely on, tried against a real
// server that is stopped and started again.
package streamtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
)

// patience bounds every wait of the contract.
const patience = 30 * time.Second

// Publisher is what forward uses.
type Publisher interface {
	Publish(subject string, data []byte) <-chan stream.Result
	Ready(ctx context.Context) error
}

// Consumer is what receiver uses.
type Consumer interface {
	Open(ctx context.Context) (stream.Floor, error)
	Receive(ctx context.Context, handle func(stream.Event)) error
}

// Process is one connection, as a process of its own would have. What a carrier does not offer is nil, and its part of
// the contract does not apply.
type Process struct {
	// Publisher for messages on subjects.
	Publisher func(t *testing.T, subjects ...string) Publisher
	// Consumer of a durable, which is created if absent.
	Consumer func(t *testing.T, durable string) Consumer
	// Follow receives without a durable.
	Follow func(t *testing.T, from time.Time) Consumer
	// Schema reads the newest message of a subject of the registry.
	Schema func(ctx context.Context, subject string) ([]byte, error)
	// Read reads stored messages again.
	Read func(ctx context.Context, r stream.Range, handle func(stream.Message) error) error
	// Unacknowledged is how many messages of a durable were fetched and not acknowledged.
	Unacknowledged func(t *testing.T, durable string) int
	// Die ends the process.
	Die func()
}

// Carrier is a server with empty streams of Subjects.
type Carrier struct {
	Subjects stream.Subjects
	// Start starts a process.
	Start func(t *testing.T) *Process
	// Stop and Restart stop the server and start it again, at the same place with the same store.
	Stop, Restart func(t *testing.T)
	// Largest is the size of the largest message; 0 if there is no limit.
	Largest int
	// OneSubject, if set, is the only subject that the carrier has: all publish on it.
	OneSubject string
	// NoFloor: the carrier does not tell how far a consumer has come.
	NoFloor bool
	// Denied is a publisher on whose subjects nobody may publish; empty if there are no such rights.
	Denied string
	// Prefetch is how many messages of 10 KB may be fetched beyond the one that is being handled.
	Prefetch int
}

// Contract runs the contract; factory makes a new server each time.
func Contract(t *testing.T, factory func(t *testing.T) *Carrier) {
	tests := []struct {
		name string
		run  func(t *testing.T, c *Carrier)
	}{
		{"order", testOrder},
		{"crash and resume", testCrash},
		{"server restart", testRestart},
		{"resend", testResend},
		{"back-pressure", testBackPressure},
		{"floor", testFloor},
		{"refusals", testRefusals},
		{"registry", testRegistry},
		{"read back", testReadBack},
		{"follow", testFollow},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, factory(t)) })
	}
}

// sender publishes numbered messages and sends again what failed, as a forwarder does.
type sender struct {
	p       Publisher
	subject string
	name    string // in its messages: the subject, unless others share it
	sent    int
}

func (c *Carrier) sender(t *testing.T, p *Process, publisher string) *sender {
	t.Helper()
	name := c.Subjects.Frames(publisher, "live")
	subject := name
	if c.OneSubject != "" {
		subject, name = c.OneSubject, "-"+publisher
	}
	s := &sender{p: p.Publisher(t, subject), subject: subject, name: name}
	ready(t, s.p)
	return s
}

func ready(t *testing.T, p Publisher) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Ready(ctx); err != nil {
		t.Fatalf("publisher is not ready: %v", err)
	}
}

func body(name string, n int) []byte { return fmt.Appendf(nil, "%s %06d", name, n) }

// send publishes the next count messages, all at once, until all are stored.
func (s *sender) send(ctx context.Context, count int) error {
	for from, to := s.sent+1, s.sent+count; from <= to; {
		var results []<-chan stream.Result
		for n := from; n <= to; n++ {
			results = append(results, s.p.Publish(s.subject, body(s.name, n)))
		}
		for _, ch := range results {
			r, err := await(ctx, ch)
			if err != nil {
				return err
			}
			if r.Err != nil {
				if err := s.p.Ready(ctx); err != nil {
					return err
				}
				break
			}
			from++
		}
	}
	s.sent += count
	return nil
}

func (s *sender) mustSend(t *testing.T, count int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.send(ctx, count); err != nil {
		t.Fatalf("sending: %v", err)
	}
}

func await(ctx context.Context, ch <-chan stream.Result) (stream.Result, error) {
	select {
	case r := <-ch:
		return r, nil
	case <-ctx.Done():
		return stream.Result{}, fmt.Errorf("a publish has no result: %w", ctx.Err())
	}
}

func publish(t *testing.T, p Publisher, subject string, data []byte) stream.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := await(ctx, p.Publish(subject, data))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// receiver runs a consumer and gives its events one by one: the handler blocks until the next is asked for.
type receiver struct {
	floor  stream.Floor
	events chan stream.Event
	cancel context.CancelFunc
	done   chan error
}

func receive(t *testing.T, c Consumer) *receiver {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	open, stop := context.WithTimeout(ctx, patience)
	defer stop()
	floor, err := c.Open(open)
	if err != nil {
		cancel()
		t.Fatalf("opening: %v", err)
	}
	r := &receiver{floor: floor, events: make(chan stream.Event), cancel: cancel, done: make(chan error, 1)}
	go func() {
		r.done <- c.Receive(ctx, func(e stream.Event) {
			select {
			case r.events <- e:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() { r.stop(t) })
	return r
}

// stop ends the receiving, which is no error.
func (r *receiver) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	select {
	case err := <-r.done:
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("receiving ended with %v", err)
		}
		r.done <- nil
	case <-time.After(patience):
		t.Error("receiving does not end with its context")
	}
}

func (r *receiver) event(t *testing.T) stream.Event {
	t.Helper()
	select {
	case e := <-r.events:
		return e
	case err := <-r.done:
		r.done <- err
		t.Fatalf("receiving ended: %v", err)
	case <-time.After(patience):
		t.Fatal("nothing comes")
	}
	return stream.Event{}
}

// message skips all events but the next delivery.
func (r *receiver) message(t *testing.T) *stream.Message {
	t.Helper()
	for {
		if e := r.event(t); e.Kind == stream.Delivered {
			return e.Message
		}
	}
}

// numbers takes messages until one is the last wanted, acknowledges those that ack says, and gives their numbers.
func (r *receiver) numbers(t *testing.T, last int, ack func(n int) bool) []int {
	t.Helper()
	var got []int
	for {
		m := r.message(t)
		n := number(t, m)
		got = append(got, n)
		if ack(n) {
			if err := m.Ack(); err != nil {
				t.Fatalf("acknowledging %d: %v", n, err)
			}
		}
		if n == last {
			return got
		}
	}
}

func always(int) bool { return true }
func never(int) bool  { return false }

func number(t *testing.T, m *stream.Message) int {
	t.Helper()
	_, n := parse(t, m)
	return n
}

// parse gives a message's sender and number.
func parse(t *testing.T, m *stream.Message) (name string, n int) {
	t.Helper()
	_, err := fmt.Sscanf(string(m.Data), "%s %d", &name, &n)
	if err != nil || name != m.Subject && !strings.HasPrefix(name, "-") {
		t.Fatalf("message %d on %s is not one of ours: %q", m.Sequence, m.Subject, m.Data)
	}
	return name, n
}

func sequence(from, to int) []int {
	var out []int
	for n := from; n <= to; n++ {
		out = append(out, n)
	}
	return out
}
