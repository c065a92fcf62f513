package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/choria-io/prometheus-streams/internal/bounded"
)

// schemaStore keeps schemas in files named by their ids. It is guarded by its Disk's lock.
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
func (s *schemaStore) add(named []string, g offer) {
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

// maxSchemaFile bounds the file of a schema. It is one message of NATS, which has at most 64 MiB, and little more.
const maxSchemaFile = 65 << 20

// get reads a schema. A file that is damaged is as good as none.
func (s *schemaStore) get(id string) (Schema, error) {
	st := s.all[id]
	if st == nil {
		return Schema{}, fmt.Errorf("%w: %s", ErrNoSchema, id)
	}
	if st.schema != nil {
		return *st.schema, nil
	}
	b, err := bounded.ReadFile(s.file(id), maxSchemaFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.As(err, new(*bounded.TooLargeError)) {
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
