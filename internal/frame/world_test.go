package frame

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

// world makes scrapes that are as awkward as a seed allows.
type world struct {
	*rand.Rand
	schema  *Schema
	series  []Series
	values  []float64
	next    int
	time    int64
	stamped bool
	// whole worlds have start timestamps, histograms and exemplars too.
	whole bool
	rich  map[string]*rich
}

var oddValues = []float64{
	0, math.Copysign(0, -1), 1, -1, 0.1, 1e-300, 5e-324, math.MaxFloat64, -math.MaxFloat64, math.Inf(1), math.Inf(-1), math.NaN(),
	math.Float64frombits(0x7ff0000000000002), // Prometheus' stale marker
	math.Float64frombits(0xfff8000000000123), 1 << 53, 1<<53 + 2, 1<<53 - 1, -(1 << 53), 1 << 62, -(1 << 63), 1 << 63, 4096, 1 << 40,
	123456789.123456789, 0.30000000000000004, 1e15, 1e16, 1e22, 1e23, 999999999999999.9, 0.000000000000001,
}

func newWorld(seed uint64, n int) *world {
	w := &world{Rand: rand.New(rand.NewPCG(seed, 17)), time: 1_700_000_000_000}
	w.stamped = w.IntN(3) == 0
	w.whole = seed%4 > 1
	for range n {
		w.insert()
	}
	w.remake()
	return w
}

var testFamilies = []Family{
	{Name: "a_total", Type: model.MetricTypeCounter, Help: "Counts a."},
	{Name: "h", Type: model.MetricTypeHistogram, Help: "Line\nbreak", Unit: "seconds"},
	{Name: "ü.x", Type: model.MetricTypeUnknown},
}

// insert puts a new series somewhere, or a histogram of some.
func (w *world) insert() {
	at := w.IntN(len(w.series) + 1)
	w.next++
	id := strconv.Itoa(w.next)
	switch w.IntN(3) {
	case 0:
		fresh := []Series{}
		for _, le := range []string{"0.1", "1", "+Inf"} {
			fresh = append(fresh, Series{Labels: labels.FromStrings("__name__", "h_bucket", "id", id, "le", le), Family: 1, Base: float64(w.IntN(3))})
		}
		fresh = append(fresh, Series{Labels: labels.FromStrings("__name__", "h_sum", "id", id), Family: 1, Base: w.Float64()})
		fresh = append(fresh, Series{Labels: labels.FromStrings("__name__", "h_count", "id", id), Family: 1, Base: 2})
		w.series = slices.Insert(w.series, at, fresh...)
		for _, s := range fresh {
			w.values = slices.Insert(w.values, at, s.Base)
		}
	default:
		base := w.odd()
		w.series = slices.Insert(w.series, at, Series{Labels: labels.FromStrings("__name__", "a_total", "id", id, "job", ""), Family: w.IntN(4) - 1, Base: base})
		w.values = slices.Insert(w.values, at, base)
	}
}

func (w *world) odd() float64 {
	switch w.IntN(4) {
	case 0:
		return oddValues[w.IntN(len(oddValues))]
	case 1:
		return float64(w.IntN(100000)) / 100
	case 2:
		return float64(w.Int64N(1<<40)) * 4096
	default:
		return float64(w.IntN(1000))
	}
}

func (w *world) remake() {
	s, err := NewSchema(testFamilies, slices.Clone(w.series), DefaultLimits())
	if err != nil {
		panic(err)
	}
	w.schema = s
}

// scrape changes some values, and sometimes the series.
func (w *world) scrape(churn bool) (int64, *Column) {
	if churn && w.IntN(4) == 0 {
		for range w.IntN(3) {
			i := w.IntN(len(w.series))
			w.series, w.values = slices.Delete(w.series, i, i+1), slices.Delete(w.values, i, i+1)
			if len(w.series) == 0 {
				break
			}
		}
		w.insert()
		w.remake()
	}
	n := len(w.values)
	for i := range w.values {
		switch w.IntN(8) {
		case 0:
			w.values[i] = w.odd()
		case 1, 2, 3:
			w.values[i] += float64(w.IntN(50))
		case 4:
			w.values[i] += w.Float64()
		}
	}
	c := &Column{Values: slices.Clone(w.values)}
	if w.IntN(2) == 0 {
		c.Absent = NewBitmap(n)
		for range w.IntN(5) {
			for i, from := 0, w.IntN(n); i < w.IntN(4)+1 && from+i < n; i++ {
				c.Absent.Set(from + i)
			}
		}
	}
	w.time += int64(w.IntN(20000))
	if w.stamped && w.IntN(5) > 0 {
		c.Timestamps = make([]int64, n)
		for i := range c.Timestamps {
			c.Timestamps[i] = NoTimestamp
			if i%7 > 0 {
				c.Timestamps[i] = w.time - int64(i%5)*1000
			}
			if w.IntN(50) == 0 {
				c.Timestamps[i] = int64(w.Uint64())
			}
		}
	}
	if w.whole {
		w.enrich(c)
	}
	return w.time, c
}

// decodeAll gives the frames of a bundle's content.
func decodeAll(d *Decoder, frames []byte, schemas ...*Schema) ([]*Frame, error) {
	var out []*Frame
	for raw, err := range (&Bundle{frames: frames}).Frames() {
		if err != nil {
			return out, err
		}
		f, err := d.Decode(raw, known(schemas...))
		if err != nil {
			return out, err
		}
		out = append(out, f)
	}
	return out, nil
}

