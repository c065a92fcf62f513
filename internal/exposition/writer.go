package exposition

import (
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// Sample is one sample of a family that is written.
type Sample struct {
	// Labels are all labels, __name__ among them.
	Labels labels.Labels
	Value  float64
	// Timestamp in milliseconds since the Unix epoch, or frame.NoTimestamp.
	Timestamp int64
	// Start is the start (created) timestamp in milliseconds, or 0.
	Start int64
	// Int or Float is the native histogram that the sample is, in place of Value; both nil for a float.
	Int   *histogram.Histogram
	Float *histogram.FloatHistogram
	// Exemplars of the sample; their Row means nothing here.
	Exemplars []frame.Exemplar
}

// Writer writes an exposition, family by family. A family must be given once, with all its samples: the formats want
// them together. It is not for concurrent use.
type Writer struct {
	w      io.Writer
	format Format
	buf    []byte
	// message is the family that is written in the protobuf format; empty says that it has no metric yet.
	message []byte
	empty   bool
	omitted Omitted
	err     error
}

// Omitted counts what a format has no place for.
type Omitted struct {
	// Histograms are native histograms, which only protobuf can hold. Those of custom buckets do not count: they are
	// written as the classic histograms that they are.
	Histograms int
	// Exemplars are those in the old text format, those of samples that the format allows none for, and all but the
	// newest one where it has room for one.
	Exemplars int
	// Starts are start timestamps of samples, which only protobuf can hold: OpenMetrics would make series of them
	// that most readers take for the target's own.
	Starts int
}

// Omitted tells what was left out so far.
func (w *Writer) Omitted() Omitted { return w.omitted }

const writerBuffer = 32 << 10

// NewWriter makes a writer of this format. Nothing is complete before Close.
func NewWriter(w io.Writer, f Format) *Writer {
	return &Writer{w: w, format: f, buf: make([]byte, 0, writerBuffer+1024)}
}

// Family writes a family with its samples; without any it writes nothing. What the format has no word for is written
// in the nearest way that keeps names and values: the type of a counter without _total, for one, is unknown to
// OpenMetrics, and samples that the family does not explain stand behind it without a type.
func (w *Writer) Family(f frame.Family, samples []Sample) error {
	if w.err != nil || len(samples) == 0 {
		return w.err
	}
	samples = classics(samples)
	if w.format.protobuf {
		w.messages(f, samples)
		return w.err
	}
	h := w.header(f, samples)
	said := false
	for i := range samples {
		s := &samples[i]
		if s.native() {
			w.omitted.Histograms++
			w.omit(s)
			continue
		}
		if h.covers(s.Labels.Get(model.MetricNameLabel)) {
			if !said {
				w.describe(h)
				said = true
			}
			w.sample(s, h.typ)
		}
	}
	w.others(h, samples)
	return w.err
}

// Close writes what is left and the end mark of the format.
func (w *Writer) Close() error {
	if w.format.openMetrics {
		w.buf = append(w.buf, "# EOF\n"...)
	}
	w.flush(0)
	return w.err
}

// header is what is said before the samples of a family, in the terms of the format.
type header struct {
	name, typ, help, unit string
	suffixes              []string
}

func (h *header) covers(name string) bool {
	rest, ok := strings.CutPrefix(name, h.name)
	if !ok {
		return false
	}
	for _, s := range h.suffixes {
		if rest == s {
			return true
		}
	}
	return false
}

// header finds the terms for a family. Its name may come from either format: with or without _total and _info.
func (w *Writer) header(f frame.Family, samples []Sample) header {
	h := header{name: f.Name, typ: string(f.Type), help: f.Help, unit: f.Unit, suffixes: []string{""}}
	suffixed := func(suffix string) bool {
		want := strings.TrimSuffix(f.Name, suffix) + suffix
		for i := range samples {
			if samples[i].Labels.Get(model.MetricNameLabel) == want {
				return true
			}
		}
		return false
	}
	switch f.Type {
	case model.MetricTypeGauge:
	case model.MetricTypeCounter:
		h.openOrPlain(w.format.openMetrics, "_total", suffixed("_total"), "counter")
	case model.MetricTypeInfo:
		h.openOrPlain(w.format.openMetrics, "_info", suffixed("_info"), "gauge")
	case model.MetricTypeHistogram:
		h.suffixes = []string{"_bucket", "_sum", "_count", ""}
	case model.MetricTypeSummary:
		h.suffixes = []string{"", "_sum", "_count"}
	case model.MetricTypeGaugeHistogram:
		h.suffixes = []string{"_bucket", "_gsum", "_gcount"}
		if !w.format.openMetrics {
			h.typ, h.suffixes = "histogram", h.suffixes[:1]
		}
	case model.MetricTypeStateset:
		if !w.format.openMetrics {
			h.typ = "gauge"
		}
	default:
		h.typ = "unknown"
	}
	if w.format.openMetrics {
		if h.typ == "histogram" || h.typ == "summary" || h.typ == "counter" {
			h.suffixes = append(h.suffixes, "_created")
		}
		if h.unit != "" && !strings.HasSuffix(h.name, "_"+h.unit) {
			h.unit = ""
		}
	} else if h.typ == "unknown" {
		h.typ = "untyped"
	}
	return h
}

// openOrPlain names a family whose samples have a suffix: OpenMetrics keeps it off the family's name, the text format
// puts it there.
func (h *header) openOrPlain(open bool, suffix string, suffixed bool, plain string) {
	switch {
	case open && suffixed:
		h.name, h.suffixes = strings.TrimSuffix(h.name, suffix), []string{suffix}
	case open:
		h.typ = "unknown"
	case suffixed:
		h.name, h.typ = strings.TrimSuffix(h.name, suffix)+suffix, plain
	default:
		h.typ = plain
	}
}

// others writes the samples that the family does not cover, by name.
func (w *Writer) others(h header, samples []Sample) {
	var names []string
	for i := range samples {
		name := samples[i].Labels.Get(model.MetricNameLabel)
		if samples[i].native() || h.covers(name) {
			continue
		}
		found := false
		for _, n := range names {
			found = found || n == name
		}
		if !found {
			names = append(names, name)
		}
	}
	for _, name := range names {
		o := header{name: name, typ: "untyped"}
		if w.format.openMetrics {
			o.typ = "unknown"
		}
		w.describe(o)
		for i := range samples {
			if !samples[i].native() && samples[i].Labels.Get(model.MetricNameLabel) == name {
				w.sample(&samples[i], o.typ)
			}
		}
	}
}

func (w *Writer) describe(h header) {
	name := model.EscapeName(h.name, w.format.scheme())
	line := func(word string) {
		w.buf = append(append(w.buf, "# "...), word...)
		if model.LegacyValidation.IsValidMetricName(name) {
			w.buf = append(w.buf, name...)
		} else {
			w.buf = appendQuoted(w.buf, name)
		}
		w.buf = append(w.buf, ' ')
	}
	if h.help != "" {
		line("HELP ")
		w.buf = append(appendEscaped(w.buf, h.help, w.format.openMetrics), '\n')
	}
	line("TYPE ")
	w.buf = append(append(w.buf, h.typ...), '\n')
	if h.unit != "" && w.format.openMetrics {
		line("UNIT ")
		w.buf = append(append(w.buf, h.unit...), '\n')
	}
}

// sample writes one line.
func (w *Writer) sample(s *Sample, typ string) {
	scheme := w.format.scheme()
	name := model.EscapeName(s.Labels.Get(model.MetricNameLabel), scheme)
	b := w.buf
	legacy := model.LegacyValidation.IsValidMetricName(name)
	if legacy {
		b = append(b, name...)
	} else {
		b = appendQuoted(append(b, '{'), name)
	}
	b, open := appendLabels(b, s.Labels, scheme, !legacy)
	if open {
		b = append(b, '}')
	}
	b = appendValue(append(b, ' '), s.Value, w.format.openMetrics)
	if s.Timestamp != frame.NoTimestamp {
		b = append(b, ' ')
		if w.format.openMetrics {
			b = strconv.AppendFloat(b, seconds(s.Timestamp), 'f', -1, 64)
		} else {
			b = strconv.AppendInt(b, s.Timestamp, 10)
		}
	}
	w.buf = b
	if len(s.Exemplars) > 0 || s.Start != 0 {
		w.exemplar(s, typ, name)
	}
	w.buf = append(w.buf, '\n')
	w.flush(writerBuffer)
}

// appendLabels writes all labels but the name. open says that the brace is open: before, and afterwards.
func appendLabels(b []byte, ls labels.Labels, scheme model.EscapingScheme, open bool) ([]byte, bool) {
	ls.Range(func(l labels.Label) {
		if l.Name == model.MetricNameLabel {
			return
		}
		if !open {
			b = append(b, '{')
			open = true
		} else if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		if label := model.EscapeName(l.Name, scheme); model.LegacyValidation.IsValidLabelName(label) {
			b = append(b, label...)
		} else {
			b = appendQuoted(b, label)
		}
		b = appendQuoted(append(b, '='), l.Value)
	})
	return b, open
}

// exemplar writes the newest exemplar of a sample behind it if OpenMetrics lets that sample have one.
func (w *Writer) exemplar(s *Sample, typ, name string) {
	allowed := typ == "counter" && strings.HasSuffix(name, "_total") || (typ == "histogram" || typ == "gaugehistogram") && strings.HasSuffix(name, "_bucket")
	if !w.format.openMetrics || !allowed || len(s.Exemplars) == 0 {
		w.omit(s)
		return
	}
	w.omit(&Sample{Start: s.Start, Exemplars: s.Exemplars[1:]})
	e := newest(s.Exemplars)
	b, _ := appendLabels(append(w.buf, " # {"...), e.Labels, w.format.scheme(), true)
	b = appendValue(append(b, "} "...), e.Value, true)
	if e.Timestamp != frame.NoTimestamp {
		b = strconv.AppendFloat(append(b, ' '), seconds(e.Timestamp), 'f', -1, 64)
	}
	w.buf = b
}

// omit counts the exemplars and the start timestamp of a sample as left out.
func (w *Writer) omit(s *Sample) {
	w.omitted.Exemplars += len(s.Exemplars)
	if s.Start != 0 {
		w.omitted.Starts++
	}
}

// newest gives the exemplar with the latest timestamp; one without any was taken with its sample.
func newest(all []frame.Exemplar) *frame.Exemplar {
	best := &all[0]
	for i := range all {
		if e := &all[i]; best.Timestamp != frame.NoTimestamp && (e.Timestamp == frame.NoTimestamp || e.Timestamp >= best.Timestamp) {
			best = e
		}
	}
	return best
}

// flush writes the buffer out if it holds at least so many bytes.
func (w *Writer) flush(least int) {
	if len(w.buf) < least {
		return
	}
	if w.err == nil {
		_, w.err = w.w.Write(w.buf)
	}
	w.buf = w.buf[:0]
}

// seconds gives a time in seconds from which readers that cut off what is below a millisecond get the same one.
func seconds(ms int64) float64 {
	s := float64(ms) / 1000
	if int64(s*1000) != ms {
		s = math.Nextafter(s, math.Copysign(math.Inf(1), s))
	}
	return s
}

func appendValue(b []byte, v float64, openMetrics bool) []byte {
	switch {
	case math.IsInf(v, 1):
		return append(b, "+Inf"...)
	case v == math.Trunc(v) && math.Abs(v) < 1e15 && (v != 0 || !math.Signbit(v)):
		b = strconv.AppendInt(b, int64(v), 10)
		if openMetrics {
			b = append(b, ".0"...)
		}
		return b
	}
	return strconv.AppendFloat(b, v, 'g', -1, 64)
}

func appendQuoted(b []byte, s string) []byte {
	return append(appendEscaped(append(b, '"'), s, true), '"')
}

// appendEscaped writes backslashes and line breaks, and quotes if asked to, behind a backslash.
func appendEscaped(b []byte, s string, quotes bool) []byte {
	start := 0
	for i := range len(s) {
		c := s[i]
		if c != '\\' && c != '\n' && (c != '"' || !quotes) {
			continue
		}
		b = append(append(b, s[start:i]...), '\\')
		if c == '\n' {
			c = 'n'
		}
		b = append(b, c)
		start = i + 1
	}
	return append(b, s[start:]...)
}
