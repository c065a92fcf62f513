package receiver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/exposition"
	"github.com/choria-io/prometheus-streams/internal/frame"
)

// Messages of format 1 stand alone: each holds one scrape of one target as text, with the second in which it was made and
// no place in a lane. The order in which a carrier hands them out is not that of the scrapes: replicated streams reorder,
// and what was not acknowledged comes again. So for each target (publisher, job, instance) the newest time that was handed
// to the sink is kept, over restarts too (newest.go), and what is older is counted as late, not delivered.

const (
	// format1Lane is the lane that sinks are told for messages of format 1.
	format1Lane = "format1"
	// format1Targets bounds the targets that are known.
	format1Targets = 50_000
	// format1Recent is how many of a target's latest messages are told apart from late ones when they come again.
	format1Recent = 16
	// format1Ahead is how far a scrape's time may lie before the time at which the stream stored it.
	format1Ahead = 10 * time.Minute
	// format1Gaps is how many times between scrapes the interval is the median of.
	format1Gaps = 7
	// unknownInterval stands for the interval of a target while nothing is known of it.
	unknownInterval = time.Minute
)

// textType and openMetricsType are the content types of bodies, of which format 1 says nothing.
const (
	textType        = "text/plain; version=0.0.4"
	openMetricsType = "application/openmetrics-text; version=1.0.0"
)

type format1Key struct{ publisher, job, instance string }

// format1Target is what is known of a target of format 1.
type format1Target struct {
	layout  *exposition.Layout
	target  *frame.Target
	newest  *newest // of what was handed to the sink; also in the table of newest scrapes
	gaps    []int64
	touched time.Time
}

// format1Seen names a message by its time and content.
type format1Seen struct {
	time int64
	sum  uint64
}

// format1 is a pipeline's side of the old messages.
type format1 struct {
	targets map[format1Key]*format1Target
	newest  *newestTable
	schemas *exposition.Schemas
}

// noted is what a bundle of format 1 has to note once the sink is done with it.
type noted struct {
	key    format1Key
	newest *newest
	seen   format1Seen
	within int64
}

func newFormat1(t *newestTable) format1 {
	return format1{targets: make(map[format1Key]*format1Target), newest: t, schemas: exposition.NewSchemas()}
}

// takeFormat1 takes a message of format 1 to the sink, or counts why not.
func (p *Pipeline) takeFormat1(ctx context.Context, b *bundle) {
	start := time.Now()
	m, reason, err := p.openFormat1(b)
	if err != nil {
		p.dropMessage(b, reason, err)
		return
	}
	b.format1 = &noted{key: format1Key{m.Publisher, m.Job, m.Instance}}
	b.repeated = b.message.Redelivered
	b.parsed = &frame.Bundle{Header: frame.Header{Publisher: m.Publisher, Lane: format1Lane}}
	key := b.format1.key
	t := p.format1.targets[key]
	known := t != nil
	if !known {
		if len(p.format1.targets) >= format1Targets {
			p.dropMessage(b, "too_many_targets", fmt.Errorf("the receiver knows %d targets of format 1 already", format1Targets))
			return
		}
		t = p.newFormat1Target(key)
	}
	t.touched, t.newest.touched = p.now, p.now
	seen := format1Seen{m.Time, xxhash.Sum64(m.Body)}
	switch {
	case slices.Contains(t.newest.recent, seen):
		p.metrics.duplicates.WithLabelValues(p.Name, p.Metrics.names.known(m.Publisher)).Inc()
		p.release(b)
		return
	case m.Time < t.newest.time && len(t.newest.recent) > 0:
		p.metrics.dropped(m.Publisher, "late", 1)
		p.release(b)
		return
	}
	f, err := t.frame(m)
	p.Metrics.decodeTime.Observe(time.Since(start).Seconds())
	if err != nil {
		p.dropMessage(b, "unparsable", fmt.Errorf("job %q, instance %q: %w", m.Job, m.Instance, err))
		return
	}
	if !known {
		p.format1.add(key, t)
	}
	t.note(seen)
	b.format1.newest, b.format1.seen, b.format1.within = t.newest, seen, t.newest.within
	b.decoded = []*frame.Frame{f}
	p.grow(b, f)
	p.deliver(ctx, b)
}

// openFormat1 reads a message and checks what it says of itself; it gives a reason with every error.
func (p *Pipeline) openFormat1(b *bundle) (m *frame.Format1, reason string, err error) {
	m, err = frame.ParseFormat1(b.message.Data, p.Limits.Frame)
	var limit *frame.LimitError
	switch {
	case errors.Is(err, frame.ErrNoTime):
		return nil, "no_time", err
	case errors.As(err, &limit):
		return nil, "too_large", err
	case err != nil:
		return nil, "malformed", err
	}
	if b.source.Publisher != nil {
		proven, err := b.source.Publisher(b.message.Subject)
		if err != nil {
			return nil, "wrong_subject", err
		}
		if proven != m.Publisher {
			return nil, "wrong_publisher", fmt.Errorf("the message says publisher %q", m.Publisher)
		}
	}
	if err := p.allowed(m.Publisher); err != nil {
		return nil, notAllowed, err
	}
	if at := time.Unix(m.Time, 0); at.Sub(b.message.Stored) > format1Ahead {
		return nil, "future", fmt.Errorf("job %q, instance %q: scraped at %s, stored at %s", m.Job, m.Instance,
			at.UTC().Format(time.RFC3339), b.message.Stored.UTC().Format(time.RFC3339))
	}
	return m, "", nil
}

