package receiver

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/stream"
)

// TestRandomFaultsRich is TestRandomFaults with all that frames can have: several targets in a bundle, series that come and
// go, schemas as changes of others of which some are never stored, timestamps, start timestamps, native histograms and
// exemplars, bundles in parts, and for a time two pollers with one identity. Everything that is delivered is compared in full.
func TestRandomFaultsRich(t *testing.T) {
	var what seenFaults
	for seed := *faultSeed; seed < *faultSeed+(*faultRuns+2)/3; seed++ {
		synctest.Test(t, func(t *testing.T) { randomFaultsRich(t, uint64(seed), &what) })
	}
	t.Logf("%+v", what)
	if what.parts == 0 || what.parts == what.messages || what.frames == 0 || what.histograms == 0 || what.exemplars == 0 {
		t.Errorf("not all was there: %+v", what)
	}
}

// seenFaults counts what the runs had: messages, those that were parts, and what was delivered.
type seenFaults struct{ messages, parts, frames, histograms, exemplars int }

// scrapeKey names one scrape; an epoch is that of one process.
type scrapeKey struct {
	epoch, target uint64
	time          int64
}

// told is what a process said of a scrape.
type told struct {
	schema *frame.Schema
	column *frame.Column
}

// richSite is a process that scrapes some targets.
type richSite struct {
	r       *richRun
	name    string
	epoch   uint64
	seq     uint64
	targets []*richTarget
}

type richTarget struct {
	id      uint64
	encoder *frame.Encoder
	schema  *frame.Schema
	series  []frame.Series
	next    int // names the next new series
	count   uint64
}

type richRun struct {
	faultRun
	truth   map[scrapeKey]told
	all     map[frame.SchemaID][]byte // schemas that were made
	lost    map[frame.SchemaID]bool   // those that are not stored until the end
	current []*richSite
}

func randomFaultsRich(t *testing.T, seed uint64, what *seenFaults) {
	r := &richRun{
		faultRun: faultRun{world: newWorld(t), rng: rand.New(rand.NewPCG(seed, 2))},
		truth:    make(map[scrapeKey]told), all: make(map[frame.SchemaID][]byte), lost: make(map[frame.SchemaID]bool),
	}
	var log bytes.Buffer
	r.log = &log
	defer func() {
		if t.Failed() {
			t.Logf("seed %d\n%s", seed, log.String())
		}
	}()
	r.state = t.TempDir()
	a, b := r.site("A"), r.site("B")
	r.current = []*richSite{a, b}
	r.start()
	for round := range 30 {
		r.show(r.rng.IntN(10) > 0, false)
		switch {
		case round == 10: // a second process takes itself for A
			r.current = append(r.current, r.site("A"))
		case round == 20:
			r.current = r.current[:2]
		}
		for _, s := range r.current {
			if r.rng.IntN(25) == 0 {
				s.restart()
			}
			for _, m := range r.cut(s.bundle(true)) {
				r.faulty(s.name, m)
			}
		}
		r.disturb()
		time.Sleep(15 * time.Second)
	}
	r.show(true, true)
	r.flush()
	time.Sleep(2 * time.Minute) // holes and schemas are given up by now
	synctest.Wait()
	r.compare(t)

	// A lane that gave up on a schema asks for it again when the next frame needs it.
	r.sound()
	before := len(r.sink.got)
	for range faultKeyframes {
		r.sound()
	}
	time.Sleep(time.Minute)
	r.stop()
	r.compare(t)
	r.wantNewest(t, before)
	for _, m := range r.messages {
		if stream.IsPart(m.Data) {
			what.parts++
		}
	}
	what.messages += len(r.messages)
	for _, d := range r.sink.got {
		what.frames++
		what.histograms += len(d.Frame.Column.Histograms)
		what.exemplars += len(d.Frame.Column.Exemplars)
	}
}

// sound scrapes all targets without any fault.
func (r *richRun) sound() {
	for _, s := range r.current {
		for _, m := range r.cut(s.bundle(false)) {
			r.world.send(s.name, m)
		}
	}
	time.Sleep(15 * time.Second)
}

// show makes stored schemas visible: all but those that are lost, or all.
func (r *richRun) show(any, all bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.schemas = make(map[frame.SchemaID][]byte)
	for id, m := range r.all {
		if all || any && !r.lost[id] {
			r.schemas[id] = m
		}
	}
}

// cut makes parts of a message that is large, as for a server that takes little.
func (r *richRun) cut(m []byte) [][]byte {
	parts, err := stream.Cut(m, stream.MinPart)
	if err != nil {
		r.t.Fatal(err)
	}
	return parts
}

func (r *richRun) site(name string) *richSite {
	s := &richSite{r: r, name: name, epoch: r.rng.Uint64()}
	for i := range 3 {
		t := &richTarget{id: uint64(i + 1)}
		for range 2 + i*35 {
			t.insert(r.rng)
		}
		s.targets = append(s.targets, t)
		s.remake(t, nil)
	}
	s.restart()
	return s
}

