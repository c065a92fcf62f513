package receiver

import (
	"context"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// frameLeast is what a frame is taken to need beside its values.
const frameLeast = 512

// footprint estimates the memory of a decoded frame. Constant values are almost nothing in a message and eight bytes each
// in a frame, so that the size of the messages says nothing of it.
func footprint(f *frame.Frame) int {
	c := &f.Column
	n := frameLeast + 8*(len(c.Values)+len(c.Absent)+len(c.Timestamps)+len(c.Starts)+3*len(c.Earlier))
	for i := range c.Histograms {
		n += 200
		if h := c.Histograms[i].Int; h != nil {
			n += 8 * (len(h.PositiveBuckets) + len(h.NegativeBuckets) + len(h.PositiveSpans) + len(h.NegativeSpans))
		} else if h := c.Histograms[i].Float; h != nil {
			n += 8 * (len(h.PositiveBuckets) + len(h.NegativeBuckets) + len(h.PositiveSpans) + len(h.NegativeSpans))
		}
	}
	for i := range c.Exemplars {
		n += 64 + len(c.Exemplars[i].Labels.Bytes(nil))
	}
	return n
}

// grow notes the memory of a frame that was decoded for a bundle, until the bundle is released.
func (p *Pipeline) grow(b *bundle, f *frame.Frame) {
	n := footprint(f)
	b.memory += n
	p.decoded += n
}

// full tells whether so much is decoded that nothing more should be before the sink has given verdicts. Without any to
// come, there would be no end to it.
func (p *Pipeline) full() bool { return p.decoded > p.Limits.HeldBytes && p.outstanding > 0 }

// rest has the lanes go on once there is room again.
func (p *Pipeline) rest(ctx context.Context) {
	p.goOn = func() {
		for _, l := range p.lanes {
			if l.block.why == notBlocked {
				p.decodeQueue(ctx, l)
			}
		}
	}
}

// shrink gives back the memory of a bundle that is released. Lanes go on when half of it is free, so that they are not
// looked through for each bundle.
func (p *Pipeline) shrink(b *bundle) {
	p.decoded -= b.memory
	b.memory = 0
	if f := p.goOn; f != nil && p.decoded <= p.Limits.HeldBytes/2 {
		p.goOn = nil
		p.answers.post(f)
	}
}
