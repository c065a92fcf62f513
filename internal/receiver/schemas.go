package receiver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"weak"

	"github.com/choria-io/prometheus-streams/internal/bounded"
	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/stream"
)

const (
	// schemaIdle is how long a schema that nobody asked for stays in memory. Targets that use it hold it anyway.
	schemaIdle = time.Hour
	// schemaSweep is how often schemas are looked through for those that can go.
	schemaSweep = time.Minute
	// schemaDiskAge is how long a schema stays on disk without being read.
	schemaDiskAge = 30 * 24 * time.Hour
	// schemaDiskBytes bounds what they take on disk.
	schemaDiskBytes = 1 << 30
	// unpackedAtOnce bounds how many are unpacked at a time: one may take frame.Limits.SchemaBytes.
	unpackedAtOnce = 4
	// schemaFetchTimeout bounds one question to one registry.
	schemaFetchTimeout = 10 * time.Second
)

// Registry gives schemas by their id. It answers with an error that wraps stream.ErrNotFound if it does not have one;
// every other error says nothing about whether it has.
type Registry interface {
	Schema(ctx context.Context, publisher string, id frame.SchemaID) ([]byte, error)
}

// Schemas caches schemas in memory and, if it has a directory, on disk. Their ids are hashes of their content, which is
// verified whenever one is read, so the cache is never wrong and never stale. It is safe for concurrent use.
type Schemas struct {
	dir    string
	limits frame.Limits
	logger *slog.Logger
	unpack chan struct{} // a token for each that is unpacked

	mu     sync.Mutex
	loaded map[frame.SchemaID]*cachedSchema
	bytes  int64 // of those that the cache holds
	bound  int64 // of bytes; 0 is none
	swept  time.Time

	disk      int64 // bytes in dir
	diskBound int64
}

// cachedSchema is a schema that the cache holds, or one that it only finds again for as long as targets hold it.
type cachedSchema struct {
	schema *frame.Schema
	found  weak.Pointer[frame.Schema]
	used   time.Time
}

func (c *cachedSchema) get() *frame.Schema {
	if c.schema != nil {
		return c.schema
	}
	return c.found.Value()
}

// Bound bounds the memory of schemas that no target is known to need. It is called before the cache is used.
func (s *Schemas) Bound(bytes int64) { s.bound = bytes }

// NewSchemas makes a cache. With a directory, schemas are kept there, and those not read for a month are removed now.
func NewSchemas(dir string, limits frame.Limits, logger *slog.Logger) (*Schemas, error) {
	s := &Schemas{dir: dir, limits: limits, logger: logger, loaded: make(map[frame.SchemaID]*cachedSchema),
		unpack: make(chan struct{}, unpackedAtOnce), diskBound: schemaDiskBytes}
	if dir == "" {
		return s, nil
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("directory for schemas: %w", err)
	}
	old, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("directory for schemas: %w", err)
	}
	for _, e := range old {
		info, err := e.Info()
		switch {
		case err != nil:
		case time.Since(info.ModTime()) > schemaDiskAge || strings.HasPrefix(e.Name(), newSchemaPrefix):
			_ = os.Remove(filepath.Join(dir, e.Name()))
		default:
			s.disk += info.Size()
		}
	}
	return s, nil
}

// newSchemaPrefix begins the names of files that are not whole yet.
const newSchemaPrefix = ".new-"

// Lookup gives a schema from memory or disk, or nil.
func (s *Schemas) Lookup(id frame.SchemaID) *frame.Schema {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.loaded[id]; c != nil {
		if schema := c.get(); schema != nil {
			c.used = time.Now()
			return schema
		}
	}
	if s.dir == "" {
		return nil
	}
	path := s.path(id)
	msg, err := bounded.ReadFile(path, s.limits.MessageBytes)
	if err != nil {
		return nil
	}
	schema, err := frame.UnmarshalSchema(id, msg, s.limits)
	if err != nil {
		// Cut short by a full disk or a power failure: it is fetched again.
		s.logger.Warn("removing a damaged schema from the cache", "schema", id.String(), "file", path, "error", err)
		_ = os.Remove(path)
		return nil
	}
	now := time.Now()
	_ = os.Chtimes(path, now, now)
	s.load(schema, now)
	return schema
}

// Fetch asks the registries in turn for a schema, verifies and keeps it, and the parents that it is a change of. The error
// wraps stream.ErrNotFound only if all of them answered that they do not have it, or with something that it is not.
func (s *Schemas) Fetch(ctx context.Context, publisher string, id frame.SchemaID, registries []Registry) (*frame.Schema, error) {
	f := fetching{schemas: s, publisher: publisher, most: (s.limits.SchemaDepth + 1) * len(registries)}
	return f.fetch(ctx, id, registries)
}

// fetching is one schema on its way, with its parents.
type fetching struct {
	schemas   *Schemas
	publisher string
	// asked is how many questions were put, of which there may be as many as parents without detours need: what refers to
	// itself, in whatever registries, comes to an end.
	asked, most int
}

