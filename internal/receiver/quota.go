package receiver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

const (
	// laneBytes is what a lane takes besides the states of its targets.
	laneBytes = 24 << 10
	// limitedFor is for how long after a lane lost states to the limit a missing base is put down to that: a keyframe
	// comes at least so often.
	limitedFor = 10 * time.Minute
	// replaysAtOnce bounds how many lanes are read back at a time: each has a decoder besides the lane's. replaysOfOne bounds
	// those of one publisher.
	replaysAtOnce = 4
	replaysOfOne  = 2
	// schemasAtOnce bounds how many schemas of one publisher registries are asked for at a time.
	schemasAtOnce = 4
)

// stateLimit is the reason for which frames are dropped that memory has no room for.
const stateLimit = "state_limit"

// quota is the account of what the decoders of a pipeline hold. Above the limit it is the publisher that holds most who
// has to give way: its frames are refused, or its states are dropped for those of one with less than half as much. So one
// publisher, however many targets and lanes it makes up, takes nothing of what the others have.
type quota struct {
	limit, each int64 // of all publishers, and of one; 0 is no bound
	used        int64
	shares      map[string]*share
	top         *share        // that which has most; nil if it is not known
	reads       chan struct{} // a token for each lane that is read back
}

// share is what one publisher holds.
type share struct {
	publisher string
	bytes     int64
	lanes     int
	asking    int // schemas that registries are asked for now
	reading   int // lanes that are read back now
}

func newQuota(l *Limits) quota {
	return quota{
		limit: l.StateBytes, each: l.PublisherStateBytes, shares: make(map[string]*share),
		reads: make(chan struct{}, replaysAtOnce),
	}
}

// of gives the share of a publisher, which may have no lane yet.
func (q *quota) of(publisher string) *share {
	if s := q.shares[publisher]; s != nil {
		return s
	}
	return &share{publisher: publisher}
}

// open begins the account of a lane.
func (q *quota) open(l *lane) {
	l.share = q.of(l.key.publisher)
	q.shares[l.key.publisher] = l.share
	l.share.lanes++
	q.charge(l)
}

// charge brings the account of a lane up to date.
func (q *quota) charge(l *lane) {
	if l.share == nil {
		return // forgotten while something of it was on its way
	}
	now := laneBytes + l.decoder.StateBytes() + l.decoder.SchemaBytes()
	by := now - l.charged
	l.charged = now
	q.add(l.share, by)
}

func (q *quota) add(s *share, by int64) {
	q.used += by
	s.bytes += by
	switch {
	case by < 0 && s == q.top:
		q.top = nil
	case by > 0 && q.top != nil && s.bytes > q.top.bytes:
		q.top = s
	}
}

// close ends the account of a lane.
func (q *quota) close(l *lane) {
	q.add(l.share, -l.charged)
	l.charged = 0
	if l.share.lanes--; l.share.lanes == 0 {
		delete(q.shares, l.share.publisher)
	}
	l.share = nil
}

// most is the publisher that holds most, nil if there is none. Who is refused over and over costs no search.
func (q *quota) most() *share {
	if q.top != nil {
		return q.top
	}
	for _, s := range q.shares {
		if q.top == nil || s.bytes > q.top.bytes {
			q.top = s
		}
	}
	return q.top
}

// over tells by how much a publisher with so many bytes more would be above its own limit, and all above theirs.
func (q *quota) over(s *share, more int64) (own, all int64) {
	if q.each > 0 {
		own = s.bytes + more - q.each
	}
	if q.limit > 0 {
		all = q.used + more - q.limit
	}
	return max(own, 0), max(all, 0)
}

// allowance is the most that the decoder of a lane may hold as things are.
func (q *quota) allowance(l *lane) int64 {
	n := int64(1) << 62
	held := l.charged - laneBytes
	if q.limit > 0 {
		n = q.limit - q.used + held
	}
	if q.each > 0 {
		n = min(n, q.each-l.share.bytes+held)
	}
	return max(n, 0)
}

// decodeFrame decodes a frame within what its publisher may have.
func (p *Pipeline) decodeFrame(l *lane, raw frame.RawFrame, schema func(frame.SchemaID) (*frame.Schema, error)) (*frame.Frame, error) {
	for {
		l.decoder.SetLimit(p.quota.allowance(l))
		f, err := l.decoder.Decode(raw, schema)
		p.quota.charge(l)
		if err == nil || !errors.Is(err, frame.ErrNoRoom) {
			return f, err
		}
		var limit *frame.LimitError
		if !errors.As(err, &limit) {
			return nil, err
		}
		if err := p.makeRoom(l.share, int64(limit.Got)-l.charged+laneBytes); err != nil {
			l.limited = p.now
			return nil, fmt.Errorf("frame %d of target %d: %w", raw.Position, raw.Target, err)
		}
	}
}

// makeRoom drops states of publishers that hold more than twice what this one will with so many bytes more, until there is
// room for them; publishers of about one size do not take from each other. If there is none, this one is refused.
func (p *Pipeline) makeRoom(s *share, more int64) error {
	for {
		own, all := p.quota.over(s, more)
		if own > 0 {
			return fmt.Errorf("%w: %d bytes for publisher %q, which has %d, limit %d (receiver.limits.publisher_state_bytes)",
				frame.ErrNoRoom, more, s.publisher, s.bytes, p.quota.each)
		}
		if all == 0 {
			return nil
		}
		most := p.quota.most()
		if most == nil || most == s || most.bytes < 2*(s.bytes+more) || !p.shed(most, all) {
			return fmt.Errorf("%w: %d bytes for publisher %q, which has %d of the %d that all have, limit %d (receiver.limits.state_bytes)",
				frame.ErrNoRoom, more, s.publisher, s.bytes, p.quota.used, p.quota.limit)
		}
	}
}

// shed drops states of a publisher, of its largest lane first. It tells whether there were any.
func (p *Pipeline) shed(s *share, bytes int64) bool {
	var largest *lane
	for _, l := range p.lanes {
		if l.share == s && (largest == nil || l.charged > largest.charged) {
			largest = l
		}
	}
	if largest == nil {
		return false
	}
	targets := largest.decoder.Targets()
	freed := largest.decoder.Shed(bytes)
	p.quota.charge(largest)
	largest.limited = p.now
	if freed == 0 {
		return false
	}
	p.metrics.shed.WithLabelValues(p.Name, p.Metrics.names.known(s.publisher)).Add(float64(targets - largest.decoder.Targets()))
	p.Metrics.junk.logged(p.Logger, p.now, s.publisher+"/"+largest.key.lane, stateLimit, fmt.Errorf(
		"publisher %q has %d of the %d bytes that all publishers have, limit %d: it loses the states of %d targets to others",
		s.publisher, s.bytes+freed, p.quota.used+freed, p.quota.limit, targets-largest.decoder.Targets()))
	return true
}

// limitedLately tells that the lane lost states to the limit, so that bases are missing which it need not look for.
func (p *Pipeline) limitedLately(l *lane) bool {
	return !l.limited.IsZero() && p.now.Sub(l.limited) < limitedFor
}

// readToken waits until a lane may be read back. It is given back with <-p.quota.reads.
func (p *Pipeline) readToken(ctx context.Context) error {
	select {
	case p.quota.reads <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
