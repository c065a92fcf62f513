package poller

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/target"
)

// give makes the target answer with a schema of n series.
func (w *world) give(instance, name string, n int) {
	s := schema(name, n)
	w.change(func() {
		w.behave[instance] = func(context.Context) (*frame.Frame, error) { return scraped(s, 1.5), nil }
	})
}

func TestFlushByAge(t *testing.T) {
	for _, tt := range []struct {
		interval, age, want time.Duration
	}{
		{15 * time.Second, 0, 300 * time.Millisecond},
		{5 * time.Minute, 0, time.Second},
		{15 * time.Second, 2 * time.Second, 2 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, Config{FlushAge: tt.age})
			g := tgt(t, "a", tt.interval)
			w.p.Update([]*target.Target{g, tgt(t, "b", time.Hour)})
			at := g.Next(time.Now(), 0)
			w.run()
			time.Sleep(time.Until(at.Add(tt.want - time.Millisecond)))
			if len(w.read()) != 0 {
				t.Errorf("%+v: flushed before its age", tt)
			}
			time.Sleep(time.Millisecond)
			synctest.Wait()
			if len(w.read()) != 1 {
				t.Errorf("%+v: not flushed at its age", tt)
			}
			w.stop()
		})
	}
}

func TestFlushBySize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 8000
		w := newWorld(t, Config{FlushSize: size, FlushAge: time.Hour, Encoder: frame.EncoderOptions{Always: true}})
		var targets []*target.Target
		for i := range 50 {
			g := tgt(t, fmt.Sprint("h", i), 10*time.Second)
			targets = append(targets, g)
			w.give(g.Instance(), "m", 100+10*i)
		}
		w.give("h7", "big", 20_000)
		w.p.Update(targets)
		w.run()
		time.Sleep(time.Minute)
		w.stop()
		bundles := w.read()
		large, sum := 0, 0
		for i, b := range w.bundles {
			sum += len(b.Message)
			if len(b.Message) > size+200 {
				large++
				if len(bundles[i].frames) != 1 {
					t.Errorf("bundle of %d bytes has %d frames", len(b.Message), len(bundles[i].frames))
				}
			}
		}
		if large != 6 {
			t.Errorf("%d bundles above the size, want one for each of the 6 large scrapes", large)
		}
		w.metric("bundles_total", "", float64(len(bundles)))
		w.metric("bundle_bytes_total", "", float64(sum))
	})
}

func TestOpeningBundleNamesItsPredecessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pre := &frame.Predecessor{Epoch: 7, Seq: 8, Totals: frame.Totals{Frames: 9, Samples: 10}, Clean: true}
		w := newWorld(t, Config{Predecessor: pre})
		w.p.Update([]*target.Target{tgt(t, "a", 10*time.Second)})
		w.run()
		time.Sleep(time.Minute)
		w.stop()
		for i, b := range w.read() {
			if i == 0 && (b.Predecessor == nil || *b.Predecessor != *pre) || i > 0 && b.Predecessor != nil {
				t.Errorf("bundle %d: predecessor %+v", i, b.Predecessor)
			}
		}
	})
}

func TestFullSpoolStopsScraping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		w.p.Update([]*target.Target{tgt(t, "a", 10*time.Second)})
		w.run()
		time.Sleep(30 * time.Second)
		w.change(func() { w.refuse = fmt.Errorf("append: %w", ErrSpoolFull) })
		time.Sleep(time.Minute)
		w.metric("spool_full", "", 1)
		w.metric("skipped_scrapes_total", skipSpool, 5)
		w.logged("the spool is full", 1)
		w.change(func() { w.refuse = nil })
		time.Sleep(30 * time.Second)
		w.metric("spool_full", "", 0)
		w.stop()
		if got := kinds(w.frames("a")); got != "uuuuuuu" {
			t.Errorf("frames %q: what was scraped is kept, then nothing is until there is room", got)
		}
		w.metric("lost_frames_total", "", 0)
		w.logged("has room again", 1)
	})
}

func TestStopWithFullSpool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		w.p.Update([]*target.Target{tgt(t, "a", 10*time.Second)})
		w.refuse = ErrSpoolFull
		w.run()
		time.Sleep(time.Minute)
		w.stop()
		w.metric("lost_frames_total", lostSpool, 1)
		w.metric("lost_samples_total", lostSpool, 3)
		w.logged("their samples are lost", 1)
	})
}

func TestSpoolErrorsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{Encoder: frame.EncoderOptions{KeyframeEvery: 64, KeyframeMaxAge: 24 * time.Hour}})
		w.p.Update([]*target.Target{tgt(t, "c", 10*time.Second)})
		w.refuse = errors.New("no space left on device")
		w.run()
		time.Sleep(40 * time.Second)
		w.metric("lost_samples_total", lostSpool, 12)
		w.logged("no space left", 1)
		w.change(func() { w.refuse = nil })
		time.Sleep(20 * time.Second)
		w.stop()
		w.logged("takes bundles again", 1)
		// The numbers of the lost bundles stay a hole, so that the centre sees the loss too.
		first, err := frame.ParseBundle(w.bundles[0].Message, frame.DefaultLimits())
		if err != nil || first.Seq != 5 || first.Totals.Samples != 15 {
			t.Errorf("first bundle after four lost ones: %+v, %v", first, err)
		}
		for f, err := range first.Frames() {
			if err != nil || !f.Keyframe() {
				t.Errorf("frame %+v, %v: it must not build on those that were lost", f, err)
			}
		}
	})
}

func TestLiveSchemas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		one, two := schema("one", 2), schema("two", 2)
		answer := map[string]*frame.Schema{"a": one, "b": one}
		for _, n := range []string{"a", "b"} {
			w.behave[n] = func(context.Context) (*frame.Frame, error) {
				var s *frame.Schema
				w.change(func() { s = answer[n] })
				return scraped(s, 1), nil
			}
		}
		w.p.Update([]*target.Target{tgt(t, "a", 10*time.Second), tgt(t, "b", 10*time.Second)})
		w.run()
		live := func(want ...*frame.Schema) {
			t.Helper()
			time.Sleep(time.Minute)
			w.mu.Lock()
			defer w.mu.Unlock()
			ok := len(w.live) == len(want)
			for _, s := range want {
				ok = ok && contains(w.live, s.ID)
			}
			if !ok {
				t.Errorf("%d schemas live, want %d", len(w.live), len(want))
			}
		}
		live(one)
		w.change(func() { answer["a"] = two })
		live(one, two)
		w.p.Update([]*target.Target{tgt(t, "a", 10*time.Second)})
		live(two)
		w.stop()
		w.read() // each bundle names what its frames need
	})
}

// A schema that goes out of use while a bundle that needs it is open stays in use until the next one.
func TestLiveSchemasOfTheOpenBundle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{FlushAge: 15 * time.Second})
		schemas := []*frame.Schema{schema("s0", 1), schema("s1", 1), schema("s2", 1), schema("s3", 1)}
		w.behave["a"] = func(context.Context) (*frame.Frame, error) {
			s := schemas[0]
			if len(schemas) > 1 {
				schemas = schemas[1:]
			}
			return scraped(s, 1), nil
		}
		w.p.Update([]*target.Target{tgt(t, "a", 10*time.Second)})
		w.run()
		time.Sleep(2 * time.Minute)
		w.stop()
		if len(w.bundles[0].Schemas) != 2 {
			t.Errorf("the first bundle needs %d schemas", len(w.bundles[0].Schemas))
		}
		w.change(func() {
			if len(w.live) != 1 || w.live[0] != schemas[0].ID {
				t.Errorf("%d schemas in use at last, want the last one", len(w.live))
			}
		})
	})
}

func BenchmarkBundler(b *testing.B) {
	c := Config{Publisher: "dc1", Lane: "live", FlushSize: 32 << 10, Spool: nowhere{}}
	bd := newBundler(c, 1, newMetrics(nil, nil))
	s := schema("m", 1000)
	def := &frame.Target{ID: 1, Labels: labels.FromStrings("job", "j", "instance", "i"), Interval: time.Second, Timeout: time.Second}
	e := frame.NewEncoder(1, def, frame.EncoderOptions{})
	encoded, err := e.AppendScrape(nil, 0, frame.Report{}, s, &frame.Column{Values: make([]float64, 1000)})
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(encoded)))
	b.ReportAllocs()
	for b.Loop() {
		bd.add(encoded, 1000, s)
	}
}

type nowhere struct{}

func (nowhere) Append(Bundle) error { return nil }

// One scrape of a thousand series on its way from the scraper into the bundle.
func BenchmarkTick(b *testing.B) {
	f := scraped(schema("m", 1000), 1.5)
	p := New(Config{Publisher: "dc1", Spool: nowhere{}, NewScraper: func(*target.Target) (Scraper, error) {
		return scraperFunc(func(context.Context) (*frame.Frame, error) { return f, nil }), nil
	}})
	g := &target.Target{Labels: labels.FromStrings("job", "j", "instance", "i"), Interval: time.Second, Timeout: time.Second}
	p.Update([]*target.Target{g})
	l := p.loops[g.Key()]
	at := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		l.tick(b.Context(), b.Context(), at)
	}
}
