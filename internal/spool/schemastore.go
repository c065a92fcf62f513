package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// schemaStore keeps schemas in files named by their ids:
//
//	"PSS1" · crc32c of the rest, 4 bytes little endian · length of the subject, uvarint · subject · message
//	"PSS2" · the same · length of the subject, uvarint · subject · length of the parent's id, uvarint · id · message
//
// It is guarded by its Disk's lock.
type schemaStore struct {
	dir   string
	all   map[string]*storedSchema
	live  map[string]struct{}
	told  bool     // SetLive was called
	dirty []string // files not synced
	// idleBytes is what kept gave last, counted anew once it is not counted: each bundle asks for it.
	idleBytes int64
	counted   bool
}

type storedSchema struct {
	parent string
	size   int64
	inFile bool
	schema *Schema // while it is in no file
	idle   time.Time
}

// What a schema's file begins with: one without a parent, one with.
const (
	schemaMagic = "PSS1"
	childMagic  = "PSS2"
)

const (
	// keepIdle is how long a schema is kept that nothing needs: its target may come back, also after a restart.
	keepIdle = time.Hour
	// keepIdleMost is how many of them may be there after a while, besides as many as are in use: targets whose series change
	// all the time leave one behind each time.
	keepIdleMost   = 250
	keepIdleAWhile = 5 * time.Minute
)

func openSchemas(dir string) (*schemaStore, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, err
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	s := &schemaStore{dir: dir, all: map[string]*storedSchema{}, live: map[string]struct{}{}}
	now := time.Now()
	for _, f := range files {
		if strings.HasPrefix(f.Name(), ".") { // cut short by a crash
			_ = os.Remove(filepath.Join(dir, f.Name()))
			continue
		}
		if info, err := f.Info(); err == nil {
			s.all[f.Name()] = &storedSchema{parent: parentIn(s.file(f.Name())), size: info.Size(), inFile: true, idle: now}
		}
	}
	return s, nil
}

func (s *schemaStore) file(id string) string { return filepath.Join(s.dir, id) }

// has tells whether a schema is there, and its parents.
func (s *schemaStore) has(id string) bool { return whole(id, s.parent) }

// parent is for family.
func (s *schemaStore) parent(id string) (string, bool) {
	if st := s.all[id]; st != nil {
		return st.parent, true
	}
	return "", false
}

// add takes those of the schemas that are missing and wanted, or in use.
func (s *schemaStore) add(wanted []string, given []Schema) {
	if len(given) == 0 {
		return
	}
	wanted = slices.Clone(wanted)
	for i := range given {
		if _, live := s.live[given[i].ID]; live {
			wanted = append(wanted, given[i].ID)
		}
	}
	lookUp := offered(s.parent, given)
	missing := family(wanted, lookUp)
	missing = slices.DeleteFunc(slices.Clone(missing), func(id string) bool { return s.has(id) || !whole(id, lookUp) })
	for _, id := range missing {
		g := given[slices.IndexFunc(given, func(g Schema) bool { return g.ID == id })]
		s.all[id] = &storedSchema{parent: g.Parent, size: g.size(), schema: &g, idle: time.Now()}
		s.counted = false
	}
}

// write puts schemas into files, and their parents, that are in none.
func (s *schemaStore) write(ids []string) error {
	for _, id := range family(ids, s.parent) {
		st := s.all[id]
		if st == nil || st.inFile || st.schema == nil {
			continue
		}
		if id != filepath.Base(id) || strings.HasPrefix(id, ".") {
			return fmt.Errorf("schema id %q is no name of a file", id)
		}
		if err := writeFile(s.file(id), appendSchema(nil, st.schema)); err != nil {
			return err
		}
		st.inFile, st.schema = true, nil
		s.dirty = append(s.dirty, s.file(id))
	}
	return nil
}

// appendSchema writes what a schema's file holds.
func appendSchema(dst []byte, s *Schema) []byte {
	magic, rest := schemaMagic, appendText(nil, s.Subject)
	if s.Parent != "" {
		magic, rest = childMagic, appendText(rest, s.Parent)
	}
	rest = append(rest, s.Message...)
	dst = append(dst, magic...)
	dst = binary.LittleEndian.AppendUint32(dst, crc32.Checksum(rest, castagnoli))
	return append(dst, rest...)
}

