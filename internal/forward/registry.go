package forward

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/choria-io/prometheus-streams/internal/spool"
	"github.com/choria-io/prometheus-streams/internal/stream"
)

// When all schemas in use are stored again, besides start and a sequence that goes back.
const (
	refreshEvery     = 24 * time.Hour
	refreshReconnect = 5 * time.Minute // at most so often after a reconnect
	refreshForget    = time.Minute     // at most so often after a sequence that went back
)

// lookEvery is how often, with nothing to send, the forwarder looks whether the connection was lost meanwhile.
const lookEvery = 30 * time.Second

// maxStored bounds the schemas that are known to be stored, between one refresh and the next.
const maxStored = 1 << 16

// connecter is a Publisher that knows how often its connection came back.
type connecter interface{ Connections() uint64 }

// registry is what the forwarder knows of the stream of schemas.
type registry struct {
	stored map[string]uint64   // acknowledged in this process, in which connection
	most   int                 // ids in stored, above which those that are not in use are forgotten
	aside  map[string]string   // cannot be stored, for what reason; tried again at the next refresh
	absent map[string]struct{} // were missing in the spool once
	due    time.Time           // of the next refresh
	last   time.Time           // refresh
}

func newRegistry() registry {
	return registry{most: maxStored, stored: map[string]uint64{}, aside: map[string]string{}, absent: map[string]struct{}{}}
}

// forget takes nothing for stored any more.
func (g *registry) forget() {
	clear(g.stored)
	g.hasten(refreshForget)
}

// hasten asks for a refresh, not sooner than some time after the last one.
func (g *registry) hasten(notBefore time.Duration) {
	if at := g.last.Add(notBefore); at.Before(g.due) {
		g.due = at
	}
}

// settled tells that a schema is stored, or set aside for a reason that has not gone away.
func (f *Forwarder) settled(id string) bool {
	g := &f.registry
	if _, stored := g.stored[id]; stored {
		return true
	}
	reason, aside := g.aside[id]
	if reason != reasonMissing {
		return aside
	}
	_, err := f.spool.Schema(id)
	return err != nil
}

// refresh stores all schemas in use again when it is time.
func (f *Forwarder) refresh(ctx context.Context) error {
	g := &f.registry
	if c, ok := f.publisher.(connecter); ok {
		if n := c.Connections(); n != f.connections { // it may have come back with nothing on its way
			f.connections = n
			g.hasten(refreshReconnect)
		}
	}
	if time.Now().Before(g.due) {
		return nil
	}
	live := f.spool.Live()
	if err := f.store(ctx, live); err != nil {
		return err
	}
	// The others are forgotten, else this grows for ever: one that comes into use again is stored again.
	g.stored, g.aside = among(live, g.stored), among(live, g.aside)
	clear(g.absent)
	g.last = time.Now()
	g.due = g.last.Add(refreshEvery)
	return nil
}

func among[V any](ids []string, set map[string]V) map[string]V {
	kept := make(map[string]V, len(ids))
	for _, id := range ids {
		if v, ok := set[id]; ok {
			kept[id] = v
		}
	}
	return kept
}

// storeNeeded stores the schemas that messages need and the registry has not acknowledged in this process. With one that is
// new, those of its message that were stored over an earlier connection are stored again: that one may have led to another
// hub, and the new one may go back to them.
func (f *Forwarder) storeNeeded(ctx context.Context, entries []spool.Entry) error {
	var ids []string
	listed := map[string]struct{}{}
	for _, e := range entries {
		fresh := slices.ContainsFunc(e.Schemas, func(id string) bool { return !f.settled(id) })
		for _, id := range e.Schemas {
			if _, twice := listed[id]; twice || !fresh {
				continue
			}
			if in, stored := f.registry.stored[id]; stored && in == f.connections || !stored && f.settled(id) {
				continue
			}
			listed[id] = struct{}{}
			ids = append(ids, id)
		}
	}
	if err := f.store(ctx, ids); err != nil {
		return err
	}
	if g := &f.registry; len(g.stored) > g.most {
		g.stored = among(f.spool.Live(), g.stored)
	}
	return nil
}

// store publishes schemas, a window of them at a time, and awaits their acknowledgements together.
func (f *Forwarder) store(ctx context.Context, ids []string) error {
	for len(ids) > 0 {
		n := min(len(ids), f.window)
		if err := f.storeBatch(ctx, ids[:n]); err != nil {
			return err
		}
		ids = ids[n:]
	}
	return nil
}

func (f *Forwarder) storeBatch(ctx context.Context, ids []string) error {
	type publishing struct {
		spool.Schema
		results []<-chan stream.Result
		err     error
	}
	var batch []publishing
	most := f.parts.most
	for _, id := range ids {
		s, err := f.spool.Schema(id)
		if err != nil {
			if err := f.missing(id, err); err != nil {
				return err
			}
			continue
		}
		if err := f.pace.wait(ctx, len(s.Message)); err != nil {
			return err
		}
		f.metrics.bytes.Add(float64(len(s.Message)))
		// A registry keeps one message of each subject, so parts have subjects of their own.
		results, err := f.publish(s.Message, func(part int) string { return stream.SchemaPart(s.Subject, part) })
		batch = append(batch, publishing{s, results, err})
	}
	var failed error
	for _, p := range batch {
		r, err := f.awaitAll(ctx, p.results, p.err)
		if err != nil {
			return err
		}
		switch {
		case r.Err == nil:
			f.registry.stored[p.ID] = f.connections
			delete(f.registry.aside, p.ID)
			f.metrics.schemas.Inc()
		case most != f.parts.most && errors.Is(r.Err, stream.ErrTooLarge): // it was sent before the limit was known
			failed = errGoBack
		case f.parts.shrink(f.log, p.Subject, len(p.Message), r.Err):
			failed = errGoBack
		case errors.Is(r.Err, stream.ErrTooLarge) && !narrow(r.Err):
			// No use to wait: what needs it cannot be read there, but the other targets in the same bundles can.
			f.metrics.publishErrors.Inc()
			f.schemaAside(p.ID, reasonTooLarge, "subject", p.Subject, "bytes", len(p.Message), "error", r.Err)
		default:
			f.metrics.publishErrors.Inc()
			if failed == nil {
				failed = &publishError{p.Subject, r.Err}
			}
		}
	}
	return failed
}

// missing decides on a schema that the spool does not have. A record that was dropped on its way here takes its schemas
// along: then reading again does not find it either. Else its message goes without.
func (f *Forwarder) missing(id string, err error) error {
	if !errors.Is(err, spool.ErrNoSchema) {
		return fmt.Errorf("read the %w: %w", errSpool, err)
	}
	if _, again := f.registry.absent[id]; !again {
		f.registry.absent[id] = struct{}{}
		return errGoBack
	}
	f.schemaAside(id, reasonMissing, "error", err)
	return nil
}

func (f *Forwarder) schemaAside(id, reason string, args ...any) {
	if _, known := f.registry.aside[id]; known {
		return
	}
	f.registry.aside[id] = reason
	f.metrics.asideSchemas.WithLabelValues(reason).Inc()
	f.log.Error("cannot store a schema: the receiver cannot read the samples that need it",
		append([]any{"schema", id, "reason", reason}, args...)...)
}
