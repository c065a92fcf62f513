package spool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// keeper is a spool of either kind.
type keeper interface {
	Append(r Record, schemas ...Schema) error
	Read(ctx context.Context, after Position, max int) ([]Entry, error)
	Trim(upTo Position) error
	Schema(id string) (Schema, error)
	Parent(id string) (string, bool)
	SetLive(ids []string)
	Live() []string
}

// line gives schemas of which each has the one before as its parent.
func line(ids ...string) (all []Schema) {
	parent := ""
	for _, id := range ids {
		all = append(all, Schema{ID: id, Parent: parent, Subject: "schemas." + id, Message: []byte("message of " + id)})
		parent = id
	}
	return all
}

// has tells whether a spool holds a schema whole.
func has(s keeper, id string) bool { return parentOf(s.Parent).whole(id) }

func named(ids ...string) Record {
	return Record{Subject: "frames", Message: []byte("m"), Schemas: ids}
}

// TestParents: a spool that holds a schema holds its parents, and gives them before it.
func TestParents(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) keeper{
		"memory": func(*testing.T) keeper { return NewMemory(MemoryOptions{}) },
		"disk":   func(t *testing.T) keeper { return openDisk(t, DiskOptions{}) },
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			abc := line("a", "b", "c")
			for what, given := range map[string][]Schema{"the parent": abc[1:2], "a parent's parent": abc[1:], "the schema": abc[:1]} {
				if err := s.Append(named("c"), given...); !errors.Is(err, ErrNoSchema) {
					t.Errorf("without %s: %v", what, err)
				}
			}
			mustAppend(t, s, named("c"), abc[2], abc[0], abc[1]) // in any order
			mustAppend(t, s, named("b", "c"))
			d := Schema{ID: "d", Parent: "b", Subject: "schemas.d", Message: []byte("message of d")}
			mustAppend(t, s, named("d", "a"), d)
			if err := s.Append(named("lost")); !errors.Is(err, ErrNoSchema) {
				t.Errorf("a schema that is not there: %v", err)
			}
			entries, err := s.Read(t.Context(), 0, 10)
			if err != nil || len(entries) != 3 {
				t.Fatalf("%d entries, %v", len(entries), err)
			}
			for i, want := range []string{"[a b c]", "[a b c]", "[a b d]"} {
				if got := fmt.Sprint(entries[i].Schemas); got != want {
					t.Errorf("record %d needs %s, want %s", i+1, got, want)
				}
			}
			s.SetLive([]string{"d"})
			if live := s.Live(); !slices.Equal(live, []string{"a", "b", "d"}) {
				t.Errorf("in use: %v", live)
			}
			for _, want := range append(abc, d) {
				if got, err := s.Schema(want.ID); err != nil || got.Parent != want.Parent || got.Subject != want.Subject || string(got.Message) != string(want.Message) {
					t.Errorf("schema %+v, %v, want %+v", got, err, want)
				}
			}
		})
	}
}

// TestMemoryParents are let go with the last that needs them, and count as long as only records do.
func TestMemoryParents(t *testing.T) {
	m := NewMemory(MemoryOptions{})
	abc := line("a", "b", "c")
	check := func(what string, bytes int64, held ...string) {
		t.Helper()
		for _, id := range []string{"a", "b", "c"} {
			if has(m, id) != slices.Contains(held, id) {
				t.Errorf("%s: has %s: %t", what, id, has(m, id))
			}
		}
		if m.bytes != bytes {
			t.Errorf("%s: %d bytes, want %d", what, m.bytes, bytes)
		}
	}
	c, b := named("c").size(), named("b").size()
	all := abc[0].size() + abc[1].size() + abc[2].size()
	mustAppend(t, m, named("c"), abc...)
	mustAppend(t, m, named("b"))
	check("two records", c+b+all, "a", "b", "c")
	m.SetLive([]string{"c"})
	check("in use", c+b, "a", "b", "c")
	_ = m.Trim(1)
	check("one record, in use", b, "a", "b", "c")
	m.SetLive([]string{"b"})
	check("a parent in use", b, "a", "b")
	m.SetLive(nil)
	check("one record", b+abc[0].size()+abc[1].size(), "a", "b")
	_ = m.Trim(2)
	check("nothing", 0)
	m.SetLive([]string{"c"})
	mustAppend(t, m, named("b"), abc...)
	check("in use before it was there", b, "a", "b", "c")
	_ = m.Trim(3)
	check("in use alone", 0, "a", "b", "c")
	m.SetLive(nil)
	check("nothing again", 0)
}