// restart begins a new epoch.
func (s *richSite) restart() {
	s.epoch, s.seq = s.epoch+1, 0
	for _, t := range s.targets {
		t.encoder = frame.NewEncoder(s.epoch, &frame.Target{
			ID: t.id, Labels: labels.FromStrings("instance", fmt.Sprintf("%s:%d", s.name, t.id), "job", "test"),
			Interval: 15 * time.Second, Timeout: 10 * time.Second,
		}, frame.EncoderOptions{KeyframeEvery: faultKeyframes, KeyframeMaxAge: time.Hour})
	}
}

func (t *richTarget) insert(rng *rand.Rand) {
	t.next++
	x := frame.Series{Labels: labels.FromStrings("__name__", "n_total", "i", fmt.Sprint(t.next)), Family: 0, Base: float64(rng.IntN(1000))}
	t.series = slices.Insert(t.series, rng.IntN(len(t.series)+1), x)
}

// remake makes the schema anew, as a change of parent if there is one.
func (s *richSite) remake(t *richTarget, parent *frame.Schema) {
	schema, err := frame.NewSchema([]frame.Family{{Name: "n", Type: model.MetricTypeCounter, Help: "Numbers."}}, slices.Clone(t.series), s.r.limits.Frame)
	if err != nil {
		s.r.t.Fatal(err)
	}
	t.schema = schema
	if s.r.all[schema.ID] != nil {
		return
	}
	if s.r.lost[schema.ID] = s.r.rng.IntN(8) == 0; parent == nil {
		s.r.all[schema.ID] = schema.Marshal()
	} else {
		s.r.all[schema.ID] = schema.MarshalDelta(parent)
	}
	if !s.r.lost[schema.ID] {
		s.r.mu.Lock()
		s.r.schemas[schema.ID] = s.r.all[schema.ID]
		s.r.mu.Unlock()
	}
}

// bundle makes the next bundle with a scrape of each target, and notes what is true of it.
func (s *richSite) bundle(churn bool) []byte {
	s.seq++
	var frames []byte
	for _, t := range s.targets {
		now := time.Now().UnixMilli()
		if churn && s.r.rng.IntN(6) == 0 {
			parent := t.schema
			if len(t.series) > 2 && s.r.rng.IntN(2) == 0 {
				i := s.r.rng.IntN(len(t.series))
				t.series = slices.Delete(t.series, i, i+1)
			}
			t.insert(s.r.rng)
			s.remake(t, parent)
		}
		if s.r.rng.IntN(20) == 0 {
			frames = t.encoder.AppendDown(frames, now, frame.Report{Duration: time.Second})
			continue
		}
		c := t.column(s.r.rng, now)
		var err error
		if frames, err = t.encoder.AppendScrape(frames, now, frame.Report{Scraped: len(t.series), PostRelabel: len(t.series)}, t.schema, c); err != nil {
			s.r.t.Fatal(err)
		}
		s.r.truth[scrapeKey{s.epoch, t.id, now}] = told{t.schema, c}
	}
	return frame.AppendBundle(nil, frame.Header{Publisher: s.name, Lane: "live", Epoch: s.epoch, Seq: s.seq}, frames)
}

// column is what a target exposes. The encoder keeps nothing of it.
func (t *richTarget) column(rng *rand.Rand, now int64) *frame.Column {
	n := len(t.series)
	t.count += uint64(rng.IntN(20))
	c := &frame.Column{Values: make([]float64, n)}
	for i := range c.Values {
		switch c.Values[i] = float64(t.count) * float64(i+1); rng.IntN(10) {
		case 0:
			c.Values[i] = rng.NormFloat64()
		case 1:
			c.Values[i] = []float64{math.NaN(), math.Inf(1), math.Copysign(0, -1), 1e300}[rng.IntN(4)]
		}
	}
	gone := rng.IntN(2 * n)
	if gone < n {
		c.Absent = frame.NewBitmap(n)
		c.Absent.Set(gone)
	}
	if rng.IntN(3) == 0 {
		c.Timestamps = slices.Repeat([]int64{frame.NoTimestamp}, n)
		c.Timestamps[n-1] = now - int64(rng.IntN(3))*1000
		if gone == n-1 {
			c.Timestamps[n-1] = frame.NoTimestamp
		}
	}
	if t.id == 1 {
		return c
	}
	c.Starts = make([]int64, n)
	for i := range n {
		if i%3 == 0 {
			c.Starts[i] = now - now%3_600_000 - int64(i%2)
		}
		if i == gone {
			continue
		}
		if i%5 == 1 {
			c.Histograms = append(c.Histograms, frame.Histogram{Row: i, Int: &histogram.Histogram{
				Schema: 3, ZeroThreshold: 1e-128, ZeroCount: 1, Count: 1 + 4*t.count, Sum: float64(t.count) * 1.5,
				PositiveSpans:   []histogram.Span{{Offset: int32(i), Length: 1 + uint32(t.count%2)}},
				PositiveBuckets: [][]int64{{int64(4 * t.count)}, {int64(t.count), int64(2 * t.count)}}[t.count%2],
			}})
			c.Values[i] = 0
		}
		if rng.IntN(6) == 0 {
			c.Exemplars = append(c.Exemplars, frame.Exemplar{Row: i, Labels: labels.FromStrings("trace_id", fmt.Sprintf("%016x", rng.Uint64())), Value: rng.Float64(), Timestamp: now - 5})
		}
	}
	return c
}

