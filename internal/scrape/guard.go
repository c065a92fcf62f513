package scrape

import (
	"fmt"
	"sync"
)

// Guard bounds the series that the scrapers of a process hold together, and with them its memory. It stands in the way
// of the target that grows: those that stay as they are go on. A nil Guard does nothing; it is safe for concurrent use.
type Guard struct {
	limit int

	mu   sync.Mutex
	held int
}

// NewGuard makes a guard of so many series; 0 or less bounds nothing.
func NewGuard(series int) *Guard { return &Guard{limit: series} }

// SeriesError says that a target has more series than there is room for.
type SeriesError struct {
	// Series the target has, Held those of all other targets, Limit how many there may be.
	Series, Held, Limit int
}

func (e *SeriesError) Error() string {
	return fmt.Sprintf("series_limit exceeded: %d series beside the %d of other targets, limit %d", e.Series, e.Held, e.Limit)
}

// hold changes what a scraper holds. It is refused only if that is more than before.
func (g *Guard) hold(before, now int) error {
	if g == nil || before == now {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	others := g.held - before
	if g.limit > 0 && now > before && others+now > g.limit {
		return &SeriesError{Series: now, Held: others, Limit: g.limit}
	}
	g.held = others + now
	return nil
}

// give gives back what a scraper held.
func (g *Guard) give(series int) { _ = g.hold(series, 0) }

// Held is how many series there are at present.
func (g *Guard) Held() int {
	if g == nil {
		return 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.held
}
