package spool

import (
	"cmp"
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
	// written is when the file was, if an earlier process wrote it.
	written time.Time
}

// onDisk is about what a small file takes.
func onDisk(size int64) int64 { return (size + diskBlock - 1) / diskBlock * diskBlock }

const diskBlock = 4096

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
		info, err := f.Info()
		if err != nil {
			continue
		}
		parent, err := parentIn(s.file(f.Name()))
		if errors.Is(err, errSchemaFile) {
			_ = os.Remove(s.file(f.Name()))
		}
		if err != nil {
			continue
		}
		s.all[f.Name()] = &storedSchema{parent: parent, size: onDisk(info.Size()), inFile: true, idle: now, written: info.ModTime()}
	}
	return s, nil
}

func (s *schemaStore) file(id string) string { return filepath.Join(s.dir, id) }

// parent is for parentOf.
func (s *schemaStore) parent(id string) (string, bool) {
	if st := s.all[id]; st != nil {
		return st.parent, true
	}
	return "", false
}

// withParents gives schemas that are there, and their parents first.
func (s *schemaStore) withParents(ids []string) []string { return parentOf(s.parent).withParents(ids) }

// add takes those of the schemas given that it does not have as they are, and that are named or in use.
func (s *schemaStore) add(named []string, g given) {
	for _, x := range g.taken(named, s.live, s.parent) {
		s.all[x.ID] = &storedSchema{parent: x.Parent, size: onDisk(x.size()), schema: x, idle: time.Now()}
		s.counted = false
	}
}

// write puts schemas into files, and their parents, that are in none.
func (s *schemaStore) write(ids []string) error {
	for _, id := range s.withParents(ids) {
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
func parentIn(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, 4096) // subjects are shorter
	n, err := io.ReadFull(f, b)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", err
	}
	p := parser{b: b[:n]}
	s := p.schema()
	if p.bad {
		return "", errSchemaFile
	}
	return s.Parent, nil
}

var errSchemaFile = errors.New("not a schema, or damaged")

// schema reads what appendSchema wrote, but for the checksum.
func (p *parser) schema() (s Schema) {
	if len(p.b) < 8 || string(p.b[:4]) != schemaMagic && string(p.b[:4]) != childMagic {
		p.b, p.bad = nil, true
		return s
	}
	child := string(p.b[:4]) == childMagic
	p.b = p.b[8:]
	s.Subject = string(p.text())
	if child {
		s.Parent = string(p.text())
	}
	s.Message = p.b
	return s
}

// parseSchema reads a schema's file.
func parseSchema(id string, b []byte) (Schema, error) {
	if len(b) < 8 || crc32.Checksum(b[8:], castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
		return Schema{}, errSchemaFile
	}
	p := parser{b: b}
	s := p.schema()
	if p.bad {
		return Schema{}, errSchemaFile
	}
	s.ID = id
	return s, nil
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
		if parentOf(s.parent).whole(id) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return s.withParents(ids)
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