// compare fails for whatever is delivered and was not said, in full, or older after newer, or twice.
func (r *richRun) compare(t *testing.T) {
	t.Helper()
	newest, seen := make(map[[2]uint64]int64), make(map[scrapeKey]bool)
	for i, d := range r.sink.got {
		f := d.Frame
		if f.Kind != frame.Scraped {
			continue
		}
		key := scrapeKey{d.Epoch, f.Target.ID, f.Time}
		want, known := r.truth[key]
		if !known {
			t.Fatalf("frame %d of %s, target %d at %d, was never scraped", i, d.Publisher, f.Target.ID, f.Time)
		}
		if name := f.Target.Labels.Get("instance"); name != fmt.Sprintf("%s:%d", d.Publisher, f.Target.ID) {
			t.Fatalf("frame %d of %s is of %s", i, d.Publisher, name)
		}
		if err := differs(f, want); err != nil {
			t.Fatalf("frame %d of %s, target %d at %d: %v", i, d.Publisher, f.Target.ID, f.Time, err)
		}
		of := [2]uint64{d.Epoch, f.Target.ID}
		if (f.Time < newest[of] || seen[key]) && !d.Repeated {
			t.Fatalf("frame %d of %s, target %d: %d after %d, seen before %t", i, d.Publisher, f.Target.ID, f.Time, newest[of], seen[key])
		}
		newest[of], seen[key] = max(newest[of], f.Time), true
	}
}

// differs tells how a frame is not what was said.
func differs(f *frame.Frame, want told) error {
	got, c := &f.Column, want.column
	if f.Schema.ID != want.schema.ID || len(got.Values) != len(c.Values) || len(got.Histograms) != len(c.Histograms) || len(got.Exemplars) != len(c.Exemplars) {
		return fmt.Errorf("schema %s, %d values, %d histograms, %d exemplars, want %s, %d, %d, %d", f.Schema.ID, len(got.Values), len(got.Histograms), len(got.Exemplars),
			want.schema.ID, len(c.Values), len(c.Histograms), len(c.Exemplars))
	}
	native := make(map[int]bool)
	for i, h := range got.Histograms {
		native[h.Row] = true
		if x := c.Histograms[i]; h.Row != x.Row || h.Int == nil || !h.Int.Equals(x.Int) {
			return fmt.Errorf("histogram %v in row %d, want %v in row %d", h.Int, h.Row, x.Int, x.Row)
		}
	}
	for i, x := range got.Exemplars {
		if y := c.Exemplars[i]; x.Row != y.Row || x.Value != y.Value || x.Timestamp != y.Timestamp || !labels.Equal(x.Labels, y.Labels) {
			return fmt.Errorf("exemplar %v, want %v", x, y)
		}
	}
	at := func(list []int64, i int, none int64) int64 {
		if list == nil {
			return none
		}
		return list[i]
	}
	for i := range c.Values {
		if got.Absent.Has(i) != c.Absent.Has(i) {
			return fmt.Errorf("row %d is absent: %t", i, got.Absent.Has(i))
		}
		if c.Absent.Has(i) {
			continue
		}
		if !native[i] && math.Float64bits(got.Values[i]) != math.Float64bits(c.Values[i]) ||
			at(got.Timestamps, i, frame.NoTimestamp) != at(c.Timestamps, i, frame.NoTimestamp) || at(got.Starts, i, 0) != at(c.Starts, i, 0) {
			return fmt.Errorf("row %d is %v at %d since %d, want %v at %d since %d", i, got.Values[i], at(got.Timestamps, i, 0), at(got.Starts, i, 0),
				c.Values[i], at(c.Timestamps, i, 0), at(c.Starts, i, 0))
		}
	}
	return nil
}

// wantNewest fails unless each target of each process that still runs is delivered after the first n deliveries, and the
// last scrape of each among them.
func (r *richRun) wantNewest(t *testing.T, n int) {
	t.Helper()
	newest := make(map[[2]uint64]int64)
	for _, d := range r.sink.got[n:] {
		if d.Frame.Kind == frame.Scraped || d.Frame.Kind == frame.Down {
			newest[[2]uint64{d.Epoch, d.Frame.Target.ID}] = d.Frame.Time
		}
	}
	last := time.Now().Add(-time.Minute - 15*time.Second).UnixMilli()
	for _, s := range r.current {
		for _, x := range s.targets {
			if got := newest[[2]uint64{s.epoch, x.id}]; got != last {
				t.Errorf("target %d of %s is at %d, not at %d, one keyframe interval after the faults stopped", x.id, s.name, got, last)
			}
		}
	}
}
