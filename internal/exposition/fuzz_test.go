package exposition

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
	"github.com/prometheus/prometheus/model/value"

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
	if sel&64 != 0 {
		r.ScrapeNativeHistograms, r.StartTimestamps, r.NativeHistogramMinBucketFactor = true, true, 1.1
		r.AlwaysScrapeClassicHistograms = sel&1 != 0
	}
	if sel&128 != 0 {
		r.ScrapeNativeHistograms, r.ConvertClassicHistogramsToNHCB = true, sel&4 == 0
		r.NativeHistogramBucketLimit, r.AlwaysScrapeClassicHistograms = 3, sel&2 != 0
	}
	return r
}

// seedMessages are bodies in the protobuf format.
func seedMessages(t testing.TB) []string {
	t.Helper()
	return append(odd(t, time.UnixMilli(1_699_999_999_000)), program(t, 1, expfmt.TypeProtoDelim))
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
		"a{x=\"1\",y=\"2\x17} 1\na{y= 2\",x=\"1\"} 2\n",
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
	for i, b := range seedMessages(f) {
		f.Add([]byte(b), protoType, byte(i*8))
		f.Add([]byte(b), protoType, byte(64+i))
		f.Add([]byte(b), protoType, byte(128+i))
	}
	for _, sel := range []byte{0, 64, 65, 128, 130, 192} {
		f.Add([]byte(created(1)), openMetricsType, sel)
		f.Add([]byte(created(2)), textType, sel)
	}
	f.Add([]byte("\x01a"), "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited", byte(0))
	f.Add([]byte("a 1\n"), "text/html; charset", byte(0))
	f.Fuzz(func(t *testing.T, body []byte, contentType string, sel byte) {
		rules := fuzzRules(sel)
		l, r := NewLayout(rules, NewPackedSchemas()), newReference(rules)
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
	for _, sel := range []byte{32, 32 + 64, 33, 34 + 64} {
		f.Add([]byte(created(1)), []byte("\x00\x02\x03\x01\x08\x01\x00\x0a\x02\x07\x10\x11\x02\x04\x05"), sel)
	}
	for op := byte(12); op < 20; op++ { // each way to write a line anew, in both formats and with and without timestamps
		var edits []byte
		for y := range byte(30) {
			edits = append(edits, op, y+3, y+op*30)
		}
		f.Add([]byte(strings.Join(seedBodies()[2:10], "")), edits, op%2*2)
		f.Add([]byte(seedBodies()[22]), edits, byte(32))
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
		l, r := NewLayout(rules, NewPackedSchemas()), newReference(rules)
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
	switch op % 20 {
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
	case 12: // a digit changes where it stands
		if k := bytes.LastIndexAny(lines[i], "0123456789"); k >= 0 {
			lines[i] = bytes.Clone(lines[i])
			for k -= int(y) / 10 % 20; k >= 0 && lines[i][k]-'0' > 9; k-- {
			}
			if k >= 0 {
				lines[i][k] = '0' + y%10
			}
		}
	case 19: // all lines end otherwise
		return bytes.ReplaceAll(b, []byte("\n"), []byte([]string{"\r\n", "\n\n", " \n", "\t\n"}[y%4]))
	default:
		lines[i] = respell(lines[i], op%20, y)
	}
	return bytes.Join(lines, nil)
}

// respell makes one line say what it says in another way, or nearly so: what a parser by position may take for the same.
func respell(line []byte, op, y byte) []byte {
	text := strings.TrimSuffix(string(line), "\n")
	from := func(list ...string) string { return list[int(y)%len(list)] }
	key, rest, ok := strings.Cut(text, " ")
	if i := strings.LastIndex(text, "} "); i >= 0 {
		key, rest, ok = text[:i+1], text[i+2:], true
	}
	value, after, _ := strings.Cut(rest, " ")
	switch op {
	case 13: // a number as it is seldom written
		value = from("-0", "-0.0", "+5", "007", ".5", "5.", "1.50", "1.000", "1e5", "1E5", "1e+05", "1e-7", "1e00005", "0x10", "0x1p-2", "1_000", "0b1",
			"123456789012345", "1234567890123456", "12345678901234567", "123456789012345678", "1234567890123456789", "0.30000000000000004",
			"0.1234567890123456789", "123456789.123456789", "9007199254740991", "9007199254740992", "18446744073709551616", "1e22", "1e23", "-1e22",
			"1e400", "1e-400", "4.9e-324", "2.2250738585072011e-308", "1.7976931348623157e308", "inf", "-Inf", "+inf", "Infinity", "nan", "-NaN", "NAN",
			"--1", "1.2.3", "1e", "e1", "+", "1i", "1\x00", "\uff11")
	case 14: // blanks
		return []byte(from(key+"\t"+rest, key+"  "+rest, key+rest, " "+text, "\t"+text, text+" ", text+"\t", text+" \r", text+"\r", key+" \t "+rest) + "\n")
	case 15: // a timestamp comes or goes
		after = from("", "0", "1699999999999", "1699999999998", "1700000000000", "1800000000000", "-5", "+5", "007", "1e3", "1.5",
			"9223372036854775807", "9223372036854775808", "123456789012345678", "1234567890123456789", "1\t", " 1", "1 2")
	case 16: // other labels
		key = from("n", "n{}", "n{ }", "n{,}", `n{x="1",}`, `n{ x = "1" , y="2"}`, `n{x="1",y="2"}`, `n{y="2",x="1"}`, `{"n"}`, `{"n",x="1"}`, `{"n","ü.x"="1"}`,
			`{x="1","n"}`, `n{x=""}`, `n{x="1",x="1"}`, `n{x="\"}\\ \n"}`, `n{x="ü"}`, "n{x=\"\xff\"}", `n{x="\t"}`, `n{x="1"`, `n{x='1'}`, `{"n" "m"}`, `n{__name__="m"}`, "1n", "n:m", "n.m", "ü")
	case 17: // what only OpenMetrics takes
		after = from("# {}", "# {a=\"b\"} 1", "1 # {a=\"b\"} 1", "# {a=\"b\"} 1 1.5", "# {a=\"b\"} 1 1.5 ", "1.5", "1e9", "#{a=\"b\"} 1", "# {a=\"b\",} 0x1", "# EOF")
	case 18: // a comment before it
		name, _, _ := strings.Cut(key, "{")
		return []byte(from("# TYPE "+name+" gauge", "# TYPE "+name+" counter", "# TYPE "+name+"  wat", "# HELP "+name, "# HELP "+name+" a\\nb\\\\ü", "# HELP "+name+" a\r",
			"# UNIT "+name+" seconds", "#", "#x", "# EOF", " # x", "\t", "# TYPE", "#\tTYPE "+name+" gauge", "# TYPE \""+name+"\" gauge", "# HELP \"ü.x\" y") + "\n" + text + "\n")
	}
	if !ok {
		return line
	}
	if after != "" {
		value += " " + after
	}
	return []byte(key + " " + value + "\n")
}

// FuzzWriter writes what a body gave and reads it again: from each format into each.
func FuzzWriter(f *testing.F) {
	for i, b := range seedBodies() {
		f.Add([]byte(b), byte(0), byte(i%3))
		f.Add([]byte(b), byte(1), byte(i%3))
	}
	f.Add([]byte(created(1)), byte(1), byte(1))
	for i, b := range seedMessages(f) {
		f.Add([]byte(b), byte(2), byte(2))
		f.Add([]byte(b), byte(2), byte(i%2))
	}
	types, accepts := [...]string{textType, openMetricsType, protoType}, [...]string{acceptText, acceptOpenMetrics, acceptProto}
	f.Fuzz(func(t *testing.T, body []byte, from, to byte) {
		from, to = from%3, to%3
		rules := Rules{Target: labels.FromStrings("job", "j"), HonorLabels: true, HonorTimestamps: true, ScrapeNativeHistograms: true}
		p, err := NewLayout(rules, NewSchemas()).Parse(bytes.Clone(body), types[from])
		if err != nil {
			return
		}
		var b bytes.Buffer
		w := NewWriter(&b, Negotiate(accepts[to]))
		want, families := writeParsed(t, w, p, rules.Target)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		written := bytes.Clone(b.Bytes())
		again, err := NewLayout(rules, NewSchemas()).Parse(b.Bytes(), types[to])
		if err != nil {
			t.Fatalf("what was written cannot be read: %v\n%q", err, written)
		}
		if to != 2 && len(written) > 0 {
			sameTypes(t, again, families, to == 1)
		}
		got := map[string]Sample{}
		for _, s := range allSamples(again, rules.Target) {
			got[s.Labels.String()] = s
		}
		natives := 0
		for k, x := range want {
			y, ok := got[k]
			if delete(got, k); x.native() && to != 2 {
				natives++
			} else if !ok {
				t.Errorf("%s is missing in\n%q", k, written)
			} else if err := carried(y, x, from == 2, to, w.Omitted()); err != nil {
				t.Errorf("%s is %+v, want %+v: %v\n%q", k, y, x, err, written)
			}
		}
		delete(got, "{}")
		if len(got) > 0 || natives != w.Omitted().Histograms {
			t.Errorf("%d samples too many, %d native histograms, omitted %+v\n%q", len(got), natives, w.Omitted(), written)
		}
	})
}

// carried tells what a format lost that has a place for it and that was not counted as omitted.
func carried(got, want Sample, fromProto bool, to byte, omitted Omitted) error {
	if math.IsNaN(want.Value) && to != 2 {
		want.Value = math.Float64frombits(value.NormalNaN) // text has but one
	}
	if to == 1 && (want.Timestamp > 1<<50 || want.Timestamp < -1<<50) {
		got.Timestamp = want.Timestamp // seconds as a double are not so fine
	}
	if to == 2 && want.Timestamp == 0 {
		want.Timestamp = frame.NoTimestamp // which protobuf cannot tell from it
	}
	if h := want.Float; h != nil && !(h.Count > 0) && !(h.ZeroCount > 0) {
		return nil // read as one of integers
	}
	if !fromProto || to != 2 {
		got.Exemplars, want.Exemplars, got.Start, want.Start = nil, nil, 0, 0
	}
	if omitted.Exemplars > 0 && len(got.Exemplars) == 0 {
		want.Exemplars = nil
	}
	if omitted.Starts > 0 && got.Start == 0 {
		want.Start = 0
	}
	return sameSample(got, want)
}

// sameTypes compares the types of families that were read again with those that were written.
func sameTypes(t testing.TB, again Parsed, types map[string]model.MetricType, open bool) {
	t.Helper()
	for i := range again.Schema.Series {
		name := again.Schema.Series[i].Labels.Get(model.MetricNameLabel)
		want := types[name]
		if strings.ContainsAny(name, "\n\\\"") {
			continue // Prometheus' parser leaves the escapes of a name in # TYPE, so that it is another one
		}
		if open && want == model.MetricTypeCounter && !strings.HasSuffix(name, "_total") {
			want = model.MetricTypeUnknown
		}
		if !open && (want == model.MetricTypeInfo || want == model.MetricTypeStateset) {
			want = model.MetricTypeGauge
		}
		if !open && want == model.MetricTypeGaugeHistogram {
			want = ""
		}
		x := again.Schema.Series[i].Family
		if want != "" && (x < 0 || again.Schema.Families[x].Type != want) {
			t.Errorf("%s has family %d, want type %s", name, x, want)
		}
	}
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
	p.Schema = p.Schema.Open()
	all := make([]Sample, len(p.Schema.Series))
	for i := range all {
		if p.Column.Absent.Has(i) {
			continue
		}
		all[i] = Sample{Labels: p.Schema.SeriesLabels(i, target, b), Value: p.Column.Values[i], Timestamp: frame.NoTimestamp}
		if p.Column.Timestamps != nil {
			all[i].Timestamp = p.Column.Timestamps[i]
		}
		if p.Column.Starts != nil {
			all[i].Start = p.Column.Starts[i]
		}
	}
	for _, h := range p.Column.Histograms {
		all[h.Row].Int, all[h.Row].Float = h.Int, h.Float
	}
	for _, e := range p.Column.Exemplars {
		all[e.Row].Exemplars = append(all[e.Row].Exemplars, e)
	}
	return all
}
