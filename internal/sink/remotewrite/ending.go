package remotewrite

import (
	"time"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// endAtMost and holdAtMost bound how far after its end the stale markers of a target may be, and how long they are held
// back.
const (
	endAtMost  = 5 * time.Minute
	holdAtMost = 2 * time.Minute
)

// ending is the end of a target whose stale markers are not due yet. Prometheus writes them with the time of the
// scrape that would have followed, and not at all for what is scraped again by then.
type ending struct {
	delivery *delivery
	time     int64
	due      time.Time
}

// planEnd holds the end of a target back until its stale markers are due.
func (s *Sink) planEnd(t *target, d *delivery) {
	f := d.Frame
	if t.ending != nil || t.known && t.prepared == nil {
		d.done(nil)
		return
	}
	t.interval = sink.Interval(f.Target)
	e := &ending{delivery: d, time: f.Time}
	if t.known {
		e.time = endTime(t, f)
	} else {
		t.raw, t.publisher = f.Target.Labels, d.Publisher
		t.prepared = s.prepare(nil, t.raw, t.publisher)
	}
	hold := time.Duration(e.time-f.Time)*time.Millisecond + t.interval + t.interval/10
	e.due = d.Stored.Add(min(hold, holdAtMost))
	if latest := d.arrived.Add(holdAtMost); e.due.After(latest) {
		e.due = latest
	}
	t.ending = e
	s.endings[t] = struct{}{}
	if len(s.endings) == 1 || e.due.Before(s.nextEnd) {
		s.nextEnd = e.due
	}
}

// endTime is when the scrape that would have followed was due.
func endTime(t *target, f *frame.Frame) int64 {
	if !t.known {
		return f.Time
	}
	at := min(max(f.Time, t.time+t.interval.Milliseconds()), f.Time+endAtMost.Milliseconds())
	return max(at, t.time+1)
}

// forgetSeries makes a target one that has ended.
func (s *Sink) forgetSeries(t *target, at int64) {
	s.release(t.prepared)
	t.prepared, t.live, t.untracked, t.shown, t.forms, t.known, t.time = nil, false, nil, nil, nil, true, at
}

// resume decides what becomes of the end of a target that is scraped again: it ended before, or it goes on.
func (s *Sink) resume(t *target, f *frame.Frame) {
	e := t.ending
	if f.Time > e.time {
		s.finishEnd(t)
		return
	}
	t.ending = nil
	delete(s.endings, t)
	e.delivery.done(nil)
}

// end writes the stale markers of targets whose end is due, and tells when the next one is.
func (s *Sink) end(now time.Time) time.Duration {
	if len(s.endings) == 0 {
		return idle
	}
	if wait := s.nextEnd.Sub(now); wait > 0 {
		return wait
	}
	wait := idle
	for t := range s.endings {
		if d := t.ending.due.Sub(now); d > 0 {
			wait = min(wait, d)
		} else {
			s.finishEnd(t)
		}
	}
	s.nextEnd = now.Add(wait)
	return wait
}

func (s *Sink) finishEnd(t *target) {
	e := t.ending
	t.ending = nil
	delete(s.endings, t)
	p := s.newPart(t, e.delivery)
	if t.live {
		p.add(segment{prepared: t.prepared, skip: t.untracked, forms: t.forms, time: e.time})
	}
	p.add(segment{prepared: t.prepared, report: true, time: e.time})
	s.forgetSeries(t, e.time)
	p.target, p.mark = t, t.mark()
	s.enqueue(p)
}