func known(schemas ...*Schema) func(SchemaID) (*Schema, error) {
	return func(id SchemaID) (*Schema, error) {
		for _, s := range schemas {
			if s.ID == id {
				return s, nil
			}
		}
		return nil, fmt.Errorf("%s: %w", id, errMissing)
	}
}

var errMissing = errors.New("missing in this test")

// TestRoundTrip: whatever happens to values and series, what is decoded is what was encoded, and states stay few.
func TestRoundTrip(t *testing.T) {
	for seed := range uint64(150) {
		w := newWorld(seed, 1+int(seed%90))
		target := &Target{ID: seed << 20, Labels: corpusLabels, Interval: 15 * time.Second, Timeout: 9 * time.Second, TrackTimestamps: seed%3 == 0}
		opts := EncoderOptions{KeyframeEvery: []int{0, 1, 5, 16, 64}[seed%5], Always: seed%17 == 0}
		e, d := NewEncoder(seed, target, opts), NewDecoder(seed, DefaultLimits())
		for i := range 60 {
			at, c := w.scrape(seed%2 == 0)
			rep := Report{Duration: time.Duration(w.Int64N(1 << 35)), Scraped: w.IntN(500), PostRelabel: w.IntN(500), Added: w.IntN(3)}
			b, err := e.AppendScrape(nil, at, rep, w.schema, c)
			if err != nil {
				t.Fatal(err)
			}
			frames, err := decodeAll(d, b, w.schema)
			if err != nil || len(frames) != 1 {
				t.Fatalf("seed %d, scrape %d: %v", seed, i, err)
			}
			f := frames[0]
			sameColumn(t, &f.Column, c)
			if f.Report != rep || f.Time != at || f.Position != e.Position() || f.Schema != w.schema || f.Target.ID != target.ID ||
				!labels.Equal(f.Target.Labels, target.Labels) || f.Target.Interval != target.Interval || f.Target.Timeout != target.Timeout ||
				f.Target.TrackTimestamps != target.TrackTimestamps {
				t.Fatalf("seed %d, scrape %d: frame is %+v", seed, i, f)
			}
			if n := len(d.targets[target.ID].states); n > 2 && opts.KeyframeEvery <= 16 || len(e.states) > 4 || n > 4 {
				t.Fatalf("seed %d, scrape %d: %d and %d states", seed, i, n, len(e.states))
			}
			if w.IntN(20) == 0 {
				b := e.AppendDown(nil, at, rep)
				frames, err := decodeAll(d, b)
				if err != nil || frames[0].Kind != Down || frames[0].Report != rep || d.Bytes() != 0 {
					t.Fatalf("seed %d: down is %v, %v; %d bytes are held", seed, frames, err, d.Bytes())
				}
			}
		}
		frames, err := decodeAll(d, AppendEpochEnd(e.AppendEnd(nil, w.time, Relabelled), seed, w.time+1))
		if err != nil || frames[0].Kind != End || frames[0].Reason != Relabelled || frames[1].Kind != EpochEnd || frames[1].Time != w.time+1 {
			t.Fatalf("seed %d: end is %v, %v", seed, frames, err)
		}
		if d.Targets() != 0 || d.Bytes() != 0 {
			t.Fatalf("seed %d: %d targets and %d bytes are held after the end", seed, d.Targets(), d.Bytes())
		}
	}
}

// TestLoss: a lost frame costs those that build on it and no others, never a wrong value, and nothing after the next
// keyframe; late frames are read if their base is there, and harm nobody.
func TestLoss(t *testing.T) {
	for seed := range uint64(100) {
		w := newWorld(seed, 40)
		e := NewEncoder(1, &Target{ID: 3, Labels: corpusLabels, Interval: time.Second}, EncoderOptions{})
		d := NewDecoder(1, DefaultLimits())
		type sent struct {
			raw    RawFrame
			schema *Schema
			c      *Column
		}
		var all []sent
		for range 200 {
			at, c := w.scrape(true)
			b, err := e.AppendScrape(nil, at, Report{}, w.schema, c)
			if err != nil {
				t.Fatal(err)
			}
			for raw := range (&Bundle{frames: b}).Frames() {
				all = append(all, sent{raw, w.schema, c})
			}
		}
		lost, broken, decoded, lastLost := 0, 0, 0, 0
		for i := 0; i < len(all); i++ {
			if w.IntN(30) == 0 {
				lost++
				lastLost = i
				continue
			}
			if i+1 < len(all) && w.IntN(20) == 0 {
				all[i], all[i+1] = all[i+1], all[i]
			}
			x := all[i]
			f, err := d.Decode(x.raw, known(x.schema))
			switch {
			case errors.Is(err, ErrNoBase):
				if broken++; i > lastLost+20 && x.raw.Type == typeKeyframe {
					t.Fatalf("seed %d: frame %d has no base", seed, i)
				}
			case err != nil:
				t.Fatal(err)
			default:
				sameColumn(t, &f.Column, x.c)
				decoded++
			}
		}
		if decoded+broken+lost != len(all) || broken > 4*(lost+20) {
			t.Fatalf("seed %d: %d lost, %d broken, %d decoded", seed, lost, broken, decoded)
		}
	}
}
