package harness

import (
	"fmt"
	"testing"
	"time"
)

// Shown tells which scrape of the target a page of the gateway shows under the labels: it must be one whole scrape of this
// target, whose values are those that the target served, and no other series.
func (g *Target) Shown(p Page, want Labels) (number int, err error) {
	numbers := p.Values(NumberMetric, want)
	if len(numbers) != 1 {
		return 0, fmt.Errorf("%d series %s for %v, one wanted", len(numbers), NumberMetric, want)
	}
	for _, v := range numbers {
		number = int(v)
	}
	if got := len(p.Values(ValueMetric, want)); got != g.Series {
		return number, fmt.Errorf("%d series %s for %v, the target shows %d", got, ValueMetric, want, g.Series)
	}
	for i := range g.Series {
		one := Labels{"series": fmt.Sprint(i)}
		for name, v := range want {
			one[name] = v
		}
		for series, got := range p.Values(ValueMetric, one) {
			if expected := Value(g.ID, number, i); got != expected {
				return number, fmt.Errorf("%s is %v, in scrape %d of the target it was %v", series, got, number, expected)
			}
		}
	}
	return number, nil
}

// WaitShown waits until the gateway shows a scrape of the target that is later than after, and returns its number.
func (g *Target) WaitShown(t testing.TB, limit time.Duration, p *Product, want Labels, after int) (number int) {
	t.Helper()
	Wait(t, limit, fmt.Sprintf("the gateway shows %s after scrape %d", g.Name, after), func() error {
		page, err := p.Gateway("")
		if err != nil {
			return err
		}
		if number, err = g.Shown(page, want); err != nil {
			return err
		}
		if number <= after {
			return fmt.Errorf("scrape %d is shown", number)
		}
		return nil
	})
	return number
}

// Up reads up of the target with the labels.
func (p Page) Up(want Labels) (float64, error) {
	ups := p.Values("up", want)
	if len(ups) != 1 {
		return 0, fmt.Errorf("%d series up for %v, one wanted", len(ups), want)
	}
	for _, v := range ups {
		return v, nil
	}
	return 0, nil
}
