package remotewrite

import "time"

// part is everything that one frame has written.
type part struct {
	*delivery
	of       *target
	shard    int
	segments []segment
	rows     int // series of all segments, those to skip among them
	open     int // pieces without a verdict
	tries    int // requests that looked for what is refused within the part
	// backwards: it is not newer than the target's last frame, so that the server very likely refuses it whole.
	backwards bool
	accepted  int
	refused   int
	reason    string
	late      *lateJob // what goes to the files of late data; nil if nothing does
	// target is mark once the part is done; mark is nil if it says nothing of what there is now.
	target *target
	mark   *mark
}

// piece is a run of rows of a part: what a request takes along.
type piece struct {
	part     *part
	from, to int
	// alone: it is not to be sent with others, so that the answer is about it.
	alone bool
	tally // what the request has of it
	// next is what was queued next of the same target.
	next *piece
}

func (p *piece) rows() int { return p.to - p.from }

// follows tells whether p is the scrape of the same series after q, with nothing besides, so that a request can have the
// samples of both in one series.
func (p *piece) follows(q *piece) bool {
	return p.part.of == q.part.of && p.plain() && q.plain() && p.part.Frame.Time > q.part.Frame.Time &&
		p.part.segments[0].prepared == q.part.segments[0].prepared
}

// plain tells whether a piece is a whole scrape, of floats with the scrape's time alone.
func (p *piece) plain() bool {
	if p.alone || p.part.backwards || p.rows() != p.part.rows || len(p.part.segments) != 2 {
		return false
	}
	g := &p.part.segments[0]
	return !g.report && g.values != nil && g.times == nil && !g.rich()
}

// shard is the queue of its targets. What a request took along from behind the first piece is left there as a piece
// without a part; the first one is never such.
type shard struct {
	queue []*piece
	rows  int
	busy  bool // a request of it is on its way
}

// trim drops what was taken along from the front of the queue.
func (sh *shard) trim() {
	for len(sh.queue) > 0 && sh.queue[0].part == nil {
		sh.queue[0] = nil
		sh.queue = sh.queue[1:]
	}
	if len(sh.queue) == 0 {
		sh.queue = nil
	}
}

// batch is one request.
type batch struct {
	pieces      []piece
	body        []byte // uncompressed
	packed      []byte
	protocol    int
	tally       // what it has
	made, again time.Time
	tries       int
	answer      answer
}

func (s *Sink) newPart(t *target, d *delivery) *part {
	return &part{delivery: d, of: t, shard: t.shard}
}

// add appends a segment, which uses its prepared from now on.
func (p *part) add(g segment) {
	g.prepared.users++
	p.segments = append(p.segments, g)
	p.rows += g.text().series()
}

// giveBack tells once that the frame was not delivered.
func (p *part) giveBack() {
	if p.done != nil {
		p.done(errStopped)
		p.delivery = &delivery{}
	}
}

func (s *Sink) enqueue(p *part) {
	p.open = 1
	sh := &s.shards[p.shard]
	q := &piece{part: p, to: p.rows}
	if last := p.of.queued; last != nil {
		last.next = q
	}
	p.of.queued = q
	sh.queue = append(sh.queue, q)
	sh.rows += p.rows
	s.metrics.pending.Inc()
}

// fill makes a batch of what waits in idle shards, if there is enough of it or it has waited for long enough; else it
// tells for how long there is none.
func (s *Sink) fill(now time.Time) (*batch, time.Duration) {
	rows, ready := 0, false
	wait := idle
	for i := range s.shards {
		sh := &s.shards[i]
		if sh.busy || len(sh.queue) == 0 {
			continue
		}
		rows += sh.rows
		head := sh.queue[0]
		d := s.FlushAge - now.Sub(head.part.arrived)
		ready = ready || head.alone || head.from > 0 || d <= 0
		wait = min(wait, d)
	}
	if rows == 0 || !ready && rows < s.limit {
		return nil, wait
	}
	b := s.newBatch(now)
	room := s.limit
	for i := range s.shards {
		at := (s.next + i) % shardCount
		sh := &s.shards[at]
		if sh.busy || len(sh.queue) == 0 {
			continue
		}
		if sh.queue[0].alone {
			if len(b.pieces) > 0 {
				continue
			}
			s.move(b, sh, s.limit)
			s.next = at + 1
			break
		}
		for room > 0 && len(sh.queue) > 0 && !sh.queue[0].alone {
			if n := sh.queue[0].rows(); n > room && len(b.pieces) > 0 && n <= s.limit {
				break
			}
			room -= s.move(b, sh, room)
		}
		if room <= 0 {
			s.next = at + 1
			break
		}
	}
	if len(b.pieces) == 0 {
		s.spare = append(s.spare, b)
		return nil, wait
	}
	return b, 0
}

// move takes at most room rows of a shard's first piece into a batch, and what follows it if there is room for that.
func (s *Sink) move(b *batch, sh *shard, room int) (rows int) {
	head := sh.queue[0]
	sh.busy = true
	if head.rows() > room {
		p := *head
		p.next, p.to = nil, p.from+room
		head.from = p.to
		p.part.open++
		b.pieces = append(b.pieces, p)
		sh.rows -= room
		return room
	}
	for p := head; ; {
		next := p.next
		rows += p.rows()
		more := next != nil && rows+next.rows() <= room && next.follows(p)
		b.take(p)
		if !more {
			break
		}
		p = next
	}
	sh.rows -= rows
	sh.trim()
	return rows
}

// take moves a piece out of its queue.
func (b *batch) take(p *piece) {
	if t := p.part.of; t.queued == p {
		t.queued = nil
	}
	b.pieces = append(b.pieces, *p)
	b.pieces[len(b.pieces)-1].next = nil
	*p = piece{}
}

// putBack puts pieces at the front of their shards, in their order.
func (s *Sink) putBack(pieces []piece) {
	for i := len(pieces) - 1; i >= 0; i-- {
		p := pieces[i]
		sh := &s.shards[p.part.shard]
		sh.queue = append([]*piece{&p}, sh.queue...)
		sh.rows += p.rows()
	}
}

func (s *Sink) newBatch(now time.Time) *batch {
	b := &batch{}
	if n := len(s.spare) - 1; n >= 0 {
		b, s.spare = s.spare[n], s.spare[:n]
	}
	*b = batch{pieces: b.pieces[:0], body: b.body[:0], packed: b.packed[:0], made: now}
	return b
}

// free ends a batch: its shards may send again.
func (s *Sink) free(b *batch) {
	for i := range b.pieces {
		s.shards[b.pieces[i].part.shard].busy = false
	}
	clear(b.pieces)
	s.requests--
	if len(s.spare) < s.MaxRequests {
		s.spare = append(s.spare, b)
	}
}
