package exposition

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

const textType = "text/plain; version=0.0.4"
const openMetricsType = "application/openmetrics-text; version=1.0.0; charset=utf-8"

func fuzzRules(sel byte) Rules {
	r := Rules{
		Target:          labels.FromStrings("job", "j", "instance", "i:1", "dc", "eu"),
		HonorLabels:     sel&1 != 0,
		HonorTimestamps: sel&2 == 0,
		Now:             func() time.Time { return time.UnixMilli(1_700_000_000_000) },
	}
	if sel&4 != 0 {
		r.Relabel = []*relabel.Config{{
			SourceLabels: model.LabelNames{"__name__"}, Separator: ";", Regex: relabel.MustNewRegexp("b.*"), Action: relabel.Drop,
			NameValidationScheme: model.UTF8Validation,
		}, {
			Regex: relabel.MustNewRegexp("dc|x"), Action: relabel.LabelDrop, NameValidationScheme: model.UTF8Validation,
		}}
	}
	if sel&8 != 0 {
		r.SampleLimit = 4
	}
	if sel&16 != 0 {
		r.LabelLimit = 6
	}
	return r
}

func seedBodies() []string {
	return []string{
		"",
		"\n",
		"a 1\n",
		"a 1",
		"a 1\nb 2\nc 3\n",
		"# HELP a text\n# TYPE a counter\na{x=\"1\"} 1\na{x=\"2\"} 2.5\n# TYPE b gauge\nb -0\nb 7\n",
		"# HELP h \\\\ \\n ü\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"2.5\"} 2\nh_bucket{le=\"+Inf\"} 3\nh_sum 3.5e+06\nh_count 3\n# EOF\n",
		"# TYPE s summary\ns{quantile=\"0\"} NaN\ns{quantile=\"1\"} +Inf\ns_sum -Inf\ns_count 1e3\n",
		"a 1 1699999999000\na 2 1699999999001\na 3 1699999998000\nb 1 1800000000000\n",
		"a 1 \na  2\t 5 \n",
		"a{job=\"x\",instance=\"y\",exported_job=\"z\",dc=\"\"} 1\n",
		"a 1\r\nb 2\r\n",
		"{\"ü.x\",\"l.y\"=\"\\\"\\\\\\n\"} 1\n{\"b\"} 2\n",
		"a{x=\"1\",y=\"2\"} 1\na{y=\"2\",x=\"1\"} 2\n",
		"a{le=\"1\"} 1\na{le=\"1.0\"} 1\n",
		"foo+1 \nfoo{}1\nfoo {} 2\n foo 3\n",
		"a 0x1p-2\nb 1_000\nc 0x10\nd .5\ne 5.\nf 1e400\ng 1e-400\nh 123456789012345678901234567890\ni 0.1234567890123456789\nj -1e22\nk 1e23\nl +5\nm inf\nn Infinity\no nan\n",
		"a{x=\"a\nb\"} 1\n# HELP \"a\nb\" c\n",
		"a 1\n\x00b 2\n",
		"# comment\n#HELP a b\n# HELP a\n#\n# TYPE a untyped\na 1 1\n",
		"# TYPE a counter\na 1\n# TYPE a gauge\na{x=\"1\"} 2\n",
		"# TYPE a counter\n# UNIT a_s s\n# HELP a h\na_total{x=\"1\"} 1.0 # {t=\"x\"} 1 1.5\na_created 1\n# EOF\n",
		"# TYPE a gauge\na 1.0\na{b=\"c\"} 1 1.5\n# EOF\n",
		"<html><body>no</body></html>",
		"a 1 -5\n", "a 1 99999999999999999999\n", "a 1 2 3\n", "a\n", "a{ 1\n", "a{x=\"\xff\"} 1\n", "# TYPE a wat\n",
	}
}

// FuzzParse gives anything at all, twice and with another in between.
func FuzzParse(f *testing.F) {
	for i, b := range seedBodies() {
		f.Add([]byte(b), textType, byte(i))
		f.Add([]byte(b), openMetricsType, byte(0))
	}
	f.Add([]byte("\x01a"), "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited", byte(0))
	f.Add([]byte("a 1\n"), "text/html; charset", byte(0))
	f.Fuzz(func(t *testing.T, body []byte, contentType string, sel byte) {
		rules := fuzzRules(sel)
		l, r := NewLayout(rules, NewSchemas()), newReference(rules)
		check(t, l, r, body, contentType)
		check(t, l, r, body, contentType)
		check(t, l, r, []byte("z 1\n"), textType)
		check(t, l, r, body, contentType)
	})
}

// FuzzFastPath gives a body and then what edits make of it, again and again, so that most of it stays as it was.
func FuzzFastPath(f *testing.F) {
	for i, b := range seedBodies() {
		f.Add([]byte(b), []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17}, byte(i*4))
	}
	f.Add([]byte(strings.Join(seedBodies()[2:10], "")), []byte("\x13\x25\x37\x49\x51\x62\x73\x84\x95"), byte(0))
	f.Fuzz(func(t *testing.T, body, edits []byte, sel byte) {
		if len(body) > 4096 || len(edits) > 96 {
			return
		}
		contentType := textType
		if sel&32 != 0 {
			contentType = openMetricsType
		}
		rules := fuzzRules(sel)
		l, r := NewLayout(rules, NewSchemas()), newReference(rules)
		check(t, l, r, body, contentType)
		check(t, l, r, body, contentType)
		other := bytes.Clone(body)
		for len(edits) >= 3 {
			other = edit(other, body, edits[0], edits[1], edits[2])
			edits = edits[3:]
			check(t, l, r, other, contentType)
			if len(edits)%2 == 0 {
				check(t, l, r, other, contentType)
			}
		}
		check(t, l, r, body, contentType)
	})
}

