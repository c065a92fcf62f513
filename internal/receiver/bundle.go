package receiver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
	"github.com/choria-io/prometheus-streams/internal/stream"
)

// bundle is one received message until it is acknowledged.
type bundle struct {
	source  *source
	message *stream.Message // its Ack is nil from a restart of the consumer until it comes again
	parsed  *frame.Bundle
	raws    []frame.RawFrame
	at      int // the raw frame to decode next
	decoded []*frame.Frame
	waiting int // frames whose verdict is out
	memory  int // of what is decoded, as counted in Pipeline.decoded
	// waited is how long its lane had waited for schemas when it came.
	waited time.Duration

	// history: read back, only to be decoded. skip: done before, only to be decoded and acknowledged.
	history, skip bool
	// format1 is set for a message of format 1, which has no place in a lane and so none in the done table.
	format1 *noted
	// repeated: it may have been delivered by an earlier process that was stopped before it noted so.
	repeated bool
}

// frames counts what the bundle holds, decodable or not.
func (b *bundle) frames() int { return len(b.raws) }

// quarantine holds the bundles of one publisher whose version is not known.
type quarantine struct {
	since    time.Time
	messages []*bundle
}

// retry is a frame that the sink did not take, to be given to it again.
type retry struct {
	bundle *bundle
	frame  *frame.Frame
	at     time.Time
	wait   time.Duration
}

const (
	retryFirst = time.Second
	retryMost  = 30 * time.Second
)

// take receives one message.
func (p *Pipeline) take(ctx context.Context, s *source, m *stream.Message) {
	p.Metrics.received.Inc()
	if b := s.inflight[m.Sequence]; b != nil && b.message.Stored.Equal(m.Stored) {
		// It comes again while it is still being worked on: only the right to acknowledge it is new.
		b.message.Ack, b.message.InProgress = m.Ack, m.InProgress
		return
	}
	b := &bundle{source: s, message: m}
	s.inflight[m.Sequence] = b
	p.held += len(m.Data) // until release
	switch old := frame.IsFormat1(m.Data); {
	case old:
		p.takeFormat1(ctx, b)
		return
	case s.Publisher == nil:
		p.dropMessage(b, "malformed", errors.New("a carrier of format 1 alone has a message that is not of format 1"))
		return
	}
	l, reason, err := p.open(b)
	var version *frame.VersionError
	switch {
	case errors.As(err, &version):
		p.hold(s.sender(m.Subject), b, err)
	case err != nil:
		p.dropMessage(b, reason, err)
	default:
		p.accept(ctx, l, b)
	}
}

// open parses a message and finds its lane; it gives a reason with every error.
func (p *Pipeline) open(b *bundle) (l *lane, reason string, err error) {
	parsed, err := frame.ParseBundle(b.message.Data, p.Limits.Frame)
	if errors.Is(err, frame.ErrChecksum) {
		return nil, "checksum", err
	}
	if err != nil {
		return nil, "malformed", err
	}
	b.parsed = parsed
	proven, err := b.source.Publisher(b.message.Subject)
	if err != nil {
		return nil, "wrong_subject", err
	}
	if proven != parsed.Publisher {
		return nil, "wrong_publisher", fmt.Errorf("the message says publisher %q", parsed.Publisher)
	}
	if err := p.allowed(proven); err != nil {
		return nil, notAllowed, err
	}
	for raw, err := range parsed.Frames() {
		if err != nil {
			return nil, "malformed", err
		}
		b.raws = append(b.raws, raw)
	}
	if parsed.Seq == 0 {
		return nil, "malformed", errors.New("sequence 0")
	}
	l, err = p.laneOf(laneKey{parsed.Publisher, parsed.Lane, parsed.Epoch})
	switch {
	case errors.Is(err, frame.ErrNoRoom):
		return nil, stateLimit, err
	case err != nil:
		return nil, "too_many_lanes", err
	}
	b.waited = l.waited
	return l, "", nil
}

// dropMessage counts and acknowledges a message that is no bundle of anybody. Its subject is the only thing that is
// known of it for sure.
func (p *Pipeline) dropMessage(b *bundle, reason string, err error) {
	publisher := ""
	if b.source.Publisher != nil {
		publisher, _ = b.source.Publisher(b.message.Subject)
	}
	p.metrics.dropped(publisher, reason, max(1, len(b.raws)))
	p.Metrics.junk.logged(p.Logger, p.now, b.message.Subject, reason, err)
	p.release(b)
}

// takeHistory decodes a message that was acknowledged earlier, for what its frames mean to later ones.
func (p *Pipeline) takeHistory(ctx context.Context, s *source, m *stream.Message) {
	b := &bundle{source: s, message: m, history: true}
	l, _, err := p.open(b)
	if err != nil || l.live || b.parsed.Seq <= l.lastHistory {
		return
	}
	l.touched = p.now
	l.lastHistory = b.parsed.Seq
	p.held += len(m.Data)
	p.enqueue(l, b)
	p.decodeQueue(ctx, l)
}

