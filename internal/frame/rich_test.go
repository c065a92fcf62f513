package frame

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
)

// wholeColumn has start timestamps, an integer, a float and a custom histogram, and exemplars, for 8 rows.
func wholeColumn() *Column {
	return &Column{
		Values: []float64{1, 0, 0, 0, 5, 6, 7, 8},
		Starts: []int64{1_789_999_990_000, 1_789_999_990_000, 1_789_999_990_000, 1_789_999_980_500, 0, 0, 1_789_999_990_000, -1},
		Histograms: []Histogram{
			{Row: 1, Int: &histogram.Histogram{Schema: 3, ZeroThreshold: 2.938735877055719e-39, ZeroCount: 2, Count: 17, Sum: 18.4,
				PositiveSpans: []histogram.Span{{Offset: -4, Length: 2}, {Offset: 3, Length: 1}}, PositiveBuckets: []int64{1, 2, 7},
				NegativeSpans: []histogram.Span{{Offset: 0, Length: 1}}, NegativeBuckets: []int64{1}}},
			{Row: 2, Float: &histogram.FloatHistogram{CounterResetHint: histogram.GaugeType, Schema: -1, ZeroThreshold: 0.001, Count: 2.5, Sum: math.Inf(-1),
				PositiveSpans: []histogram.Span{{Offset: 10, Length: 2}}, PositiveBuckets: []float64{0.5, 2}}},
			{Row: 3, Int: &histogram.Histogram{Schema: histogram.CustomBucketsSchema, Count: 9, Sum: 1234, CustomValues: []float64{0.005, 0.01, 2.5, 10},
				PositiveSpans: []histogram.Span{{Offset: 1, Length: 2}, {Offset: 1, Length: 1}}, PositiveBuckets: []int64{4, -2, 1}}},
		},
		Exemplars: []Exemplar{
			{Row: 0, Labels: labels.FromStrings("trace_id", "4bf92f3577b34da6a3ce929d0e0e4736"), Value: 1, Timestamp: 1_789_999_999_123},
			{Row: 1, Labels: labels.FromStrings("span_id", "00f067aa0ba902b7", "trace_id", "4bf92f3577b34da6a3ce929d0e0e4736"), Value: 0.057483921, Timestamp: NoTimestamp},
			{Row: 1, Labels: labels.FromStrings("span_id", "xyz", "trace_id", ""), Value: math.Inf(1), Timestamp: 1_790_000_000_001},
			{Row: 6, Value: math.Pi, Timestamp: NoTimestamp},
		},
	}
}

const wholeTime = 1_790_000_000_000

// wholePair is an encoder and a decoder of a target whose first generation is long enough.
func wholePair(t testing.TB) (*Encoder, *Decoder, *Schema) {
	e := NewEncoder(1, testTarget(1, time.Second), EncoderOptions{})
	e.length = 16
	return e, NewDecoder(1, DefaultLimits()), plainSchema(t, 8, 0)
}

func encodeOne(t testing.TB, e *Encoder, at int64, s *Schema, c *Column) RawFrame {
	t.Helper()
	b, err := e.AppendScrape(nil, at, Report{Scraped: 8, PostRelabel: 8}, s, c)
	if err != nil {
		t.Fatal(err)
	}
	return rawFrames(t, b)[0]
}

// TestRichUnchanged: what stands as in the base costs not one byte, and memory that is shared.
func TestRichUnchanged(t *testing.T) {
	e, d, s := wholePair(t)
	plain, _, _ := wholePair(t)
	bare := wholeColumn()
	bare.Starts, bare.Histograms, bare.Exemplars = nil, nil, nil
	var first *Frame
	for i := range int64(16) {
		c := wholeColumn()
		raw := encodeOne(t, e, wholeTime+i*1000, s, c)
		f, err := d.Decode(raw, known(s))
		if err != nil {
			t.Fatal(err)
		}
		sameColumn(t, &f.Column, c)
		if n := len(encodeOne(t, plain, wholeTime+i*1000, s, bare).Body); i > 0 && len(raw.Body) > n {
			t.Errorf("scrape %d takes %d bytes, without what did not change %d", i, len(raw.Body), n)
		}
		if i == 0 {
			first = f
		} else if f.Column.Histograms[0].Int != first.Column.Histograms[0].Int || &f.Column.Starts[0] != &first.Column.Starts[0] {
			t.Errorf("scrape %d does not share what did not change", i)
		}
	}
}

