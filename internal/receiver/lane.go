package receiver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/stream"
)

const (
	// laneIdle is how long a lane with nothing in it is remembered.
	laneIdle = 2 * time.Hour
	// epochsPerLane bounds the epochs of one publisher's lane that are known at a time: the present one and the last.
	epochsPerLane = 2
	// lanesPerPublisher bounds what one publisher can make the receiver remember.
	lanesPerPublisher = 8
	// checksumsKept is how many of a lane's latest bundles are compared with ones that claim the same place.
	checksumsKept = 256
	// abandonedKept bounds how many schemas a lane has given up on; above it, it begins to wait for them anew.
	abandonedKept = 1024
	// gapsKept is how many of a lane's latest gaps are remembered, to tell a late filler from a repeat.
	gapsKept = 16
)

// lane puts the bundles of one publisher's lane and epoch in order and decodes them.
//
//	accept → held (out of order) → queue (in order) → decode → deliver
type lane struct {
	key     laneKey
	decoder *frame.Decoder
	next    uint64             // seq of the next bundle to put into the queue; 0: none was seen yet
	held    map[uint64]*bundle // ahead of a hole
	queue   []*bundle
	block   block // why queue[0] waits
	holeAge time.Duration
	touched time.Time

	// The epochs before and after this one, while the older has bundles left: a target's frames stay in order over a
	// restart of its poller.
	older, younger *lane

	rivals *rivals // of all epochs of the publisher's lane

	live        bool   // a bundle was received, not only read back
	lastHistory uint64 // seq of the last bundle read back

	// lacksBase tells that everything the stream has of this lane was read back: a missing base is final.
	lacksBase bool
	readBack  time.Duration
	// abandoned schemas are not waited for any more, only asked for now and then; the value is when last.
	abandoned map[frame.SchemaID]time.Time
	// waited is how long schemas were waited for in all, up to answered, when one was last answered to be missing: what came
	// before that has waited too, whichever it needs.
	waited   time.Duration
	answered time.Time
	lamented time.Time // when the loss of one was last said aloud

	totals    frame.Totals // as of the last bundle decoded
	hasTotals bool
	sums      [checksumsKept]checksum
	gaps      []gap
	forked    bool // said already

	share   *share    // of its publisher
	charged int64     // to it
	limited time.Time // when states were refused or dropped last because of the limit

	dropUnknown bool // frames of an unknown version are no longer waited with
	hurried     bool // nothing is waited for until the lane is empty
}

// block is why a lane does not go on: a schema is fetched, history is read, or a version is not known.
type block struct {
	why    blockKind
	schema frame.SchemaID
	age    time.Duration // counted only while it is certain that the answer is "not there"
	asking bool
}

type blockKind uint8

const (
	notBlocked blockKind = iota
	forSchema
	forHistory
	forVersion
)

type checksum struct {
	seq uint64
	sum uint32
}

type gap struct{ from, to uint64 }

// laneOf finds or makes a bundle's lane. It fails if the publisher has too many, or too much memory.
func (p *Pipeline) laneOf(k laneKey) (*lane, error) {
	if l := p.lanes[k]; l != nil {
		return l, nil
	}
	var siblings []*lane
	others := 0
	for _, l := range p.lanes {
		switch {
		case l.key.publisher != k.publisher:
		case l.key.lane == k.lane:
			siblings = append(siblings, l)
		default:
			others++
		}
	}
	if others >= lanesPerPublisher*epochsPerLane || len(p.lanes) >= p.Limits.Lanes {
		return nil, fmt.Errorf("the receiver knows %d lanes already, limit %d, and %d of this publisher", len(p.lanes), p.Limits.Lanes,
			others+len(siblings))
	}
	if err := p.makeRoom(p.quota.of(k.publisher), laneBytes); err != nil {
		return nil, err
	}
	if len(siblings) >= epochsPerLane {
		oldest := siblings[0]
		for _, l := range siblings {
			if l.pending() == oldest.pending() && l.touched.Before(oldest.touched) || !l.pending() && oldest.pending() {
				oldest = l
			}
		}
		if !oldest.pending() || len(siblings) >= lanesPerPublisher {
			p.forget(oldest, "another epoch began")
		}
	}
	l := &lane{
		key:     k,
		decoder: frame.NewDecoder(k.epoch, p.Limits.Frame),
		held:    make(map[uint64]*bundle),
		touched: p.now,
		rivals:  new(rivals),
	}
	if len(siblings) > 0 {
		l.rivals = siblings[0].rivals
	}
	if len(siblings) > 0 && p.done.lane(k) == nil {
		l.next = 1 // the publisher is known: what precedes its new epoch's first bundle seen is missing
	}
	for _, s := range siblings {
		if p.lanes[s.key] != nil && s.pending() {
			for s.younger != nil {
				s = s.younger
			}
			l.older, s.younger = s, l
			break
		}
	}
	p.lanes[k] = l
	p.quota.open(l)
	return l, nil
}

