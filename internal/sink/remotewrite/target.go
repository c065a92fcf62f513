package remotewrite

import (
	"github.com/cespare/xxhash/v2"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

const (
	// forgetAfter and forgetIntervals are how long a silent target is remembered; the longer one counts.
	forgetAfter     = time.Hour
	forgetIntervals = 10
	sweepEvery      = 5 * time.Minute
	// maxDiffs bounds the pairs of schemas that are compared once for all targets.
	maxDiffs = 256
)

// target is what is remembered of a target.
type target struct {
	shard     int
	raw       labels.Labels
	publisher string
	// prepared is the newest one; nil at first.
	prepared *prepared
	// live tells that the series of prepared.schema, without those in untracked, are not marked stale.
	live      bool
	untracked frame.Bitmap
	// shown are the series of the newest scrape that had any, without those in absent; nil if none is known. epoch is that scrape's.
	shown  *frame.Schema
	absent frame.Bitmap
	epoch  uint64
	// forms are those of its series that are native histograms; immutable.
	forms []form
	// exemplars has the newest ones, by the hash of the series.
	exemplars map[uint64]*latest
	// newest are the times of the newest samples of series that had earlier ones beside them, by the hash of the series.
	newest map[uint64]int64
	// known tells that time is that of its newest frame.
	known    bool
	time     int64
	interval time.Duration
	seen     time.Time
	ending   *ending
	// ended is the time of an end that was remembered, as long as no frame came after it; else 0.
	ended int64
	// queued is what was queued last of it; nil once a request has it.
	queued *piece
	// saved is what the state file says of it, until it is needed.
	saved *record
	// settled is what it was as of the newest frame that has its verdict: what the state file will say.
	settled *mark
}

// mark is what a target is once a frame is done.
type mark struct {
	raw       labels.Labels
	publisher string
	schema    *frame.Schema // nil if none is known
	live      bool
	untracked frame.Bitmap
	absent    frame.Bitmap
	epoch     uint64
	forms     []form
	time      int64
	interval  time.Duration
	ended     bool
}

// mark notes what the target is now.
func (t *target) mark() *mark {
	m := &mark{raw: t.raw, publisher: t.publisher, live: t.live, untracked: t.untracked, absent: t.absent, epoch: t.epoch, forms: t.forms, time: t.time, interval: t.interval}
	if t.prepared == nil {
		m.ended = true
	} else if t.prepared.text != nil {
		m.schema = t.prepared.Schema
		if t.shown == nil || t.shown.ID != m.schema.ID { // the file has one schema of a target
			m.absent, m.epoch = nil, 0
		}
	}
	return m
}

// plan notes what a frame means and puts what is to be written in its shard's queue.
func (s *Sink) plan(d *delivery) {
	if d.recalled() {
		s.remember(d)
		return
	}
	f := d.Frame
	if f.Kind == frame.EpochEnd {
		d.done(nil)
		return
	}
	if err := sink.Check(f, validLabel); err != nil {
		s.metrics.rejectFrame(err)
		d.done(err)
		return
	}
	key := sink.Key(s.labels.Target(f.Target.Labels, d.Publisher, s.builder))
	if _, err := s.owners.Admit(sink.Claim{Key: key}, &d.Delivery); err != nil {
		if s.lateWanted(key, d, err) {
			s.planLate(s.targets[key], d)
			return
		}
		s.metrics.rejectFrame(err)
		if reason, _ := sink.Rejected(err); s.late != nil && reason == sink.Late && f.Kind != frame.End && !d.Repeated {
			s.late.take(whole(d, err))
			return
		}
		d.done(err)
		return
	}
	t := s.target(key, d)
	if f.Kind == frame.End {
		s.planEnd(t, d)
		return
	}
	if d.Repeated && t.known && f.Time <= t.time {
		s.planLate(t, d) // what it means was noted before the restart
		return
	}
	if t.ending != nil {
		s.resume(t, f)
	}
	s.planScrape(t, d)
}

// target finds or makes what is remembered of a target, as it is before this frame.
func (s *Sink) target(key string, d *delivery) *target {
	t := s.targets[key]
	if t == nil {
		t = &target{shard: shardOf(key)}
		s.targets[key] = t
	}
	t.seen = d.arrived
	s.recall(t)
	s.concludeEnd(t, d.Frame)
	return t
}

// shardOf is the same in every process, though nothing needs it.
func shardOf(key string) int { return int(xxhash.Sum64String(key) % shardCount) }

// validLabel tells whether a label of a target can be written.
func validLabel(l labels.Label) bool { return l.Value != "" && l.Name != model.MetricNameLabel }

// planScrape writes the samples of a scrape, and stale markers for the series that it no longer has.
func (s *Sink) planScrape(t *target, d *delivery) { s.enqueue(s.scrape(t, d)) }

// scrape notes what a scrape means and gives what is to be written of it.
func (s *Sink) scrape(t *target, d *delivery) *part {
	f := d.Frame
	p := s.newPart(t, d)
	p.backwards = t.known && f.Time <= t.time
	report := sink.ReportValues(f)
	if t.shown != nil && t.epoch != d.Epoch {
		report[addedAt] = float64(s.addedSince(t, f))
	}
	if f.Kind == frame.Down {
		if t.prepared == nil {
			t.raw, t.publisher = f.Target.Labels, d.Publisher
			t.prepared = s.prepare(nil, t.raw, t.publisher)
		}
		if t.live {
			p.add(segment{prepared: t.prepared, skip: t.untracked, forms: t.forms, time: f.Time})
		}
		t.live = false
	} else {
		untracked := untrackedOf(f)
		old := t.prepared
		if old == nil || old.text == nil || old.Schema.ID != f.Schema.ID || t.publisher != d.Publisher || !labels.Equal(t.raw, f.Target.Labels) {
			t.raw, t.publisher = f.Target.Labels, d.Publisher
			t.prepared = s.prepare(f.Schema, t.raw, t.publisher)
		}
		if t.live {
			if skip, any := s.vanished(old, t.prepared, t.untracked, untracked); any {
				p.add(segment{prepared: old, skip: skip, forms: t.forms, time: f.Time})
			}
		}
		if old != t.prepared {
			s.release(old)
		}
		t.live, t.untracked, t.forms = true, untracked, formsOf(&f.Column, t.forms)
		if n := len(f.Schema.Series); n > 0 && f.Column.Absent.Count() < n {
			t.shown, t.absent, t.epoch = f.Schema, f.Column.Absent, d.Epoch
		}
		g := s.samples(t, d, t.prepared)
		g.earlier = t.freshEarlier(f)
		p.add(g)
	}
	p.add(segment{prepared: t.prepared, report: true, values: report[:], time: f.Time})
	t.known, t.time, t.interval = true, f.Time, sink.Interval(f.Target)
	p.target, p.mark = t, t.mark()
	return p
}

// addedAt is the place of scrape_series_added among the reports.
const addedAt = sink.ReportSeries - 1

// addedSince is what scrape_series_added says of the first scrapes of an epoch. The poller, which was restarted, knows of no earlier
// scrape and counts all series. A Prometheus that scrapes by itself would have gone on: it counts those that the newest scrape with
// series did not have. Which ones a scrape shows that fails is not known here; hardly ever is one of them new.
func (s *Sink) addedSince(t *target, f *frame.Frame) int {
	if f.Kind == frame.Down {
		return 0
	}
	now, absent := f.Schema, f.Column.Absent
	added := len(now.Series) - absent.Count()
	if t.shown.ID == now.ID {
		for i := range now.Series {
			if !absent.Has(i) && !t.absent.Has(i) {
				added--
			}
		}
		return added
	}
	for i, j := range s.diff(t.shown, now) {
		if j >= 0 && !absent.Has(int(j)) && !t.absent.Has(i) {
			added--
		}
	}
	return added
}

// samples is the segment of a scrape.
func (s *Sink) samples(t *target, d *delivery, p *prepared) segment {
	c := &d.Frame.Column
	return segment{
		prepared: p, values: c.Values, times: c.Timestamps, skip: c.Absent, time: d.Frame.Time,
		starts: c.Starts, histograms: c.Histograms, exemplars: s.freshExemplars(t, d), earlier: c.Earlier,
	}
}

// untrackedOf are the series of a scrape that get no stale marker when they vanish: those that it does not have, and, as
// in Prometheus without track_timestamps_staleness, those with timestamps of their own.
func untrackedOf(f *frame.Frame) frame.Bitmap {
	c := &f.Column
	if c.Timestamps == nil || f.Target.TrackTimestamps {
		return c.Absent
	}
	out := frame.NewBitmap(len(c.Values))
	copy(out, c.Absent)
	for i, t := range c.Timestamps {
		if t != frame.NoTimestamp {
			out.Set(i)
		}
	}
	return out
}

// vanished tells which series of old are not among the vanished: those to skip when their stale markers are written.
func (s *Sink) vanished(old, now *prepared, oldUntracked, nowUntracked frame.Bitmap) (skip frame.Bitmap, any bool) {
	n := len(old.Schema.Series)
	if old.Schema.ID == now.Schema.ID {
		if nowUntracked == nil {
			return nil, false
		}
		for w := range (n + 63) / 64 {
			var before, after uint64
			if w < len(oldUntracked) {
				before = oldUntracked[w]
			}
			if w < len(nowUntracked) {
				after = nowUntracked[w]
			}
			if gone := after &^ before; gone != 0 {
				if skip == nil {
					skip = all(n)
				}
				skip[w] = ^gone
			}
		}
		return skip, skip != nil
	}
	for i, j := range s.diff(old.Schema, now.Schema) {
		if oldUntracked.Has(i) || j >= 0 && !nowUntracked.Has(int(j)) {
			continue
		}
		if skip == nil {
			skip = all(n)
		}
		skip[i>>6] &^= 1 << (i & 63)
	}
	return skip, skip != nil
}

func all(n int) frame.Bitmap {
	b := frame.NewBitmap(n)
	for i := range b {
		b[i] = ^uint64(0)
	}
	return b
}

type diffKey struct{ from, to frame.SchemaID }

// diff gives for each series of one schema its place in another, or -1.
func (s *Sink) diff(from, to *frame.Schema) []int32 {
	k := diffKey{from.ID, to.ID}
	if d, ok := s.diffs[k]; ok {
		return d
	}
	if len(s.diffs) >= maxDiffs {
		clear(s.diffs)
	}
	places := make(map[string]int32, len(to.Series))
	var b []byte
	for i := range to.Series {
		b = to.Series[i].Labels.Bytes(b[:0])
		places[string(b)] = int32(i)
	}
	d := make([]int32, len(from.Series))
	for i := range from.Series {
		b = from.Series[i].Labels.Bytes(b[:0])
		if at, ok := places[string(b)]; ok {
			d[i] = at
		} else {
			d[i] = -1
		}
	}
	s.diffs[k] = d
	return d
}

// lateWanted tells whether a frame that is older than the newest of its target is written nevertheless.
func (s *Sink) lateWanted(key string, d *delivery, err error) bool {
	reason, _ := sink.Rejected(err)
	t := s.targets[key]
	return reason == sink.Late && t != nil && t.known && d.Frame.Kind == frame.Scraped &&
		t.time-d.Frame.Time < s.OutOfOrderWindow.Milliseconds()
}

// planLate writes the samples of a frame that came late or once more. It says nothing of what there is now.
func (s *Sink) planLate(t *target, d *delivery) {
	f := d.Frame
	p := s.newPart(t, d)
	p.backwards = true
	late := s.prepare(f.Schema, f.Target.Labels, d.Publisher)
	if f.Kind == frame.Scraped {
		p.target = t
		p.add(s.samples(t, d, late))
	}
	report := sink.ReportValues(f)
	p.add(segment{prepared: late, report: true, values: report[:], time: f.Time})
	s.release(late)
	s.enqueue(p)
}

// sweep forgets targets that have been silent for long.
func (s *Sink) sweep(now time.Time) {
	if now.Sub(s.swept) < sweepEvery {
		return
	}
	s.swept = now
	for key, t := range s.targets {
		if t.ending == nil && now.Sub(t.seen) > max(forgetAfter, forgetIntervals*t.interval) {
			s.release(t.prepared)
			delete(s.targets, key)
		}
	}
	s.metrics.targets.Set(float64(len(s.targets)))
}
