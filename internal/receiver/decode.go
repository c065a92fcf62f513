package receiver

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/stream"
)

// schemaMissing is the answer to a decoder that asks for a schema which is not at hand.
type schemaMissing struct{ id frame.SchemaID }

func (e schemaMissing) Error() string { return "schema " + e.id.String() + " is not at hand" }

// decodeQueue decodes and delivers bundles in order until the lane is blocked or empty. The lane waits for the epochs
// before it that have bundles left.
func (p *Pipeline) decodeQueue(ctx context.Context, l *lane) {
	if o := l.older; o != nil {
		if o.pending() || o.older != nil {
			p.decodeQueue(ctx, o) // goes on with this one if it comes to its end
			return
		}
		l.older, o.younger = nil, nil
	}
	for len(l.queue) > 0 && l.block.why == notBlocked {
		if p.full() {
			p.rest(ctx)
			return
		}
		b := l.queue[0]
		start := time.Now()
		whole := p.decode(ctx, l, b)
		p.Metrics.decodeTime.Observe(time.Since(start).Seconds())
		if !whole {
			return
		}
		l.queue[0] = nil
		l.queue = l.queue[1:]
		if t := b.parsed.Totals; t == nil {
			l.hasTotals = false
		} else if lost := l.settleTotals(*t, b.counts()); !b.history && !b.skip {
			p.metrics.lost(l.key.publisher, lost)
		}
		p.deliver(ctx, b)
	}
	if len(l.queue) == 0 {
		l.queue = nil
		l.hurried = l.hurried && len(l.held) > 0
	}
	if y := l.younger; y != nil && !l.pending() {
		p.decodeQueue(ctx, y)
	}
}

// counts is what was decoded of a bundle, as its publisher counted it.
func (b *bundle) counts() (t frame.Totals) {
	for _, f := range b.decoded {
		if f.Kind == frame.EpochEnd {
			continue
		}
		t.Frames++
		t.Samples += uint64(samples(f))
	}
	return t
}

// samples counts the samples of a frame without those of its report.
func samples(f *frame.Frame) int {
	if f.Schema == nil {
		return 0
	}
	return len(f.Schema.Series) - f.Column.Absent.Count()
}

// decode decodes what is left of a bundle; false means that the lane is blocked now.
func (p *Pipeline) decode(ctx context.Context, l *lane, b *bundle) bool {
	lookup := func(id frame.SchemaID) (*frame.Schema, error) {
		if s := p.Schemas.Lookup(id); s != nil {
			return s, nil
		}
		return nil, schemaMissing{id}
	}
	for b.at < len(b.raws) {
		f, err := p.decodeFrame(l, b.raws[b.at], lookup)
		if err != nil {
			if p.blockedBy(ctx, l, b, err) {
				return false
			}
			b.at++
			continue
		}
		b.at++
		b.decoded = append(b.decoded, f)
		p.grow(b, f)
	}
	return true
}

// blockedBy decides what an error of decoding means: the lane waits (true), or the frame is counted as lost.
func (p *Pipeline) blockedBy(ctx context.Context, l *lane, b *bundle, err error) bool {
	var missing schemaMissing
	var version *frame.VersionError
	reason := "malformed"
	switch {
	case errors.As(err, &missing):
		asked, abandoned := l.abandoned[missing.id]
		if !abandoned || p.now.Sub(asked) >= p.Limits.SchemaAge {
			l.block = block{why: forSchema, schema: missing.id, age: l.waited - b.waited}
			if abandoned || l.hurried {
				l.block.age = p.Limits.SchemaAge // one answer is enough, in the first case since it may have been stored again
			}
			p.askSchema(ctx, l)
			return true
		}
		reason = "schema_not_found"
	case errors.Is(err, frame.ErrNoBase):
		if b.history {
			return false // whether it matters shows when a frame that is to be delivered lacks it
		}
		reason = "base_not_found"
		if p.limitedLately(l) {
			reason = stateLimit
		} else if !l.lacksBase && b.source.History != nil {
			p.askHistory(ctx, l, b)
			return true
		}
	case errors.Is(err, frame.ErrNoRoom):
		reason = stateLimit
	case errors.As(err, &version):
		if !l.dropUnknown {
			l.block = block{why: forVersion}
			p.Logger.Error("frames in a form that this version does not know are held back; update this receiver",
				"publisher", l.key.publisher, "lane", l.key.lane, "error", err)
			return true
		}
		reason = "unknown_version"
	case errors.Is(err, frame.ErrChecksum):
		reason = "checksum"
	}
	if b.history {
		return false
	}
	p.metrics.dropped(l.key.publisher, reason, 1)
	p.Metrics.junk.logged(p.Logger, p.now, b.message.Subject, reason, err)
	return false
}

// askSchema fetches the schema that blocks a lane, once a tick, until it is there or has been answered to be missing for
// long enough. The registry of the stream that the lane comes from is asked first.
func (p *Pipeline) askSchema(ctx context.Context, l *lane) {
	share := l.share
	if l.block.asking || share == nil || share.asking >= schemasAtOnce {
		return // asked, forgotten, or to be asked at the next tick
	}
	l.block.asking = true
	share.asking++
	id, asked := l.block.schema, p.now
	registries := make([]Registry, 0, len(p.sources))
	if len(l.queue) > 0 {
		registries = append(registries, l.queue[0].source.Registry)
	}
	for _, s := range p.sources {
		if len(registries) == 0 || s.Registry != registries[0] {
			registries = append(registries, s.Registry)
		}
	}
	go func() {
		_, err := p.Schemas.Fetch(ctx, l.key.publisher, id, registries)
		p.answers.post(func() {
			share.asking--
			p.schemaAnswer(ctx, l, id, asked, err)
		})
	}()
}