// TestRichComesAndGoes: a row that is a float, a histogram of another kind, absent, and each again; with timestamps
// of its own.
func TestRichComesAndGoes(t *testing.T) {
	e, d, s := wholePair(t)
	whole := func(change func(*Column)) *Column {
		c := wholeColumn()
		change(c)
		return c
	}
	stamps := slices.Repeat([]int64{7, 8}, 4)
	columns := []*Column{
		{Values: make([]float64, 8)},
		whole(func(*Column) {}),
		whole(func(c *Column) { c.Histograms = c.Histograms[1:]; c.Values[1] = 0.25; c.Exemplars = c.Exemplars[:1] }),
		whole(func(c *Column) { c.Timestamps = stamps; c.Exemplars[0].Value++ }),
		whole(func(c *Column) {
			c.Absent = Bitmap{1<<1 | 1<<2}
			c.Histograms, c.Exemplars = c.Histograms[2:], c.Exemplars[3:]
			c.Starts = nil
		}),
		whole(func(c *Column) { c.Histograms[0].Int.Sum = math.Float64frombits(0x7ff0000000000002) }),
		whole(func(c *Column) { c.Histograms[0] = Histogram{Row: 1, Float: c.Histograms[1].Float} }),
		{Values: []float64{1, 2, 3, 4, 5, 6, 7, 8}, Timestamps: stamps},
		whole(func(c *Column) { c.Histograms[2].Int.CounterResetHint = histogram.CounterReset }),
		{Values: []float64{1, 2, 3, 4, 5, 6, 7, 8}},
		{Values: []float64{1, 2, 3, 4, 5, 6, 7, 9}},
		whole(func(c *Column) { c.Histograms[2].Int.CustomValues = []float64{0.5, math.Pi, 4, 5} }),
	}
	var kept []*Frame
	for range 3 {
		for i, c := range columns {
			raw := encodeOne(t, e, wholeTime+int64(len(kept))*1000, s, c)
			f, err := d.Decode(raw, known(s))
			if err != nil {
				t.Fatalf("scrape %d: %v", i, err)
			}
			sameColumn(t, &f.Column, c)
			if f.Report.Scraped != 8 || f.Column.Absent.count(8) != c.Absent.count(8) {
				t.Errorf("scrape %d: %+v", i, f.Report)
			}
			if c.Starts == nil && f.Column.Starts != nil || c.Histograms == nil && f.Column.Histograms != nil || c.Exemplars == nil && f.Column.Exemplars != nil {
				t.Errorf("scrape %d has what was not there: %+v", i, f.Column)
			}
			kept = append(kept, f)
		}
	}
	// Frames that were handed out are not changed by those that came after.
	for i, f := range kept {
		sameColumn(t, &f.Column, columns[i%len(columns)])
	}
}

