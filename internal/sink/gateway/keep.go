package gateway

import (
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// prepared is all text of one target with one schema. It is immutable.
type prepared struct {
	*sink.Prepared
	text *text // nil if no schema is known
	// suffix has the target's labels and what closes them; it follows a series' text.
	suffix []byte
	// report has the whole text of the report series.
	report [sink.ReportSeries][]byte
	// mixed has the whole text of the shape's mixed series, and ends where that of each series ends; nil if
	// there are none.
	mixed  []byte
	ends   []uint32
	hashes hashes
	// legacy tells that the target's label names can be written without quotes.
	legacy bool
}

// whole gives the text of series i, which is a mixed one.
func (p *prepared) whole(i uint32) []byte {
	if i == 0 {
		return p.mixed[:p.ends[0]]
	}
	return p.mixed[p.ends[i-1]:p.ends[i]]
}

// count is the number of series that the target is counted with.
func (p *prepared) count() int {
	if p.text == nil {
		return 0
	}
	return len(p.Schema.Series)
}

// is tells whether p was made for schema s.
func (p *prepared) is(s *frame.Schema) bool { return p.text != nil && p.Schema.ID == s.ID }

func (p *prepared) invalid() int {
	if p.text == nil {
		return 0
	}
	return p.text.invalid
}

// prepare makes the text of a target; s may be nil.
func prepare(l *sink.Labels, s *frame.Schema, target labels.Labels, publisher string, textOf func(*sink.Shape) *text) *prepared {
	p := &prepared{Prepared: l.Prepare(s, target, publisher)}
	p.legacy = legacyLabels(p.Target)
	p.suffix = appendLabels(nil, p.Target)
	p.suffix = append(p.suffix, closing...)
	for i, l := range p.Report {
		p.report[i] = appendSeries(nil, l)
	}
	if p.Shape == nil {
		return p
	}
	p.text = textOf(p.Shape)
	if !p.HasMixed() {
		return p
	}
	p.ends = make([]uint32, len(s.Series))
	b := labels.NewBuilder(labels.EmptyLabels())
	for i := range s.Series {
		if p.Mixed.Has(i) {
			p.mixed = appendSeries(p.mixed, p.SeriesLabels(i, b))
		}
		p.ends[i] = uint32(len(p.mixed))
	}
	return p
}

// textOf finds or makes the text of a shape.
func (g *Gateway) textOf(s *sink.Shape) *text {
	g.mu.RLock()
	t := g.texts[s]
	g.mu.RUnlock()
	if t != nil {
		return t
	}
	return newText(s)
}

// swap puts a target in the place of old, which may be nil.
func (g *Gateway) swap(old, t *target, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	pub := t.publisher
	pub.delivered = now
	if ft := time.UnixMilli(t.frame.Time); ft.After(pub.seen) {
		pub.seen = ft
	}
	if old != nil && old.prepared == t.prepared && old.publisher == pub {
		g.targets[t.key] = t
		return
	}
	if old != nil {
		g.drop(old)
	}
	g.publishers[pub.name] = pub
	g.targets[t.key] = t
	n := t.prepared.count()
	pub.targets++
	pub.series += n
	g.series += n
	if x := t.prepared.text; x != nil {
		x.users++
		g.texts[x.shape] = x
	}
	g.generation++
}

// drop takes a target out of the books. g.mu is held.
func (g *Gateway) drop(t *target) {
	delete(g.targets, t.key)
	n := t.prepared.count()
	t.publisher.targets--
	t.publisher.series -= n
	g.series -= n
	if x := t.prepared.text; x != nil {
		if x.users--; x.users == 0 {
			delete(g.texts, x.shape)
		}
	}
	g.generation++
}

// remove takes a target off the page, if it is there.
func (g *Gateway) remove(key string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t := g.targets[key]; t != nil {
		g.drop(t)
	}
}

// isStale tells whether a target is too old to be shown.
func (t *target) isStale(now time.Time) bool { return now.Sub(t.seen) > t.stale }

// tend forgets stale targets and long silent publishers, now and then.
func (g *Gateway) tend(now time.Time) {
	if longest, done := g.sweep(now); done {
		g.memory.settle(longest, now)
	}
}

// sweep does it, if it is time, and gives the longest time after which one of the targets left goes stale.
func (g *Gateway) sweep(now time.Time) (longest time.Duration, done bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if d := now.Sub(g.tended); d >= 0 && d < tendEvery {
		return 0, false
	}
	g.tended = now
	for _, t := range g.targets {
		if t.isStale(now) {
			g.drop(t)
			g.metrics.stale.Inc()
			continue
		}
		longest = max(longest, t.stale)
	}
	for name, p := range g.publishers {
		if p.targets == 0 && now.Sub(p.delivered) > publisherMemory {
			delete(g.publishers, name)
		}
	}
	return longest, true
}