// edit makes one small change: op and two places.
func edit(b, first []byte, op, x, y byte) []byte {
	lines := bytes.SplitAfter(b, []byte("\n"))
	i, j := int(x)%len(lines), int(y)%len(lines)
	switch op % 12 {
	case 0, 1: // another number
		if k := bytes.LastIndexByte(lines[i], ' '); k >= 0 {
			numbers := []string{"1", "17", "0.25", "-3", "NaN", "1e3", "+Inf", "12345.678901", "0", "9007199254740993", "1 1699999999999", "2 1"}
			lines[i] = append(bytes.Clone(lines[i][:k+1]), numbers[int(y)%len(numbers)]+"\n"...)
		}
	case 2: // a line goes
		lines[i] = nil
	case 3: // a line comes twice
		lines[i] = append(bytes.Clone(lines[i]), lines[j]...)
	case 4: // two lines change places
		lines[i], lines[j] = lines[j], lines[i]
	case 5: // a new series
		lines[i] = append([]byte("n{le=\""+string('0'+y%10)+"\"} 5\n"), lines[i]...)
	case 6: // a new description
		lines[i] = append([]byte([]string{"# TYPE n histogram\n", "# TYPE n gauge\n", "# HELP a other\n", "# HELP n x\n", "# x\n", "\n"}[y%6]), lines[i]...)
	case 7: // a byte changes
		if len(b) > 0 {
			c := bytes.Clone(b)
			c[(int(x)<<8|int(y))%len(c)] ^= 1 << (x % 8)
			return c
		}
	case 8: // the end goes
		return bytes.TrimSuffix(b, []byte("\n"))
	case 9: // a line comes back
		old := bytes.SplitAfter(first, []byte("\n"))
		lines[i] = append(bytes.Clone(old[int(y)%len(old)]), lines[i]...)
	case 10:
		return nil
	case 11: // the rest goes
		lines = lines[:i]
	}
	return bytes.Join(lines, nil)
}

// FuzzWriter writes what a body gave and reads it again, in both formats.
func FuzzWriter(f *testing.F) {
	for i, b := range seedBodies() {
		f.Add([]byte(b), i%2 == 0)
	}
	f.Fuzz(func(t *testing.T, body []byte, open bool) {
		rules := Rules{Target: labels.FromStrings("job", "j"), HonorLabels: true, HonorTimestamps: true}
		p, err := NewLayout(rules, NewSchemas()).Parse(bytes.Clone(body), textType)
		if err != nil {
			return
		}
		accept, contentType := acceptText, textType
		if open {
			accept, contentType = acceptOpenMetrics, openMetricsType
		}
		var b bytes.Buffer
		w := NewWriter(&b, Negotiate(accept))
		want, types := writeParsed(t, w, p, rules.Target)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if b.Len() == 0 {
			return
		}
		again, err := NewLayout(rules, NewSchemas()).Parse(b.Bytes(), contentType)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v\n%s", err, b.Bytes())
		}
		got := map[string]Sample{}
		for i, s := range allSamples(again, rules.Target) {
			got[s.Labels.String()] = s
			name := s.Labels.Get(model.MetricNameLabel)
			want := types[name]
			if open && want == model.MetricTypeCounter && !strings.HasSuffix(name, "_total") {
				want = model.MetricTypeUnknown
			}
			x := again.Schema.Series[i].Family
			if want != "" && (x < 0 || again.Schema.Families[x].Type != want) {
				t.Errorf("%s has family %d, want type %s\n%s", s.Labels, x, want, b.Bytes())
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%d samples, want %d\n%s", len(got), len(want), b.Bytes())
		}
		for k, x := range want {
			if y, ok := got[k]; !ok || math.Float64bits(y.Value) != math.Float64bits(x.Value) || y.Timestamp != x.Timestamp && (!open || x.Timestamp < 1<<50) {
				t.Errorf("%s is %+v, want %+v", k, y, x)
			}
		}
	})
}

// writeParsed writes all families of an exposition. It gives the samples and the types of those with a family.
func writeParsed(t testing.TB, w *Writer, p Parsed, target labels.Labels) (map[string]Sample, map[string]model.MetricType) {
	t.Helper()
	want, types := map[string]Sample{}, map[string]model.MetricType{}
	all := allSamples(p, target)
	byName := map[string]int{}
	groups, families := [][]Sample{}, []frame.Family{}
	for i, s := range all {
		if s.Labels.IsEmpty() {
			continue
		}
		want[s.Labels.String()] = s
		name := s.Labels.Get(model.MetricNameLabel)
		family := frame.Family{Name: name}
		if x := p.Schema.Series[i].Family; x >= 0 {
			family = p.Schema.Families[x]
			types[name] = family.Type
			name = "family " + family.Name
		}
		g, ok := byName[name]
		if !ok {
			g = len(groups)
			byName[name] = g
			groups, families = append(groups, nil), append(families, family)
		}
		groups[g] = append(groups[g], s)
	}
	for g := range groups {
		if err := w.Family(families[g], groups[g]); err != nil {
			t.Fatal(err)
		}
	}
	return want, types
}

// allSamples gives a sample for each series, an empty one for those that are absent.
func allSamples(p Parsed, target labels.Labels) []Sample {
	b := labels.NewBuilder(labels.EmptyLabels())
	all := make([]Sample, len(p.Schema.Series))
	for i := range all {
		if p.Column.Absent.Has(i) {
			continue
		}
		all[i] = Sample{p.Schema.SeriesLabels(i, target, b), p.Column.Values[i], frame.NoTimestamp}
		if p.Column.Timestamps != nil {
			all[i].Timestamp = p.Column.Timestamps[i]
		}
	}
	return all
}
