package poller

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/target"
)

// closer is a Scraper that holds something.
type closer struct{ open, scraping *atomic.Int32 }

func (c *closer) Scrape(context.Context) (*frame.Frame, error) {
	c.scraping.Add(1)
	defer c.scraping.Add(-1)
	return up(1), nil
}

func (c *closer) Close() error {
	if c.scraping.Load() != 0 {
		panic("closed while it scrapes")
	}
	c.open.Add(-1)
	return nil
}

func TestScrapersAreClosedWithTheirTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{})
		var open, scraping atomic.Int32
		w.p.cfg.NewScraper = func(*target.Target) (Scraper, error) {
			open.Add(1)
			return &closer{&open, &scraping}, nil
		}
		a, b := tgt(t, "a", 10*time.Second), tgt(t, "b", 10*time.Second)
		w.p.Update([]*target.Target{a, b})
		w.run()
		time.Sleep(25 * time.Second)
		if n := open.Load(); n != 2 {
			t.Errorf("%d scrapers for two targets", n)
		}
		w.p.Update([]*target.Target{b})
		synctest.Wait()
		if n := open.Load(); n != 1 {
			t.Errorf("%d scrapers after a target went", n)
		}
		w.stop()
		if n := open.Load(); n != 0 {
			t.Errorf("%d scrapers after the end", n)
		}
	})
}
