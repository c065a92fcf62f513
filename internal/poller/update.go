package poller

import (
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/target"
)

// Update says what to scrape from now on, in place of what was said before; it may be called before Run and while it
// runs. A target whose key is known goes on without missing a scrape. One that keeps its labels, but is asked otherwise or at
// another interval, goes on under its id. The others end, and new ones begin.
func (p *Poller) Update(targets []*target.Target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return
	}
	wanted := make(map[string]*target.Target, len(targets))
	var added []*loop
	for _, t := range targets {
		key := t.Key()
		if _, twice := wanted[key]; twice {
			continue
		}
		if wanted[key] = t; p.loops[key] == nil {
			added = append(added, newLoop(p, t, key))
		}
	}

	successors := newSuccessors(added)
	for key, l := range p.loops {
		if _, ok := wanted[key]; ok {
			continue
		}
		delete(p.loops, key)
		if l.stop != nil {
			l.stop()
		}
		switch next := successors.of(l.target); {
		case next == nil:
			l.end(frame.Removed)
		case next.adopt(l):
		default:
			l.end(frame.Relabelled)
		}
	}
	for _, l := range added {
		p.loops[l.key] = l
		if !l.begun() && (!p.paused.Load() || l.alwaysOn()) {
			p.begin(l)
		}
		if p.ticks != nil {
			p.start(l)
		}
	}
	p.describe()
}

// describe tells the metrics and the bundler what there is to scrape.
func (p *Poller) describe() {
	jobs := map[string]int{}
	shortest := time.Duration(0)
	for _, l := range p.loops {
		jobs[l.target.Job()]++
		if shortest == 0 || l.interval < shortest {
			shortest = l.interval
		}
	}
	p.metrics.setJobs(jobs)
	if p.cfg.FlushAge <= 0 && shortest > 0 {
		p.bundler.setAge(min(time.Second, shortest/50))
	}
}

// successors finds what a target that ends goes on as: something new with the same labels, or at the same URL.
type successors struct {
	byLabels map[uint64][]*loop
	byURL    map[string]*loop
}

func newSuccessors(added []*loop) successors {
	s := successors{byLabels: map[uint64][]*loop{}, byURL: map[string]*loop{}}
	for _, l := range added {
		h := l.target.Labels.Hash()
		s.byLabels[h] = append(s.byLabels[h], l)
		s.byURL[l.target.URL] = l
	}
	return s
}

func (s successors) of(t *target.Target) *loop {
	for _, l := range s.byLabels[t.Labels.Hash()] {
		if labels.Equal(l.target.Labels, t.Labels) {
			return l
		}
	}
	return s.byURL[t.URL]
}
