package frame

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame/outsider"
)

// beside lets a decoder and a reader that was written from docs/frame-format.md read the same messages, in their order.
type beside struct {
	t        testing.TB
	reader   *outsider.Reader
	decoders map[dumpLane]*Decoder
	schemas  map[SchemaID]*Schema
	frames   int // that both could read
}

func newBeside(t testing.TB) *beside {
	return &beside{t: t, reader: outsider.NewReader(), decoders: make(map[dumpLane]*Decoder), schemas: make(map[SchemaID]*Schema)}
}

// message fails the test if the two do not say the same of a message.
func (b *beside) message(msg []byte) {
	b.t.Helper()
	if IsSchema(msg) {
		b.schema(msg)
		return
	}
	theirs, theirErr := b.reader.Bundle(msg)
	ours, err := ParseBundle(msg, DefaultLimits())
	if theirErr != nil || err != nil {
		if !sameRefusal(err, theirErr) {
			b.t.Fatalf("a bundle is refused with\n%v, by the other with\n%v", err, theirErr)
		}
		return
	}
	b.same("header", fmt.Sprint(theirs.Publisher, theirs.Lane, theirs.Epoch, theirs.Seq, theirs.Predecessor, theirs.Totals),
		fmt.Sprint(ours.Publisher, ours.Lane, ours.Epoch, ours.Seq, ours.Predecessor, ours.Totals))
	key := dumpLane{ours.Publisher, ours.Lane, ours.Epoch}
	if b.decoders[key] == nil {
		b.decoders[key] = NewDecoder(ours.Epoch, DefaultLimits())
	}
	i := 0
	for raw, err := range ours.Frames() {
		if err != nil {
			b.t.Fatal(err)
		}
		if i == len(theirs.Frames) {
			b.t.Fatalf("%d frames, fewer than ours", i)
		}
		f, err := b.decoders[key].Decode(raw, func(id SchemaID) (*Schema, error) {
			if s := b.schemas[id]; s != nil {
				return s, nil
			}
			return nil, errMissing
		})
		b.frame(raw, f, err, theirs.Frames[i])
		i++
	}
	b.same("number of frames", len(theirs.Frames), i)
}

// sameRefusal tells whether two errors are of the same kind.
func sameRefusal(ours, theirs error) bool {
	later := (*VersionError)(nil)
	switch {
	case ours == nil || theirs == nil:
		return ours == theirs
	case errors.As(ours, &later):
		return errors.Is(theirs, outsider.ErrLater)
	case errors.Is(ours, ErrNoBase):
		return errors.Is(theirs, outsider.ErrNoBase)
	case errors.Is(ours, errMissing):
		return errors.Is(theirs, outsider.ErrNoSchema)
	case errors.Is(ours, ErrChecksum):
		return errors.Is(theirs, outsider.ErrWrongBase) || !errors.Is(theirs, outsider.ErrLater)
	default:
		return !errors.Is(theirs, outsider.ErrLater)
	}
}

func (b *beside) same(what string, got, want any) {
	b.t.Helper()
	if !reflect.DeepEqual(got, want) {
		b.t.Fatalf("%s: the page's reader has\n%+v, the decoder\n%+v", what, got, want)
	}
}

func (b *beside) schema(msg []byte) {
	theirs, err := b.reader.Schema(msg)
	if err != nil {
		b.t.Fatalf("a schema: %v", err)
	}
	ours, err := UnmarshalSchemaDelta(SchemaID(theirs.ID), msg, func(id SchemaID) (*Schema, []byte, error) { return b.schemas[id], nil, nil }, DefaultLimits())
	if err != nil {
		b.t.Fatalf("a schema: %v", err)
	}
	b.schemas[ours.ID] = ours
	want := outsider.Schema{ID: outsider.ID(ours.ID)}
	types := []model.MetricType{model.MetricTypeUnknown, model.MetricTypeCounter, model.MetricTypeGauge, model.MetricTypeHistogram,
		model.MetricTypeGaugeHistogram, model.MetricTypeSummary, model.MetricTypeInfo, model.MetricTypeStateset}
	for _, f := range ours.Families {
		want.Families = append(want.Families, outsider.Family{Name: f.Name, Type: byte(slices.Index(types, f.Type)), Help: f.Help, Unit: f.Unit})
	}
	for _, s := range ours.Series {
		want.Series = append(want.Series, outsider.Series{Labels: outsiderLabels(s.Labels), Family: s.Family, Base: math.Float64bits(s.Base)})
	}
	b.same("id", theirs.ID, want.ID)
	b.same("families", theirs.Families, want.Families)
	b.same("series", theirs.Series, want.Series)
}

