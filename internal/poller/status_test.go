package poller

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/choria-io/prometheus-streams/internal/exposition"
	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/target"
)

func TestDownIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		var err error
		w.broken["a"] = errors.New("no such file: ca.pem")
		w.behave["a"] = func(context.Context) (*frame.Frame, error) {
			if err != nil {
				return nil, err
			}
			return up(1), nil
		}
		g := tgt(t, "a", 10*time.Second)
		g.URL = "http://user:secret@a/metrics"
		w.p.Update([]*target.Target{g})
		if s := w.p.Targets(); len(s) != 1 || s[0].Health != Unknown || !s[0].LastScrape.IsZero() {
			t.Errorf("before the first scrape: %+v", s)
		}
		w.run()
		time.Sleep(time.Minute)
		s := w.p.Targets()[0]
		if s.Health != Down || !strings.Contains(s.LastError, "ca.pem") || s.LastScrape.IsZero() {
			t.Errorf("status %+v", s)
		}
		w.logged("the target is down", 1)
		w.logged("ca.pem", 1)
		w.logged("secret", 0)
		w.change(func() { w.broken["a"] = nil })
		time.Sleep(30 * time.Second)
		if s := w.p.Targets()[0]; s.Health != Up || s.LastError != "" || s.Samples != 3 || s.Duration != 20*time.Millisecond {
			t.Errorf("status %+v", s)
		}
		w.logged("up again", 1)
		w.change(func() { err = errors.New("connection refused") })
		time.Sleep(30 * time.Second)
		w.stop()
		w.logged("the target is down", 2)
		if got := kinds(w.frames("a")); got != "dddddduuuddd" {
			t.Errorf("frames %q", got)
		}
		w.metric("poll_errors", "j a", 9)
		w.metric("poll_time", "j a", 12)
	})
}

func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		self := tgt(t, "dc1", 10*time.Second)
		self.Self = true
		w.p.Update([]*target.Target{tgt(t, "a", 10*time.Second), self})
		w.run()
		time.Sleep(30 * time.Second)
		w.p.Pause()
		w.p.Pause()
		w.metric("paused", "", 1)
		time.Sleep(30 * time.Second)
		if got := kinds(w.frames("a")); got != "uuuE3" {
			t.Errorf("paused: %q", got)
		}
		w.p.Resume()
		w.metric("paused", "", 0)
		time.Sleep(30 * time.Second)
		w.stop()
		if got := kinds(w.frames("a")); got != "uuuE3uuu" {
			t.Errorf("resumed: %q", got)
		}
		if got := kinds(w.frames("dc1")); got != "uuuuuuuuu" {
			t.Errorf("the poller's own metrics: %q", got)
		}
		w.metric("skipped_scrapes_total", skipPaused, 3)
	})
}

// A poller that is paused before it runs asks nobody, as after a restart that remembers it; a scrape that a pause overtakes
// brings nothing.
func TestPauseAtStartAndDuringScrape(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		w.behave["a"] = func(context.Context) (*frame.Frame, error) {
			time.Sleep(4 * time.Second)
			return up(1), nil
		}
		w.p.Update([]*target.Target{tgt(t, "a", 10*time.Second)})
		w.p.Pause()
		w.run()
		time.Sleep(30 * time.Second)
		asked := func() (n int) {
			w.change(func() { n = len(w.scrapes["a"]) })
			return n
		}
		if asked() != 0 {
			t.Errorf("paused from the start, it asked %d times", asked())
		}
		w.p.Resume()
		for asked() == 0 {
			time.Sleep(time.Second)
		}
		w.p.Pause()
		time.Sleep(30 * time.Second)
		if got := kinds(w.frames("a")); got != "" || asked() != 1 {
			t.Errorf("a scrape that the pause overtook gave %q; %d scrapes", got, asked())
		}
		w.p.Resume()
		time.Sleep(30 * time.Second)
		w.stop()
		if got := kinds(w.frames("a")); !strings.HasPrefix(got, "uu") {
			t.Errorf("resumed: %q", got)
		}
	})
}

// Two targets may have the same job and instance; the metrics must not fall over it.
func TestMetricsOfTwins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		other := tgt(t, "a", 10*time.Second)
		other.URL += "2"
		w.p.Update([]*target.Target{tgt(t, "a", 10*time.Second), other})
		w.run()
		time.Sleep(30 * time.Second)
		w.stop()
		w.metric("poll_time", "j a", 6)
	})
}

func TestQuantiles(t *testing.T) {
	s := newStatus(time.Minute)
	for i := range 25 {
		s.note(&frame.Frame{Kind: frame.Down, Report: frame.Report{Duration: time.Duration(i+1) * time.Second}}, outcome{})
	}
	if len(s.recent) != 10 || s.scrapes != 25 || s.errors != 25 || s.seconds != 325 {
		t.Fatalf("%d recent, %d scrapes, %d errors, %v s", len(s.recent), s.scrapes, s.errors, s.seconds)
	}
	if q := quantiles(s.recent, .5, .9, .99); q[.5] != 20 || q[.9] != 24 || q[.99] != 25 {
		t.Errorf("quantiles of 16 to 25: %v", q)
	}
}

// telling is a scraper that tells of its last scrape.
type telling struct {
	Scraper
	err     error
	skipped exposition.Skipped
}

func (s telling) LastError() error                { return s.err }
func (s telling) LastBytes() int64                { return 500 }
func (s telling) LastSkipped() exposition.Skipped { return s.skipped }

func TestWhatScrapersTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		newScraper := w.p.cfg.NewScraper
		w.p.cfg.NewScraper = func(g *target.Target) (Scraper, error) {
			s, err := newScraper(g)
			told := telling{Scraper: s, skipped: exposition.Skipped{Duplicates: 1, Ahead: 2, Histograms: 3, Exemplars: 4}}
			if g.Instance() == "b" {
				told.err = errors.New("answered 503 Service Unavailable")
			}
			return told, err
		}
		w.behave["b"] = func(context.Context) (*frame.Frame, error) { return down(), nil }
		w.p.Update([]*target.Target{tgt(t, "a", 10*time.Second), tgt(t, "b", 10*time.Second)})
		w.run()
		time.Sleep(30 * time.Second)
		w.stop()
		w.metric("bytes_polled", "j a", 1500)
		for reason, n := range map[string]float64{"duplicate": 1, "future": 2, "native_histogram": 3, "exemplar": 4} {
			w.metric("skipped_samples_total", reason, 6*n)
		}
		if s := w.p.Targets()[1]; s.LastError != "answered 503 Service Unavailable" {
			t.Errorf("status %+v", s)
		}
		w.logged("503", 1)
	})
}

// A frame that does not fit its schema is the scraper's fault; it must not pass unseen.
func TestFrameThatCannotBeEncoded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		w.behave["a"] = func(context.Context) (*frame.Frame, error) {
			f := up(1)
			f.Column.Values = f.Column.Values[:1]
			return f, nil
		}
		w.p.Update([]*target.Target{tgt(t, "a", 10*time.Second)})
		w.run()
		time.Sleep(30 * time.Second)
		w.stop()
		w.metric("lost_frames_total", lostEncode, 3)
		w.metric("lost_samples_total", lostEncode, 9)
		w.logged("cannot encode", 1)
	})
}