// TestRichChecksum: a base that is not the sender's is found out by what a frame has besides values.
func TestRichChecksum(t *testing.T) {
	for what, change := range map[string]func(*Column){
		"start":               func(c *Column) { c.Starts[4]++ },
		"count of a bucket":   func(c *Column) { c.Histograms[0].Int.NegativeBuckets[0]++ },
		"float bucket":        func(c *Column) { c.Histograms[1].Float.PositiveBuckets[1] = 3 },
		"bound":               func(c *Column) { c.Histograms[2].Int.CustomValues[3] = 11 },
		"counter reset hint":  func(c *Column) { c.Histograms[2].Int.CounterResetHint = histogram.NotCounterReset },
		"zero threshold":      func(c *Column) { c.Histograms[0].Int.ZeroThreshold = 0 },
		"span":                func(c *Column) { c.Histograms[0].Int.PositiveSpans[1].Offset++ },
		"exemplar's value":    func(c *Column) { c.Exemplars[3].Value++ },
		"exemplar's label":    func(c *Column) { c.Exemplars[0].Labels = labels.FromStrings("trace_id", "4b") },
		"exemplar's time":     func(c *Column) { c.Exemplars[3].Timestamp = 3 },
		"exemplar's row":      func(c *Column) { c.Exemplars[3].Row = 7 },
		"sum":                 func(c *Column) { c.Histograms[2].Int.Sum = 1235 },
		"float, not integer":  func(c *Column) { c.Histograms[2] = Histogram{Row: 3, Float: c.Histograms[2].Int.ToFloat(nil)} },
		"one histogram fewer": func(c *Column) { c.Histograms = c.Histograms[1:] },
	} {
		a, d, s := wholePair(t)
		b, _, _ := wholePair(t)
		c := wholeColumn()
		encodeOne(t, a, wholeTime, s, c)
		change(c)
		if _, err := d.Decode(encodeOne(t, b, wholeTime, s, c), known(s)); err != nil {
			t.Fatal(err)
		}
		c = wholeColumn()
		c.Values[0]++
		if _, err := d.Decode(encodeOne(t, a, wholeTime+1, s, c), known(s)); !errors.Is(err, ErrChecksum) || d.StateBytes() > 200 {
			t.Errorf("another %s: %v, %d bytes are held", what, err, d.StateBytes())
		}
	}
}

// TestRichRefused: the encoder sends no column that a decoder would not take.
func TestRichRefused(t *testing.T) {
	for what, change := range map[string]func(*Column){
		"starts":                func(c *Column) { c.Starts = c.Starts[1:] },
		"row":                   func(c *Column) { c.Histograms[2].Row = 8 },
		"rows in turn":          func(c *Column) { c.Histograms[1].Row = 1 },
		"absent":                func(c *Column) { c.Absent = Bitmap{1 << 3} },
		"neither":               func(c *Column) { c.Histograms[0].Int = nil },
		"both":                  func(c *Column) { c.Histograms[0].Float = c.Histograms[1].Float },
		"schema":                func(c *Column) { c.Histograms[0].Int.Schema = 9 },
		"hint":                  func(c *Column) { c.Histograms[0].Int.CounterResetHint = 4 },
		"buckets":               func(c *Column) { c.Histograms[0].Int.PositiveBuckets = []int64{1} },
		"float buckets":         func(c *Column) { c.Histograms[1].Float.NegativeBuckets = []float64{1} },
		"negative offset":       func(c *Column) { c.Histograms[0].Int.PositiveSpans[1].Offset = -1 },
		"many buckets":          func(c *Column) { c.Histograms[0].Int.PositiveSpans[1].Length = math.MaxUint32 },
		"bounds without custom": func(c *Column) { c.Histograms[0].Int.CustomValues = []float64{1} },
		"bounds in turn":        func(c *Column) { c.Histograms[2].Int.CustomValues[1] = 0.005 },
		"bound NaN":             func(c *Column) { c.Histograms[2].Int.CustomValues[1] = math.NaN() },
		"bound +Inf":            func(c *Column) { c.Histograms[2].Int.CustomValues[3] = math.Inf(1) },
		"too few bounds":        func(c *Column) { c.Histograms[2].Int.CustomValues = []float64{1, 2, 3} },
		"custom offset":         func(c *Column) { c.Histograms[2].Int.PositiveSpans[0].Offset = -1 },
		"custom zero":           func(c *Column) { c.Histograms[2].Int.ZeroCount = 1 },
		"custom threshold":      func(c *Column) { c.Histograms[2].Int.ZeroThreshold = 1 },
		"custom negative":       func(c *Column) { c.Histograms[2].Int.NegativeSpans = []histogram.Span{{}} },
		"exemplar's row":        func(c *Column) { c.Exemplars[3].Row = 8 },
		"exemplars in turn":     func(c *Column) { c.Exemplars[0].Row = 2 },
		"exemplar's text":       func(c *Column) { c.Exemplars[0].Labels = labels.FromStrings("a", "\xff") },
		"exemplar's size":       func(c *Column) { c.Exemplars[0].Labels = labels.FromStrings("a", string(make([]byte, 65<<10))) },
	} {
		e, _, s := wholePair(t)
		c := wholeColumn()
		change(c)
		if b, err := e.AppendScrape(nil, 1, Report{}, s, c); err == nil || len(b) > 0 || e.Position() != 0 {
			t.Errorf("%s: %v, %d bytes", what, err, len(b))
		}
	}
}

