package remotewrite

import "time"

// part is everything that one frame has written.
type part struct {
	*delivery
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
}

func (p *piece) rows() int { return p.to - p.from }

// shard is the queue of its targets.
type shard struct {
	queue []piece
	rows  int
	busy  bool // a request of it is on its way
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
	return &part{delivery: d, shard: t.shard}
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
	sh.queue = append(sh.queue, piece{part: p, to: p.rows})
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
		head := &sh.queue[0]
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

// move takes at most room rows of a shard's first piece into a batch.
func (s *Sink) move(b *batch, sh *shard, room int) int {
	head := &sh.queue[0]
	p := *head
	if p.rows() > room {
		p.to = p.from + room
		head.from = p.to
		p.part.open++
	} else {
		sh.queue[0] = piece{}
		if sh.queue = sh.queue[1:]; len(sh.queue) == 0 {
			sh.queue = nil
		}
	}
	sh.rows -= p.rows()
	sh.busy = true
	b.pieces = append(b.pieces, p)
	return p.rows()
}

// putBack puts pieces at the front of their shards, in their order.
func (s *Sink) putBack(pieces []piece) {
	for i := len(pieces) - 1; i >= 0; i-- {
		p := pieces[i]
		sh := &s.shards[p.part.shard]
		sh.queue = append([]piece{p}, sh.queue...)
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
	if len(s.spare) < maxRequests {
		s.spare = append(s.spare, b)
	}
}
