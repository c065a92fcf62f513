package gateway

import (
	"hash/maphash"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// closing stands between labels and value.
const closing = "} "

// text is what all targets of one shape have in common on the page. It is immutable but for users.
//
// The text of a series that is not mixed reaches up to where the target's labels follow: `name{a="b",`.
type text struct {
	shape *sink.Shape
	arena []byte
	ends  []uint32 // where the text of each series ends; it begins where the one before it ends
	// families are in the order in which they first appear.
	families []family
	// withLabel gives for each label name of the series, also where they take it away, the metric names that have it.
	withLabel map[string][]string
	// legacy tells that all names can be written without quotes.
	legacy  bool
	invalid int // series that cannot be written
	// users is the number of targets shown with this text. Gateway.mu guards it.
	users int
}

// family is one metric family of a schema with its series.
type family struct {
	frame.Family
	// bare: the target said nothing of it.
	bare   bool
	series []uint32
	// metrics are the metric names of its series, in order of appearance.
	metrics []string
}

func newText(s *sink.Shape) *text {
	x := &text{
		shape: s, ends: make([]uint32, len(s.Schema.Series)),
		withLabel: make(map[string][]string), legacy: true,
	}
	byFamily := make(map[int]int)
	byName := make(map[string]int)
	for i := range s.Schema.Series {
		series := &s.Schema.Series[i]
		name := series.Labels.Get(model.MetricNameLabel)
		if !x.add(i, name, series.Labels) {
			x.invalid++
			x.ends[i] = uint32(len(x.arena))
			continue
		}
		at, known := byFamily[series.Family]
		if series.Family < 0 {
			at, known = byName[name]
		}
		if !known {
			at = len(x.families)
			f := family{}
			if series.Family >= 0 {
				f.Family = s.Schema.Families[series.Family]
				byFamily[series.Family] = at
			} else {
				f.Family, f.bare = frame.Family{Name: name, Type: model.MetricTypeUnknown}, true
				byName[name] = at
			}
			x.families = append(x.families, f)
		}
		f := &x.families[at]
		f.series = append(f.series, uint32(i))
		if n := len(f.metrics); (n == 0 || f.metrics[n-1] != name) && !slices.Contains(f.metrics, name) {
			f.metrics = append(f.metrics, name)
		}
	}
	return x
}

// add makes the text of series i. It returns false if the series cannot be written at all.
func (x *text) add(i int, name string, ls labels.Labels) bool {
	if !validName(name) {
		return false
	}
	valid := true
	ls.Range(func(l labels.Label) {
		valid = valid && (l.Name == model.MetricNameLabel || l.Value == "" || validLabel(l))
	})
	if !valid {
		return false
	}
	legacy := model.LegacyValidation.IsValidMetricName(name)
	ls.Range(func(l labels.Label) {
		if l.Name == model.MetricNameLabel {
			return
		}
		legacy = legacy && model.LegacyValidation.IsValidLabelName(l.Name)
		metrics := x.withLabel[l.Name]
		if n := len(metrics); n == 0 || metrics[n-1] != name {
			x.withLabel[l.Name] = append(metrics, name)
		}
	})
	x.legacy = x.legacy && legacy
	if !x.shape.Mixed.Has(i) {
		x.arena = appendOpen(x.arena, name, ls)
		if !isOpen(x.arena) {
			x.arena = append(x.arena, ',')
		}
	}
	x.ends[i] = uint32(len(x.arena))
	return true
}

// of gives the text of series i, up to the target's labels.
func (x *text) of(i uint32) []byte {
	if i == 0 {
		return x.arena[:x.ends[0]]
	}
	return x.arena[x.ends[i-1]:x.ends[i]]
}

// appendSeries writes name and labels up to the value.
func appendSeries(dst []byte, ls labels.Labels) []byte {
	dst = appendOpen(dst, ls.Get(model.MetricNameLabel), ls)
	if isOpen(dst) {
		dst = dst[:len(dst)-1]
		return append(dst, ' ')
	}
	return append(dst, closing...)
}

// isOpen tells whether nothing follows an opening brace yet.
func isOpen(b []byte) bool { return b[len(b)-1] == '{' }

// appendOpen writes name and labels without the closing brace.
func appendOpen(dst []byte, name string, ls labels.Labels) []byte {
	if model.LegacyValidation.IsValidMetricName(name) {
		dst = append(dst, name...)
		dst = append(dst, '{')
		return appendLabels(dst, ls)
	}
	dst = append(dst, '{', '"')
	dst = appendEscaped(dst, name, true)
	dst = append(dst, '"')
	more := appendLabels(nil, ls)
	if len(more) > 0 {
		dst = append(dst, ',')
	}
	return append(dst, more...)
}

// appendLabels writes the labels but the name, with commas between them.
func appendLabels(dst []byte, ls labels.Labels) []byte {
	first := true
	ls.Range(func(l labels.Label) {
		if l.Name == model.MetricNameLabel || l.Value == "" {
			return
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		if model.LegacyValidation.IsValidLabelName(l.Name) {
			dst = append(dst, l.Name...)
		} else {
			dst = append(dst, '"')
			dst = appendEscaped(dst, l.Name, true)
			dst = append(dst, '"')
		}
		dst = append(dst, '=', '"')
		dst = appendEscaped(dst, l.Value, true)
		dst = append(dst, '"')
	})
	return dst
}

// appendEscaped writes text with backslashes and line feeds escaped, and quotes too if asked. What is not UTF-8 is
// replaced: a single such byte would make the page unreadable.
func appendEscaped(dst []byte, s string, quotes bool) []byte {
	for i := 0; i < len(s); {
		switch c := s[i]; {
		case c == '\\':
			dst = append(dst, '\\', '\\')
		case c == '\n':
			dst = append(dst, '\\', 'n')
		case c == '"' && quotes:
			dst = append(dst, '\\', '"')
		case c >= utf8.RuneSelf:
			r, n := utf8.DecodeRuneInString(s[i:])
			dst = utf8.AppendRune(dst, r)
			i += n
			continue
		default:
			dst = append(dst, c)
		}
		i++
	}
	return dst
}

// exactInteger is the size up to which integers are written as such: all of them are exact.
const exactInteger = 1 << 53

// appendValue writes a value so that it reads back as the same bits; every NaN reads back as the usual one.
func appendValue(dst []byte, v float64) []byte {
	if v > -exactInteger && v < exactInteger {
		if n := int64(v); float64(n) == v && (n != 0 || !math.Signbit(v)) {
			return strconv.AppendInt(dst, n, 10)
		}
	}
	switch {
	case math.IsNaN(v):
		return append(dst, "NaN"...)
	case math.IsInf(v, 1):
		return append(dst, "+Inf"...)
	case math.IsInf(v, -1):
		return append(dst, "-Inf"...)
	}
	return strconv.AppendFloat(dst, v, 'g', -1, 64)
}

// appendTimestamp writes a time given in milliseconds as the format wants it.
func appendTimestamp(dst []byte, ms int64, openMetrics bool) []byte {
	if !openMetrics {
		return strconv.AppendInt(dst, ms, 10)
	}
	if ms < 0 {
		dst = append(dst, '-')
	}
	whole, rest := ms/1000, ms%1000
	if ms < 0 {
		whole, rest = -whole, -rest
	}
	dst = strconv.AppendUint(dst, uint64(whole), 10)
	if rest == 0 {
		return dst
	}
	return append(dst, '.', byte('0'+rest/100), byte('0'+rest/10%10), byte('0'+rest%10))
}

// hashes are those of the final labels of all series of one target, made when they are first needed.
type hashes struct {
	once sync.Once
	of   []uint64
}

// hashOf gives the hash of series i's final labels. seed is always the same.
func (p *prepared) hashOf(i uint32, seed maphash.Seed) uint64 {
	p.hashes.once.Do(func() {
		p.hashes.of = make([]uint64, len(p.Schema.Series))
		b := labels.NewBuilder(labels.EmptyLabels())
		var buf []byte
		for i := range p.hashes.of {
			buf = p.SeriesLabels(i, b).Bytes(buf)
			p.hashes.of[i] = maphash.Bytes(seed, buf)
		}
	})
	return p.hashes.of[i]
}

// escapedLabels gives the labels with escaped names.
func escapedLabels(l labels.Labels, how model.EscapingScheme) labels.Labels {
	m := make(map[string]string, l.Len())
	l.Range(func(l labels.Label) {
		if l.Name == model.MetricNameLabel {
			m[l.Name] = model.EscapeName(l.Value, how)
			return
		}
		// A colon is good in the name of a metric, not in that of a label.
		m[strings.ReplaceAll(model.EscapeName(l.Name, how), ":", "_")] = l.Value
	})
	return labels.FromMap(m)
}

// legacyLabels tells whether all label names can be written without quotes.
func legacyLabels(ls labels.Labels) bool {
	legacy := true
	ls.Range(func(l labels.Label) { legacy = legacy && model.LegacyValidation.IsValidLabelName(l.Name) })
	return legacy
}
