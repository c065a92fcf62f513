package remotewrite

import (
	"context"
	"time"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// maxRecalls bounds the frames that wait to be recalled.
const maxRecalls = 256

// Recall takes a frame that an earlier process delivered, to remember what it meant: stale markers and exemplars that follow are
// then the same as if that process had gone on. Nothing is written and there is no verdict. Frames of a target come in their
// order, before those that are delivered. It waits while many are ahead, until ctx ends.
func (s *Sink) Recall(ctx context.Context, d sink.Delivery) {
	for {
		s.mu.Lock()
		if s.stopped || s.recalls < maxRecalls {
			s.inbox = append(s.inbox, delivery{d, nil, time.Now()})
			s.recalls++
			s.mu.Unlock()
			s.wakeUp()
			return
		}
		taken := s.taken
		s.mu.Unlock()
		select {
		case <-taken:
		case <-ctx.Done():
			return
		}
	}
}

// recalled tells whether the frame was delivered by an earlier process and is only to be remembered.
func (d *delivery) recalled() bool { return d.done == nil }

// remember notes what a frame meant that was delivered before. What the state file says of the same or a later scrape goes before.
func (s *Sink) remember(d *delivery) {
	f := d.Frame
	if f.Kind == frame.EpochEnd || sink.Check(f, validLabel) != nil {
		return
	}
	key := sink.Key(s.labels.Target(f.Target.Labels, d.Publisher, s.builder))
	if _, err := s.owners.Admit(sink.Claim{Key: key}, &d.Delivery); err != nil {
		return
	}
	t := s.target(key, d)
	if t.known && f.Time <= t.time {
		return
	}
	if f.Kind == frame.End {
		s.rememberEnd(t, d)
		return
	}
	p := s.scrape(t, d)
	t.settled = p.mark
	for i := range p.segments {
		t.settle(p.segments[i].exemplars)
		s.release(p.segments[i].prepared)
	}
}

// rememberEnd notes an end whose stale markers are written, unless the next frame shows that the target went on.
func (s *Sink) rememberEnd(t *target, d *delivery) {
	if t.known && t.prepared == nil {
		return
	}
	if !t.known {
		t.raw, t.publisher = d.Frame.Target.Labels, d.Publisher
		t.prepared = s.prepare(nil, t.raw, t.publisher)
	}
	t.interval = sink.Interval(d.Frame.Target)
	t.ended = endTime(t, d.Frame)
	t.settled = &mark{raw: t.raw, publisher: t.publisher, time: t.ended, interval: t.interval, ended: true}
}

// concludeEnd decides, with the next frame of a target, whether an end that is remembered came about.
func (s *Sink) concludeEnd(t *target, f *frame.Frame) {
	if t.ended == 0 {
		return
	}
	if f.Time > t.ended {
		s.forgetSeries(t, t.ended)
	}
	t.ended = 0
}
