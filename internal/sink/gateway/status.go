package gateway

import (
	"cmp"
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// PublisherStatus is what the gateway knows of one publisher.
type PublisherStatus struct {
	Name            string
	Targets, Series int
	// Newest is the time of its newest frame, Age how long that is ago.
	Newest time.Time
	Age    time.Duration
}

// TargetStatus is what the gateway shows of one target.
type TargetStatus struct {
	Publisher, Lane string
	Labels          labels.Labels
	Up              bool
	Series          int
	// Newest is the time of its newest frame, Age how long that is ago; it is stale when older than StaleAfter.
	Newest          time.Time
	Age, StaleAfter time.Duration
	Stale           bool
}

// Publishers gives all publishers known, by name.
func (g *Gateway) Publishers() []PublisherStatus {
	now := g.now()
	g.mu.RLock()
	defer g.mu.RUnlock()
	all := make([]PublisherStatus, 0, len(g.publishers))
	for _, p := range g.publishers {
		all = append(all, PublisherStatus{p.name, p.targets, p.series, p.seen, now.Sub(p.seen)})
	}
	slices.SortFunc(all, func(a, b PublisherStatus) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// Shown gives the targets on the page: those that are down first, then by publisher and labels; at most limit, and
// how many there are.
func (g *Gateway) Shown(limit int) (shown []TargetStatus, total int) {
	now := g.now()
	g.mu.RLock()
	shown = make([]TargetStatus, 0, len(g.targets))
	for _, t := range g.targets {
		at := time.UnixMilli(t.frame.Time)
		shown = append(shown, TargetStatus{
			Publisher: t.publisher.name, Lane: t.lane, Labels: t.prepared.Target,
			Up: t.frame.Kind == frame.Scraped, Series: t.prepared.count(),
			Newest: at, Age: now.Sub(at), StaleAfter: t.stale, Stale: t.isStale(now),
		})
	}
	g.mu.RUnlock()
	slices.SortFunc(shown, func(a, b TargetStatus) int {
		if a.Up != b.Up {
			if b.Up {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.Publisher, b.Publisher), labels.Compare(a.Labels, b.Labels))
	})
	total = len(shown)
	return shown[:min(limit, total)], total
}
