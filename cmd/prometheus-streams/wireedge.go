package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/choria-io/prometheus-streams/internal/exposition"
	"github.com/choria-io/prometheus-streams/internal/forward"
	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/poller"
	"github.com/choria-io/prometheus-streams/internal/scrape"
	"github.com/choria-io/prometheus-streams/internal/spool"
	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/choria-io/prometheus-streams/internal/stream/jetstream"
	"github.com/choria-io/prometheus-streams/internal/target"
)

const (
	// lane is the only one for now.
	lane = "live"
	// stopFor is how long scrapes that run may go on when the process stops.
	stopFor = 3 * time.Second
)

// edge adds the poller, its spool and the forwarder, which takes what is in the spool to conn's stream; syncs says how often
// that is synced to disk.
func (h *house) edge(conn *jetstream.Conn, syncs func(context.Context) (time.Duration, error)) error {
	subjects := stream.Subjects{Topic: conn.Topic()}
	frames := subjects.Frames(h.cfg.Identity, lane)
	publisher, err := conn.Publisher(jetstream.PublisherOptions{Subjects: []string{
		frames, subjects.Schema(h.cfg.Identity, frame.SchemaID{}),
	}})
	if err != nil {
		return err
	}
	return h.edgeTo(outlet{link: conn, publisher: publisher, subject: frames, subjects: subjects, syncs: syncs})
}

// edgeTo is edge, whatever the carrier.
func (h *house) edgeTo(o outlet) error {
	waiting, err := h.spool()
	if err != nil {
		return err
	}
	p, err := h.poller(waiting, o)
	if err != nil {
		return err
	}
	h.breaker.Manage(p)
	forwarder := forward.New(forward.Config{
		Spool: waiting, Publisher: o.publisher, BytesPerSecond: int64(h.cfg.Spool.ForwardLimit),
		Logger: h.env.Logger, Registerer: h.env.Registry,
	})
	h.actor(func(ctx context.Context) error { return runEdge(ctx, h.env, p, waiting, forwarder) })
	if disk, ok := waiting.(*spool.Disk); ok && h.cfg.Spool.RetainAfterAck == nil && o.syncs != nil {
		h.actor(func(ctx context.Context) error { return h.retain(ctx, disk, o.syncs) })
	}
	h.web.poller, h.web.edge = p, o.link
	return nil
}

// runEdge runs poller and forwarder; at the end the forwarder has a while to send what the poller made last.
func runEdge(ctx context.Context, env *environment, p *poller.Poller, w waiting, f *forward.Forwarder) error {
	fctx, stop := context.WithCancel(context.Background())
	defer stop()
	forwarded := make(chan error, 1)
	go func() { forwarded <- f.Run(fctx) }()
	if err := p.Run(ctx); err != nil {
		return fmt.Errorf("poller: %w", err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	defer time.AfterFunc(drainFor, stop).Stop()
	if err := <-forwarded; err != nil {
		return fmt.Errorf("forwarder: %w", err)
	}
	leftBehind(env, w)
	return nil
}

// poller makes the poller with the targets of the configuration, which discovery and a reload change.
func (h *house) poller(w waiting, o outlet) (*poller.Poller, error) {
	c := h.cfg
	limits := frame.DefaultLimits()
	known, before := h.leftovers(w)
	schemas := exposition.NewPackedSchemas(known...)
	if o.format1 != nil { // each scrape is looked at by its labels
		schemas = exposition.NewSchemas(known...)
	}
	guard := scrape.NewGuard(seriesLimit(c.Poller.SeriesLimit))
	shared := &scrape.Shared{}
	options := scrape.Options{
		Shared: shared, Schemas: schemas, Buffers: scrape.NewBuffers(bodyMemoryLimit(c.Poller.BodyMemoryLimit)), Version: h.env.Version,
		Self: h.env.Registry, Limits: &limits, TextBody: o.format1 != nil,
		Guard: guard, Metrics: scrape.NewMetrics(h.env.Registry, guard),
	}
	s := &bundleSpool{spool: w, subject: o.subject, subjects: o.subjects, publisher: c.Identity}
	pc := poller.Config{
		Publisher: c.Identity, Lane: lane, Spool: s, Live: s.live, Format1: o.format1, Predecessor: before,
		NewScraper:  func(t *target.Target) (poller.Scraper, error) { return scrape.New(t, options) },
		Encoder:     frame.EncoderOptions{KeyframeMaxAge: time.Duration(c.Poller.KeyframeInterval)},
		FlushSize:   int(c.Poller.FlushSize),
		Concurrency: c.Poller.ScrapeConcurrency,
		Seed:        target.Seed(c.Identity),
		StopTimeout: stopFor,
		Logger:      h.env.Logger, Registerer: h.env.Registry,
	}
	if c.Poller.FlushAge != nil {
		pc.FlushAge = time.Duration(*c.Poller.FlushAge)
	}
	p := poller.New(pc)
	return p, h.targets(p, shared)
}

// bundleSpool gives a poller's bundles the subjects under which the spool keeps them.
type bundleSpool struct {
	spool     waiting
	subject   string
	subjects  stream.Subjects
	publisher string
}

// Append puts a bundle and the schemas that the spool does not have into the spool.
func (s *bundleSpool) Append(b poller.Bundle) error {
	r := spool.Record{
		Subject: s.subject, Message: b.Message, Frames: b.Frames, Samples: b.Samples,
	}
	var missing []spool.Schema
	listed := map[frame.SchemaID]struct{}{}
	for _, schema := range b.Schemas {
		r.Schemas = append(r.Schemas, schema.ID.String())
		for m := schema.Stored(); m != nil; m = m.Parent {
			if _, twice := listed[m.ID]; twice {
				break
			}
			listed[m.ID] = struct{}{}
			given := spool.Schema{ID: m.ID.String(), Subject: s.subjects.Schema(s.publisher, m.ID), Message: m.Message}
			if m.Parent != nil {
				given.Parent = m.Parent.ID.String()
			}
			if parent, held := s.spool.Parent(given.ID); !held || parent != given.Parent {
				missing = append(missing, given)
			}
		}
	}
	err := s.spool.Append(r, missing...)
	if errors.Is(err, spool.ErrFull) {
		return fmt.Errorf("%w: %w", poller.ErrSpoolFull, err)
	}
	return err
}

// live says which schemas the poller uses at present.
func (s *bundleSpool) live(ids []frame.SchemaID) {
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = id.String()
	}
	s.spool.SetLive(list)
}
