package sink

import "time"

const (
	// quarrelFirst and quarrelLongest are the pauses between two lines in the log about the same pair of publishers.
	quarrelFirst   = time.Minute
	quarrelLongest = time.Hour
	// maxQuarrels bounds how many pairs are told apart.
	maxQuarrels = 1000
)

// pair is an owner and another one that claims the same target.
type pair struct{ owner, claimant string }

// quarrel is what was said of a pair, in the stream's time in milliseconds.
type quarrel struct {
	next, last int64
	pause      time.Duration
	count      int
}

// quarrel logs that two publishers claim one target: once for each pair, then ever more seldom.
func (o *Owners) quarrel(e *owned, d *Delivery) {
	p := pair{e.publisher, d.Publisher}
	q := o.conflicts[p]
	if q == nil {
		if len(o.conflicts) >= maxQuarrels {
			return
		}
		q = &quarrel{pause: quarrelFirst}
		o.conflicts[p] = q
	}
	q.count++
	q.last = o.now
	if o.now < q.next {
		return
	}
	q.next = o.now + q.pause.Milliseconds()
	q.pause = min(2*q.pause, quarrelLongest)
	o.logger.Warn("two publishers claim one target, or two targets one group; publisher_label tells publishers apart",
		"target", d.Frame.Target.Labels.String(), "publisher", e.publisher, "from", d.Publisher, "count", q.count)
	q.count = 0
}
