package pushgateway

import (
	"container/heap"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/prometheus/common/model"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// targetID names a target across restarts: a hash of its publisher and labels.
type targetID [16]byte

func (id targetID) String() string { return hex.EncodeToString(id[:]) }

func identify(d *sink.Delivery) (id targetID) {
	b := append([]byte(d.Publisher), 0xff)
	b = append(b, d.Frame.Target.Labels.Bytes(nil)...)
	sum := sha256.Sum256(b)
	copy(id[:], sum[:])
	return id
}

// target is one target and what it fills.
type target struct {
	id       targetID
	job      string
	interval time.Duration
	groups   map[string]*group
	// layout of the newest frame, made for schema, and the path of each of its parts. A path is empty for a part that
	// has no group.
	schema *frame.Schema
	forms  rowForms
	layout *layout
	paths  []string
	// seen is when a frame of the target last came.
	seen time.Time
	// round counts the scrapes, so that groups which one did not fill stand out.
	round uint64
	// paused targets are silent because somebody wanted it so.
	paused bool
}

// record is what is remembered of the target's groups.
func (t *target) record() record {
	return record{Target: t.id.String(), Interval: max(1, t.interval.Milliseconds()), Paused: t.paused}
}

// use sets the target's layout for a frame.
func (t *target) use(ls *layouts, d *sink.Delivery) {
	s := d.Frame.Schema
	if t.layout != nil && t.schema == s && t.forms.same(d.Frame) {
		return
	}
	target := d.Frame.Target.Labels
	t.schema, t.forms = s, formsOf(d.Frame)
	t.layout = ls.get(s, target, t.forms)
	t.paths = t.paths[:0]
	for i := range t.layout.parts {
		p := &t.layout.parts[i]
		k := key{job: p.job, instance: p.instance}
		if p.own {
			k.job, k.instance = target.Get(model.JobLabel), target.Get(model.InstanceLabel)
		}
		if ls.labelling.Publisher != "" {
			k.label, k.publisher = ls.labelling.Publisher, d.Publisher
		}
		path := ""
		if k.job != "" {
			path = k.path()
		}
		t.paths = append(t.paths, path)
	}
}

// group is one group of the gateway that this sink fills or has filled.
type group struct {
	path  string
	owner *target
	round uint64

	next    *work // waits; only the newest does
	pushing *work // is on its way
	due     time.Time
	place   int // in the queue, from 1; 0 is not in it
	// failures in a row, and timeouts among them.
	failures, timeouts int

	// part whose series are settled, how they are, and what is written of them.
	part    *part
	settled *content
	written *content
	// classic is written without native histograms; nil if there are none.
	classic *content
	// refused are metrics that the gateway refused, legacy that it takes no UTF-8 names; both are forgotten at until.
	refused map[string]bool
	legacy  bool
	until   time.Time

	// filled is when the frame came that fills the group; accepted is that frame's time.
	filled   time.Time
	accepted int64
	// since is when the first frame came that was not accepted yet; zero if none is.
	since time.Time
	// quiet is until when refusals are not logged again.
	quiet time.Time
	// noted is what the state file says of it.
	noted record
}

// work is what is to happen to a group: it takes a part of a frame, or it is deleted.
type work struct {
	part *part // nil deletes
	// reason of a deletion, for metrics.
	reason  string
	frame   *frame.Frame
	target  *target
	arrived time.Time
	// adapted is how often the push was made smaller.
	adapted int
	verdict *verdict // nil if nobody waits for it
}

// verdict is what is to be said of a frame, once all its groups have been.
type verdict struct {
	open      int
	delivered bool
	err       error
	done      func(error)
}

// settle notes the end of one piece of work. A frame is delivered if any of its groups took it or something newer; what
// the others refused is counted by group.
func (s *Sink) settle(w *work, err error) {
	v := w.verdict
	if v == nil {
		return
	}
	_, rejected := sink.Rejected(err)
	_, before := sink.Rejected(v.err)
	switch {
	case err == nil:
		v.delivered = true
	case v.err == nil || before && !rejected:
		v.err = err
	}
	s.release(v)
}

// release ends one wait for a verdict, and gives it after the last.
func (s *Sink) release(v *verdict) {
	if v.open--; v.open > 0 {
		return
	}
	final := v.err
	if _, rejected := sink.Rejected(final); rejected && v.delivered {
		final = nil
	}
	s.after = append(s.after, func() { v.done(final) })
}

// enqueue gives a group its next work.
func (s *Sink) enqueue(g *group, w *work) {
	if w.verdict != nil {
		w.verdict.open++
	}
	if g.next != nil {
		s.supersede(g.next)
	}
	g.next = w
	if w.part != nil && g.since.IsZero() {
		g.since = w.arrived
	}
	s.schedule(g, w)
}

// schedule puts a group with new work into the queue. A scrape that is older than its interval is one of a backlog: what
// supersedes it is about to come, and is given a moment.
func (s *Sink) schedule(g *group, w *work) {
	backlog := w.part != nil && w.arrived.Sub(time.UnixMilli(w.frame.Time)) > w.target.interval
	switch {
	case g.failures > 0:
	case backlog && g.place == 0:
		g.due = w.arrived.Add(backlogFor)
	case !backlog:
		g.due = w.arrived
	}
	if g.pushing == nil {
		s.due.remove(g)
		s.due.add(g)
		s.wakeUp()
	}
}

// supersede ends work that something newer makes needless.
func (s *Sink) supersede(w *work) {
	if w.verdict != nil {
		s.metrics.superseded.Inc()
	}
	s.settle(w, nil)
}

// own makes a target the owner of a group.
func (s *Sink) own(g *group, t *target) {
	if g.owner == t {
		return
	}
	if g.owner != nil {
		delete(g.owner.groups, g.path)
	}
	g.owner = t
	t.groups[g.path] = g
}

// forget drops a group that is deleted or was never there.
func (s *Sink) forget(g *group) {
	if g.settled != nil {
		s.types.release(g.settled)
	}
	if g.failures > 0 {
		s.failing--
	}
	delete(s.groups, g.path)
	delete(g.owner.groups, g.path)
	s.note(g, record{})
}

// note writes to the state file what is to be remembered of a group. It comes before the first push, so that a stop
// between the two leaves nothing unknown.
func (s *Sink) note(g *group, r record) {
	if s.state == nil || g.noted == r {
		return
	}
	g.noted = r
	if err := s.state.write(g.path, r); err != nil {
		s.stateFailed(g.path, err)
	}
}

// stateFailed counts and says that a group is not remembered. Pushing goes on: it matters only after a restart.
func (s *Sink) stateFailed(path string, err error) {
	s.metrics.stateErrors.Inc()
	s.said.warn(s.Logger, "state", "groups are not remembered over a restart", "group", path, "file", s.state.path, "error", err)
}

// queue orders the groups that have work by when it is due.
type queue struct{ groups []*group }

func (q *queue) Len() int           { return len(q.groups) }
func (q *queue) Less(i, j int) bool { return q.groups[i].due.Before(q.groups[j].due) }
func (q *queue) Swap(i, j int) {
	q.groups[i], q.groups[j] = q.groups[j], q.groups[i]
	q.groups[i].place, q.groups[j].place = i+1, j+1
}

// Push and Pop are for container/heap.
func (q *queue) Push(g any) {
	q.groups = append(q.groups, g.(*group))
	q.groups[len(q.groups)-1].place = len(q.groups)
}

func (q *queue) Pop() any {
	g := q.groups[len(q.groups)-1]
	q.groups = q.groups[:len(q.groups)-1]
	g.place = 0
	return g
}

func (q *queue) add(g *group) { heap.Push(q, g) }

func (q *queue) remove(g *group) {
	if g.place > 0 {
		heap.Remove(q, g.place-1)
	}
}

func (q *queue) first() *group {
	if len(q.groups) == 0 {
		return nil
	}
	return q.groups[0]
}