func outsiderLabels(ls labels.Labels) []outsider.Label {
	var list []outsider.Label
	ls.Range(func(l labels.Label) { list = append(list, outsider.Label{Name: l.Name, Value: l.Value}) })
	return list
}

func (b *beside) frame(raw RawFrame, ours *Frame, err error, theirs *outsider.Frame) {
	b.t.Helper()
	at := fmt.Sprintf("frame %d of target %d", raw.Position, raw.Target)
	if theirs.Err != nil || err != nil {
		if !sameRefusal(err, theirs.Err) {
			b.t.Fatalf("%s is refused with\n%v, by the other with\n%v", at, err, theirs.Err)
		}
		return
	}
	b.frames++
	b.same(at, fmt.Sprint(theirs.Type, theirs.Target, theirs.Position, theirs.Time, theirs.Reason),
		fmt.Sprint(raw.Type, raw.Target, ours.Position, ours.Time, uint8(ours.Reason)))
	if raw.Type == typeEpochEnd {
		return
	}
	b.same(at+", definition", theirs.Definition, outsider.Definition{
		Interval: uint64(ours.Target.Interval / time.Millisecond), Timeout: uint64(ours.Target.Timeout / time.Millisecond),
		Labels: outsiderLabels(ours.Target.Labels), Track: ours.Target.TrackTimestamps,
	})
	rep := ours.Report
	b.same(at+", report", []uint64{theirs.Duration, theirs.Scraped, theirs.PostRelabel, theirs.Added},
		[]uint64{uint64(rep.Duration), uint64(rep.Scraped), uint64(rep.PostRelabel), uint64(rep.Added)})
	if ours.Schema == nil {
		b.same(at+", rows", len(theirs.Rows), 0)
		return
	}
	b.same(at+", schema", theirs.Schema.ID, outsider.ID(ours.Schema.ID))
	want := outsiderRows(&ours.Column)
	b.same(at+", number of rows", len(theirs.Rows), len(want))
	for i := range want {
		b.same(fmt.Sprintf("%s, row %d", at, i), theirs.Rows[i], want[i])
	}
}

// outsiderRows is a column as the other reader has it.
func outsiderRows(c *Column) []outsider.Row {
	rows := make([]outsider.Row, len(c.Values))
	for i, v := range c.Values {
		r := &rows[i]
		if r.Absent = c.Absent.Has(i); r.Absent {
			continue
		}
		r.Value = math.Float64bits(v)
		if c.Timestamps != nil && c.Timestamps[i] != NoTimestamp {
			r.HasTimestamp, r.Timestamp = true, c.Timestamps[i]
		}
		if c.Starts != nil {
			r.Start = c.Starts[i]
		}
	}
	for _, h := range c.Histograms {
		rows[h.Row].Histogram, rows[h.Row].Value = outsiderHistogram(h), 0
	}
	for _, x := range c.Earlier {
		rows[x.Row].Earlier = append(rows[x.Row].Earlier, outsider.Earlier{Value: math.Float64bits(x.Value), Timestamp: x.Timestamp})
	}
	for _, x := range c.Exemplars {
		e := outsider.Exemplar{Labels: outsiderLabels(x.Labels), Value: math.Float64bits(x.Value)}
		if x.Timestamp != NoTimestamp {
			e.HasTimestamp, e.Timestamp = true, x.Timestamp
		}
		rows[x.Row].Exemplars = append(rows[x.Row].Exemplars, e)
	}
	return rows
}

func outsiderHistogram(h Histogram) *outsider.Histogram {
	bits := func(list []float64) (out []uint64) {
		for _, v := range list {
			out = append(out, math.Float64bits(v))
		}
		return out
	}
	counts := func(differences []int64) (out []uint64) {
		n := int64(0)
		for _, d := range differences {
			n += d
			out = append(out, uint64(n))
		}
		return out
	}
	spans := func(list []histogram.Span) (out []outsider.Span) {
		for _, s := range list {
			out = append(out, outsider.Span{Offset: int64(s.Offset), Length: int64(s.Length)})
		}
		return out
	}
	if x := h.Int; x != nil {
		return &outsider.Histogram{
			Hint: byte(x.CounterResetHint), Schema: int64(x.Schema), Threshold: math.Float64bits(x.ZeroThreshold), Bounds: bits(x.CustomValues),
			Zero: x.ZeroCount, Positive: spans(x.PositiveSpans), Negative: spans(x.NegativeSpans),
			PositiveBuckets: counts(x.PositiveBuckets), NegativeBuckets: counts(x.NegativeBuckets), Count: x.Count, Sum: math.Float64bits(x.Sum),
		}
	}
	x := h.Float
	return &outsider.Histogram{
		Float: true, Hint: byte(x.CounterResetHint), Schema: int64(x.Schema), Threshold: math.Float64bits(x.ZeroThreshold), Bounds: bits(x.CustomValues),
		Zero: math.Float64bits(x.ZeroCount), Positive: spans(x.PositiveSpans), Negative: spans(x.NegativeSpans),
		PositiveBuckets: bits(x.PositiveBuckets), NegativeBuckets: bits(x.NegativeBuckets), Count: math.Float64bits(x.Count), Sum: math.Float64bits(x.Sum),
	}
}

