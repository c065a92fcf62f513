package receiver

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/stream"
)

// publishersWorld is a memory of publishers with its metrics.
type publishersWorld struct {
	*Publishers
	t   *testing.T
	reg *prometheus.Registry
}

func newPublishersWorld(t *testing.T, directory string, expected ...string) *publishersWorld {
	t.Helper()
	reg := prometheus.NewRegistry()
	p, err := NewPublishers(expected, directory, reg, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return &publishersWorld{p, t, reg}
}

// want compares a metric of all publishers: "A=1 B=0".
func (w *publishersWorld) want(name, want string) {
	w.t.Helper()
	families, err := w.reg.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		if f.GetName() != "prometheus_streams_publisher_"+name {
			continue
		}
		for _, m := range f.Metric {
			got = append(got, m.Label[0].GetValue()+"="+trim(m.GetGauge().GetValue()+m.GetCounter().GetValue()))
		}
	}
	if all := strings.Join(got, " "); all != want {
		w.t.Errorf("%s: %q, want %q", name, all, want)
	}
}

func trim(v float64) string {
	return time.Duration(v * float64(time.Second)).Round(time.Millisecond).String()
}

// listen lets time pass in which messages could come.
func (w *publishersWorld) listen(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(time.Second)
		w.listening(time.Now())
		w.listening(time.Now()) // another pipeline
	}
}

// frames are one scrape that was made some time ago.
func scrapedAgo(d, interval time.Duration) []*frame.Frame {
	return []*frame.Frame{{Kind: frame.Scraped, Time: time.Now().Add(-d).UnixMilli(), Target: &frame.Target{Interval: interval}}}
}

func TestPublisherUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPublishersWorld(t, "", "expected", "A")
		w.want("up", "A=0s expected=0s")
		w.want("lag_seconds", "")
		w.listen(5 * time.Second)
		w.saw("A", time.Now(), scrapedAgo(2*time.Second, 10*time.Second))
		w.saw("B", time.Now(), scrapedAgo(-3*time.Second, time.Hour)) // a clock that is ahead
		w.saw("B", time.Now(), scrapedAgo(-3*time.Second, time.Minute))
		w.want("up", "A=1s B=1s expected=0s")
		w.want("lag_seconds", "A=2s B=-3s")
		w.want("clock_skew_seconds", "A=-2s B=3s")
		w.listen(3*10*time.Second + 31*time.Second)
		w.want("up", "A=1s B=1s expected=0s")
		w.listen(2 * time.Second)
		w.want("up", "A=0s B=1s expected=0s")
		w.want("lag_seconds", "A=1m5s B=1m0s")
		w.saw("A", time.Now(), nil)
		w.want("up", "A=1s B=1s expected=0s")
		// A receiver that cannot hear takes nobody for silent.
		time.Sleep(time.Hour)
		w.want("up", "A=1s B=1s expected=0s")
		// One that catches up neither: the others' messages are as old.
		old := time.Now().Add(-50 * time.Minute)
		for i := range 40 {
			w.saw("B", old.Add(time.Duration(i)*time.Minute), scrapedAgo(0, time.Minute))
			w.listening(time.Now())
			time.Sleep(time.Second)
		}
		w.want("up", "A=0s B=1s expected=0s")
		w.gap("A", "one")
		w.gap("A", "one")
		w.gap("A", "two")
		w.want("gaps_total", "A=2s B=0s expected=0s")
		if problems, err := testutil.GatherAndLint(w.reg); err != nil || len(problems) > 0 {
			t.Errorf("%v %v", problems, err)
		}
	})
}

func TestPublishersAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		run := func(w *publishersWorld, d time.Duration) {
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan error)
			go func() { ended <- w.Run(ctx) }()
			time.Sleep(d)
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		w := newPublishersWorld(t, dir, "expected")
		w.saw("A", time.Now(), scrapedAgo(0, time.Minute))
		w.saw("B", time.Now(), scrapedAgo(0, 5*time.Minute))
		w.saw("expected", time.Now(), nil)
		run(w, time.Second)
		time.Sleep(time.Hour)
		// The hour in which nobody listened does not count.
		w = newPublishersWorld(t, dir, "expected")
		w.want("up", "A=1s B=1s expected=1s")
		w.listen(5 * time.Minute)
		w.want("up", "A=0s B=1s expected=0s")
		w.listen(11 * time.Minute)
		w.want("up", "A=0s B=0s expected=0s")
		// While it runs and while it does not.
		if err := Forget(dir, []string{"A", "nobody", "expected"}); err != nil {
			t.Fatal(err)
		}
		run(w, 10*time.Second)
		w.want("up", "B=0s expected=0s")
		w.want("last_seen_timestamp_seconds", "B=262968h0m0s")
		if err := Forget(dir, []string{"B"}); err != nil {
			t.Fatal(err)
		}
		w = newPublishersWorld(t, dir)
		w.want("up", "")
		run(w, time.Second)
		newPublishersWorld(t, dir).want("up", "")
	})
}

func TestForgetRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"", "a\nb"} {
		if err := Forget(dir, []string{name}); err == nil {
			t.Errorf("%q is taken", name)
		}
	}
	if err := Forget(filepath.Join(dir, "none"), []string{"a"}); err == nil {
		t.Error("a directory that is not there is taken")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("left: %v", entries)
	}
}

func TestDamagedPublishersFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, publishersFile), []byte(`{"A":`), 0o600); err != nil {
		t.Fatal(err)
	}
	newPublishersWorld(t, dir, "B").want("up", "B=0s")
}

// A pipeline tells what it receives and what is missing; a lost connection makes nobody silent.
func TestPublishersOfAPipeline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p := newWorld(t), newPublishersWorld(t, "")
		w.publishers = p.Publishers
		a := newSite(w, "A", frame.EncoderOptions{})
		w.start()
		a.send()
		_ = a.bundle() // never comes
		a.send()
		p.want("up", "A=1s")
		time.Sleep(40 * time.Second)
		p.want("gaps_total", "A=1s")
		w.feed <- stream.Event{Kind: stream.Disconnected}
		time.Sleep(time.Hour)
		p.want("up", "A=1s")
		w.feed <- stream.Event{Kind: stream.Connected}
		time.Sleep(2 * time.Minute)
		p.want("up", "A=0s")
		w.stop()
	})
}
