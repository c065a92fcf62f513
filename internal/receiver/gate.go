package receiver

import (
	"context"
	"log/slog"
	"sync"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/stream"
)

// Gate is what every frame passes on its way to the sinks of a process; a pause shuts it. Its methods may be called from
// any goroutine; a nil Gate is always open.
//
// Behind a gate that discards, messages are received and decoded as ever, so that nothing is missing later; their frames
// are counted and acknowledged, and no sink sees them. A gate that holds lets no message in: they stay in the stream, and
// the few that were on their way wait until it opens.
type Gate struct {
	hold    bool
	log     *slog.Logger
	metrics *Metrics

	mu     sync.Mutex
	opened chan struct{} // closed while the gate is open
	tell   []func()
}

// NewGate makes a gate that is open. With hold it holds messages back while it is shut, else it discards them.
func NewGate(hold bool, m *Metrics, logger *slog.Logger) *Gate {
	g := &Gate{hold: hold, log: logger, metrics: m, opened: make(chan struct{})}
	close(g.opened)
	return g
}

// Pause shuts the gate.
func (g *Gate) Pause() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.isOpen() {
		return
	}
	g.opened = make(chan struct{})
	g.metrics.paused.Set(1)
	if g.hold {
		g.log.Info("receiving is paused: messages stay in the stream", "paused", true)
	} else {
		g.log.Info("receiving is paused: messages are discarded", "paused", true)
	}
}

// Resume opens the gate.
func (g *Gate) Resume() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.isOpen() {
		return
	}
	close(g.opened)
	g.metrics.paused.Set(0)
	g.log.Info("receiving goes on", "paused", false)
	for _, tell := range g.tell {
		tell()
	}
}

// isOpen is for who holds mu.
func (g *Gate) isOpen() bool {
	select {
	case <-g.opened:
		return true
	default:
		return false
	}
}

// shut tells whether no frame may pass.
func (g *Gate) shut() bool {
	if g == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.isOpen()
}

// holds tells whether messages are to stay where they are.
func (g *Gate) holds() bool { return g != nil && g.hold && g.shut() }

// wait lets a new message in once it may.
func (g *Gate) wait(ctx context.Context) {
	if g == nil || !g.hold {
		return
	}
	g.mu.Lock()
	opened := g.opened
	g.mu.Unlock()
	select {
	case <-opened:
	case <-ctx.Done():
	}
}

// onResume has f called whenever the gate opens; f must return at once.
func (g *Gate) onResume(f func()) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tell = append(g.tell, f)
}

// letIn holds an event's message back at its source while the gate does.
func (p *Pipeline) letIn(ctx context.Context, ev stream.Event) {
	if ev.Kind == stream.Delivered {
		p.Gate.wait(ctx)
	}
}

// stopped takes a decoded bundle that may not go to the sink now, and tells whether it did. What follows a bundle that
// waits has to wait too.
func (p *Pipeline) stopped(b *bundle) bool {
	shut := p.Gate.shut()
	switch {
	case len(p.parked) > 0 || shut && p.Gate.hold:
		p.parked = append(p.parked, b)
	case shut:
		p.discard(b)
	default:
		return false
	}
	return true
}

// discard counts a bundle and is done with it.
func (p *Pipeline) discard(b *bundle) {
	publisher, count := b.parsed.Publisher, 0
	for _, f := range b.decoded {
		if f.Kind != frame.EpochEnd {
			count++
		}
		p.metrics.discarded.WithLabelValues(p.Name, p.Metrics.names.known(publisher)).Add(float64(samples(f)))
	}
	p.metrics.dropped(publisher, "paused", count)
	h := &b.parsed.Header
	if b.format1 == nil && p.done.done(laneKey{h.Publisher, h.Lane, h.Epoch}, h.Seq) != nil {
		return // not noted, so not acknowledged; Run ends with the error
	}
	p.release(b)
}

// unpark delivers what waited for the gate.
func (p *Pipeline) unpark(ctx context.Context) {
	for len(p.parked) > 0 && !p.Gate.shut() {
		b := p.parked[0]
		p.parked[0] = nil
		p.parked = p.parked[1:]
		p.handOver(ctx, b)
	}
	if len(p.parked) == 0 {
		p.parked = nil
	}
}
