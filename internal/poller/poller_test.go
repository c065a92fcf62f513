package poller

import (
	"context"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/target"
)

func TestTicksAreSpreadAndDoNotDrift(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{Seed: 7})
		var targets []*target.Target
		for i := range 60 {
			targets = append(targets, tgt(t, fmt.Sprint("h", i), 10*time.Second))
		}
		w.p.Update(targets)
		start := time.Now()
		w.run()
		time.Sleep(10*time.Minute - time.Nanosecond)
		w.stop()
		seconds := map[int]int{}
		for _, g := range targets {
			at := w.scrapes[g.Instance()]
			if len(at) != 60 {
				t.Fatalf("%s was scraped %d times in ten minutes, every ten seconds", g.Instance(), len(at))
			}
			if !at[0].Equal(g.Next(start, 7)) {
				t.Errorf("%s first scraped at %v, its place is %v", g.Instance(), at[0], g.Next(start, 7))
			}
			for i := range at[1:] {
				if d := at[i+1].Sub(at[i]); d != 10*time.Second {
					t.Fatalf("%s: %v between two scrapes", g.Instance(), d)
				}
			}
			seconds[int(at[0].Sub(start)/time.Second)]++
		}
		if len(seconds) < 9 {
			t.Errorf("60 targets within 10 s, by second: %v", seconds)
		}
		if got := kinds(w.frames("h0")); got != strings.Repeat("u", 60) {
			t.Errorf("frames %s", got)
		}
		w.metric("jobs", "", 1)
		w.metric("targets", "j", 60)
		w.metric("poll_time", "h7", 60)
		w.metric("poll_errors", "h7", 0)
		w.metric("frames_total", "", 3600)
		w.metric("samples_total", "", 3*3600)
		w.metric("skipped_scrapes_total", "", 0)
		if problems, err := testutil.GatherAndLint(w.reg, "prometheus_streams_poller_bundles_total", "prometheus_streams_poller_bundle_age_seconds",
			"prometheus_streams_poller_skipped_scrapes_total", "prometheus_streams_poller_lost_samples_total"); err != nil || len(problems) > 0 {
			t.Errorf("lint: %v %v", problems, err)
		}
	})
}

func TestTimesAreAligned(t *testing.T) {
	for _, tt := range []struct {
		interval, late, want time.Duration
	}{
		{10 * time.Second, 0, 0},
		{10 * time.Second, time.Millisecond, 0},
		{10 * time.Second, 2 * time.Millisecond, 0},
		{10 * time.Second, 3 * time.Millisecond, 3 * time.Millisecond},
		{10 * time.Second, -time.Millisecond, -time.Millisecond},
		{100 * time.Millisecond, time.Millisecond, 0},
		{100 * time.Millisecond, 2 * time.Millisecond, 2 * time.Millisecond},
	} {
		at := time.UnixMilli(1_800_000_000_123)
		if got := aligned(at.Add(tt.late).UnixMilli(), at, 0, tt.interval); got != at.Add(tt.want).UnixMilli() {
			t.Errorf("interval %v, %v late: %v", tt.interval, tt.late, time.UnixMilli(got).Sub(at))
		}
	}
}

func TestOverrunSkipsAndDoesNotPileUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		w.behave["slow"] = func(context.Context) (*frame.Frame, error) {
			time.Sleep(23 * time.Second)
			return up(1), nil
		}
		g := tgt(t, "slow", 10*time.Second)
		w.p.Update([]*target.Target{g})
		base := g.Next(time.Now(), 0)
		w.run()
		time.Sleep(time.Until(base.Add(99 * time.Second)))
		w.stop()
		time.Sleep(time.Minute)
		var at []string
		for _, s := range w.scrapes["slow"] {
			at = append(at, fmt.Sprint(int(s.Sub(base).Seconds())))
		}
		if got := strings.Join(at, " "); got != "0 23 46 69 92" {
			t.Errorf("scraped at seconds %s", got)
		}
		if w.most != 1 {
			t.Errorf("%d scrapes of one target at once", w.most)
		}
		// Ticks at 10, 30, 50, 70 and 80 were skipped; 20, 40, 60 and 90 made up for.
		w.metric("skipped_scrapes_total", skipOverrun, 5)
	})
}

