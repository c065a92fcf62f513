package harness

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/choria-io/prometheus-streams/e2e/record"
	"github.com/choria-io/prometheus-streams/internal/frame"
)

// Stored is one message of the frames' stream.
type Stored struct {
	Subject string
	// Sequence in the stream.
	Sequence uint64
	Data     []byte
	Header   frame.Header
	// Frames are the bundle's frames; the note that an epoch ends is none.
	Frames []record.FrameID
}

// Epoch is the epoch that the bundle belongs to.
func (s *Stored) Epoch() record.Epoch {
	return record.Epoch{Publisher: s.Header.Publisher, Lane: s.Header.Lane, Epoch: s.Header.Epoch}
}

// Bundles reads all messages of a stream that are bundles, in the stream's order.
func Bundles(t testing.TB, js jetstream.JetStream, stream string) []Stored {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := js.Stream(ctx, stream)
	if err != nil {
		t.Fatalf("stream %s: %v", stream, err)
	}
	var all []Stored
	var consumer jetstream.Consumer
	read := uint64(0)
	for deadline, last := time.Now().Add(30*time.Second), s.CachedInfo().State.LastSeq; ; {
		var m jetstream.Msg
		if consumer == nil {
			consumer, err = js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{
				DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: read + 1,
			})
		}
		if err == nil {
			m, err = consumer.Next(jetstream.FetchMaxWait(5 * time.Second))
		}
		if err != nil && time.Now().Before(deadline) { // a cluster that has no leader yet, or another one
			time.Sleep(200 * time.Millisecond)
			consumer, err = nil, nil
			continue
		}
		if err != nil {
			t.Fatalf("read stream %s: %v", stream, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		if b, ok := bundle(t, m.Data()); ok {
			b.Subject, b.Sequence, b.Data = m.Subject(), meta.Sequence.Stream, m.Data()
			all = append(all, b)
		}
		if read = meta.Sequence.Stream; read >= last {
			return all
		}
	}
}

func bundle(t testing.TB, data []byte) (Stored, bool) {
	t.Helper()
	b, err := frame.ParseBundle(data, frame.DefaultLimits())
	if errors.Is(err, frame.ErrMalformed) || errors.Is(err, frame.ErrChecksum) {
		return Stored{}, false
	}
	if err != nil {
		t.Fatal(err)
	}
	s := Stored{Header: b.Header}
	for raw, err := range b.Frames() {
		if err != nil {
			return Stored{}, false
		}
		if raw.Target != 0 {
			s.Frames = append(s.Frames, record.FrameID{Epoch: s.Epoch(), Seq: b.Seq, Target: raw.Target, Position: raw.Position})
		}
	}
	return s, true
}

// Undelivered lists the frames that a stream holds and an account does not have. Frames that were delivered and are not in
// the stream fail the test.
func Undelivered(t testing.TB, stored []Stored, a *record.Account) []record.FrameID {
	t.Helper()
	there := map[record.FrameID]bool{}
	var missing []record.FrameID
	for _, s := range stored {
		for _, f := range s.Frames {
			there[f] = true
			if !a.Delivered[f] {
				missing = append(missing, f)
			}
		}
	}
	for f := range a.Delivered {
		if f.Target != 0 && !there[f] {
			t.Errorf("frame %+v was delivered and is not in the stream", f)
		}
	}
	return missing
}

// CheckDelivered checks that everything that a stream holds was delivered, and nothing else.
func CheckDelivered(t testing.TB, stored []Stored, a *record.Account) {
	t.Helper()
	missing := Undelivered(t, stored, a)
	for _, f := range missing[:min(len(missing), 10)] {
		t.Errorf("frame %+v is in the stream and was never delivered", f)
	}
	if len(missing) > 10 {
		t.Errorf("and %d more", len(missing)-10)
	}
}
