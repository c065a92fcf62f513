package receiver

import (
	"context"
	"errors"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
)

// receive is a source's goroutine: open, read back, receive; again after an error.
func (p *Pipeline) receive(ctx context.Context, s *source) {
	logger := p.Logger.With("stream", s.Name)
	var said string
	for wait := time.Second; ctx.Err() == nil; wait = min(2*wait, 30*time.Second) {
		err := p.receiveOnce(ctx, s)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("the consumer ended")
		}
		if err.Error() != said {
			said = err.Error()
			logger.Error("receiving stopped, trying again", "error", err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

func (p *Pipeline) receiveOnce(ctx context.Context, s *source) error {
	floor, err := s.Consumer.Open(ctx)
	if err != nil {
		return err
	}
	p.Logger.Info("receiving", "stream", s.Name, "from", floor.Sequence+1, "to", floor.Last)
	send := func(ev event) {
		ev.source = s
		select {
		case p.events <- ev:
		case <-ctx.Done():
		}
	}
	send(event{Event: stream.Event{Kind: stream.Connected}, floor: &floor})
	if err := p.readBack(ctx, s, floor, send); err != nil {
		return err
	}
	parts := stream.Joiner{Owner: s.sender}
	return s.Consumer.Receive(ctx, func(ev stream.Event) {
		switch ev.Kind {
		case stream.Restarted:
			parts.Reset()
		case stream.Delivered:
			if ev.Message = join(&parts, ev.Message); ev.Message == nil {
				return
			}
		}
		p.letIn(ctx, ev)
		send(event{Event: ev})
	})
}

// readBack decodes, without delivering, what came in the last minutes before the floor, so that frames after it find
// their bases and lanes their places. A lane that needs more is read back alone later (lane.go).
func (p *Pipeline) readBack(ctx context.Context, s *source, floor stream.Floor, send func(event)) error {
	if s.History == nil || floor.Sequence == 0 || floor.First > floor.Sequence {
		return nil
	}
	var from time.Time
	if !floor.Stored.IsZero() {
		from = floor.Stored.Add(-readBack)
	}
	count := 0
	parts := stream.Joiner{Owner: s.sender}
	err := s.History.Read(ctx, stream.Range{From: from, To: floor.Sequence}, func(m stream.Message) error {
		count++
		if whole := join(&parts, &m); whole != nil {
			send(event{Event: stream.Event{Kind: stream.Delivered, Message: whole}, history: true})
		}
		return ctx.Err()
	})
	p.Logger.Debug("read back", "stream", s.Name, "count", count, "from", from)
	return err
}

// sender is the publisher that a subject proves, else the subject.
func (s *source) sender(subject string) string {
	if s.Publisher == nil {
		return subject
	}
	publisher, err := s.Publisher(subject)
	if err != nil {
		return subject
	}
	return publisher
}

// join gives the message that came whole or with its last part, or nil. A damaged part is handed on as it is, to be
// counted as the message of nobody that it is.
func join(parts *stream.Joiner, m *stream.Message) *stream.Message {
	whole, err := parts.Add(m)
	if errors.Is(err, stream.ErrPart) {
		return m
	}
	return whole
}

// tick does what depends on time alone.
func (p *Pipeline) tick(ctx context.Context) {
	p.ticks++
	if !p.Gate.holds() { // else what is missing is kept from coming by ourselves
		p.tickContents(ctx)
	}
	if p.ticks%int(progressEvery/tick) == 0 {
		p.progress()
		p.sweepFormat1()
	}
	p.metrics.held.Set(float64(p.held))
	p.metrics.decoded.Set(float64(p.decoded))
	p.metrics.lanes.Set(float64(len(p.lanes)))
	p.metrics.state.Set(float64(p.quota.used))
}

// tickContents gives up what was waited for long enough, and tries again what the sink did not take.
func (p *Pipeline) tickContents(ctx context.Context) {
	for _, l := range p.lanes {
		p.tickLane(ctx, l)
	}
	if !p.Gate.shut() {
		if p.listening() {
			p.Publishers.listening(p.now)
		}
		p.retry(ctx)
	}
	for sender, q := range p.unknown {
		if p.now.Sub(q.since) > p.Limits.VersionAge {
			p.giveUp(sender, q)
		}
	}
	p.relieve(ctx)
}

// listening tells whether messages of every source would be received now.
func (p *Pipeline) listening() bool {
	for _, s := range p.sources {
		if !s.connected {
			return false
		}
	}
	return !p.full() && p.held <= p.Limits.HeldBytes && !p.Gate.holds()
}

// progress tells the carrier that held messages are still being worked on.
func (p *Pipeline) progress() {
	for _, s := range p.sources {
		for _, b := range s.inflight {
			if b.message.InProgress != nil {
				_ = b.message.InProgress()
			}
		}
	}
}