func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		w.behave["hangs"] = func(ctx context.Context) (*frame.Frame, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		g := tgt(t, "hangs", 10*time.Second)
		g.Timeout = 4 * time.Second
		w.p.Update([]*target.Target{g})
		w.run()
		time.Sleep(30 * time.Second)
		w.stop()
		frames := w.frames("hangs")
		if got := kinds(frames); got != "ddd" && got != "dd" {
			t.Fatalf("frames %q", got)
		}
		if d := frames[0].Report.Duration; d != 4*time.Second {
			t.Errorf("took %v, the timeout is 4s", d)
		}
	})
}

func TestConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{Concurrency: 3})
		var targets []*target.Target
		for i := range 40 {
			g := tgt(t, fmt.Sprint("h", i), time.Minute)
			targets = append(targets, g)
			w.behave[g.Instance()] = func(context.Context) (*frame.Frame, error) {
				time.Sleep(4 * time.Second)
				return up(1), nil
			}
		}
		w.p.Update(targets)
		w.run()
		time.Sleep(3 * time.Minute)
		w.stop()
		if w.most != 3 {
			t.Errorf("%d scrapes at once, the bound is 3", w.most)
		}
		for i, g := range targets {
			if n := len(w.scrapes[g.Instance()]); n < 2 {
				t.Errorf("target %d was scraped %d times: it starved", i, n)
			}
		}
	})
}

func TestUpdateWhileRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		a, b, c := tgt(t, "a", 10*time.Second), tgt(t, "b", 10*time.Second), tgt(t, "c", 10*time.Second)
		w.run()
		w.p.Update([]*target.Target{a, b, tgt(t, "a", 10*time.Second)})
		time.Sleep(35 * time.Second)
		w.p.Update([]*target.Target{tgt(t, "b", 10*time.Second), c})
		time.Sleep(35 * time.Second)
		w.p.Update([]*target.Target{a, b, c})
		time.Sleep(35 * time.Second)
		w.p.Update(nil)
		w.metric("jobs", "", 0)
		w.stop()

		if got := kinds(w.frames("a")); !regexp.MustCompile("^u{3,4}E1u{3,4}E1$").MatchString(got) {
			t.Errorf("frames of a: %s", got)
		}
		if got := strings.ReplaceAll(kinds(w.frames("b")), "u", ""); got != "E1" {
			t.Errorf("ends of b: %s", got)
		}
		ids := map[uint64]bool{}
		for _, f := range w.frames("a") {
			ids[f.Target.ID] = true
		}
		if len(ids) != 2 {
			t.Errorf("a had %d ids: one for each time it was there", len(ids))
		}
		at := w.scrapes["b"]
		if len(at) < 10 {
			t.Errorf("b was scraped %d times", len(at))
		}
		for i := range at[1:] {
			if d := at[i+1].Sub(at[i]); d != 10*time.Second {
				t.Errorf("b, which did not change, missed a scrape: %v between two", d)
			}
		}
	})
}

func TestRelabelledAndAdopted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		w.run()
		update := func(instance, url string, interval time.Duration) {
			g := tgt(t, instance, interval)
			g.URL = "http://" + url + "/"
			w.p.Update([]*target.Target{g})
			time.Sleep(25 * time.Second)
		}
		update("a", "one", 10*time.Second)
		update("a", "two", 10*time.Second) // asked elsewhere: goes on under its id
		frames := w.frames("a")
		if got := kinds(frames); strings.Trim(got, "u") != "" || len(got) < 4 || frames[0].Target.ID != frames[len(frames)-1].Target.ID {
			t.Errorf("another URL must not end a target: %s", got)
		}
		update("b", "two", 10*time.Second) // other labels, same URL
		if got := kinds(w.frames("a")); !strings.HasSuffix(got, "E2") {
			t.Errorf("other labels: %s", got)
		}
		update("b", "two", 20*time.Second) // frames name the interval
		frames = w.frames("b")
		first, last := frames[0].Target, frames[len(frames)-1].Target
		if got := kinds(frames); strings.Trim(got, "u") != "" || first.ID != last.ID {
			t.Errorf("another interval must not end a target: %s", got)
		}
		if first.Interval != 10*time.Second || last.Interval != 20*time.Second {
			t.Errorf("intervals %v and %v", first.Interval, last.Interval)
		}
		w.stop()
		w.read()
	})
}

func TestIDsAreNeverUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(3, 4))
		w := newWorld(t, Config{FlushSize: 2000})
		w.run()
		for range 200 {
			var targets []*target.Target
			for i := range 8 {
				if rnd.IntN(3) > 0 {
					g := tgt(t, fmt.Sprint("h", i), time.Duration(1+rnd.IntN(2))*time.Second)
					g.SampleLimit = rnd.IntN(2) * 1000
					targets = append(targets, g)
				}
			}
			if rnd.IntN(8) == 0 {
				if rnd.IntN(2) == 0 {
					w.p.Pause()
				} else {
					w.p.Resume()
				}
			}
			w.p.Update(targets)
			time.Sleep(time.Duration(rnd.IntN(3000)) * time.Millisecond)
		}
		w.stop()
		if bundles := w.read(); len(bundles) < 100 {
			t.Errorf("only %d bundles", len(bundles))
		}
	})
}

func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		var targets []*target.Target
		stopAt := time.Now()
		for _, n := range []string{"finishes", "cut", "stuck"} {
			g := tgt(t, n, time.Minute)
			targets = append(targets, g)
			if at := g.Next(time.Now(), 0).Add(time.Second); at.After(stopAt) {
				stopAt = at
			}
		}
		w.behave["finishes"] = func(ctx context.Context) (*frame.Frame, error) {
			select {
			case <-time.After(time.Until(stopAt.Add(3 * time.Second))):
				return up(1), nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		w.behave["cut"] = func(ctx context.Context) (*frame.Frame, error) {
			<-ctx.Done()
			return down(), nil // says it is down though it was cut short
		}
		w.behave["stuck"] = func(context.Context) (*frame.Frame, error) {
			time.Sleep(time.Hour)
			return up(1), nil
		}
		w.p.Update(targets)
		w.run()
		time.Sleep(time.Until(stopAt))
		if took := w.stop(); took != 6*time.Second {
			t.Errorf("stopping took %v, want the time for scrapes to end and a second", took)
		}
		if got := kinds(w.frames("finishes")); got != "u" {
			t.Errorf("a scrape that ends in time: frames %q", got)
		}
		if got := kinds(w.frames("cut")) + kinds(w.frames("stuck")); got != "" {
			t.Errorf("scrapes cut short by the stop gave frames %q", got)
		}
		bundles := w.read()
		end := bundles[len(bundles)-1]
		if end.frames[len(end.frames)-1].Kind != frame.EpochEnd {
			t.Error("the last frame is not the end of the epoch")
		}
		time.Sleep(2 * time.Hour) // what comes late is counted, not sent
		if len(w.read()) != len(bundles) {
			t.Error("a bundle after the end of the epoch")
		}
		w.metric("lost_frames_total", lostStopped, 1)
		w.p.Update(targets)
		w.p.Pause()
	})
}

func TestTargetNeverScrapedHasNoEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		w.run()
		w.p.Update([]*target.Target{tgt(t, "a", 24*time.Hour)})
		w.p.Update(nil)
		w.stop()
		if got := w.frames("a"); len(got) != 0 {
			t.Errorf("frames %s of a target that was never scraped", kinds(got))
		}
	})
}

func TestStopIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		w.p.Update([]*target.Target{tgt(t, "a", time.Minute)})
		w.run()
		time.Sleep(10 * time.Minute)
		if took := w.stop(); took != 0 {
			t.Errorf("stopping took %v though nothing ran", took)
		}
	})
}