// TestRichLimits: each limit, with both numbers.
func TestRichLimits(t *testing.T) {
	for what, c := range map[string]struct {
		set      func(*Limits)
		got, max uint64
	}{
		"histograms":                           {func(l *Limits) { l.Histograms = 2 }, 3, 2},
		"spans of a histogram":                 {func(l *Limits) { l.Buckets = 1 }, 2, 1},
		"buckets of a histogram":               {func(l *Limits) { l.Buckets = 3 }, 4, 3},
		"custom bounds of a histogram":         {func(l *Limits) { l.Buckets = 3 }, 4, 3},
		"buckets, spans and bounds of a frame": {func(l *Limits) { l.FrameBuckets = 4 }, 5, 4},
		"exemplars":                            {func(l *Limits) { l.Exemplars = 3 }, 4, 3},
		"bytes of an exemplar":                 {func(l *Limits) { l.ExemplarBytes = 39 }, 32, 31},
		"labels of an exemplar":                {func(l *Limits) { l.Labels = 2 }, 3, 2},
	} {
		e, _, s := wholePair(t)
		column := wholeColumn()
		switch what {
		case "buckets of a histogram", "spans of a histogram":
			column.Histograms = column.Histograms[:1]
		case "histograms":
			column.Histograms[2] = Histogram{Row: 3, Int: column.Histograms[0].Int}
		case "labels of an exemplar":
			column.Exemplars[0].Labels = labels.FromStrings("a", "b", "c", "d", "e", "f")
		}
		lim := DefaultLimits()
		c.set(&lim)
		d := NewDecoder(1, lim)
		var limit *LimitError
		_, err := d.Decode(encodeOne(t, e, wholeTime, s, column), known(s))
		if !errors.As(err, &limit) || limit.What != what || limit.Got != c.got || limit.Max != c.max || d.StateBytes() != d.idle {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestRichHostile: what a section says of its size is checked before it is believed, and its rules before a sink
// meets what breaks them.
func TestRichHostile(t *testing.T) {
	s := plainSchema(t, 100, 0)
	huge := func(b ...byte) []byte { return binary.AppendUvarint(b, 1<<40) }
	bits := func(head []byte, numbers ...uint64) []byte {
		codes := newHistogramCodes()
		var w bitStream
		w.put(numbers[0], 3)
		for _, u := range numbers[1:] {
			w.number(&codes[codeSmall], u)
		}
		return append(head, w.end()...)
	}
	custom := []byte{0, 1, 0, 1, 105, 1, 0, 2} // row 0 has one of schema -53 with the bound 1
	plain := append([]byte{0, 1, 0, 1, 6}, make([]byte, 8)...)
	for what, c := range map[string]struct {
		key  uint64
		body []byte
	}{
		"start run":               {keyStarts, huge(0xff)},
		"start gap":               {keyStarts, huge(startGap)},
		"start back":              {keyStarts, []byte{startKnown, 1}},
		"start cut":               {keyStarts, []byte{0}},
		"start behind the end":    {keyStarts, append(binary.AppendUvarint(nil, 100<<startShift), 5)},
		"histograms nothing":      {keyHistograms, nil},
		"histograms removed":      {keyHistograms, []byte{1, 0, 0, 0}},
		"histograms inserted":     {keyHistograms, huge(0)},
		"histograms row":          {keyHistograms, []byte{0, 1, 100, 0}},
		"histograms schemes":      {keyHistograms, huge(0, 1, 0)},
		"histograms cut":          {keyHistograms, []byte{0, 1, 0, 0}},
		"histogram's schema":      {keyHistograms, append([]byte{0, 1, 0, 1, 18}, make([]byte, 30)...)},
		"histogram's bounds":      {keyHistograms, huge(0, 1, 0, 1, 105)},
		"histogram's class":       {keyHistograms, []byte{0, 1, 0, 1, 105, 1, 0x41, 0, 0}},
		"histogram's bound":       {keyHistograms, append(huge(0, 1, 0, 1, 105, 1, 0), 0xff, 0xff, 0xff)},
		"histogram's scheme":      {keyHistograms, bits(bytes.Clone(plain), 0, 2)},
		"scheme of no base":       {keyHistograms, bits(bytes.Clone(plain), 0, 0)},
		"histogram's spans":       {keyHistograms, bits(bytes.Clone(plain), 0, 1, 1<<40)},
		"histogram's span":        {keyHistograms, bits(bytes.Clone(plain), 0, 1, 1, 0, 1<<40)},
		"histogram's offset":      {keyHistograms, bits(bytes.Clone(plain), 0, 1, 1, 1<<40, 1)},
		"histogram's buckets":     {keyHistograms, bits(bytes.Clone(plain), 0, 1, 1, 0, math.MaxUint32)},
		"histogram ends early":    {keyHistograms, bits(bytes.Clone(plain), 0, 1, 1, 0, 40_000, 0)},
		"custom buckets too far":  {keyHistograms, bits(bytes.Clone(custom), 0, 1, 1, 0, 3)},
		"custom buckets before 0": {keyHistograms, bits(bytes.Clone(custom), 0, 1, 1, 1, 1)},
		"exemplars nothing":       {keyExemplars, nil},
		"exemplars removed":       {keyExemplars, []byte{1, 0, 0}},
		"exemplars inserted":      {keyExemplars, huge(0)},
		"exemplars place":         {keyExemplars, []byte{0, 1, 1, 0, 0, 0, 0}},
		"exemplar's row":          {keyExemplars, append(huge(0, 1, 0), 0, 0, 0)},
		"exemplar's labels":       {keyExemplars, huge(0, 1, 0, 0)},
		"exemplar's name":         {keyExemplars, []byte{0, 1, 0, 0, 1, 0, 0, 0, 0}},
		"exemplar's names":        {keyExemplars, []byte{0, 1, 0, 0, 2, 1, 'b', 1, 'a', 0, 0, 0, 0}},
		"exemplar's value":        {keyExemplars, huge(0, 1, 0, 0, 1, 1, 'a')},
		"exemplar's class":        {keyExemplars, []byte{0, 1, 0, 0, 0, 0x10, 0, 0}},
		"exemplar's number":       {keyExemplars, append(binary.AppendUvarint([]byte{0, 1, 0, 0, 0, 0}, 1<<60), 0)},
		"exemplars and more":      {keyExemplars, []byte{0, 0, 0}},
		"exemplar's text":         {keyExemplars, []byte{0, 1, 0, 0, 1, 1, 'a', 2, 0xff, 0, 0}},
	} {
		b := appendTarget([]byte{compactReport}, testTarget(1, time.Second))
		b = append(append(b, s.ID[:]...), 0, 1, 0) // duration, mask, no classes
		b = appendString(binary.AppendUvarint(b, c.key), string(c.body))
		b = append(b, keyEnd, 0, 0, 0) // and two empty blocks of values
		var err error
		d := NewDecoder(1, DefaultLimits())
		grown := allocated(func() {
			_, err = d.Decode(RawFrame{Type: typeKeyframe, Target: 1, Position: 1, Body: b}, known(s))
		})
		var limit *LimitError
		if !errors.Is(err, ErrMalformed) && !errors.As(err, &limit) || grown > 1<<20 || d.Targets() > 0 {
			t.Errorf("%s: %v, %d bytes were taken", what, err, grown)
		}
	}
}
