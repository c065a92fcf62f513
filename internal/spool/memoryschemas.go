package spool

import (
	"fmt"
	"slices"
)

// takeGiven takes what is needed of the schemas given. What was there already is referred to once more, and returned: it
// may have been there for another form of them alone.
func (m *Memory) takeGiven(named []string, given offer) (pinned []*held) {
	all := given.taken(named, m.live, m.parent)
	if len(all) == 0 {
		return nil
	}
	wanted := slices.Clone(named)
	for _, s := range all {
		wanted = append(wanted, s.ID)
	}
	for _, id := range given.over(m.parent).withParents(wanted) {
		if s := m.schemas[id]; s != nil {
			m.refer(s, 1)
			pinned = append(pinned, s)
		}
	}
	inUse := false
	for _, s := range all {
		m.hold(s)
		_, live := m.live[s.ID]
		inUse = inUse || live
	}
	if inUse { // and their parents with them
		m.setLive()
	}
	return pinned
}

// hold takes a schema, or another form of one that is held, whose parent is held.
func (m *Memory) hold(s *Schema) {
	if s.Parent != "" {
		m.refer(m.schemas[s.Parent], 1)
	}
	old := m.schemas[s.ID]
	if old == nil {
		m.schemas[s.ID] = &held{Schema: *s}
		return
	}
	if _, live := m.live[s.ID]; !live && old.refs > 0 {
		m.bytes += s.size() - old.size()
	}
	parent := old.Parent
	old.Schema = *s
	if parent != "" {
		m.refer(m.schemas[parent], -1)
	}
}

// refer counts the records and schemas that name a schema, and forgets it when neither they nor the poller need it.
func (m *Memory) refer(s *held, n int) {
	_, live := m.live[s.ID]
	if !live && s.refs == 0 {
		m.bytes += s.size()
	}
	s.refs += n
	if s.refs > 0 || live {
		return
	}
	m.bytes -= s.size()
	m.forget(s)
}

// forget lets go of a schema, and of its parent if nothing else needs that.
func (m *Memory) forget(s *held) {
	delete(m.schemas, s.ID)
	if s.Parent != "" {
		m.refer(m.schemas[s.Parent], -1)
	}
}

// Schema returns a schema that the spool holds; the error wraps ErrNoSchema if it does not.
func (m *Memory) Schema(id string) (Schema, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.schemas[id]; s != nil {
		return s.Schema, nil
	}
	return Schema{}, fmt.Errorf("%w: %s", ErrNoSchema, id)
}

// Parent tells whether the spool holds a schema, and as a change of which parent, if any: held as it would be given, it need
// not be given again.
func (m *Memory) Parent(id string) (parent string, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.parent(id)
}

// SetLive says which schemas the poller uses now: they are kept though no record names them. Ids whose schemas come
// with a later Append may be among them.
func (m *Memory) SetLive(ids []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.told = ids
	m.setLive()
}

// setLive takes what is in use, with its parents as far as they are there, off what counts against the limit.
func (m *Memory) setLive() {
	old := m.live
	m.live = make(map[string]struct{}, len(m.told))
	for _, id := range parentOf(m.parent).withParents(m.told) {
		_, twice := m.live[id]
		m.live[id] = struct{}{}
		if _, was := old[id]; was || twice {
			continue
		}
		if s := m.schemas[id]; s != nil && s.refs > 0 {
			m.bytes -= s.size()
		}
	}
	var gone []*held
	for id := range old {
		s := m.schemas[id]
		if _, is := m.live[id]; is || s == nil {
			continue
		}
		if s.refs > 0 {
			m.bytes += s.size()
		} else {
			gone = append(gone, s)
		}
	}
	for _, s := range gone {
		m.forget(s)
	}
}

// Live returns the ids of the schemas that the poller uses and the spool holds, and of their parents, each before the
// schema that needs it.
func (m *Memory) Live() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	ids := make([]string, 0, len(m.told))
	for _, id := range m.told {
		if m.schemas[id] != nil {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return slices.Clone(parentOf(m.parent).withParents(slices.Compact(ids)))
}
