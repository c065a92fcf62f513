package receiver

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// slowSink keeps frames until it is let go.
type slowSink struct {
	frames []*frame.Frame
	done   []func(error)
}

func (s *slowSink) Deliver(_ context.Context, d sink.Delivery, done func(error)) {
	if d.Publisher != "" || d.Epoch != 0 || d.Stored.UnixMilli() != d.Frame.Time {
		panic(fmt.Sprintf("%+v", d))
	}
	s.frames, s.done = append(s.frames, d.Frame), append(s.done, done)
}

// publishersOf writes a frame as text: name{publisher} value.
func publishersOf(f *frame.Frame) string {
	var out []string
	for i := range f.Schema.Series {
		l := f.Schema.Series[i].Labels
		if !f.Column.Absent.Has(i) {
			name := strings.TrimPrefix(l.Get("__name__"), "prometheus_streams_publisher_")
			out = append(out, fmt.Sprintf("%s{%s} %v", name, l.Get("site"), f.Column.Values[i]))
		}
	}
	return strings.Join(out, ", ")
}

func newSelfScrape(t *testing.T, p *Publishers, s Sink) *SelfScrape {
	t.Helper()
	schemas, err := NewSchemas(t.TempDir(), frame.DefaultLimits(), slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return &SelfScrape{
		Publishers: p, Sink: s, Target: labels.FromStrings("instance", "centre", "job", "r"), Label: "site", Interval: 15 * time.Second,
		Schemas: schemas, Skipped: prometheus.NewCounter(prometheus.CounterOpts{Name: "skipped"}),
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

func TestSelfScrape(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newPublishersWorld(t, "", "expected"), &slowSink{}
		self := newSelfScrape(t, w.Publishers, s)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error)
		go func() { ended <- self.Run(ctx) }()
		w.saw("B", time.Now(), scrapedAgo(2*time.Second, 10*time.Second))
		w.gap("B", "one")
		begun := time.Now()
		time.Sleep(16 * time.Second)
		w.saw("A", time.Now(), nil)
		time.Sleep(15 * time.Second)
		w.mu.Lock()
		delete(w.known, "B") // forgotten
		w.mu.Unlock()
		time.Sleep(30 * time.Second)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		seen := float64(begun.Unix())
		want := []string{
			fmt.Sprintf("up{B} 1, up{expected} 0, last_seen_timestamp_seconds{B} %v, lag_seconds{B} 17, clock_skew_seconds{B} -2, gaps_total{B} 1, gaps_total{expected} 0", seen),
			fmt.Sprintf("up{A} 1, up{B} 1, up{expected} 0, last_seen_timestamp_seconds{A} %v, last_seen_timestamp_seconds{B} %v, "+
				"lag_seconds{B} 32, clock_skew_seconds{B} -2, gaps_total{A} 0, gaps_total{B} 1, gaps_total{expected} 0", seen+16, seen),
			fmt.Sprintf("up{A} 1, up{expected} 0, last_seen_timestamp_seconds{A} %v, gaps_total{A} 0, gaps_total{expected} 0", seen+16),
		}
		if len(s.frames) != 4 {
			t.Fatalf("%d frames", len(s.frames))
		}
		for i, text := range want {
			f := s.frames[i]
			if got := publishersOf(f); got != text {
				t.Errorf("frame %d: %s\nwant %s", i, got, text)
			}
			if ms := begun.Add(time.Duration(i+1) * 15 * time.Second).UnixMilli(); f.Time != ms {
				t.Errorf("frame %d at %d, want %d", i, f.Time, ms)
			}
			if r := f.Report; r.Scraped != strings.Count(text, "{") || r.Added != []int{10, 5, 0}[i] {
				t.Errorf("frame %d reports %+v", i, r)
			}
			if err := sink.Check(f, func(labels.Label) bool { return true }); err != nil {
				t.Error(err)
			}
			if self.Schemas.Lookup(f.Schema.ID) == nil {
				t.Errorf("the schema of frame %d is not kept", i)
			}
		}
		if s.frames[2].Schema != s.frames[3].Schema {
			t.Error("a new schema for the same publishers")
		}
	})
}

// A sink that takes nothing for long costs no memory without end.
func TestSelfScrapesAreBounded(t *testing.T) {
	w, s := newPublishersWorld(t, ""), &slowSink{}
	for i := range 10_000 {
		w.saw(fmt.Sprint("site", i), time.Now(), nil)
	}
	self := newSelfScrape(t, w.Publishers, s)
	for range 40 {
		_ = self.scrape(t.Context(), time.Now())
	}
	const held = selfScrapeHeld / (10_000 * publisherSeries)
	if n := testutil.ToFloat64(self.Skipped); len(s.frames) != held || n != 40-held {
		t.Errorf("%d frames wait and %v are skipped, want %d to wait", len(s.frames), n, held)
	}
	s.done[0](nil)
	if err := self.scrape(t.Context(), time.Now()); err != nil || len(s.frames) != held+1 {
		t.Errorf("%d frames after one was done: %v", len(s.frames), err)
	}
}
