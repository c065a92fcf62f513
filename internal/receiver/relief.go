package receiver

import (
	"context"
	"fmt"
)

// waitingMost is how many messages may wait in lanes for what is missing before somebody has to give way: half of what a
// consumer may have on its way.
const waitingMost = 10_000

// waiting is how much of one publisher, or of all, waits for what may never come: a bundle, a schema, a newer receiver.
type waiting struct{ messages, bytes int }

func (w *waiting) add(b *bundle) {
	w.messages++
	w.bytes += len(b.message.Data)
}

// relieve sees to it that nobody keeps messages waiting until there is no room for those of others. Once half of the room
// is taken, the publisher with most of it gives way: what its lanes wait for is given up at once, as it would be in the end.
func (p *Pipeline) relieve(ctx context.Context) {
	if p.held <= p.Limits.HeldBytes/2 && p.inflight() <= waitingMost {
		return
	}
	all, each := p.waiting()
	more := func(a, b waiting) bool { return a.bytes > b.bytes }
	switch {
	case all.messages > waitingMost:
		more = func(a, b waiting) bool { return a.messages > b.messages }
	case all.bytes <= p.Limits.HeldBytes/2:
		return
	}
	publisher, most := "", waiting{}
	for name, w := range each {
		if more(w, most) {
			publisher, most = name, w
		}
	}
	p.Metrics.junk.logged(p.Logger, p.now, publisher, "waits", fmt.Errorf("publisher %q has %d messages with %d bytes of the %d with %d that wait for "+
		"what is missing, limits %d and %d: it is not waited for any longer", publisher, most.messages, most.bytes, all.messages, all.bytes,
		waitingMost, p.Limits.HeldBytes/2))
	p.hurry(ctx, publisher)
}

// inflight is how many messages are received and not done.
func (p *Pipeline) inflight() (n int) {
	for _, s := range p.sources {
		n += len(s.inflight)
	}
	return n
}

// waiting adds up what waits.
func (p *Pipeline) waiting() (all waiting, each map[string]waiting) {
	each = make(map[string]waiting)
	count := func(publisher string, b *bundle) {
		w := each[publisher]
		w.add(b)
		all.add(b)
		each[publisher] = w
	}
	for _, l := range p.lanes {
		for _, b := range l.held {
			count(l.key.publisher, b)
		}
		if l.waits() || l.older != nil {
			for _, b := range l.queue {
				count(l.key.publisher, b)
			}
		}
	}
	for sender, q := range p.unknown {
		for _, b := range q.messages {
			count(sender, b)
		}
	}
	return all, each
}

// waits tells that the lane is blocked by what may never come. A registry that has not answered yet is waited for.
func (l *lane) waits() bool {
	return l.block.why == forVersion || l.block.why == forSchema && l.block.age > 0
}

// hurry gives up what a publisher's lanes wait for, and lets them wait for nothing until they are empty.
func (p *Pipeline) hurry(ctx context.Context, publisher string) {
	if q := p.unknown[publisher]; q != nil {
		p.giveUp(publisher, q)
	}
	var lanes []*lane // the loop below may forget some
	for _, l := range p.lanes {
		if l.key.publisher == publisher && l.pending() {
			lanes = append(lanes, l)
		}
	}
	for _, l := range lanes {
		l.hurried = true
		for n := len(l.held); n > 0; n = len(l.held) {
			if p.declareGap(ctx, l); len(l.held) == n {
				break
			}
		}
		switch {
		case l.block.why == forVersion:
			p.dropUnknown(ctx, l)
		case l.waits():
			p.abandonSchema(ctx, l)
		}
	}
}
