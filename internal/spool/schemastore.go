package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// schemaStore keeps schemas in files named by their ids:
//
//	"PSS1" · crc32c of the rest, 4 bytes little endian · length of the subject, uvarint · subject · message
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
	size   int64
	inFile bool
	schema *Schema // while it is in no file
	idle   time.Time
}

const schemaMagic = "PSS1"

// keepIdle is how long a schema is kept that nothing needs: its target may come back, also after a restart.
const keepIdle = time.Hour

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
			s.all[f.Name()] = &storedSchema{size: info.Size(), inFile: true, idle: now}
		}
	}
	return s, nil
}

func (s *schemaStore) file(id string) string { return filepath.Join(s.dir, id) }

func (s *schemaStore) has(id string) bool { return s.all[id] != nil }

// add takes those of the schemas that are wanted.
func (s *schemaStore) add(wanted []string, given []Schema) {
	for _, g := range given {
		_, live := s.live[g.ID]
		if s.has(g.ID) || !live && !slices.Contains(wanted, g.ID) {
			continue
		}
		s.all[g.ID] = &storedSchema{size: g.size(), schema: &g, idle: time.Now()}
		s.counted = false
	}
}

// write puts schemas into files that are in none.
func (s *schemaStore) write(ids []string) error {
	for _, id := range ids {
		st := s.all[id]
		if st == nil || st.inFile || st.schema == nil {
			continue
		}
		if id != filepath.Base(id) || strings.HasPrefix(id, ".") {
			return fmt.Errorf("schema id %q is no name of a file", id)
		}
		rest := append(appendText(nil, st.schema.Subject), st.schema.Message...)
		b := append([]byte(schemaMagic), make([]byte, 4)...)
		binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(rest, castagnoli))
		if err := writeFile(s.file(id), append(b, rest...)); err != nil {
			return err
		}
		st.inFile, st.schema = true, nil
		s.dirty = append(s.dirty, s.file(id))
	}
	return nil
}

// parseSchema reads a schema's file.
func parseSchema(id string, b []byte) (Schema, error) {
	if len(b) < 8 || string(b[:4]) != schemaMagic || crc32.Checksum(b[8:], castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
		return Schema{}, errors.New("not a schema, or damaged")
	}
	p := parser{b: b[8:]}
	subject := string(p.text())
	if p.bad {
		return Schema{}, errors.New("not a schema")
	}
	return Schema{ID: id, Subject: subject, Message: p.b}, nil
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
	for id, st := range s.all {
		if _, live := s.live[id]; !live {
			s.idleBytes += st.size
		}
	}
	return s.idleBytes
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

// Live returns the ids of the schemas that the poller uses and the spool holds, in order.
func (d *Disk) Live() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var ids []string
	for id := range d.schemas.live {
		if d.schemas.has(id) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
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
	now := time.Now()
	removed := false
	for id, st := range s.all {
		_, live := s.live[id]
		if _, named := needed[id]; named || live {
			st.idle = now
			continue
		}
		if !atOnce && (!s.told || now.Sub(st.idle) < keepIdle) {
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
