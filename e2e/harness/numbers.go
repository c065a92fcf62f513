package harness

import (
	"fmt"
	"slices"
	"testing"

	"github.com/choria-io/prometheus-streams/e2e/record"
)

// Numbers are the numbers of the scrapes of one target that a log shows, in its order.
type Numbers []int

// Missing are the numbers from 1 to last that are not there.
func (n Numbers) Missing(last int) []int {
	there := map[int]bool{}
	for _, number := range n {
		there[number] = true
	}
	var missing []int
	for number := 1; number <= last; number++ {
		if !there[number] {
			missing = append(missing, number)
		}
	}
	return missing
}

// CheckFrame compares a delivered scrape with what the target served under its number: every sample of the target's
// page and no other.
func (g *Target) CheckFrame(f record.Frame) (number int, err error) {
	values := map[string]float64{}
	for i, series := range f.Series {
		if slices.Contains(f.Absent, i) {
			continue
		}
		switch name := series.Get("__name__"); name {
		case NumberMetric:
			number = int(f.Values[i])
		case ValueMetric:
			values[series.Get("series")] = f.Values[i]
		default:
			return 0, fmt.Errorf("series %s is not the target's", series)
		}
	}
	if number == 0 {
		return 0, fmt.Errorf("no %s in the frame of %d", NumberMetric, f.Time)
	}
	if len(values) != g.Series {
		return number, fmt.Errorf("scrape %d has %d series, the target shows %d", number, len(values), g.Series)
	}
	for i := range g.Series {
		if got, want := values[g.series(number, i)], Value(g.ID, number, i); got != want {
			return number, fmt.Errorf("scrape %d: series %d is %v, the target showed %v", number, i, got, want)
		}
	}
	return number, nil
}

// CheckTarget checks every scrape of one target in an account, that they come in order, and returns their numbers.
func CheckTarget(t testing.TB, a *record.Account, key string, g *Target) Numbers {
	t.Helper()
	var numbers Numbers
	for _, f := range a.Targets[key] {
		if f.Kind != record.KindScraped {
			continue
		}
		number, err := g.CheckFrame(f)
		if err != nil {
			t.Errorf("%s: %v", key, err)
			return numbers
		}
		if len(numbers) > 0 && number <= numbers[len(numbers)-1] {
			t.Errorf("%s: scrape %d delivered after %d", key, number, numbers[len(numbers)-1])
		}
		numbers = append(numbers, number)
	}
	return numbers
}
