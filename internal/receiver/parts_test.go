package receiver

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/stream"
)

// widen gives a site's target so many series that its bundles need parts.
func (s *site) widen() {
	series := []frame.Series{{Labels: labels.FromStrings("__name__", "scrapes"), Base: 1}}
	for i := range 2000 {
		series = append(series, frame.Series{Labels: labels.FromStrings("__name__", "n", "i", string(rune('a'+i%26))+string(rune('a'+i/26%26))+string(rune('a'+i/676))), Family: -1})
	}
	schema, err := frame.NewSchema([]frame.Family{{Name: "scrapes", Type: model.MetricTypeCounter}}, series, s.w.limits.Frame)
	if err != nil {
		s.w.t.Fatal(err)
	}
	s.w.schemas[schema.ID], s.schema = schema.Marshal(), schema
}

func (s *site) wide() []byte {
	s.scrapes++
	s.seq++
	values := make([]float64, len(s.schema.Series))
	for i := range values {
		values[i] = float64(i*i)*1.37 + s.scrapes
	}
	values[0] = s.scrapes
	frames, err := s.encoder.AppendScrape(nil, time.Now().UnixMilli(), frame.Report{}, s.schema, &frame.Column{Values: values})
	if err != nil {
		s.w.t.Fatal(err)
	}
	return frame.AppendBundle(nil, frame.Header{Publisher: s.name, Lane: "live", Epoch: s.epoch, Seq: s.seq}, frames)
}

// Bundles that came as parts are delivered in order and acknowledged with all their parts; a restart of the consumer in
// the middle of one, and of the receiver, changes nothing.
func TestBundlesInParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.state = t.TempDir()
		s := newSite(w, "edge", frame.EncoderOptions{})
		s.widen()
		w.start()
		var all []uint64
		store := func() (seqs []uint64) {
			parts, err := stream.Cut(s.wide(), stream.MinPart)
			if err != nil || len(parts) < 3 {
				t.Fatalf("%d parts, %v", len(parts), err)
			}
			for _, p := range parts {
				seqs = append(seqs, w.store("edge", p))
			}
			all = append(all, seqs...)
			return seqs
		}
		first := store()
		w.hand(first...)
		w.sink.want(t, "edge/1")
		w.wantAcked(all...)

		second := store()
		w.hand(second[:2]...)
		w.sink.want(t, "edge/1")
		w.feed <- stream.Event{Kind: stream.Restarted}
		w.hand(second...)
		w.sink.want(t, "edge/1", "edge/2")
		w.wantAcked(all...)
		w.stop()

		w.floor = stream.Floor{Created: time.Unix(1, 0), Sequence: second[len(second)-1], First: 1, Last: second[len(second)-1], Stored: time.Now()}
		w.start() // reads the parts back for their bases
		w.hand(store()...)
		w.sink.want(t, "edge/1", "edge/2", "edge/3")
		w.wantAcked(all...)
		w.wantMetric(0, "dropped_frames_total")
	})
}
