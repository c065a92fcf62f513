package exposition

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// Rules say how the exposition of one target becomes series. They mean what they mean in a Prometheus scrape config.
type Rules struct {
	// Target are the labels that every series gets.
	Target labels.Labels
	// External are the labels that the frame's target has besides: after relabelling and limits, a series that lacks one
	// gets it.
	External labels.Labels
	// HonorLabels keeps an exposed label that the target has too; else it becomes exported_*.
	HonorLabels bool
	// HonorTimestamps keeps exposed timestamps; else they are ignored.
	HonorTimestamps bool
	// Relabel are metric_relabel_configs, applied to the series with the target's labels.
	Relabel []*relabel.Config
	// SampleLimit bounds the samples left after relabelling, LabelLimit, LabelNameLengthLimit and
	// LabelValueLengthLimit each series' labels with those of the target. 0 is no limit.
	SampleLimit           int
	LabelLimit            int
	LabelNameLengthLimit  int
	LabelValueLengthLimit int
	// ScrapeNativeHistograms takes native histograms; else histograms are classic ones.
	ScrapeNativeHistograms bool
	// AlwaysScrapeClassicHistograms takes the classic form of a histogram also beside its native one.
	AlwaysScrapeClassicHistograms bool
	// ConvertClassicHistogramsToNHCB makes native histograms with custom buckets of classic ones.
	ConvertClassicHistogramsToNHCB bool
	// NativeHistogramBucketLimit bounds the buckets of a native histogram, whose resolution is lowered until they are
	// so few; if that is not possible the scrape fails. 0 is no limit.
	NativeHistogramBucketLimit int
	// NativeHistogramMinBucketFactor is the least growth from one bucket to the next: finer resolutions are lowered.
	NativeHistogramMinBucketFactor float64
	// StartTimestamps takes the _created lines of OpenMetrics as start timestamps and not as series, as Prometheus
	// does with its st-storage feature. Those of protobuf are always taken.
	StartTimestamps bool
	// FallbackProtocol reads an exposition whose content type is unknown or missing: a name as in scrape_protocols.
	// Without one such an exposition is refused if Strict, and else read as text, as the old configuration's jobs
	// always were.
	FallbackProtocol string
	Strict           bool
	// Validation says which names of metrics and labels are valid; the zero value is UTF-8.
	Validation model.ValidationScheme
	// Limits bound the schemas; the zero value takes frame.DefaultLimits.
	Limits *frame.Limits
	// Now is the clock against which exposed timestamps are judged; nil is time.Now.
	Now func() time.Time
}

// maxAhead is how far in the future an exposed timestamp may lie, as in Prometheus: later ones are not taken.
const maxAhead = 10 * time.Minute

var errNoName = errors.New("a series has no metric name left after relabelling")

// finalLabels gives an exposed series its target's labels and applies the relabel rules. Empty labels mean that the
// rules drop the series.
func (r *Rules) finalLabels(exposed labels.Labels) labels.Labels {
	b := labels.NewBuilder(exposed)
	var clashes []labels.Label
	r.Target.Range(func(l labels.Label) {
		if strings.HasPrefix(l.Name, model.ReservedLabelPrefix) {
			return
		}
		if r.HonorLabels {
			if !exposed.Has(l.Name) {
				b.Set(l.Name, l.Value)
			}
			return
		}
		if v := exposed.Get(l.Name); v != "" {
			clashes = append(clashes, labels.Label{Name: l.Name, Value: v})
		}
		b.Set(l.Name, l.Value)
	})
	slices.SortStableFunc(clashes, func(a, b labels.Label) int { return len(a.Name) - len(b.Name) })
	for _, l := range clashes {
		name := model.ExportedLabelPrefix + l.Name
		for b.Get(name) != "" {
			name = model.ExportedLabelPrefix + name
		}
		b.Set(name, l.Value)
	}
	if !relabel.ProcessBuilder(b, r.Relabel...) {
		return labels.EmptyLabels()
	}
	return b.Labels()
}

// check tells what is wrong with the final labels of a series that enters the layout.
func (r *Rules) check(ls labels.Labels) error {
	if !ls.Has(model.MetricNameLabel) {
		return errNoName
	}
	scheme := r.Validation
	if scheme == model.UnsetValidation {
		scheme = model.UTF8Validation
	}
	if !ls.IsValid(scheme) {
		return fmt.Errorf("invalid metric name or label names: %s", ls)
	}
	if l, twice := ls.HasDuplicateLabelNames(); twice {
		return fmt.Errorf("label name %.50q is there twice: %.200s", l, ls)
	}
	name := ls.Get(model.MetricNameLabel)
	if n := ls.Len(); r.LabelLimit > 0 && n > r.LabelLimit {
		return fmt.Errorf("label_limit exceeded: metric %.50q has %d labels, limit %d", name, n, r.LabelLimit)
	}
	if r.LabelNameLengthLimit == 0 && r.LabelValueLengthLimit == 0 {
		return nil
	}
	return ls.Validate(func(l labels.Label) error {
		if n := len(l.Name); r.LabelNameLengthLimit > 0 && n > r.LabelNameLengthLimit {
			return fmt.Errorf("label_name_length_limit exceeded: metric %.50q, label %.50q has length %d, limit %d",
				name, l.Name, n, r.LabelNameLengthLimit)
		}
		if n := len(l.Value); r.LabelValueLengthLimit > 0 && n > r.LabelValueLengthLimit {
			return fmt.Errorf("label_value_length_limit exceeded: metric %.50q, label %.50q, value %.50q has length %d, limit %d",
				name, l.Name, l.Value, n, r.LabelValueLengthLimit)
		}
		return nil
	})
}

// schemaLabels takes from a series' final labels those that the target has with the same value, and names those of the
// target that the series lacks with an empty value.
func (r *Rules) schemaLabels(final labels.Labels, b *labels.ScratchBuilder) labels.Labels {
	b.Reset()
	final.Range(func(l labels.Label) {
		if r.Target.Get(l.Name) != l.Value && r.External.Get(l.Name) != l.Value {
			b.Add(l.Name, l.Value)
		}
	})
	r.Target.Range(func(l labels.Label) {
		if l.Value != "" && !final.Has(l.Name) {
			b.Add(l.Name, "")
		}
	})
	b.Sort()
	return b.Labels()
}

// partOfFamily tells whether a series of this name belongs to the family that was last described before it.
func partOfFamily(name string, f *frame.Family) bool {
	if !strings.HasPrefix(name, f.Name) {
		return false
	}
	family, base := f.Name, name
	cut := func(suffixes ...string) {
		for _, s := range suffixes {
			if b, ok := strings.CutSuffix(name, s); ok {
				base = b
				return
			}
		}
	}
	switch f.Type {
	case model.MetricTypeCounter:
		family = strings.TrimSuffix(family, "_total")
		cut("_total")
	case model.MetricTypeInfo:
		family = strings.TrimSuffix(family, "_info")
		cut("_info")
	case model.MetricTypeHistogram:
		cut("_bucket", "_sum", "_count")
	case model.MetricTypeGaugeHistogram:
		cut("_bucket", "_gsum", "_gcount")
	case model.MetricTypeSummary:
		cut("_sum", "_count")
	}
	return base == family
}