func (p *Pipeline) schemaAnswer(ctx context.Context, l *lane, id frame.SchemaID, asked time.Time, err error) {
	if l.block.why != forSchema || l.block.schema != id {
		return
	}
	l.block.asking = false
	if err != nil && !notFound(err) {
		// No answer, a refusal or a message that is not this schema: the lane is held, and says so.
		p.Metrics.junk.logged(p.Logger, p.now, l.key.publisher+"/"+id.String(), "schema", err)
		return
	}
	if err != nil {
		// A question stands for the time since the one before it, if that was not long ago: there is one a tick.
		more := max(tick, p.now.Sub(asked))
		l.waited += min(more, p.now.Sub(l.answered))
		l.answered = p.now
		if l.block.age += more; l.block.age < p.Limits.SchemaAge {
			return
		}
		level := slog.LevelError
		if _, said := l.abandoned[id]; said || p.now.Sub(l.lamented) < p.Limits.SchemaAge {
			level = slog.LevelDebug
		} else {
			l.lamented = p.now
		}
		p.Logger.Log(ctx, level, "schema is nowhere to be found: its frames are lost", "publisher", l.key.publisher,
			"lane", l.key.lane, "epoch", l.key.epochText(), "schema", id.String(), "error", err)
		p.abandonSchema(ctx, l)
		return
	}
	l.block = block{}
	p.decodeQueue(ctx, l)
	p.advance(ctx, l)
}

// abandonSchema has a lane go on without the schema that blocks it.
func (p *Pipeline) abandonSchema(ctx context.Context, l *lane) {
	if l.abandoned == nil {
		l.abandoned = make(map[frame.SchemaID]time.Time)
	}
	if len(l.abandoned) >= abandonedKept {
		clear(l.abandoned)
	}
	l.abandoned[l.block.schema] = p.now
	l.block = block{}
	p.decodeQueue(ctx, l)
	p.advance(ctx, l)
}

// askHistory reads back the lane of a bundle that lacks a base, twice as far each time it is asked.
func (p *Pipeline) askHistory(ctx context.Context, l *lane, b *bundle) {
	share := l.share
	l.block = block{why: forHistory}
	if share == nil || share.reading >= replaysOfOne {
		return // at a later tick
	}
	l.block.asking = true
	share.reading++
	l.readBack = max(readBack, 2*l.readBack)
	r := stream.Range{Subject: b.message.Subject, From: b.message.Stored.Add(-l.readBack), To: b.message.Sequence - 1}
	far := b.message.Stored.Sub(r.From) > p.Keep
	room := p.quota.allowance(l) / replaysAtOnce
	go func() {
		d, whole, err := p.replay(ctx, l.key, b.source, r, room)
		p.answers.post(func() {
			share.reading--
			l.block = block{}
			if err == nil {
				// What was decoded of this bundle, and of bundles from other streams, is not in that range.
				l.decoder.SetLimit(p.quota.allowance(l))
				l.decoder.Adopt(d)
				p.quota.charge(l)
				l.lacksBase = whole || far
			} else {
				p.Logger.Warn("reading back a lane", "publisher", l.key.publisher, "lane", l.key.lane, "error", err)
				l.readBack /= 2
			}
			p.decodeQueue(ctx, l)
			p.advance(ctx, l)
		})
	}()
}

// replay decodes a range of one lane into a fresh decoder. It tells whether the range began at the stream's start or
// before the lane's, or that there is no room for more states.
func (p *Pipeline) replay(ctx context.Context, k laneKey, s *source, r stream.Range, room int64) (*frame.Decoder, bool, error) {
	if err := p.readToken(ctx); err != nil {
		return nil, false, err
	}
	defer func() { <-p.quota.reads }()
	d := frame.NewDecoder(k.epoch, p.Limits.Frame)
	d.SetLimit(room)
	whole, any := false, false
	schema := func(id frame.SchemaID) (*frame.Schema, error) {
		return p.Schemas.Fetch(ctx, k.publisher, id, []Registry{s.Registry})
	}
	var parts stream.Joiner
	err := s.History.Read(ctx, r, func(part stream.Message) error {
		m := join(&parts, &part)
		if m == nil {
			return ctx.Err()
		}
		b, err := frame.ParseBundle(m.Data, p.Limits.Frame)
		if err != nil || b.Publisher != k.publisher || b.Lane != k.lane || b.Epoch != k.epoch {
			whole = whole || !any
			return ctx.Err()
		}
		any = true
		whole = whole || b.Seq == 1
		for raw, err := range b.Frames() {
			if err != nil {
				break
			}
			_, err = d.Decode(raw, schema) // what cannot be decoded here shows when it is needed
			whole = whole || errors.Is(err, frame.ErrNoRoom)
		}
		return ctx.Err()
	})
	return d, whole, err
}

// dropUnknown gives up on the frames of a lane that are in an unknown form.
func (p *Pipeline) dropUnknown(ctx context.Context, l *lane) {
	l.block = block{}
	l.dropUnknown = true
	p.decodeQueue(ctx, l)
	p.advance(ctx, l)
}
