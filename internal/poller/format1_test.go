package poller

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/target"
)

// bodied is a scraper with a body; a function of its own may answer instead.
type bodied struct {
	scraperFunc
	body string
	err  atomic.Pointer[error]
}

func (b *bodied) LastBody() ([]byte, error) {
	if err := b.err.Load(); err != nil {
		return nil, *err
	}
	return []byte(b.body), nil
}

// format1World is a poller of messages of format 1, with one target of this body.
func format1World(t *testing.T, f Format1, s *bodied) *world {
	w := newWorld(t, Config{Format1: &f})
	plain := w.p.cfg.NewScraper
	w.p.cfg.NewScraper = func(g *target.Target) (Scraper, error) {
		made, err := plain(g)
		if err != nil {
			return nil, err
		}
		s.scraperFunc = made.(scraperFunc)
		return s, nil
	}
	w.p.Update([]*target.Target{tgt(t, "a", 10*time.Second)})
	return w
}

func (w *world) format1() (all []*frame.Format1) {
	w.t.Helper()
	for _, b := range w.bundles {
		m, err := frame.ParseFormat1(b.Message, frame.DefaultLimits())
		if err != nil || b.Frames != 1 || len(b.Schemas) != 0 {
			w.t.Fatalf("%d frames, %d schemas, %v in %s", b.Frames, len(b.Schemas), err, b.Message)
		}
		all = append(all, m)
	}
	return all
}

func TestFormat1(t *testing.T) {
	for _, report := range []bool{true, false} {
		t.Run(fmt.Sprintf("report %t", report), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := format1World(t, Format1{Report: report}, &bodied{body: "m 1\n"})
				w.run()
				time.Sleep(30 * time.Second)
				w.change(func() { w.behave["a"] = func(context.Context) (*frame.Frame, error) { return down(), nil } })
				time.Sleep(20 * time.Second)
				w.p.Update(nil)
				w.stop()
				var got []string
				for _, m := range w.format1() {
					if m.Job != "j" || m.Instance != "a" || m.Publisher != "dc1" || m.Time < time.Now().Unix()-60 {
						t.Errorf("message %+v", m)
					}
					rest, up, r, ok := frame.SplitReport(m.Body)
					got = append(got, fmt.Sprint(string(rest), up, r.Scraped, ok))
				}
				want := strings.Repeat("m 1\ntrue3true ", 3) + strings.Repeat("false0true ", 2)
				if !report {
					want = strings.Repeat("m 1\nfalse0false ", 3)
				}
				if all := strings.Join(got, " ") + " "; strings.ReplaceAll(all, " ", "") != strings.ReplaceAll(want, " ", "") {
					t.Errorf("messages %q, want %q", all, want)
				}
			})
		})
	}
}

// A target that itself exposes what a report adds gets none: twice in one body would be refused whole by a Push Gateway.
func TestFormat1TargetWithItsOwnReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := format1World(t, Format1{Report: true}, &bodied{body: "up 1\n"})
		s, err := frame.NewSchema(nil, []frame.Series{{Labels: labels.FromStrings("__name__", "up"), Family: -1}}, frame.DefaultLimits())
		if err != nil {
			t.Fatal(err)
		}
		w.behave["a"] = func(context.Context) (*frame.Frame, error) { return scraped(s, 1), nil }
		w.run()
		time.Sleep(10 * time.Second)
		w.stop()
		if all := w.format1(); len(all) != 1 || string(all[0].Body) != "up 1\n" {
			t.Errorf("messages %+v", all)
		}
	})
}

func TestFormat1Trouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &bodied{body: "m 1\n"}
		trouble := errors.New("no text")
		s.err.Store(&trouble)
		w := format1World(t, Format1{Report: true}, s)
		w.run()
		time.Sleep(10 * time.Second)
		s.err.Store(nil)
		w.change(func() { w.refuse = ErrSpoolFull })
		time.Sleep(30 * time.Second) // the second scrape waits for room, nothing more is scraped
		w.change(func() { w.refuse = nil })
		time.Sleep(10 * time.Second)
		w.stop()
		if n := len(w.format1()); n != 2 {
			t.Errorf("%d messages", n)
		}
		w.metric("lost_frames_total", "encode", 1)
		w.metric("lost_samples_total", "encode", 3)
		w.metric("skipped_scrapes_total", "spool_full", 2)
		w.logged("cannot encode the scrapes of a target", 1)
	})
}
