package receiver

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// broadSite publishes many series that never change: small messages, large frames.
type broadSite struct {
	*site
	values []float64
}

func newBroadSite(w *world, series int) *broadSite {
	s := &broadSite{site: newSite(w, "A", frame.EncoderOptions{}), values: make([]float64, series)}
	all := make([]frame.Series, series)
	for i := range all {
		all[i] = frame.Series{Labels: labels.FromStrings("__name__", "m", "x", fmt.Sprint(i)), Family: -1}
	}
	schema, err := frame.NewSchema(nil, all, w.limits.Frame)
	if err != nil {
		w.t.Fatal(err)
	}
	s.schema = schema
	w.schemas[schema.ID] = schema.Marshal()
	return s
}

func (s *broadSite) bundle() []byte {
	s.seq++
	frames, err := s.encoder.AppendScrape(nil, time.Now().UnixMilli(), frame.Report{}, s.schema, &frame.Column{Values: s.values})
	if err != nil {
		s.w.t.Fatal(err)
	}
	return frame.AppendBundle(nil, frame.Header{Publisher: s.name, Lane: "live", Epoch: s.epoch, Seq: s.seq}, frames)
}

// A sink that is stuck stops the decoding too, however small the messages are; also of what waited in a lane for its
// schema. Everything is delivered once it goes on.
func TestDecodedMemoryIsBounded(t *testing.T) {
	for _, waits := range []bool{false, true} {
		t.Run(fmt.Sprint("waits for a schema ", waits), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				const series, bundles = 2000, 300
				w.limits.HeldBytes = 400 << 10
				a := newBroadSite(w, series)
				if waits {
					w.registry = errors.New("no answer")
				}
				var dones []func(error)
				w.sink.verdict = func(_ sink.Delivery, done func(error)) { dones = append(dones, done) }
				w.start()
				size := 0
				for range bundles {
					b := a.bundle()
					size += len(b)
					w.store("A", b)
				}
				for seq := range uint64(bundles) {
					w.hand(seq + 1)
				}
				if waits {
					w.mu.Lock()
					w.registry = nil
					w.mu.Unlock()
					time.Sleep(3 * time.Second)
					synctest.Wait()
				}
				if size > w.limits.HeldBytes {
					t.Fatalf("the messages have %d bytes: they alone reach the limit", size)
				}
				each := footprint(w.sink.got[0].Frame)
				if most := w.limits.HeldBytes/each + 1; len(dones) > most || len(dones) < most-1 {
					t.Errorf("%d frames of %d bytes are with the sink, want %d", len(dones), each, most)
				}
				for i := 0; i < len(dones); i++ {
					dones[i](nil)
					synctest.Wait()
				}
				time.Sleep(2 * time.Second)
				w.wantMetric(0, "prometheus_streams_receiver_decoded_bytes", "sink", "test")
				w.stop()
				if len(w.acked) != bundles {
					t.Errorf("%d acknowledged, want %d", len(w.acked), bundles)
				}
			})
		})
	}
}
