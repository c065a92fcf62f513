package receiver

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// unknowable is a bundle of a lane whose schema nobody has, another one in each.
func (s *site) unknowable(lane string, seq uint64, padding int) []byte {
	schema, err := frame.NewSchema(nil, []frame.Series{{Labels: labels.FromStrings("__name__", "m", "lane", lane, "i", fmt.Sprint(seq)), Family: -1}}, s.w.limits.Frame)
	if err != nil {
		s.w.t.Fatal(err)
	}
	e := frame.NewEncoder(s.epoch, &frame.Target{ID: seq, Labels: labels.FromStrings("instance", fmt.Sprint(seq), "pad", strings.Repeat("x", padding))}, frame.EncoderOptions{})
	frames, err := e.AppendScrape(nil, time.Now().UnixMilli(), frame.Report{}, schema, &frame.Column{Values: []float64{1}})
	if err != nil {
		s.w.t.Fatal(err)
	}
	return frame.AppendBundle(nil, frame.Header{Publisher: s.name, Lane: lane, Epoch: s.epoch, Seq: seq}, frames)
}

// unacked is how many messages a consumer would have on its way.
func (w *world) unacked() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.messages) - len(w.acked)
}

// A publisher whose lanes wait for what never comes does not use up what may be on its way, in messages or bytes; the
// others go on, and what was waited for is counted.
func TestPublisherThatMakesUsWait(t *testing.T) {
	var future []byte
	for name, c := range map[string]struct {
		held, messages int
		make           func(t *testing.T, evil *site, i int) []byte
		reason         string
	}{
		"for a schema each": {256 << 20, 3 * waitingMost / 2, func(_ *testing.T, evil *site, i int) []byte {
			return evil.unknowable("live", uint64(i+1), 1)
		}, "schema_not_found"},
		"with large bundles": {1 << 20, 100, func(_ *testing.T, evil *site, i int) []byte {
			return evil.unknowable(fmt.Sprint("lane", i%8), uint64(i/8+1), 50<<10)
		}, "schema_not_found"},
		"for bundles": {128 << 10, 100, func(_ *testing.T, evil *site, i int) []byte {
			evil.seq = uint64(2 * i)
			return bytes.Clone(crowd(evil, fmt.Sprint("lane", i%8), 1000*i, 60))
		}, ""},
		"for a newer receiver": {256 << 20, 3 * waitingMost / 2, func(t *testing.T, evil *site, _ int) []byte {
			if future == nil {
				future = ofNextVersion(t, evil.unknowable("live", 1, 1))
			}
			return future
		}, "unknown_version"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.limits.HeldBytes = c.held
				var log bytes.Buffer
				w.log = &log
				good, evil := newSite(w, "good", frame.EncoderOptions{Always: true}), newSite(w, "evil", frame.EncoderOptions{Always: true})
				w.start()
				good.send()
				most := 0
				for i := range c.messages {
					w.feed <- w.delivery(w.store("evil", c.make(t, evil, i)))
					if i%(c.messages/30) == 0 {
						time.Sleep(1100 * time.Millisecond)
						synctest.Wait()
						most = max(most, w.unacked())
					}
				}
				good.send()
				time.Sleep(10 * time.Second)
				if most > waitingMost+c.messages/10 {
					t.Errorf("up to %d messages were on their way", most)
				}
				w.sink.mu.Lock()
				delivered := 0
				for _, d := range w.sink.got {
					if d.Publisher == "good" {
						delivered++
					}
				}
				w.sink.mu.Unlock()
				if delivered != 2 {
					t.Errorf("%d of 2 bundles of the other publisher were delivered within seconds", delivered)
				}
				if n := w.metric("dropped_frames_total", "publisher", "evil", "reason", c.reason); c.reason != "" && n == 0 {
					t.Errorf("nothing is counted as %s", c.reason)
				}
				w.wantMetric(0, "dropped_frames_total", "publisher", "good")
				w.stop()
				if c.reason != "unknown_version" && !strings.Contains(log.String(), `publisher \"evil\" has `) {
					t.Errorf("the log does not say who gave way:\n%.2000s", log.String())
				}
			})
		})
	}
}

