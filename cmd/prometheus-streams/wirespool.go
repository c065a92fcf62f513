package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/choria-io/prometheus-streams/internal/config"
	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/spool"
	"github.com/choria-io/prometheus-streams/internal/stream"
)

const (
	// memorySpool bounds what waits for the stream if the spool is in memory.
	memorySpool = 64 << 20
	// retainDefault is how long a message stays after the stream acknowledged it: as long as a NATS server may take,
	// unless told otherwise, until its disk has it.
	retainDefault = 2 * time.Minute
	// retainLeast is how long it stays at least: the disk is told a little later, and not by every timer at once.
	retainLeast = 10 * time.Second
	// knownMost is how many schemas of an earlier process are looked up at start: reading each takes about a millisecond, and
	// nothing is scraped before.
	knownMost = 5000
	// retainEvery is how often the servers are asked: they may be others by then.
	retainEvery = time.Hour
)

// retainer is a spool that keeps what was acknowledged for a while.
type retainer interface{ Retain(after time.Duration) }

// retain keeps what the stream acknowledged for as long as its servers may take to have it on their disks, if they tell.
// A user without the right to ask does not ask again.
func (h *house) retain(ctx context.Context, r retainer, syncs func(context.Context) (time.Duration, error)) error {
	for last := retainDefault; ; {
		every, err := syncs(ctx)
		if err != nil {
			h.env.Logger.Debug("how often the servers sync their disks is not known: spool.retain_after_ack stays as it is",
				"duration", last, "error", err)
		} else if every = max(every, retainLeast); every != last {
			h.env.Logger.Info("what the stream acknowledges stays in the spool until its servers have synced their disks", "duration", every)
			r.Retain(every)
			last = every
		}
		wait := time.NewTimer(retainEvery)
		if errors.Is(err, stream.ErrPermission) {
			wait.Stop()
		}
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return nil
		}
	}
}

// waiting is a spool, on disk or in memory.
type waiting interface {
	Append(r spool.Record, schemas ...spool.Schema) error
	Read(ctx context.Context, after spool.Position, max int) ([]spool.Entry, error)
	Trim(upTo spool.Position) error
	Schema(id string) (spool.Schema, error)
	Parent(id string) (parent string, ok bool)
	SetLive(ids []string)
	Live() []string
	Held() (records, frames, samples int)
	Close() error
}

// spool opens the spool on disk. If only the default directory cannot be had, the spool is in memory.
func (h *house) spool() (waiting, error) {
	c := h.cfg.Spool
	dir, named := c.Directory, c.DirectorySet
	if h.env.Role == config.StandaloneRole && !named {
		dir, named = filepath.Join(h.cfg.Embedded.Directory, "spool"), true
	}
	o := spool.DiskOptions{
		Directory: filepath.Join(dir, stream.EscapeToken(h.cfg.Identity)),
		MaxBytes:  int64(c.MaxSize), MaxAge: time.Duration(c.MaxAge), Refuse: c.WhenFull == "stop_scraping",
		SyncEvery: time.Duration(c.Sync), Retain: retainDefault,
		Logger: h.env.Logger, Registerer: h.env.Registry,
	}
	if c.RetainAfterAck != nil {
		o.Retain = time.Duration(*c.RetainAfterAck)
	}
	disk, err := spool.OpenDisk(o)
	switch {
	case err == nil:
		h.closers = append(h.closers, func() {
			if err := disk.Release(); err != nil {
				h.env.Logger.Error("the spool is not closed well", "file", o.Directory, "error", err)
			}
		})
		return disk, nil
	case named:
		return nil, fmt.Errorf("spool.directory: %w", err)
	}
	limit := min(o.MaxBytes, memorySpool)
	h.env.Logger.Warn("the spool's directory cannot be used: what waits for the stream is kept in memory and is lost if the process ends",
		"file", o.Directory, "limit", limit, "error", err)
	return spool.NewMemory(spool.MemoryOptions{
		MaxBytes: limit, MaxAge: o.MaxAge, Refuse: o.Refuse, Logger: o.Logger, Registerer: o.Registerer,
	}), nil
}

// leftovers is what an earlier process left in the spool: the schemas that it used, and where its epoch ended.
func (h *house) leftovers(w waiting) (known []*frame.Schema, before *frame.Predecessor) {
	disk, ok := w.(*spool.Disk)
	if !ok {
		return nil, nil
	}
	limits := frame.DefaultLimits()
	messages := map[frame.SchemaID][]byte{}
	unusable := func(id string, err error) {
		h.env.Logger.Warn("a schema in the spool cannot be used again", "schema", id, "error", err)
	}
	for _, s := range disk.Schemas(knownMost) {
		id, err := frame.ParseSchemaID(s.ID)
		if err != nil {
			unusable(s.ID, err)
			continue
		}
		messages[id] = s.Message
	}
	known, bad := frame.UnmarshalStored(messages, limits)
	for id, err := range bad {
		unusable(id.String(), err)
	}
	if last := disk.Previous(); last != nil {
		before = predecessor(last.Message, limits)
	}
	if records, frames, samples := disk.Held(); records > 0 {
		h.env.Logger.Info(fmt.Sprintf("the spool holds what the stream has not stored yet: at least %d bundles with %d frames", records, frames),
			"count", samples, "file", h.cfg.Spool.Directory)
	}
	return known, before
}

// predecessor reads from the last message of an epoch where it ended; nil if it was no bundle.
func predecessor(message []byte, limits frame.Limits) *frame.Predecessor {
	b, err := frame.ParseBundle(message, limits)
	if err != nil {
		return nil
	}
	p := &frame.Predecessor{Epoch: b.Epoch, Seq: b.Seq}
	if b.Totals != nil {
		p.Totals = *b.Totals
	}
	for raw, err := range b.Frames() {
		if p.Clean = err == nil && raw.Target == 0; err != nil { // the end of an epoch has no target
			break
		}
	}
	return p
}

// leftBehind tells what the stream did not take before the process ended.
func leftBehind(env *environment, w waiting) {
	records, _, samples := w.Held()
	if records == 0 {
		return
	}
	if _, ok := w.(*spool.Disk); ok {
		env.Logger.Info(fmt.Sprintf("the stream did not take everything in time: %d bundles wait in the spool for the next start", records),
			"count", samples)
		return
	}
	env.Logger.Error(fmt.Sprintf("the stream did not take everything in time: %d bundles that waited in memory are lost", records),
		"count", samples)
}
