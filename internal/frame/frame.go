package frame

import (
	"math"
	"math/bits"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
)

// Kind says what a frame tells about its target.
type Kind uint8

// The kinds of frames.
const (
	// Scraped is a successful scrape: the frame has a schema and a column.
	Scraped Kind = iota + 1
	// Down is a failed scrape: the target was asked and gave nothing that counts.
	Down
	// End is the last frame of a target; why is in Frame.Reason.
	End
	// EpochEnd is the last frame of an epoch: the poller stopped in good order. It has no target.
	EpochEnd
)

// EndReason says why a target ends.
type EndReason uint8

// The reasons for which a target ends.
const (
	// Removed: discovery or the configuration no longer names the target.
	Removed EndReason = iota + 1
	// Relabelled: the same thing goes on under other labels and another target id.
	Relabelled
	// Paused: an operator stopped the poller; what was delivered stays as it is.
	Paused
)

// Target is what a frame says of the thing that was scraped. It is immutable once made.
type Target struct {
	// ID names the target within its epoch and is never bound to another one there.
	ID uint64
	// Labels are all labels of the target, job and instance among them.
	Labels labels.Labels
	// Interval and Timeout are those of its scrapes, in whole milliseconds.
	Interval, Timeout time.Duration
	// TrackTimestamps is track_timestamps_staleness of its scrape configuration: series with timestamps of their own get
	// stale markers too.
	TrackTimestamps bool
}

// Report is what the scrape itself measured: the source of the series that
// Prometheus adds to each scrape (ReportNames). Whether the target was up is the frame's Kind.
type Report struct {
	// Duration of the scrape: scrape_duration_seconds is Duration.Seconds().
	Duration time.Duration
	// Scraped is the number of samples that the target exposed.
	Scraped int
	// PostRelabel is the number of samples left after metric relabelling.
	PostRelabel int
	// Added is the number of series that were not in the previous scrape.
	Added int
}

// The names of the series that every scrape has besides those of its target.
const (
	UpName          = "up"
	DurationName    = "scrape_duration_seconds"
	ScrapedName     = "scrape_samples_scraped"
	PostRelabelName = "scrape_samples_post_metric_relabeling"
	AddedName       = "scrape_series_added"
)

// Frame is one scrape of one target.
//
// A frame handed from one room to the next is not changed any more; who hands it on says for how long
// its column stays valid.
type Frame struct {
	Kind   Kind
	Target *Target
	// Position counts the frames of a target within its epoch; it only grows.
	Position uint64
	// Time of the scrape in milliseconds since the Unix epoch.
	Time   int64
	Report Report
	// Schema names the series of the column, for Scraped.
	Schema *Schema
	Column Column
	// Reason is why the target ends, for End.
	Reason EndReason
}

// NoTimestamp marks, in Column.Timestamps, a sample without an explicit timestamp: it has the time of its frame.
const NoTimestamp = math.MinInt64

// NoDecimal marks, in Column.Exponents, a value whose decimal form is not known or does not exist.
const NoDecimal = math.MinInt8

// Column holds the values of one scrape in the order of its schema.
type Column struct {
	// Values has one value for each series of the schema; that of an absent series means nothing.
	Values []float64
	// Absent has a bit set for each series of the schema that this scrape did not have; nil if it had all.
	Absent Bitmap
	// Timestamps holds explicit timestamps in milliseconds, or NoTimestamp, for each series; nil if no sample had one.
	Timestamps []int64
	// Mantissas and Exponents are the decimal form in which the target wrote each value, as far as the parser
	// knew it: Values[i] is the float64 nearest to Mantissas[i]·10^Exponents[i]. Both may be nil: they spare
	// the encoder work and are never sent.
	Mantissas []int64
	Exponents []int8
	// Starts holds the start (created) timestamp of each series in milliseconds, or 0; nil if none has one. That of an
	// absent series means nothing.
	Starts []int64
	// Histograms are the native histograms, by rising row, none of them absent. The value of such a row means nothing.
	// A histogram is one sample.
	Histograms []Histogram
	// Exemplars stand by rising row, none of them absent; those of one row in the order of the exposition.
	Exemplars []Exemplar
	// Earlier are samples of rows that have a newer one in Values: by rising row, none of them absent or a histogram, those of a
	// row by rising time. They have the row's start timestamp, if it is not after them.
	Earlier []Earlier
}

// Histogram is the native histogram that a series has in place of a float: exactly one of Int and Float is set.
type Histogram struct {
	Row   int
	Int   *histogram.Histogram
	Float *histogram.FloatHistogram
}

// Exemplar is one exemplar of a series.
type Exemplar struct {
	Row    int
	Labels labels.Labels
	Value  float64
	// Timestamp in milliseconds, or NoTimestamp.
	Timestamp int64
}

// Bitmap is a set of small integers.
type Bitmap []uint64

// Has tells whether i is in the set.
func (b Bitmap) Has(i int) bool {
	w := i >> 6
	return w < len(b) && b[w]&(1<<(i&63)) != 0
}

// Set puts i into the set, which must have been made large enough.
func (b Bitmap) Set(i int) { b[i>>6] |= 1 << (i & 63) }

// Count is the size of the set.
func (b Bitmap) Count() int {
	n := 0
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

// NewBitmap makes an empty set for the integers below n.
func NewBitmap(n int) Bitmap { return make(Bitmap, (n+63)/64) }

// Family is what a target says of all series of one metric: the # TYPE, # HELP and # UNIT lines.
type Family struct {
	// Name of the metric family (without _total, _bucket and the like where the format keeps them apart).
	Name string
	// Type as in the exposition; model.MetricTypeUnknown if it said none.
	Type model.MetricType
	Help string
	Unit string
}

// Series is one series of a schema.
type Series struct {
	// Labels of the series, __name__ among them, without those that the target has with the same value. A label
	// with an empty value takes one of the target's away.
	Labels labels.Labels
	// Family is the index of its family in Schema.Families, or -1.
	Family int
	// Base is the value against which keyframes are coded: the first one seen when the schema was made.
	Base float64
}