// TestOutsiderGolden: a reader written from the page alone reads all golden messages as the decoder does.
func TestOutsiderGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/golden/*.bin")
	if err != nil || len(files) < 28 {
		t.Fatalf("%d golden files, %v", len(files), err)
	}
	b := newBeside(t)
	for _, file := range files {
		msg, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b.message(msg)
		if t.Failed() {
			t.Fatal(file)
		}
	}
	if b.frames < 20 {
		t.Errorf("%d frames were read", b.frames)
	}
}

// TestOutsiderPredicted: so it does where names and labels nearly make a series a bucket or a count.
func TestOutsiderPredicted(t *testing.T) {
	var series []Series
	for _, ls := range [][]string{
		{"h_bucket", "le", "1"}, {"h_bucket", "le", "2"}, {"h_sum"}, {"h_count"}, {"h_bucket"}, {"h_bucket", "le", "3"}, {"h_count_bucket"},
		{"h_count_bucket", "x", "1"}, {"h_count", "le", "1"}, {"h_bucket", "le", "", "x", "1"}, {"h_count", "x", "1"}, {"h_count", "y", "1"},
		{"_bucket", "le", "1"}, {"_count"}, {"_bucket", "le", "2"}, {"h_count_bucket", "le", "1"}, {"h_count_count"}, {"h_count", "z", "1"},
	} {
		series = append(series, Series{Labels: labels.FromStrings(append([]string{"__name__"}, ls...)...), Family: -1, Base: 1})
	}
	s := mustSchema(t, nil, series)
	b := newBeside(t)
	b.message(s.Marshal())
	e := NewEncoder(1, testTarget(1, time.Second), EncoderOptions{})
	for i := range uint64(20) {
		values := make([]float64, len(series))
		for k := range values {
			values[k] = float64(1 + (k+7)*int(i))
		}
		content, err := e.AppendScrape(nil, int64(i)*1000, Report{}, s, &Column{Values: values})
		if err != nil {
			t.Fatal(err)
		}
		b.message(AppendBundle(nil, Header{Publisher: "p", Epoch: 1, Seq: i}, content))
	}
	if b.frames != 20 {
		t.Errorf("%d frames were read", b.frames)
	}
}

// TestOutsiderRandom: so it does whatever happens to values, series and what else there is, also when messages are lost.
func TestOutsiderRandom(t *testing.T) {
	frames := 0
	for seed := range uint64(60) {
		w := newWorld(seed, 1+int(seed%70))
		target := &Target{ID: seed << 20, Labels: corpusLabels, Interval: 15 * time.Second, Timeout: 9 * time.Second, TrackTimestamps: seed%3 == 0}
		e := NewEncoder(seed, target, EncoderOptions{KeyframeEvery: []int{0, 1, 5, 16, 64}[seed%5], Always: seed%17 == 0})
		b := newBeside(t)
		parent := w.schema
		b.message(parent.Marshal())
		for i := range uint64(40) {
			at, c := w.scrape(seed%2 == 0)
			if w.schema != parent {
				b.message(w.schema.MarshalDelta(parent))
				parent = w.schema
			}
			rep := Report{Duration: time.Duration(w.Int64N(1 << 35)), Scraped: w.IntN(500), PostRelabel: w.IntN(500), Added: w.IntN(3)}
			if w.IntN(2) == 0 {
				rep.Scraped, rep.Added = len(c.Values)-c.Absent.Count(), 0
				rep.PostRelabel = rep.Scraped
			}
			content, err := e.AppendScrape(nil, at, rep, w.schema, c)
			if err != nil {
				t.Fatal(err)
			}
			if w.IntN(20) == 0 {
				content = e.AppendDown(content, at, rep)
			}
			if w.IntN(30) > 0 {
				b.message(AppendBundle(nil, Header{Publisher: "p", Lane: "live", Epoch: seed, Seq: i}, content))
			}
			if t.Failed() {
				t.Fatalf("seed %d, scrape %d", seed, i)
			}
		}
		b.message(AppendBundle(nil, Header{Publisher: "p", Lane: "live", Epoch: seed, Seq: 99}, AppendEpochEnd(e.AppendEnd(nil, w.time, Relabelled), seed, w.time+1)))
		frames += b.frames
	}
	t.Logf("%d frames are the same", frames)
	if frames < 1500 {
		t.Errorf("%d frames were read", frames)
	}
}