// However many names are made up, there is a bounded number of them on our own page; what comes under others is counted
// without a name.
func TestPublisherNamesAreBounded(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg).sink("test")
	for i := range publishersKept + 100 {
		m.dropped(fmt.Sprint("made-up", i), "malformed", 1)
	}
	m.dropped("made-up1", "malformed", 1)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "prometheus_streams_receiver_dropped_frames_total" {
			continue
		}
		if n := len(f.Metric); n != publishersKept+1 {
			t.Errorf("%d series, want %d", n, publishersKept+1)
		}
		for _, x := range f.Metric {
			if who := labelOf(x, "publisher"); who == "" && x.Counter.GetValue() != 100 || who == "made-up1" && x.Counter.GetValue() != 2 {
				t.Errorf("%q has %v", who, x.Counter.GetValue())
			}
		}
	}
}

// Schemas without end do not fill the disk: those that were not read for the longest make room.
func TestSchemasOnDiskAreBounded(t *testing.T) {
	dir := t.TempDir()
	limits := frame.DefaultLimits()
	open := func() *Schemas {
		s, err := NewSchemas(dir, limits, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		s.diskBound = 8 << 10
		return s
	}
	size := func() (bytes int64) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil {
				t.Fatal(err)
			}
			bytes += info.Size()
		}
		return bytes
	}
	s := open()
	var newest *frame.Schema
	for i := range 200 {
		if i == 100 {
			s = open() // what is there already counts too
		}
		schema, err := frame.NewSchema(nil, []frame.Series{{Labels: labels.FromStrings("__name__", "m", "i", fmt.Sprint(i)), Family: -1}}, limits)
		if err != nil {
			t.Fatal(err)
		}
		s.keep(schema)
		newest = schema
		if i%10 != 9 {
			continue
		}
		if n := size(); n > s.diskBound {
			t.Fatalf("%d bytes on disk after %d schemas, limit %d", n, i+1, s.diskBound)
		}
	}
	if n := size(); n < 8<<10/2 {
		t.Errorf("only %d bytes are kept", n)
	}
	if open().Lookup(newest.ID) == nil {
		t.Error("the newest is not on disk")
	}
}

// A publisher whose lanes have to be read back over and over leaves room for reading back those of others.
func TestReadingBackIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		slow := make(chan struct{})
		w.slow = map[string]chan struct{}{"evil": slow}
		good, evil := newSite(w, "good", frame.EncoderOptions{}), newSite(w, "evil", frame.EncoderOptions{})
		lacking := func(s *site, lane string) []byte { // a frame without the ones that it builds on
			e := frame.NewEncoder(s.epoch, &frame.Target{ID: 1, Labels: labels.FromStrings("instance", lane), Interval: 15 * time.Second}, frame.EncoderOptions{})
			var frames []byte
			for i := range 3 {
				var err error
				if frames, err = e.AppendScrape(nil, time.Now().UnixMilli()+int64(i), frame.Report{}, s.schema, &frame.Column{Values: []float64{1, 2}}); err != nil {
					t.Fatal(err)
				}
			}
			return frame.AppendBundle(nil, frame.Header{Publisher: s.name, Lane: lane, Epoch: s.epoch, Seq: 3}, frames)
		}
		w.start()
		for i := range 8 {
			w.send("evil", lacking(evil, fmt.Sprint("lane", i)))
		}
		w.send("good", lacking(good, "live"))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		reads := map[string]int{}
		w.mu.Lock()
		for _, r := range w.reads {
			reads[r.Subject]++
		}
		w.mu.Unlock()
		if reads["evil"] != replaysOfOne || reads["good"] == 0 {
			t.Errorf("read back: %v", reads)
		}
		w.wantMetric(1, "dropped_frames_total", "publisher", "good", "reason", "base_not_found")
		close(slow)
		time.Sleep(10 * time.Second)
		w.wantMetric(8, "dropped_frames_total", "publisher", "evil", "reason", "base_not_found")
		w.stop()
		if n := w.unacked(); n != 0 {
			t.Errorf("%d messages are not acknowledged", n)
		}
	})
}
