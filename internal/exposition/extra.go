package exposition

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"unicode/utf8"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// extra is what the current sample of the parser is besides a number. Formats that have none of it do without.
type extra struct {
	parser textparse.Parser
	// starts says that the parser is asked for start timestamps.
	starts bool
	// int or float is the native histogram that the sample is.
	int   *histogram.Histogram
	float *histogram.FloatHistogram

	start     int64
	exemplars []exemplar.Exemplar
}

// extras is what the samples of one parse had besides numbers.
type extras struct {
	histograms []frame.Histogram
	exemplars  []frame.Exemplar
	// of says for each histogram and each exemplar of which sample, by its count, it is.
	histogramOf, exemplarOf []int
	// taken is for each series the sample that the column has; nil until there are a histogram or exemplars.
	taken []int
	// starts are the start timestamps by series; nil until there is one.
	starts []int64
}

func (x *extra) histogram() bool { return x.int != nil || x.float != nil }

// gather asks the parser for what it has of the sample, in the order in which Prometheus does: the labels before.
func (x *extra) gather(skipped *Skipped) {
	x.start = 0
	if x.starts {
		x.start = x.parser.StartTimestamp()
	}
	x.exemplars = x.exemplars[:0]
	var e exemplar.Exemplar
	for ; x.parser.Exemplar(&e); e = (exemplar.Exemplar{}) {
		// A native histogram's exemplar without a timestamp could not be told from one that was there before.
		if !e.HasTs && x.histogram() || tooLong(e.Labels) {
			skipped.Exemplars++
			continue
		}
		e.Labels = e.Labels.WithoutEmpty()
		x.exemplars = append(x.exemplars, e)
	}
	if len(x.exemplars) > 1 {
		slices.SortFunc(x.exemplars, exemplar.Compare)
	}
}

// tooLong tells whether exemplar storage would refuse these labels.
func tooLong(ls labels.Labels) bool {
	n := 0
	ls.Range(func(l labels.Label) { n += utf8.RuneCountInString(l.Name) + utf8.RuneCountInString(l.Value) })
	return n > exemplar.ExemplarMaxLabelSetLength
}

var errBucketLimit = errors.New("histogram bucket limit exceeded")

// resolve lowers the resolution of the histogram as the rules want it, or gives errBucketLimit if they want too much.
func (x *extra) resolve(r *Rules) error {
	if !x.histogram() {
		return nil
	}
	reduce := func(to int32) error {
		if x.int != nil {
			return x.int.ReduceResolution(to)
		}
		return x.float.ReduceResolution(to)
	}
	if limit := r.maxSchema(); histogram.IsExponentialSchemaReserved(x.schema()) && x.schema() > limit {
		if err := reduce(limit); err != nil {
			return err
		}
	}
	if r.NativeHistogramBucketLimit <= 0 {
		return nil
	}
	for x.buckets() > r.NativeHistogramBucketLimit {
		if !histogram.IsExponentialSchema(x.schema()) || x.schema() <= histogram.ExponentialSchemaMin {
			return errBucketLimit
		}
		if err := reduce(x.schema() - 1); err != nil {
			return err
		}
	}
	return nil
}

func (x *extra) schema() int32 {
	if x.int != nil {
		return x.int.Schema
	}
	return x.float.Schema
}

func (x *extra) buckets() int {
	if x.int != nil {
		return len(x.int.PositiveBuckets) + len(x.int.NegativeBuckets)
	}
	return len(x.float.PositiveBuckets) + len(x.float.NegativeBuckets)
}

// validate tells what Prometheus' storage would have against the histogram.
func (x *extra) validate() error {
	if x.int != nil {
		return x.int.Validate()
	}
	if x.float != nil {
		return x.float.Validate()
	}
	return nil
}

// maxSchema is the finest resolution that NativeHistogramMinBucketFactor allows.
func (r *Rules) maxSchema() int32 {
	if r.NativeHistogramMinBucketFactor <= 1 {
		return histogram.ExponentialSchemaMax
	}
	floor := math.Floor(-math.Log2(math.Log2(r.NativeHistogramMinBucketFactor)))
	return int32(min(max(floor, float64(histogram.ExponentialSchemaMin)), float64(histogram.ExponentialSchemaMax)))
}

