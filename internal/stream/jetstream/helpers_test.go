package jetstream

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// logBuffer keeps what is logged.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// wait waits until all texts were logged.
func (l *logBuffer) wait(t *testing.T, texts ...string) {
	t.Helper()
	eventually(t, func() bool {
		for _, text := range texts {
			if !strings.Contains(l.String(), text) {
				return false
			}
		}
		return true
	}, func() string { return "the log lacks one of " + strings.Join(texts, " | ") + ":\n" + l.String() })
}

func eventually(t *testing.T, ok func() bool, otherwise func() string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(otherwise())
		}
	}
}

// value of a metric with all the label values given, 0 if there is none.
func value(t *testing.T, reg prometheus.Registerer, name string, labels ...string) float64 {
	t.Helper()
	families, err := reg.(*prometheus.Registry).Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == name && has(m, labels) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

func has(m *dto.Metric, labels []string) bool {
	for _, want := range labels {
		found := false
		for _, l := range m.Label {
			found = found || l.GetValue() == want
		}
		if !found {
			return false
		}
	}
	return true
}

func short(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func publisher(t *testing.T, c *Conn, subjects ...string) *Publisher {
	t.Helper()
	p, err := c.Publisher(PublisherOptions{Subjects: subjects})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func result(t *testing.T, ch <-chan stream.Result) stream.Result {
	t.Helper()
	select {
	case r := <-ch:
		return r
	case <-time.After(20 * time.Second):
		t.Fatal("a publish has no result")
		return stream.Result{}
	}
}

func store(t *testing.T, p *Publisher, subject string, count int) {
	t.Helper()
	for range count {
		if r := result(t, p.Publish(subject, []byte("x"))); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
}

// tap receives all events of a consumer.
type tap struct {
	mu     sync.Mutex
	events []stream.Event
	hold   bool // messages are not acknowledged
}

func (p *tap) take(e stream.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = append(p.events, e)
	if e.Kind == stream.Delivered && !p.hold {
		_ = e.Message.Ack()
	}
}

// seen gives the sequences delivered, and how many events of a kind came.
func (p *tap) seen(kind stream.EventKind) (sequences []uint64, count int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.events {
		if e.Kind == stream.Delivered {
			sequences = append(sequences, e.Message.Sequence)
		}
		if e.Kind == kind {
			count++
		}
	}
	return sequences, count
}

func (p *tap) delivered() int {
	s, _ := p.seen(stream.Delivered)
	return len(s)
}

// listen opens and receives until the test ends.
func listen(t *testing.T, r *Consumer, hold bool) *tap {
	t.Helper()
	if _, err := r.Open(short(t)); err != nil {
		t.Fatal(err)
	}
	p := &tap{hold: hold}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Receive(ctx, p.take) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("receiving: %v", err)
		}
	})
	return p
}