// pending tells that bundles of the lane are not decoded yet.
func (l *lane) pending() bool { return len(l.queue) > 0 || len(l.held) > 0 }

// accept gives a bundle its place in the lane.
func (p *Pipeline) accept(ctx context.Context, l *lane, b *bundle) {
	l.touched = p.now
	l.live = true
	seq := b.parsed.Seq
	if known := p.done.lane(l.key); known != nil {
		b.repeated = known.hasBegun(seq)
	} else {
		b.repeated = b.message.Redelivered || b.message.Sequence <= b.source.floor.Delivered
	}
	if l.next == 0 {
		l.begin(p.done, seq)
	}
	if seq < l.next || l.held[seq] != nil {
		p.repeated(l, b)
		return
	}
	b.skip = p.done.lane(l.key).has(seq)
	if !b.skip {
		p.watch(l, b.message.Stored)
	}
	l.held[seq] = b
	p.advance(ctx, l)
	if len(l.held) >= p.Limits.HoleBundles || l.hurried && len(l.held) > 0 {
		p.declareGap(ctx, l)
	}
}

// begin sets where a lane starts that was not seen before in this process: where it stopped, if it is in the done table,
// else with the first bundle that comes.
func (l *lane) begin(done *doneTable, seq uint64) {
	if d := done.lane(l.key); d != nil {
		l.next = min(seq, d.upTo+1)
		return
	}
	l.next = seq
	_ = done.skip(l.key, seq-1) // an error sticks to the table and ends Run
}

// repeated takes a bundle whose place was taken before: the same again, a late filler of a gap, or another one that
// claims the same place.
func (p *Pipeline) repeated(l *lane, b *bundle) {
	seq := b.parsed.Seq
	if c := l.sums[seq%checksumsKept]; c.seq == seq && c.sum != b.parsed.Checksum {
		p.metrics.dropped(l.key.publisher, "forked_identity", b.frames())
		if !l.forked {
			l.forked = true
			p.Logger.Error("two different bundles claim one place: two pollers run with one identity, or one was restored from a copy",
				"publisher", l.key.publisher, "lane", l.key.lane, "epoch", l.key.epochText(), "seq", seq)
		}
		p.release(b)
		return
	}
	for _, g := range l.gaps {
		if g.from <= seq && seq <= g.to {
			p.metrics.dropped(l.key.publisher, "late_gap", b.frames())
			p.release(b)
			return
		}
	}
	p.metrics.duplicates.WithLabelValues(p.Name, p.Metrics.names.known(l.key.publisher)).Inc()
	p.release(b)
}

// advance moves bundles that have their turn into the queue and decodes what can be decoded.
func (p *Pipeline) advance(ctx context.Context, l *lane) {
	for len(l.held) > 0 {
		b := l.held[l.next]
		if b == nil {
			if !p.done.lane(l.key).has(l.next) {
				break
			}
			// Done before a restart and acknowledged ahead of the floor: it does not come again.
			l.next++
			l.hasTotals = false // what the skipped ones held is not known
			continue
		}
		delete(l.held, l.next)
		p.enqueue(l, b)
	}
	if len(l.held) == 0 {
		l.holeAge = 0
	}
	p.decodeQueue(ctx, l)
}

func (p *Pipeline) enqueue(l *lane, b *bundle) {
	seq := b.parsed.Seq
	l.sums[seq%checksumsKept] = checksum{seq, b.parsed.Checksum}
	l.next = max(l.next, seq+1)
	l.holeAge = 0
	if pre := b.parsed.Predecessor; pre != nil && seq == 1 && !b.history {
		p.checkTail(l, pre)
	}
	l.queue = append(l.queue, b)
}