// TestDiskParentsStay over a restart and while something needs them, and what a damaged file takes along is taken again.
func TestDiskParentsStay(t *testing.T) {
	dir := t.TempDir()
	d := openDisk(t, DiskOptions{Directory: dir})
	abc := line("a", "b", "c")
	mustAppend(t, d, named("c"), abc...)
	release(t, d)

	d = openDisk(t, DiskOptions{Directory: dir})
	stored := d.Schemas(1000)
	slices.SortFunc(stored, func(x, y Schema) int { return int(x.ID[0]) - int(y.ID[0]) })
	if len(stored) != 3 || stored[0].Parent != "" || stored[1].Parent != "a" || stored[2].Parent != "b" || string(stored[2].Message) != "message of c" {
		t.Fatalf("after a restart: %+v", stored)
	}
	d.SetLive([]string{"c"})
	drain(t, d)
	d.mu.Lock()
	d.collect(true, nil)
	kept := d.schemas.kept()
	d.mu.Unlock()
	if live := d.Live(); !slices.Equal(live, []string{"a", "b", "c"}) || kept != 0 {
		t.Fatalf("in use: %v, idle bytes %d", live, kept)
	}

	if err := os.WriteFile(d.schemas.file("b"), []byte("damage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Schema("b"); !errors.Is(err, ErrNoSchema) {
		t.Fatalf("a damaged file: %v", err)
	}
	if has(d, "c") || !has(d, "a") {
		t.Error("a schema without its parent counts as held")
	}
	// It comes again, with another parent.
	if err := d.Append(named("c")); !errors.Is(err, ErrNoSchema) {
		t.Errorf("without its parent: %v", err)
	}
	mustAppend(t, d, named("c"), Schema{ID: "c", Parent: "a", Subject: "schemas.c", Message: []byte("other form")})
	if s, err := d.Schema("c"); err != nil || s.Parent != "a" || string(s.Message) != "other form" {
		t.Errorf("schema %+v, %v", s, err)
	}
	release(t, d)
	d = openDisk(t, DiskOptions{Directory: dir})
	if s, err := d.Schema("c"); err != nil || s.Parent != "a" || string(s.Message) != "other form" {
		t.Errorf("after a restart: schema %+v, %v", s, err)
	}
}

// TestDiskIdleSchemasAreFew, however many a site leaves behind, though some stay for an hour.
func TestDiskIdleSchemasAreFew(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		d, err := OpenDisk(DiskOptions{Directory: dir})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = d.Release() }()
		d.segmentSize = 1 << 10
		const many = 3 * keepIdleMost
		for i := range many {
			id := fmt.Sprintf("s%04d", i)
			d.SetLive([]string{id})
			mustAppend(t, d, named(id), Schema{ID: id, Subject: "schemas", Message: []byte(id)})
			_ = d.Trim(Position(i + 1))
			time.Sleep(100 * time.Millisecond)
		}
		count := func() int { return len(d.Schemas(1000)) }
		for _, step := range []struct {
			after time.Duration
			most  int
		}{{0, many}, {keepIdleAWhile + 2*time.Minute, keepIdleMost + 40}, {keepIdle, 40}} { // the last segment names some
			time.Sleep(step.after)
			if n := count(); n > step.most {
				t.Errorf("%d schemas after %v, want at most %d", n, step.after, step.most)
			}
		}
		if !has(d, fmt.Sprintf("s%04d", many-1)) {
			t.Error("the one in use is gone")
		}
	})
}