// parentIn reads the parent's id out of a schema's file; whether all of it is right is seen when it is read.
func parentIn(file string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, 4096) // subjects are shorter
	n, _ := io.ReadFull(f, b)
	if n < 8 || string(b[:4]) != childMagic {
		return ""
	}
	p := parser{b: b[8:n]}
	p.text()
	return string(p.text())
}

// parseSchema reads a schema's file.
func parseSchema(id string, b []byte) (Schema, error) {
	if len(b) < 8 || string(b[:4]) != schemaMagic && string(b[:4]) != childMagic || crc32.Checksum(b[8:], castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
		return Schema{}, errors.New("not a schema, or damaged")
	}
	p := parser{b: b[8:]}
	out := Schema{ID: id, Subject: string(p.text())}
	if string(b[:4]) == childMagic {
		out.Parent = string(p.text())
	}
	if p.bad {
		return Schema{}, errors.New("not a schema")
	}
	out.Message = p.b
	return out, nil
}

// get reads a schema. A file that is damaged is as good as none.
func (s *schemaStore) get(id string) (Schema, error) {
	st := s.all[id]
	if st == nil {
		return Schema{}, fmt.Errorf("%w: %s", ErrNoSchema, id)
	}
	if st.schema != nil {
		return *st.schema, nil
	}
	b, err := os.ReadFile(s.file(id))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return Schema{}, err
	}
	if err == nil {
		var out Schema
		if out, err = parseSchema(id, b); err == nil {
			return out, nil
		}
	}
	delete(s.all, id)
	s.counted = false
	_ = os.Remove(s.file(id))
	return Schema{}, fmt.Errorf("%w: %s: %w", ErrNoSchema, id, err)
}

// kept is the size of the schemas that are not live.
func (s *schemaStore) kept() int64 {
	if s.counted {
		return s.idleBytes
	}
	s.idleBytes, s.counted = 0, true
	for _, st := range s.all {
		s.idleBytes += st.size
	}
	for _, id := range s.inUse() {
		s.idleBytes -= s.all[id].size
	}
	return s.idleBytes
}

// inUse lists the schemas that are live, and their parents.
func (s *schemaStore) inUse() []string {
	ids := make([]string, 0, len(s.live))
	for id := range s.live {
		if s.has(id) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return family(ids, s.parent)
}

// forgetFiles notes that the files are gone. What was in them is not known any more; the poller gives it again.
func (s *schemaStore) forgetFiles() {
	s.counted = false
	for id, st := range s.all {
		if st.inFile {
			if _, err := os.Stat(s.file(id)); err != nil {
				delete(s.all, id)
			}
		}
	}
	s.dirty = nil
	_ = os.MkdirAll(s.dir, 0o750)
}

func (s *schemaStore) takeDirty() []string {
	d := s.dirty
	s.dirty = nil
	return d
}

// Schema returns a schema that the spool holds; the error wraps ErrNoSchema if it does not.
func (d *Disk) Schema(id string) (Schema, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.schemas.get(id)
}

// Schemas returns all that the spool holds, so that a poller finds those of its last run again.
func (d *Disk) Schemas() []Schema {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []Schema
	for id := range d.schemas.all {
		if s, err := d.schemas.get(id); err == nil {
			out = append(out, s)
		}
	}
	return out
}

// Has tells whether the spool holds a schema, so that Append needs it not again.
func (d *Disk) Has(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.schemas.has(id)
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
// whether it removed any; mu is held.
func (d *Disk) collect(atOnce bool) bool {
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
	for _, id := range family(slices.Collect(maps.Keys(needed)), s.parent) {
		needed[id] = struct{}{}
	}
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
	slices.SortFunc(idle, func(a, b string) int { return s.all[b].idle.Compare(s.all[a].idle) })
	removed := false
	for i, id := range idle {
		least := keepIdle
		if i >= keepIdleMost+len(s.live) {
			least = keepIdleAWhile
		}
		if !atOnce && now.Sub(s.all[id].idle) < least {
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

// syncSchemas has the disk keep schemas that were written.
func syncSchemas(files []string) error {
	var errs []error
	for _, f := range files {
		if err := syncFile(f); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
