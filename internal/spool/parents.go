package spool

import "slices"

// maxParents bounds how many parents a schema may have, and the parents of those.
const maxParents = 100

// parentOf looks up a schema: whether it is there, and which parent it has, if any.
type parentOf func(id string) (parent string, ok bool)

// withParents gives ids with those of their parents, each once, and a parent before the schema that needs it. Without any
// parents it gives the ids back.
func (p parentOf) withParents(ids []string) []string {
	if !slices.ContainsFunc(ids, func(id string) bool { parent, _ := p(id); return parent != "" }) {
		return ids
	}
	all := make([]string, 0, 2*len(ids))
	listed := make(map[string]struct{}, 2*len(ids))
	for _, id := range ids {
		from := len(all)
		for id != "" {
			if _, twice := listed[id]; twice {
				break
			}
			listed[id] = struct{}{}
			all = append(all, id)
			id, _ = p(id)
		}
		slices.Reverse(all[from:])
	}
	return all
}

// whole tells whether a schema and all its parents are there.
func (p parentOf) whole(id string) bool {
	for range maxParents {
		parent, ok := p(id)
		if !ok || parent == "" {
			return ok
		}
		id = parent
	}
	return false
}

// offer is the schemas that come with a record, by their ids.
type offer map[string]*Schema

func newOffer(schemas []Schema) offer {
	if len(schemas) == 0 {
		return nil
	}
	g := make(offer, len(schemas))
	for i := range schemas {
		g[schemas[i].ID] = &schemas[i]
	}
	return g
}

// over looks up those given, and the others among those that are held: what is given takes the place of what is held.
func (g offer) over(held parentOf) parentOf {
	if g == nil {
		return held
	}
	return func(id string) (string, bool) {
		if s := g[id]; s != nil {
			return s.Parent, true
		}
		return held(id)
	}
}

// taken gives those of the schemas given that are not held as they are, and that are named, in use or a parent of one that
// is: a parent before the schema that needs it.
func (g offer) taken(named []string, live map[string]struct{}, held parentOf) []*Schema {
	if g == nil {
		return nil
	}
	wanted := slices.Clone(named)
	for id := range g {
		if _, is := live[id]; is {
			wanted = append(wanted, id)
		}
	}
	var all []*Schema
	lookUp := g.over(held)
	for _, id := range lookUp.withParents(wanted) {
		s := g[id]
		if s == nil || !lookUp.whole(id) {
			continue
		}
		if parent, ok := held(id); !ok || parent != s.Parent {
			all = append(all, s)
		}
	}
	return all
}
