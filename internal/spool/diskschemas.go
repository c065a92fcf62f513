package spool

import (
	"cmp"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// Schema returns a schema that the spool holds; the error wraps ErrNoSchema if it does not.
func (d *Disk) Schema(id string) (Schema, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.schemas.get(id)
}

// Schemas returns those that a poller of an earlier process used last, so that the next one finds them again: at most about
// so many, with their parents. They are those of the newest records, and then the newest files.
func (d *Disk) Schemas(most int) []Schema {
	d.mu.Lock()
	defer d.mu.Unlock()
	ids := d.namedLast()
	named := map[string]struct{}{}
	for _, id := range ids {
		named[id] = struct{}{}
	}
	from := len(ids)
	for id := range d.schemas.all {
		if _, twice := named[id]; !twice {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids[from:], func(a, b string) int {
		return cmp.Or(d.schemas.all[b].written.Compare(d.schemas.all[a].written), strings.Compare(a, b))
	})
	var out []Schema
	for _, id := range d.schemas.withParents(ids[:min(most, len(ids))]) {
		if s, err := d.schemas.get(id); err == nil {
			out = append(out, s)
		}
	}
	return out
}

// namedLast gives the schemas that the newest records name, of two segments; mu is held.
func (d *Disk) namedLast() (ids []string) {
	segments := 0
	for _, s := range slices.Backward(d.segments) {
		if s.first == 0 {
			continue
		}
		if !s.counted {
			d.count(s)
		}
		ids = slices.AppendSeq(ids, maps.Keys(s.schemas))
		if segments++; segments == 2 {
			break
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// Parent tells whether the spool holds a schema, and as a change of which parent, if any: held as it would be given, it need
// not be given again.
func (d *Disk) Parent(id string) (parent string, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.schemas.parent(id)
}

// SetLive says which schemas the poller uses now: they are kept though no record names them. Ids whose schemas come with a
// later Append may be among them.
func (d *Disk) SetLive(ids []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.schemas.told, d.schemas.counted = true, false
	d.schemas.live = make(map[string]struct{}, len(ids))
	for _, id := range ids {
		d.schemas.live[id] = struct{}{}
	}
}

// Live returns the ids of the schemas that the poller uses and the spool holds, and of their parents, each before the
// schema that needs it.
func (d *Disk) Live() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.schemas.inUse()
}

// collect removes the schemas that nothing needs: those that were not needed for long or, at once, all of them. It tells
// whether it removed any; mu is held. Those named in keep are needed too.
func (d *Disk) collect(atOnce bool, keep []string) bool {
	s := d.schemas
	needed := map[string]struct{}{}
	for _, seg := range d.segments {
		if !seg.counted {
			return false
		}
		for id := range seg.schemas {
			needed[id] = struct{}{}
		}
	}
	for i := range d.tail {
		for _, id := range d.tail[i].Schemas {
			needed[id] = struct{}{}
		}
	}
	for id := range s.live {
		needed[id] = struct{}{}
	}
	for _, id := range keep {
		needed[id] = struct{}{}
	}
	s.need(needed, slices.Collect(maps.Keys(needed)))
	now := time.Now()
	var idle []string
	for id, st := range s.all {
		if _, named := needed[id]; named {
			st.idle = now
		} else {
			idle = append(idle, id)
		}
	}
	if !atOnce && !s.told {
		return false
	}
	if !atOnce {
		s.need(needed, s.stay(idle, now))
	}
	removed := false
	for _, id := range idle {
		if _, stays := needed[id]; stays {
			continue
		}
		if err := os.Remove(s.file(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
			d.diskError(opRemove)
			continue
		}
		delete(s.all, id)
		s.counted = false
		removed = true
	}
	return removed
}

// need puts ids and their parents into a set.
func (s *schemaStore) need(set map[string]struct{}, ids []string) {
	for _, id := range s.withParents(ids) {
		set[id] = struct{}{}
	}
}

// stay gives those of the schemas that nothing needs which stay for now, with or without their parents.
func (s *schemaStore) stay(idle []string, now time.Time) []string {
	slices.SortFunc(idle, func(a, b string) int {
		return cmp.Or(s.all[b].idle.Compare(s.all[a].idle), s.all[b].written.Compare(s.all[a].written))
	})
	n := 0
	for n < len(idle) {
		least := keepIdle
		if n >= keepIdleMost+len(s.live) {
			least = keepIdleAWhile
		}
		if now.Sub(s.all[idle[n]].idle) >= least {
			break
		}
		n++
	}
	return idle[:n]
}
