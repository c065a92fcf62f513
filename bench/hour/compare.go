package hour

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/scrape"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// compare is a sink that scrapes the same targets again, and compares every frame that it is given with what they show.
type compare struct {
	scrapers *scrapers

	mu      sync.Mutex
	targets map[string]*expected
	samples int
	repeats int
	err     error // the first difference
}

// expected is one target as it goes on.
type expected struct {
	scraper *scrape.Scraper
	scrapes int
	last    int64 // time of the last frame
}

func newCompare(l load) *compare {
	return &compare{scrapers: newScrapers(l), targets: map[string]*expected{}}
}

// Deliver implements receiver.Sink.
func (c *compare) Deliver(ctx context.Context, d sink.Delivery, done func(error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.take(ctx, d); err != nil && c.err == nil {
		c.err = err
	}
	done(nil)
}

func (c *compare) take(ctx context.Context, d sink.Delivery) error {
	f := d.Frame
	if f.Target == nil || f.Target.Labels.Get("job") != "load" || f.Kind == frame.End {
		return nil
	}
	if d.Repeated {
		c.repeats++
		return nil
	}
	name := f.Target.Labels.Get("instance")
	e := c.targets[name]
	if e == nil {
		var index int
		if _, err := fmt.Sscanf(name, "node-%d", &index); err != nil {
			return fmt.Errorf("instance %q: %w", name, err)
		}
		s, err := c.scrapers.scraper(index)
		if err != nil {
			return err
		}
		e = &expected{scraper: s}
		c.targets[name] = e
	}
	e.scrapes++
	want, err := e.scraper.Scrape(ctx)
	if err != nil {
		return err
	}
	if err := equal(f, want); err != nil {
		return fmt.Errorf("%s, scrape %d: %w", name, e.scrapes, err)
	}
	if f.Time <= e.last {
		return fmt.Errorf("%s, scrape %d: its time %d is not after %d", name, e.scrapes, f.Time, e.last)
	}
	e.last = f.Time
	c.samples += len(f.Column.Values) - f.Column.Absent.Count()
	return nil
}

// equal compares what was delivered with what the target shows, bit for bit.
func equal(got, want *frame.Frame) error {
	switch {
	case got.Kind != want.Kind:
		return fmt.Errorf("kind %v, the target shows %v", got.Kind, want.Kind)
	case got.Schema.ID != want.Schema.ID:
		return fmt.Errorf("schema %s, the target has %s", got.Schema.ID, want.Schema.ID)
	case !slices.Equal(got.Column.Absent, want.Column.Absent) && got.Column.Absent.Count()+want.Column.Absent.Count() > 0:
		return fmt.Errorf("other series are absent")
	}
	for i, v := range want.Column.Values {
		if math.Float64bits(got.Column.Values[i]) != math.Float64bits(v) {
			return fmt.Errorf("series %d is %v, the target showed %v", i, got.Column.Values[i], v)
		}
	}
	return nil
}

// state is how many frames and samples were compared, and the first difference.
func (c *compare) state() (frames, samples, repeats int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.targets {
		frames += e.scrapes
	}
	return frames, c.samples, c.repeats, c.err
}