// deliver sees to it that a decoded bundle's frames come to the sink.
func (p *Pipeline) deliver(ctx context.Context, b *bundle) {
	if b.history {
		p.recall(ctx, b)
		p.release(b)
		return
	}
	publisher := b.parsed.Publisher
	p.Metrics.seen.WithLabelValues(p.Metrics.names.known(publisher)).Set(float64(p.now.UnixMilli()) / 1000)
	p.Publishers.saw(publisher, b.message.Stored, b.decoded)
	if b.skip {
		p.metrics.already.WithLabelValues(p.Name, p.Metrics.names.known(publisher), "false").Add(float64(len(b.decoded)))
		p.recall(ctx, b)
		p.release(b)
		return
	}
	if !p.stopped(b) {
		p.handOver(ctx, b)
	}
}

// handOver gives a decoded bundle's frames to the sink.
func (p *Pipeline) handOver(ctx context.Context, b *bundle) {
	publisher := b.parsed.Publisher
	k := laneKey{publisher, b.parsed.Lane, b.parsed.Epoch}
	if b.repeated {
		p.metrics.already.WithLabelValues(p.Name, p.Metrics.names.known(publisher), "true").Add(float64(len(b.decoded)))
	}
	if p.done.begin(k, b.parsed.Seq) != nil {
		return // not noted, so not delivered; Run ends with the error
	}
	b.waiting = len(b.decoded) + 1
	for _, f := range b.decoded {
		p.deliverFrame(ctx, b, f, retryFirst)
	}
	p.settle(b)
}

// recall tells the sink of a bundle that it was given by an earlier process.
func (p *Pipeline) recall(ctx context.Context, b *bundle) {
	r, ok := p.Sink.(Recaller)
	h := &b.parsed.Header
	if !ok || !p.done.lane(laneKey{h.Publisher, h.Lane, h.Epoch}).has(h.Seq) {
		return
	}
	for _, f := range b.decoded {
		r.Recall(ctx, b.delivery(f))
	}
}

// delivery is a frame of the bundle as sinks take it.
func (b *bundle) delivery(f *frame.Frame) sink.Delivery {
	h := &b.parsed.Header
	return sink.Delivery{
		Frame: f, Publisher: h.Publisher, Lane: h.Lane, Epoch: h.Epoch, Seq: h.Seq,
		Stored: b.message.Stored, Repeated: b.repeated,
	}
}

func (p *Pipeline) deliverFrame(ctx context.Context, b *bundle, f *frame.Frame, wait time.Duration) {
	start := p.now
	p.outstanding++
	p.Sink.Deliver(ctx, b.delivery(f), func(err error) {
		p.answers.post(func() { p.verdict(b, f, err, start, wait) })
	})
}

// verdict takes what the sink says of one frame.
func (p *Pipeline) verdict(b *bundle, f *frame.Frame, err error, start time.Time, wait time.Duration) {
	p.outstanding--
	reason, rejected := sink.Rejected(err)
	switch {
	case err == nil:
		p.metrics.delivered(b.parsed.Publisher, f)
		p.Metrics.publishTime.Observe(time.Since(start).Seconds())
	case rejected:
		p.metrics.rejected(b.parsed.Publisher, reason, f)
	default:
		p.metrics.retries.WithLabelValues(p.Name).Inc()
		p.retries = append(p.retries, retry{b, f, p.now.Add(wait), min(2*wait, retryMost)})
		return
	}
	p.settle(b)
}

// settle notes one verdict less to wait for; at the last the bundle is done.
func (p *Pipeline) settle(b *bundle) {
	if b.waiting--; b.waiting > 0 {
		return
	}
	h := &b.parsed.Header
	if b.format1 != nil {
		p.noteDone(b.format1)
	} else if p.done.done(laneKey{h.Publisher, h.Lane, h.Epoch}, h.Seq) != nil {
		return // not noted, so not acknowledged; Run ends with the error
	}
	p.release(b)
}

// release acknowledges a message and forgets it.
func (p *Pipeline) release(b *bundle) {
	p.held -= len(b.message.Data)
	p.shrink(b)
	if b.history {
		return
	}
	if b.message.Ack != nil {
		_ = b.message.Ack()
	}
	if b.source.inflight[b.message.Sequence] == b { // else the stream was made anew and uses the number again
		delete(b.source.inflight, b.message.Sequence)
	}
}

// retry gives frames that the sink did not take to it again.
func (p *Pipeline) retry(ctx context.Context) {
	due := p.retries
	p.retries = nil
	for _, r := range due {
		if r.at.After(p.now) {
			p.retries = append(p.retries, r)
			continue
		}
		p.deliverFrame(ctx, r.bundle, r.frame, r.wait)
	}
}

// hold keeps a message whose version is not known, in the hope of a newer receiver.
func (p *Pipeline) hold(sender string, b *bundle, err error) {
	q := p.unknown[sender]
	if q == nil {
		q = &quarantine{since: p.now}
		p.unknown[sender] = q
		p.Logger.Error("messages in a form that this version does not know are held back; update this receiver",
			"subject", b.message.Subject, "error", err, "duration", p.Limits.VersionAge, "limit", p.Limits.VersionBundles)
	}
	q.messages = append(q.messages, b)
	if len(q.messages) >= p.Limits.VersionBundles {
		p.giveUp(sender, q)
	}
}

// giveUp counts and acknowledges the messages of a quarantine.
func (p *Pipeline) giveUp(sender string, q *quarantine) {
	for _, b := range q.messages {
		p.dropMessage(b, "unknown_version", errors.New("held back for as long as is allowed"))
	}
	delete(p.unknown, sender)
}
