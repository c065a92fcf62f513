package harness

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/stream"
)

// Forge makes messages as a poller does, for tests of what a receiver makes of wrong ones.
type Forge struct {
	Publisher string
	Epoch     uint64
	// Schema of all its frames: one series.
	Schema *frame.Schema

	seq     uint64
	encoder *frame.Encoder
}

// NewForge makes a publisher with one target.
func NewForge(t testing.TB, publisher string, epoch uint64) *Forge {
	t.Helper()
	// The publisher's name in the series makes each forge's schema its own.
	schema, err := frame.NewSchema(nil, []frame.Series{{Labels: labels.FromStrings("__name__", "forged", "by", publisher), Family: -1}},
		frame.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	target := &frame.Target{ID: 1, Labels: labels.FromStrings("job", "forged", "instance", publisher), Interval: time.Second, Timeout: time.Second}
	return &Forge{Publisher: publisher, Epoch: epoch, Schema: schema, encoder: frame.NewEncoder(epoch, target, frame.EncoderOptions{Always: true})}
}

// Bundle makes the next bundle, of one frame.
func (f *Forge) Bundle(t testing.TB, value float64) []byte {
	t.Helper()
	return f.BundleAt(t, time.Now(), value)
}

// BundleAt is Bundle with the time of the scrape.
func (f *Forge) BundleAt(t testing.TB, at time.Time, value float64) []byte {
	t.Helper()
	f.seq++
	frames, err := f.encoder.AppendScrape(nil, at.UnixMilli(), frame.Report{Scraped: 1, PostRelabel: 1}, f.Schema,
		&frame.Column{Values: []float64{value}})
	if err != nil {
		t.Fatal(err)
	}
	return frame.AppendBundle(nil, frame.Header{Publisher: f.Publisher, Lane: "live", Epoch: f.Epoch, Seq: f.seq}, frames)
}

// Subject of its bundles.
func (f *Forge) Subject() string {
	return stream.Subjects{Topic: "prometheus"}.Frames(f.Publisher, "live")
}

// SchemaSubject is where its schema belongs.
func (f *Forge) SchemaSubject() string {
	return stream.Subjects{Topic: "prometheus"}.Schema(f.Publisher, f.Schema.ID)
}

// Publish stores a message in whatever stream has the subject.
func Publish(t testing.TB, conn *nats.Conn, subject string, message []byte) {
	t.Helper()
	answer, err := conn.Request(subject, message, requestLimit)
	if err != nil {
		t.Fatalf("publish on %s: %v", subject, err)
	}
	if string(answer.Data[:min(len(answer.Data), 9)]) == `{"error":` {
		t.Fatalf("publish on %s: %s", subject, answer.Data)
	}
}

// Forged makes and stores n good bundles with values from first on, and their schema.
func (f *Forge) Forged(t testing.TB, conn *nats.Conn, n int, first float64) {
	t.Helper()
	Publish(t, conn, f.SchemaSubject(), f.Schema.Marshal())
	for i := range n {
		Publish(t, conn, f.Subject(), f.Bundle(t, first+float64(i)))
		time.Sleep(2 * time.Millisecond) // frames of one target have times of their own
	}
}

// String names it in messages.
func (f *Forge) String() string { return fmt.Sprintf("%s/%x", f.Publisher, f.Epoch) }