// TestMemoryCounts compares, in random runs with parents, other forms and changes of what is in use, with a count of all.
func TestMemoryCounts(t *testing.T) {
	for seed := range uint64(100) {
		rng := rand.New(rand.NewPCG(seed, 3))
		m := NewMemory(MemoryOptions{MaxBytes: 1200 + int64(rng.IntN(20_000)), Refuse: seed%4 == 0})
		form := map[string]Schema{} // of each id that which the poller has
		remake := func(i int) {
			s := Schema{ID: fmt.Sprint("s", i), Subject: "schemas", Message: make([]byte, rng.IntN(300))}
			if i > 0 && rng.IntN(3) > 0 {
				s.Parent = fmt.Sprint("s", rng.IntN(i))
			}
			form[s.ID] = s
		}
		for i := range 12 {
			remake(i)
		}
		for step := range 300 {
			switch rng.IntN(6) {
			case 0:
				_ = m.Trim(Position(rng.IntN(step + 1)))
			case 1:
				var live []string
				for range rng.IntN(4) {
					live = append(live, fmt.Sprint("s", rng.IntN(12)))
				}
				m.SetLive(live)
			case 2:
				remake(rng.IntN(12))
			default:
				r := Record{Subject: "frames", Message: make([]byte, rng.IntN(200))}
				var schemas []Schema
				for range rng.IntN(3) {
					id := fmt.Sprint("s", rng.IntN(12))
					r.Schemas = append(r.Schemas, id)
					for x := form[id]; x.ID != ""; x = form[x.Parent] {
						if parent, held := m.Parent(x.ID); !held || parent != x.Parent {
							schemas = append(schemas, x)
						}
					}
				}
				if err := m.Append(r, schemas...); err != nil && !errors.Is(err, ErrFull) && !errors.Is(err, ErrTooLarge) {
					t.Fatalf("seed %d, step %d: %v", seed, step, err)
				}
			}
			recount(t, m, fmt.Sprintf("seed %d, step %d", seed, step))
		}
	}
}

// recount checks that a spool holds what is needed, whole, and counts it right.
func recount(t *testing.T, m *Memory, what string) {
	t.Helper()
	lookUp := parentOf(m.parent)
	var bytes int64
	needed, live := map[string]bool{}, map[string]bool{}
	for _, e := range m.entries[m.head:] {
		bytes += e.size()
		for _, id := range lookUp.withParents(e.Schemas) {
			needed[id] = true
		}
	}
	for _, id := range lookUp.withParents(m.told) {
		live[id] = true
	}
	for id := range needed {
		if !lookUp.whole(id) {
			t.Fatalf("%s: %s is needed and not whole", what, id)
		}
		if !live[id] {
			bytes += m.schemas[id].size()
		}
	}
	for id := range m.schemas {
		if !needed[id] && !live[id] {
			t.Fatalf("%s: %s is held for nothing", what, id)
		}
	}
	if m.bytes != bytes {
		t.Fatalf("%s: %d bytes counted, there are %d", what, m.bytes, bytes)
	}
}

// TestDiskIdleChainsAreWhole: of what nothing needs, a schema that stays has its parents.
func TestDiskIdleChainsAreWhole(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		d, err := OpenDisk(DiskOptions{Directory: dir})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			var ids []string
			for j := range 7 {
				ids = append(ids, fmt.Sprintf("c%d-%d", i, j))
			}
			mustAppend(t, d, named(ids[6]), line(ids...)...)
		}
		_ = d.Trim(100)
		release(t, d)
		if err := os.RemoveAll(d.walDir()); err != nil {
			t.Fatal(err)
		}
		if d, err = OpenDisk(DiskOptions{Directory: dir}); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = d.Release() }()
		d.SetLive([]string{"c7-6"})
		time.Sleep(keepIdleAWhile + 2*time.Minute)
		if n := len(d.schemas.all); n > 2*keepIdleMost || n < keepIdleMost {
			t.Errorf("%d schemas stay", n)
		}
		for id := range d.schemas.all {
			if !has(d, id) {
				t.Errorf("%s stays without its parents", id)
			}
		}
		if got := len(d.Schemas(20)); got < 20 || got > 27 {
			t.Errorf("%d of the newest 20 and their parents", got)
		}
	})
}