func (f *fetching) fetch(ctx context.Context, id frame.SchemaID, registries []Registry) (*frame.Schema, error) {
	if schema := f.schemas.Lookup(id); schema != nil {
		return schema, nil
	}
	var absent, unknown []error
	for i, r := range registries {
		schema, err := f.ask(ctx, r, id, append([]Registry{r}, slices.Delete(slices.Clone(registries), i, i+1)...))
		if err == nil {
			return schema, nil
		}
		if errors.Is(err, stream.ErrNotFound) || unusable(err) {
			absent = append(absent, err)
		} else {
			unknown = append(unknown, err)
		}
	}
	if len(unknown) > 0 {
		return nil, fmt.Errorf("schema %s of publisher %q: %w", id, f.publisher, errors.Join(unknown...))
	}
	return nil, fmt.Errorf("schema %s of publisher %q: %w: %w", id, f.publisher, stream.ErrNotFound, errors.Join(absent...))
}

// unusable tells that a registry's answer is not the schema that it should be, so that it has none.
func unusable(err error) bool {
	var limit *frame.LimitError
	return errors.Is(err, frame.ErrMalformed) || errors.Is(err, frame.ErrChecksum) || errors.Is(err, frame.ErrNoParent) || errors.As(err, &limit)
}

// ask asks one registry for a schema and, if it is there as a change, it and then the others for the parents.
func (f *fetching) ask(ctx context.Context, r Registry, id frame.SchemaID, registries []Registry) (*frame.Schema, error) {
	s := f.schemas
	if f.asked++; f.asked > f.most {
		return nil, &frame.LimitError{What: "messages asked for to read one schema", Got: uint64(f.asked), Max: uint64(f.most)}
	}
	msg, err := s.message(ctx, r, f.publisher, id)
	if err != nil {
		return nil, err
	}
	of, change, err := frame.SchemaParent(msg, s.limits)
	if err != nil {
		return nil, err
	}
	var parent *frame.Schema
	if change {
		if parent, err = f.fetch(ctx, of, registries); err != nil {
			return nil, fmt.Errorf("parent: %w", err)
		}
	}
	select {
	case s.unpack <- struct{}{}:
		defer func() { <-s.unpack }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	schema, err := frame.UnmarshalSchemaDelta(id, msg, func(frame.SchemaID) (*frame.Schema, []byte, error) { return parent, nil, nil }, s.limits)
	if err != nil {
		return nil, err
	}
	s.keep(schema)
	return schema, nil
}

// message puts one question.
func (s *Schemas) message(ctx context.Context, r Registry, publisher string, id frame.SchemaID) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, schemaFetchTimeout)
	defer cancel()
	return r.Schema(ctx, publisher, id)
}

// keep puts a verified schema into memory and, in full form, onto the disk.
func (s *Schemas) keep(schema *frame.Schema) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.load(schema, now)
	s.sweep(now)
	if s.dir == "" {
		return
	}
	if err := s.save(schema); err != nil {
		s.logger.Warn("schema not kept on disk", "schema", schema.ID.String(), "error", err)
	}
}

// sweep forgets, now and then, what nobody asked for long and what nobody has any more.
func (s *Schemas) sweep(now time.Time) {
	if now.Sub(s.swept) < schemaSweep {
		return
	}
	s.swept = now
	for id, c := range s.loaded {
		if now.Sub(c.used) > schemaIdle || c.get() == nil {
			s.unload(c)
			delete(s.loaded, id)
		}
	}
}

// load puts a schema into memory. Above the bound the cache lets go of those that were not asked for the longest, down to
// three quarters of it.
func (s *Schemas) load(schema *frame.Schema, now time.Time) {
	if c := s.loaded[schema.ID]; c != nil {
		s.unload(c)
	}
	s.loaded[schema.ID] = &cachedSchema{schema: schema, found: weak.Make(schema), used: now}
	s.bytes += schema.Bytes()
	if s.bound <= 0 || s.bytes <= s.bound {
		return
	}
	held := make([]*cachedSchema, 0, len(s.loaded))
	for _, c := range s.loaded {
		if c.schema != nil && c.schema != schema {
			held = append(held, c)
		}
	}
	slices.SortFunc(held, func(a, b *cachedSchema) int { return a.used.Compare(b.used) })
	for _, c := range held {
		if s.bytes <= s.bound/4*3 {
			return
		}
		s.unload(c)
	}
}

// unload lets go of a schema, which is found as long as somebody else has it.
func (s *Schemas) unload(c *cachedSchema) {
	if c.schema != nil {
		s.bytes -= c.schema.Bytes()
		c.schema = nil
	}
}

func (s *Schemas) save(schema *frame.Schema) error {
	f, err := os.CreateTemp(s.dir, newSchemaPrefix+"*")
	if err != nil {
		return err
	}
	message := schema.Marshal()
	_, err = f.Write(message)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), s.path(schema.ID))
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	if s.disk += int64(len(message)); s.disk > s.diskBound {
		return s.trim()
	}
	return nil
}

// trim removes the files of the schemas that were not read for the longest, down to three quarters of what may be there.
func (s *Schemas) trim() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	s.disk = 0 // counted anew: one may have been stored twice
	files := make([]fs.FileInfo, 0, len(entries))
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			files = append(files, info)
			s.disk += info.Size()
		}
	}
	slices.SortFunc(files, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, f := range files {
		if s.disk <= s.diskBound/4*3 {
			break
		}
		if err := os.Remove(filepath.Join(s.dir, f.Name())); err != nil {
			return err
		}
		s.disk -= f.Size()
	}
	return nil
}

func (s *Schemas) path(id frame.SchemaID) string { return filepath.Join(s.dir, id.String()) }
