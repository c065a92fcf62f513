package remotewrite

import (
	"net/http"
	"time"

	"github.com/choria-io/prometheus-streams/internal/redact"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// The reasons for which a server drops samples for good.
const (
	outOfOrder = "out_of_order"
	tooOld     = "too_old"
	duplicate  = "duplicate"
	tooFar     = "too_far_in_future"
	tooLarge   = "too_large"
	rejected   = "rejected"
	// customBucketsIn1: what Prometheus calls it too.
	customBucketsIn1 = "nhcb_in_rw1_not_supported"
)

// maxTries is how many requests look for what is refused within a frame.
const maxTries = 32

// sayEvery is how often the same trouble is logged.
const sayEvery = time.Minute

// outcome is what an answer means for its request.
type outcome uint8

const (
	written  outcome = iota + 1 // all of it
	partial                     // the server says how much
	refused                     // nothing, or nobody knows what
	oversize                    // too large
	unknown                     // the server does not know this protocol
	failed                      // to be repeated
)

// judge says what an answer means.
func (s *Sink) judge(b *batch) outcome {
	a := &b.answer
	two := b.protocol == 2
	auto := two && s.Protocol == Auto && !s.confirmed
	switch {
	case a.status == 0:
		return failed
	case a.status/100 == 2:
		switch {
		case two && a.written >= 0 && a.written < b.samples:
			return partial
		case two && a.written < 0 && auto:
			return unknown // one that knows only 1.0 reads 2.0 as an empty request and takes it
		case two && a.written < 0 && !s.confirmed:
			return failed
		}
		return written
	case a.status == http.StatusUnsupportedMediaType:
		if s.Protocol == Auto {
			return unknown
		}
		return failed
	case a.status == http.StatusRequestEntityTooLarge:
		return oversize
	case a.status/100 != 4 || waits(a.status):
		return failed
	case two && a.written >= 0:
		return partial
	case auto:
		return unknown
	}
	return refused
}

// waits tells whether a status is about the request's way and not about its samples: somebody will mend it.
func waits(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed,
		http.StatusProxyAuthRequired, http.StatusRequestTimeout, http.StatusMisdirectedRequest, http.StatusTooEarly,
		http.StatusTooManyRequests:
		return true
	}
	return false
}

// answered takes the answer of a request.
func (s *Sink) answered(b *batch) {
	a := &b.answer
	if b.samples > 0 {
		s.metrics.answered(b)
	}
	if b.protocol == 2 && a.written >= 0 && a.status != 0 && b.samples > 0 {
		s.confirmed = true
	}
	switch s.judge(b) {
	case written:
		s.succeeded = time.Now()
		s.grow()
		s.metrics.samples.Add(float64(b.samples))
		s.countExemplars(b)
		for i := range b.pieces {
			s.accept(&b.pieces[i], b.pieces[i].samples)
		}
		s.free(b)
	case partial:
		s.succeeded = time.Now()
		s.partial(b)
	case refused:
		s.refuse(b)
	case oversize:
		s.shrink(b)
	case unknown:
		s.fallBack(b)
	case failed:
		s.repeat(b)
	}
}

// fallBack speaks the other version from now on: 1.0 at once, and 2.0 again if the server, since it was changed, does not
// take that any more.
func (s *Sink) fallBack(b *batch) {
	if s.protocol == b.protocol {
		s.protocol = 3 - b.protocol
		s.metrics.version.Set(float64(s.protocol))
		s.Logger.Info("the server does not take this version of remote write: the other one is spoken from now on",
			"url", redact.RawURL(s.URL), "from", b.protocol, "to", s.protocol, "error", b.answer.err)
	}
	wait := time.Duration(0)
	if b.protocol == 1 {
		wait = s.backoff(b.tries)
	}
	s.again(b, wait)
}

// repeat sends a request again later.
func (s *Sink) repeat(b *batch) {
	a := &b.answer
	s.metrics.retries.Inc()
	if s.say("retry") {
		err := a.err
		if err == nil {
			err = errUnconfirmed
		}
		s.Logger.Warn("remote write does not succeed and is tried again", "url", redact.RawURL(s.URL), "error", err, "count", b.tries)
	}
	if b.tries >= isolateAfter && len(b.pieces) > 1 && s.succeeded.After(b.made) {
		s.alone(b)
		return
	}
	wait := max(s.backoff(b.tries), a.after)
	if a.after > 0 {
		s.pause = time.Now().Add(a.after)
	}
	s.again(b, wait)
}

func (s *Sink) again(b *batch, wait time.Duration) {
	b.again = time.Now().Add(wait)
	s.repeats = append(s.repeats, b)
}

