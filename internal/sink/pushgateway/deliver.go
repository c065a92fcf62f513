package pushgateway

import (
	"context"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// The reasons for which a frame, or its part of a group, is rejected, besides those of sink.Owners.
const (
	// rejectAged: older than max_age or stale_after.
	rejectAged = "aged"
	// rejectRefused: the gateway answered that it does not take it (400).
	rejectRefused = "refused"
	// rejectTooLarge: the gateway, or something before it, answered that the push is too large (413).
	rejectTooLarge = "too_large"
	// rejectNoJob: there is no group without a job.
	rejectNoJob = "no_job"
)

// The reasons for which a group is deleted.
const (
	deleteEnded    = "ended"
	deleteDown     = "down"
	deleteUnfilled = "unfilled"
	deleteSilent   = "silent"
)

// Deliver takes a frame and returns at once. done is called when all groups of the frame are done with it: accepted by
// the gateway, superseded by a newer frame, refused for good or too old. If Run has ended, or ends, done gets an error
// that is no Rejection. The frame must not change until then.
func (s *Sink) Deliver(_ context.Context, d sink.Delivery, done func(error)) {
	if d.Frame.Kind == frame.EpochEnd || d.Frame.Target == nil {
		done(nil)
		return
	}
	s.lock()
	defer s.unlock()
	v := &verdict{open: 1, done: done}
	defer s.release(v)
	if s.stopped {
		v.err = errStopped
		return
	}
	if err := sink.Check(d.Frame, func(l labels.Label) bool { return l.Name != model.MetricNameLabel }); err != nil {
		s.refuse(v, err)
		return
	}
	id := identify(&d)
	t := s.targets[id]
	if t == nil {
		t = &target{id: id, groups: make(map[string]*group)}
	}
	if d.Frame.Kind == frame.End {
		s.end(t, &d, v)
		return
	}
	t.job = d.Frame.Target.Labels.Get(model.JobLabel)
	t.interval = sink.Interval(d.Frame.Target)
	w := work{frame: d.Frame, target: t, arrived: time.Now()}
	if err := s.aged(&w, w.arrived); err != nil {
		v.err = err
		return
	}
	s.fill(t, &d, w, v)
}

// aged rejects a frame that is too old to be shown as the present.
func (s *Sink) aged(w *work, now time.Time) error {
	age := now.Sub(time.UnixMilli(w.frame.Time))
	limit := s.staleAfter(w.target)
	if limit == 0 || s.MaxAge > 0 && s.MaxAge < limit {
		limit = s.MaxAge
	}
	if limit == 0 || age <= limit {
		return nil
	}
	s.metrics.aged.WithLabelValues(s.metrics.job(w.target.job)).Inc()
	s.metrics.rejected.WithLabelValues(rejectAged).Inc()
	return sink.Reject(rejectAged, "%s old, the limit is %s", age.Round(time.Second), limit)
}

// dropAged ends waiting work that has become too old.
func (s *Sink) dropAged(w *work, now time.Time) bool {
	err := s.aged(w, now)
	if err != nil {
		s.settle(w, err)
	}
	return err != nil
}

// staleAfter is after how long without a frame the groups of a target are deleted; 0 is never.
func (s *Sink) staleAfter(t *target) time.Duration {
	if s.StaleAfter != nil {
		return max(0, *s.StaleAfter)
	}
	return max(staleIntervals*t.interval, staleAtLeast)
}

// fill gives a frame's values to its groups, and deletes the target's groups that it does not fill any more.
func (s *Sink) fill(t *target, d *sink.Delivery, w work, v *verdict) {
	w.verdict = v
	t.use(s.layouts, d)
	t.round++
	newest := false
	for i := range t.layout.parts {
		p, path := &t.layout.parts[i], t.paths[i]
		if path == "" {
			if p.own || !p.empty(&d.Frame.Column) {
				s.refuse(v, sink.Reject(rejectNoJob, "the Push Gateway has no groups without a job"))
			}
			continue
		}
		if !p.own && p.empty(&d.Frame.Column) {
			continue
		}
		g, err := s.claim(path, t, d)
		if err != nil {
			s.refuse(v, err)
			if g := s.groups[path]; g != nil {
				g.round = t.round // the frame has something for it, if too late
			}
			continue
		}
		newest = newest || p.own
		if g.accepted == d.Frame.Time && g.next == nil && g.pushing == nil {
			continue // the same scrape again
		}
		put := w
		put.part = p
		s.enqueue(g, &put)
	}
	if newest {
		s.deleteUnfilled(t, d, v)
	}
}

// deleteUnfilled deletes the groups of a target that its newest frame does not fill.
func (s *Sink) deleteUnfilled(t *target, d *sink.Delivery, v *verdict) {
	reason := deleteUnfilled
	if d.Frame.Kind == frame.Down {
		reason = deleteDown
	}
	for _, g := range t.groups {
		if g.round != t.round && !(g.next != nil && g.next.part == nil) {
			s.enqueue(g, &work{reason: reason, target: t, arrived: time.Now(), verdict: v})
		}
	}
}

// claim asks whether a target may speak for a group, and finds or makes it.
func (s *Sink) claim(path string, t *target, d *sink.Delivery) (*group, error) {
	if s.groups[path] == nil && len(s.groups) >= maxGroups {
		return nil, sink.Reject(sink.TooMany, "%d groups are known, the limit is %d", len(s.groups), maxGroups)
	}
	if _, err := s.owners.Admit(sink.Claim{Key: path, Within: string(t.id[:])}, d); err != nil {
		return nil, err
	}
	if t.seen.IsZero() {
		s.targets[t.id] = t
	}
	t.seen, t.paused = time.Now(), false
	g := s.groups[path]
	if g == nil {
		g = &group{path: path, filled: t.seen}
		s.groups[path] = g
	}
	s.own(g, t)
	g.round = t.round
	s.note(g, t.record())
	return g, nil
}

// refuse counts a part of a frame that is refused before it is pushed.
func (s *Sink) refuse(v *verdict, err error) {
	reason, _ := sink.Rejected(err)
	s.metrics.rejected.WithLabelValues(reason).Inc()
	if _, rejected := sink.Rejected(v.err); v.err == nil || rejected {
		v.err = err
	}
}

// end deletes the groups of a target that is gone. One that is paused keeps them, however long.
func (s *Sink) end(t *target, d *sink.Delivery, v *verdict) {
	for path, g := range t.groups {
		if _, err := s.owners.Admit(sink.Claim{Key: path, Within: string(t.id[:])}, d); err != nil {
			s.refuse(v, err)
			continue
		}
		if d.Frame.Reason == frame.Paused {
			t.paused = true
			s.note(g, t.record())
			continue
		}
		s.enqueue(g, &work{reason: deleteEnded, target: t, arrived: time.Now(), verdict: v})
	}
}

// sweep deletes the groups of silent targets, and those that nothing was accepted for in as long a time.
func (s *Sink) sweep(now time.Time) {
	s.lock()
	for id, t := range s.targets {
		if !s.pausedAt.IsZero() {
			break
		}
		if len(t.groups) == 0 {
			if now.Sub(t.seen) > staleAtLeast {
				delete(s.targets, id)
			}
			continue
		}
		silent := 0
		for _, g := range t.groups {
			silent += s.sweepGroup(g, t, now)
		}
		if silent > 0 {
			s.Logger.Info("groups are not filled any more and are deleted", "job", t.job, "count", silent,
				"duration", s.staleAfter(t))
		}
	}
	live := len(s.groups)
	s.unlock()
	if s.state == nil {
		return
	}
	if err := s.state.sync(live); err != nil {
		s.stateFailed("", err)
	}
}

// sweepGroup gives 1 if it has the group deleted.
func (s *Sink) sweepGroup(g *group, t *target, now time.Time) int {
	if g.next != nil && g.next.part != nil && s.dropAged(g.next, now) {
		s.due.remove(g)
		g.next = nil
	}
	stale := s.staleAfter(t)
	if g.next != nil || g.pushing != nil || t.paused || stale == 0 || now.Sub(g.filled) <= stale {
		return 0
	}
	s.enqueue(g, &work{reason: deleteSilent, target: t, arrived: now})
	return 1
}

// inherit takes over the groups that an earlier process filled. They are treated as if they had been filled just now.
func (s *Sink) inherit(records map[string]record) {
	now := time.Now()
	for path, r := range records {
		id, err := parseTargetID(r.Target)
		k, perr := parsePath(path)
		if err != nil || perr != nil {
			continue // openState has checked them
		}
		t := s.targets[id]
		if t == nil {
			t = &target{id: id, job: k.job, interval: time.Duration(r.Interval) * time.Millisecond, groups: make(map[string]*group), seen: now}
			s.targets[id] = t
		}
		t.paused = t.paused || r.Paused
		g := &group{path: path, filled: now, noted: r}
		s.groups[path] = g
		s.own(g, t)
	}
}

// empty tells whether a frame has no sample of a part.
func (c *content) empty(col *frame.Column) bool {
	for i := range c.families {
		for _, s := range c.families[i].series {
			if s.index < 0 || !col.Absent.Has(s.index) {
				return false
			}
		}
	}
	return true
}