// admit gathers what the current sample has and prepares its histogram. A sample that is not admitted is not appended.
func (l *Layout) admit() bool {
	l.extra.gather(&l.tally.skipped)
	buckets := 0
	if l.extra.histogram() {
		buckets = l.extra.buckets()
	}
	switch err := l.extra.resolve(&l.rules); {
	case errors.Is(err, errBucketLimit):
		if !l.tally.bucketed {
			l.tally.bucketed, l.tally.buckets = true, buckets
		}
		return false
	case err != nil:
		l.tally.fatal = err
		return false
	}
	return true
}

// takeExtra puts what the current sample has besides its value into the column, in place of what is there.
func (l *Layout) takeExtra(series int32) {
	x, e := l.extra, &l.extras
	now := l.tally.scraped
	if x.histogram() || len(x.exemplars) > 0 || e.taken != nil {
		for len(e.taken) <= int(series) {
			e.taken = append(e.taken, 0)
		}
		e.taken[series] = now
	}
	if x.histogram() {
		e.histograms = append(e.histograms, frame.Histogram{Row: int(series), Int: x.int, Float: x.float})
		e.histogramOf = append(e.histogramOf, now)
	}
	for _, one := range x.exemplars {
		ts := one.Ts
		if !one.HasTs {
			ts = frame.NoTimestamp
		}
		e.exemplars = append(e.exemplars, frame.Exemplar{Row: int(series), Labels: one.Labels, Value: one.Value, Timestamp: ts})
		e.exemplarOf = append(e.exemplarOf, now)
	}
	if x.start != 0 || e.starts != nil {
		for len(e.starts) <= int(series) {
			e.starts = append(e.starts, 0)
		}
		e.starts[series] = x.start
	}
}

// settle drops what belongs to samples that later ones took the place of, but for the exemplars of those that are kept: by
// count, with the time that such an exemplar has if it says none.
func (e *extras) settle(kept map[int]int64) {
	if e.taken == nil {
		return
	}
	n := 0
	for i, h := range e.histograms {
		if e.taken[h.Row] == e.histogramOf[i] {
			e.histograms[n] = h
			n++
		}
	}
	e.histograms = e.histograms[:n]
	n = 0
	for i := range e.exemplars {
		x := e.exemplars[i]
		at, earlier := kept[e.exemplarOf[i]]
		if e.taken[x.Row] != e.exemplarOf[i] && !earlier {
			continue
		}
		if earlier && x.Timestamp == frame.NoTimestamp {
			x.Timestamp = at
		}
		e.exemplars[n] = x
		n++
	}
	e.exemplars = e.exemplars[:n]
	e.taken, e.histogramOf, e.exemplarOf = nil, nil, nil
}

// move gives histograms, exemplars and start timestamps the new places of their series.
func (e *extras) move(order, place []int32) {
	for i := range e.histograms {
		e.histograms[i].Row = int(place[e.histograms[i].Row])
	}
	for i := range e.exemplars {
		e.exemplars[i].Row = int(place[e.exemplars[i].Row])
	}
	if e.starts == nil {
		return
	}
	starts := make([]int64, len(order))
	for i, s := range order {
		if int(s) < len(e.starts) {
			starts[i] = e.starts[s]
		}
	}
	e.starts = starts
}

// sort brings histograms and exemplars into the order of the n series.
func (e *extras) sort(n int) {
	byRow := func(a, b frame.Histogram) int { return a.Row - b.Row }
	if !slices.IsSortedFunc(e.histograms, byRow) {
		slices.SortFunc(e.histograms, byRow)
	}
	exemplarsByRow := func(a, b frame.Exemplar) int { return a.Row - b.Row }
	if !slices.IsSortedFunc(e.exemplars, exemplarsByRow) {
		slices.SortStableFunc(e.exemplars, exemplarsByRow)
	}
	for e.starts != nil && len(e.starts) < n {
		e.starts = append(e.starts, 0)
	}
}

// bucketError says that a histogram has too many buckets at the lowest resolution too.
func (l *Layout) bucketError() error {
	return fmt.Errorf("native_histogram_bucket_limit exceeded: a histogram of %d buckets cannot be reduced to them, limit %d",
		l.tally.buckets, l.rules.NativeHistogramBucketLimit)
}