// partial takes an answer of 2.0 that says how many samples were written.
func (s *Sink) partial(b *batch) {
	a := &b.answer
	lost := max(0, b.samples-a.written)
	reasons := reasonsOf(a.text, lost)
	if lost > 0 && len(b.pieces) > 1 && (!b.oneOwner() || s.late != nil && old(reasons)) {
		// Whose samples they are only shows when each frame is sent alone. What was written is a repeat with equal values
		// then, which servers take as written.
		s.alone(b)
		return
	}
	s.metrics.samples.Add(float64(b.samples - lost))
	s.countExemplars(b)
	for i := range b.pieces {
		p := &b.pieces[i]
		if lost > 0 && old(reasons) {
			s.keepLate(p)
		}
		n := min(lost, p.samples)
		if len(b.pieces) > 1 && lost < b.samples {
			n = 0 // counted below, for the publisher of all
		}
		p.part.refused += n
		p.part.reason = reasons[0].name
		s.accept(p, p.samples-n)
	}
	if lost > 0 {
		s.lose(b.pieces[0].part, reasons, a.text)
	}
	s.free(b)
}

// oneOwner tells whether losses of the batch count the same whichever frame they are of.
func (b *batch) oneOwner() bool {
	first := b.pieces[0].part
	for i := range b.pieces {
		if p := b.pieces[i].part; p.Publisher != first.Publisher || p.Repeated != first.Repeated {
			return false
		}
	}
	return true
}

// alone has each piece of a batch sent for itself.
func (s *Sink) alone(b *batch) {
	pieces := make([]piece, len(b.pieces))
	for i, p := range b.pieces {
		p.alone = true
		pieces[i] = p
	}
	s.free(b)
	s.putBack(pieces)
}

// refuse looks for what a server refuses: frame by frame, then by halves within the frame.
func (s *Sink) refuse(b *batch) {
	if len(b.pieces) > 1 {
		s.alone(b)
		return
	}
	p := b.pieces[0]
	if p.samples > 1 && p.part.tries < maxTries && !p.part.backwards {
		s.free(b)
		s.halve(p, true)
		return
	}
	s.drop(b, reasonsOf(b.answer.text, p.samples))
}

// halve puts the halves of a piece back, to be sent one after the other.
func (s *Sink) halve(p piece, try bool) {
	if try {
		p.part.tries++
	}
	p.alone = true
	left, right := p, p
	left.to = p.from + p.rows()/2
	right.from = left.to
	p.part.open++
	s.putBack([]piece{left, right})
}

// shrink sends less at a time to a server that found a request too large.
func (s *Sink) shrink(b *batch) {
	rows := 0
	for i := range b.pieces {
		rows += b.pieces[i].rows()
	}
	if limit := max(leastSamples, rows/2); limit < s.limit {
		s.limit, s.grown = limit, 0
	}
	switch p := b.pieces[0]; {
	case len(b.pieces) > 1:
		pieces := append([]piece(nil), b.pieces...)
		if rows <= leastSamples {
			for i := range pieces {
				pieces[i].alone = true
			}
		}
		s.free(b)
		s.putBack(pieces)
	case p.samples > 1 && p.rows() > 1:
		s.free(b)
		s.halve(p, false)
	default:
		s.drop(b, []reason{{tooLarge, p.samples}})
	}
}

// grow takes back what shrink did, little by little.
func (s *Sink) grow() {
	if s.limit == s.MaxSamples {
		return
	}
	if s.grown++; s.grown >= 100 {
		s.limit, s.grown = min(s.limit+s.limit/4+1, s.MaxSamples), 0
	}
}

// drop gives up the only piece of a batch.
func (s *Sink) drop(b *batch, reasons []reason) {
	p := &b.pieces[0]
	p.part.refused += p.samples
	p.part.reason = reasons[0].name
	if old(reasons) {
		s.keepLate(p)
	}
	s.lose(p.part, reasons, b.answer.text)
	s.loseExemplars(p.part.Publisher, reasons[0].name, p.exemplars, b.answer.text)
	s.accept(p, 0)
	s.free(b)
}

// accept notes the verdict on a piece, of which the server has taken some samples.
func (s *Sink) accept(p *piece, samples int) {
	part := p.part
	part.accepted += samples
	if p.unsent > 0 {
		s.lose(part, []reason{{customBucketsIn1, p.unsent}}, "remote write 1.0 has no native histograms with custom buckets")
	}
	if part.open--; part.open > 0 {
		return
	}
	s.metrics.pending.Dec()
	if part.mark != nil {
		part.target.settled = part.mark
	}
	for i := range part.segments {
		if x := part.segments[i].exemplars; len(x) > 0 {
			part.target.settle(x)
		}
		s.release(part.segments[i].prepared)
	}
	if t := part.Frame.Time; part.accepted > 0 {
		s.metrics.newest(t)
		s.metrics.latency.Observe(time.Since(part.arrived).Seconds())
	}
	if part.refused > 0 && part.accepted == 0 && !part.Repeated {
		s.conclude(part, sink.Reject(part.reason, "the server does not take it"))
		return
	}
	s.conclude(part, nil)
}

// say tells whether something is to be logged now.
func (s *Sink) say(what string) bool {
	now := time.Now()
	if t, ok := s.said[what]; ok && now.Sub(t) < sayEvery {
		return false
	}
	if len(s.said) > 1000 {
		clear(s.said)
	}
	s.said[what] = now
	return true
}