func (p *Pipeline) newFormat1Target(key format1Key) *format1Target {
	all := labels.FromStrings(model.JobLabel, key.job, model.InstanceLabel, key.instance)
	limits := p.Limits.Frame
	before := p.format1.newest.targets[key]
	if before == nil {
		before = &newest{}
	}
	return &format1Target{
		newest: before,
		layout: exposition.NewLayout(exposition.Rules{Target: all, HonorTimestamps: true, Limits: &limits}, p.format1.schemas),
		target: &frame.Target{
			ID:     xxhash.Sum64String(key.publisher + "\xff" + key.job + "\xff" + key.instance),
			Labels: all, Interval: unknownInterval, Timeout: unknownInterval,
		},
	}
}

// frame makes the frame of a message: all of its body, or an error.
func (t *format1Target) frame(m *frame.Format1) (*frame.Frame, error) {
	body, up, report, reported := frame.SplitReport(m.Body)
	f := &frame.Frame{Kind: frame.Down, Target: t.target, Report: report}
	f.Time = m.Time * 1000
	if n := t.newest; m.Time == n.time && len(n.recent) > 0 {
		f.Time += min(n.within+1, 999) // a second scrape within the second is later than the first
	}
	f.Position = uint64(f.Time)
	if reported && !up {
		if len(bytes.TrimSpace(body)) > 0 {
			return nil, errors.New("a failed scrape with samples")
		}
		return f, nil
	}
	body, contentType := normal(body)
	parsed, err := t.layout.Parse(body, contentType)
	if err != nil {
		return nil, err
	}
	f.Kind, f.Schema = frame.Scraped, parsed.Schema
	f.Column = frame.Column{
		Values: slices.Clone(parsed.Column.Values), Absent: slices.Clone(parsed.Column.Absent), Timestamps: slices.Clone(parsed.Column.Timestamps),
		Earlier: slices.Clone(parsed.Column.Earlier),
	}
	if !reported {
		f.Report = frame.Report{Scraped: parsed.Scraped, PostRelabel: parsed.PostRelabel, Added: parsed.Added}
	}
	return f, nil
}

// normal gives a body with the line ends that the formats want, and what its format is.
func normal(body []byte) (text []byte, contentType string) {
	if bytes.Contains(body, []byte("\r\n")) {
		body = bytes.ReplaceAll(body, []byte("\r\n"), []byte("\n"))
	}
	if n := len(body); n > 0 && body[n-1] != '\n' {
		body = append(body, '\n')
	}
	if bytes.HasSuffix(body, []byte("# EOF\n")) {
		return body, openMetricsType
	}
	return body, textType
}

// add takes in a target of which something goes to the sink.
func (f *format1) add(key format1Key, t *format1Target) {
	f.targets[key] = t
	if f.newest.targets[key] == nil {
		f.newest.add(key, t.newest)
	}
}

// note remembers a message that goes to the sink, and learns the target's interval.
func (t *format1Target) note(seen format1Seen) {
	if n := t.newest; len(n.recent) > 0 && seen.time > n.time {
		t.learn(seen.time - n.time)
	}
	t.newest.note(seen)
}

// noteDone notes, before a message of format 1 is acknowledged, that the sink is done with it.
func (p *Pipeline) noteDone(n *noted) {
	if n.newest != nil {
		p.format1.newest.done(n.key, n.newest, n.seen, n.within, p.now)
	}
}

// learn takes the seconds between two scrapes; the interval is the median of the last few.
func (t *format1Target) learn(gap int64) {
	if len(t.gaps) == format1Gaps {
		t.gaps = t.gaps[1:]
	}
	t.gaps = append(t.gaps, gap)
	sorted := slices.Sorted(slices.Values(t.gaps))
	interval := time.Duration(min(sorted[len(sorted)/2], int64(24*time.Hour/time.Second))) * time.Second
	if len(t.gaps) < 3 || interval == t.target.Interval {
		return
	}
	next := *t.target // frames that are under way have the old one
	next.Interval, next.Timeout = interval, interval
	t.target = &next
}

// sweepFormat1 forgets targets that have been silent for long, but not how new their newest scrape was.
func (p *Pipeline) sweepFormat1() {
	p.format1.newest.mend(p.now)
	for key, t := range p.format1.targets {
		if p.now.Sub(t.touched) > max(laneIdle, 3*t.target.Interval) {
			t.newest.shorten()
			delete(p.format1.targets, key)
		}
	}
}