// checkTail counts what is missing of the epoch that a new one names as its predecessor.
func (p *Pipeline) checkTail(l *lane, pre *frame.Predecessor) {
	k := l.key
	k.epoch = pre.Epoch
	if !pre.Clean {
		p.metrics.uncleanEpochs.WithLabelValues(p.Name, p.Metrics.names.known(l.key.publisher)).Inc()
		p.Logger.Warn("an epoch ended without a word: what its poller did not have on disk yet is lost, and how much that is is not known",
			"publisher", k.publisher, "lane", k.lane, "epoch", k.epochText(), "to", pre.Seq)
	}
	old := p.lanes[k]
	if old == nil || old.next == 0 || old.next > pre.Seq {
		return
	}
	p.metrics.missing(k.publisher, pre.Seq-old.next+1)
	p.Publishers.gap(k.publisher, p.Name)
	lost := old.settleTotals(pre.Totals, frame.Totals{})
	p.metrics.lost(k.publisher, lost)
	p.Logger.Warn("the end of the previous epoch is missing", "publisher", k.publisher, "lane", k.lane,
		"epoch", k.epochText(), "from", old.next, "to", pre.Seq, "count", lost.Samples)
}

// declareGap gives up waiting for the bundles before the first one held.
func (p *Pipeline) declareGap(ctx context.Context, l *lane) {
	first := uint64(0)
	for seq := range l.held {
		if first == 0 || seq < first {
			first = seq
		}
	}
	if first <= l.next {
		return
	}
	g := gap{l.next, first - 1}
	p.metrics.missing(l.key.publisher, g.to-g.from+1)
	p.Publishers.gap(l.key.publisher, p.Name)
	p.Logger.Warn("bundles are missing", "publisher", l.key.publisher, "lane", l.key.lane, "epoch", l.key.epochText(),
		"from", g.from, "to", g.to)
	if len(l.gaps) == gapsKept {
		l.gaps = l.gaps[1:]
	}
	l.gaps = append(l.gaps, g)
	_ = p.done.skip(l.key, g.to) // an error sticks to the table and ends Run
	l.next, l.holeAge = first, 0
	p.advance(ctx, l)
}

// settleTotals takes the running totals that a bundle names and what of it was decoded, and gives how much is missing
// since the last one: bundles that never came and frames that could not be decoded.
func (l *lane) settleTotals(until, own frame.Totals) (lost frame.Totals) {
	if l.hasTotals && until.Frames >= l.totals.Frames+own.Frames && until.Samples >= l.totals.Samples+own.Samples {
		lost.Frames = until.Frames - l.totals.Frames - own.Frames
		lost.Samples = until.Samples - l.totals.Samples - own.Samples
	}
	l.totals, l.hasTotals = until, true
	return lost
}

// tickLane does what a lane does by time: give up on holes, schemas and versions, and go when nothing came for long.
func (p *Pipeline) tickLane(ctx context.Context, l *lane) {
	connected := false
	for _, s := range p.sources {
		connected = connected || s.connected
	}
	if connected && len(l.held) > 0 {
		if l.holeAge += tick; l.holeAge >= p.Limits.HoleAge {
			p.declareGap(ctx, l)
		}
	}
	switch l.block.why {
	case forSchema:
		p.askSchema(ctx, l)
	case forVersion:
		l.block.age += tick
		if l.block.age >= p.Limits.VersionAge || len(l.queue) >= p.Limits.VersionBundles {
			p.dropUnknown(ctx, l)
		}
	case forHistory:
		if !l.block.asking && len(l.queue) > 0 {
			p.askHistory(ctx, l, l.queue[0])
		}
	case notBlocked:
	}
	if len(l.held) == 0 && len(l.queue) == 0 && p.now.Sub(l.touched) > laneIdle {
		p.quota.close(l)
		delete(p.lanes, l.key)
	}
}

// forget drops a lane; what it still held is counted.
func (p *Pipeline) forget(l *lane, why string) {
	for seq, b := range l.held {
		p.metrics.dropped(l.key.publisher, "epoch_superseded", b.frames())
		delete(l.held, seq)
		p.release(b)
	}
	for _, b := range l.queue {
		p.metrics.dropped(l.key.publisher, "epoch_superseded", b.frames())
		p.release(b)
	}
	if n := len(l.queue) + len(l.held); n > 0 {
		p.Logger.Warn("bundles of an old epoch dropped", "publisher", l.key.publisher, "lane", l.key.lane,
			"epoch", l.key.epochText(), "count", n, "reason", why)
	}
	l.queue = nil
	if l.older != nil {
		l.older.younger = l.younger
	}
	if l.younger != nil {
		l.younger.older = l.older
	}
	p.quota.close(l)
	delete(p.lanes, l.key)
}

// notFound tells whether a registry or stream answered that it does not have what was asked for.
func notFound(err error) bool { return errors.Is(err, stream.ErrNotFound) }
