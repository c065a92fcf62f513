package exposition

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

func parse(t testing.TB, l *Layout, body string) Parsed {
	t.Helper()
	p, err := l.Parse([]byte(body), textType)
	if err != nil {
		t.Fatalf("%v in %q", err, body)
	}
	return p
}

// show gives the present samples in the order of the schema.
func show(p Parsed, target labels.Labels) string {
	var out []string
	for _, s := range allSamples(p, target) {
		if !s.Labels.IsEmpty() {
			out = append(out, fmt.Sprintf("%s=%v", s.Labels, s.Value))
		}
	}
	return strings.Join(out, " ")
}

func TestLabelsAsPrometheusMakesThem(t *testing.T) {
	target := labels.FromStrings("job", "j", "instance", "i")
	for _, tc := range []struct {
		name, line, want string
		rules            Rules
		schema           string
	}{
		{"plain", `a{x="1"} 1`, `{__name__="a", instance="i", job="j", x="1"}`, Rules{}, `{__name__="a", x="1"}`},
		{"clash", `a{job="x"} 1`, `{__name__="a", exported_job="x", instance="i", job="j"}`, Rules{}, `{__name__="a", exported_job="x"}`},
		{"clash with the exported one", `a{job="x",exported_job="y"} 1`,
			`{__name__="a", exported_exported_job="x", exported_job="y", instance="i", job="j"}`, Rules{},
			`{__name__="a", exported_exported_job="x", exported_job="y"}`},
		{"empty is no clash", `a{job=""} 1`, `{__name__="a", instance="i", job="j"}`, Rules{}, `{__name__="a"}`},
		{"honoured", `a{job="x"} 1`, `{__name__="a", instance="i", job="x"}`, Rules{HonorLabels: true}, `{__name__="a", job="x"}`},
		{"honoured and equal", `a{job="j"} 1`, `{__name__="a", instance="i", job="j"}`, Rules{HonorLabels: true}, `{__name__="a"}`},
		{"honoured and empty", `a{job=""} 1`, `{__name__="a", instance="i"}`, Rules{HonorLabels: true}, `{__name__="a", job=""}`},
		{"relabelled by the target", `a 1`, `{__name__="a", both="j-i", instance="i", job="j"}`, Rules{Relabel: []*relabel.Config{{
			SourceLabels: model.LabelNames{"job", "instance"}, Separator: "-", Regex: relabel.MustNewRegexp("(.*)"),
			TargetLabel: "both", Replacement: "$1", Action: relabel.Replace, NameValidationScheme: model.UTF8Validation,
		}}}, `{__name__="a", both="j-i"}`},
		{"target label dropped", `a 1`, `{__name__="a", job="j"}`, Rules{Relabel: []*relabel.Config{{
			Regex: relabel.MustNewRegexp("instance"), Action: relabel.LabelDrop, NameValidationScheme: model.UTF8Validation,
		}}}, `{__name__="a", instance=""}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.rules.Target = target
			p := parse(t, NewLayout(tc.rules, NewSchemas()), tc.line)
			if got := show(p, target); got != tc.want+"=1" {
				t.Errorf("labels %s, want %s", got, tc.want)
			}
			if got := p.Schema.Series[0].Labels.String(); got != tc.schema {
				t.Errorf("in the schema %s, want %s", got, tc.schema)
			}
		})
	}
}

func TestRelabelMayNotTakeTheName(t *testing.T) {
	l := NewLayout(Rules{Relabel: []*relabel.Config{{
		Regex: relabel.MustNewRegexp("__name__"), Action: relabel.LabelDrop, NameValidationScheme: model.UTF8Validation,
	}}}, NewSchemas())
	if _, err := l.Parse([]byte("a{x=\"1\"} 1\n"), textType); err == nil || !strings.Contains(err.Error(), "no metric name") {
		t.Errorf("error %v", err)
	}
}

func TestCountsAsPrometheusReportsThem(t *testing.T) {
	drop := Rules{Relabel: []*relabel.Config{{
		SourceLabels: model.LabelNames{"__name__"}, Separator: ";", Regex: relabel.MustNewRegexp("d.*"), Action: relabel.Drop,
		NameValidationScheme: model.UTF8Validation,
	}}}
	l := NewLayout(drop, NewSchemas())
	for i, step := range []struct {
		body                        string
		fails                       bool
		scraped, postRelabel, added int
	}{
		{"a 1\nb 1\nd 1\n", false, 3, 2, 2},
		{"a 2\nb 2\nd 2\n", false, 3, 2, 0},
		{"a 2\nb 2\nd 2\nc 1\n", false, 4, 3, 1},
		{"a 2\na 3\nb 2\nc 1\n", false, 4, 4, 0},
		{"b 1\nx 1\nwrong\n", true, 2, 2, 1},
		{"", false, 0, 0, 0},
		// What a failed scrape had seen, and what an empty one had not, does not count as added.
		{"a 2\nb 2\nc 2\nx 1\n", false, 4, 4, 0},
		{"a 2\n", false, 1, 1, 0},
		{"a 2\nb 2\n", false, 2, 2, 1},
	} {
		p, err := l.Parse([]byte(step.body), textType)
		if (err != nil) != step.fails {
			t.Fatalf("step %d: error %v", i, err)
		}
		if p.Scraped != step.scraped || p.PostRelabel != step.postRelabel || p.Added != step.added {
			t.Errorf("step %d: %d %d %d, want %d %d %d", i, p.Scraped, p.PostRelabel, p.Added, step.scraped, step.postRelabel, step.added)
		}
	}
}

func TestVanishedSeriesKeepTheirPlaceForAWhile(t *testing.T) {
	l := NewLayout(Rules{}, NewSchemas())
	full := parse(t, l, "a 1\nb 2\nc 3\n").Schema
	for i := range keepAbsent {
		p := parse(t, l, "a 1\nc 3\n")
		if p.Schema != full || !p.Column.Absent.Has(1) || p.Column.Absent.Count() != 1 {
			t.Fatalf("scrape %d: %d series, absent %v", i, len(p.Schema.Series), p.Column.Absent)
		}
	}
	if p := parse(t, l, "a 1\nb 5\nc 3\n"); p.Schema != full || p.Column.Absent != nil || p.Column.Values[1] != 5 {
		t.Fatalf("it came back to %+v", p)
	}
	for range keepAbsent {
		parse(t, l, "a 1\nc 3\n")
	}
	p := parse(t, l, "a 1\nc 4\n") // a third of all are gone
	if len(p.Schema.Series) != 2 || p.Column.Absent != nil || show(p, labels.EmptyLabels()) != `{__name__="a"}=1 {__name__="c"}=4` {
		t.Errorf("it did not leave: %s", show(p, labels.EmptyLabels()))
	}
}

// TestVanishedSeriesLeave with the next change, or in the end.
func TestVanishedSeriesLeave(t *testing.T) {
	const few = "a 1\nc 1\nd 1\ne 1\n"
	for name, tc := range map[string]struct {
		scrapes, series int
		then            string
	}{
		"not with a change while it may come back": {keepAbsent - 1, 6, "x 1\n"},
		"with a change": {keepAbsent, 5, "x 1\n"},
		"with none":     {mostAbsent, 4, ""},
		"not before":    {mostAbsent - 1, 5, ""},
	} {
		t.Run(name, func(t *testing.T) {
			l := NewLayout(Rules{}, NewPackedSchemas())
			full := parse(t, l, "a 1\nb 2\nc 1\nd 1\ne 1\n").Schema
			for i := range tc.scrapes {
				if p := parse(t, l, few); p.Schema != full || !p.Column.Absent.Has(1) || p.Column.Absent.Count() != 1 {
					t.Fatalf("scrape %d: %d series, absent %v", i, p.Schema.Len(), p.Column.Absent)
				}
			}
			if p := parse(t, l, few+tc.then); p.Schema.Len() != tc.series || p.Column.Absent.Count() != tc.series-len(strings.Fields(few+tc.then))/2 {
				t.Errorf("%d series, absent %v", p.Schema.Len(), p.Column.Absent)
			}
		})
	}
}

func TestNewSeriesStandWhereTheyAreExposed(t *testing.T) {
	l := NewLayout(Rules{}, NewSchemas())
	first := parse(t, l, "a 1\nb 2\nc 3\n").Schema
	parse(t, l, "a 1\nc 3\n")
	p := parse(t, l, "x 9\na 1\ny 8\nz 7\nc 3\n")
	var names []string
	for _, s := range p.Schema.Series {
		names = append(names, s.Labels.Get("__name__"))
	}
	if want := []string{"x", "a", "y", "z", "b", "c"}; !slices.Equal(names, want) {
		t.Errorf("order %v, want %v", names, want)
	}
	if p.Schema.Series[1].Base != first.Series[0].Base || p.Schema.Series[0].Base != 9 {
		t.Errorf("bases %+v", p.Schema.Series)
	}
}

func TestOrderOfLinesDoesNotChangeTheSchema(t *testing.T) {
	l := NewLayout(Rules{}, NewSchemas())
	schema := parse(t, l, "a 1\nb 2\nc 3\n").Schema
	p := parse(t, l, "c 6\na 4\nb 5\n")
	if p.Schema != schema || !slices.Equal(p.Column.Values, []float64{4, 5, 6}) {
		t.Errorf("values %v in %v", p.Column.Values, p.Schema)
	}
}

func TestDuplicates(t *testing.T) {
	now := func() time.Time { return time.UnixMilli(1_000_000) }
	for _, tc := range []struct {
		name, body string
		value      float64
		skipped    Skipped
	}{
		{"the first wins", "a 1\na 2\n", 1, Skipped{Duplicates: 1}},
		{"the newest timestamp wins", "a 1 500\na 2 700\na 3 600\n", 2, Skipped{Duplicates: 1}},
		{"other order of labels", "a{x=\"1\",y=\"2\"} 1\na{y=\"2\",x=\"1\"} 2\n", 1, Skipped{Duplicates: 1}},
		{"too far ahead", "a 1\na 2 1600001\n", 1, Skipped{Ahead: 1}},
		{"just not too far ahead", "a 1\na 2 1600000\n", 2, Skipped{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := NewLayout(Rules{HonorTimestamps: true, Now: now}, NewSchemas())
			for range 3 {
				p := parse(t, l, tc.body)
				if len(p.Column.Values) != 1 || p.Column.Values[0] != tc.value || p.Skipped != tc.skipped {
					t.Errorf("values %v, skipped %+v", p.Column.Values, p.Skipped)
				}
			}
		})
	}
}

func TestTimestampsAreHonouredOrNot(t *testing.T) {
	body := "a 1 1000\nb 2\n"
	l := NewLayout(Rules{HonorTimestamps: true}, NewSchemas())
	for range 2 {
		if p := parse(t, l, body); !slices.Equal(p.Column.Timestamps, []int64{1000, frame.NoTimestamp}) {
			t.Errorf("timestamps %v", p.Column.Timestamps)
		}
	}
	if p := parse(t, l, "a 1\nb 2\n"); p.Column.Timestamps != nil {
		t.Errorf("timestamps %v of none", p.Column.Timestamps)
	}
	l = NewLayout(Rules{}, NewSchemas())
	for range 2 {
		if p := parse(t, l, body); p.Column.Timestamps != nil {
			t.Errorf("timestamps %v, not to be honoured", p.Column.Timestamps)
		}
	}
}

func TestContentTypes(t *testing.T) {
	text, open := "a 1\n", "# TYPE a counter\na_total 1.0\n# EOF\n"
	for _, tc := range []struct {
		contentType, body string
		good              bool
	}{
		{"", text, true},
		{"text/plain", text, true},
		{"text/html", text, true},
		{"application/json; charset=", text, true},
		{"text/plain; version=1.0.0; escaping=allow-utf-8", text, true},
		{"application/openmetrics-text; version=1.0.0", open, true},
		{"application/openmetrics-text; version=1.0.0", text, false},
		{"application/openmetrics-text; version=2.0.0", text, true},
		{"application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited", text, false},
	} {
		_, err := NewLayout(Rules{}, NewSchemas()).Parse([]byte(tc.body), tc.contentType)
		if (err == nil) != tc.good {
			t.Errorf("%q: %v", tc.contentType, err)
		}
	}
}

func TestFormatMayChangeBetweenScrapes(t *testing.T) {
	l := NewLayout(Rules{}, NewSchemas())
	for range 2 {
		parse(t, l, "# TYPE a counter\na_total 1\n")
		p, err := l.Parse([]byte("# TYPE a counter\n# HELP a x\na_total 2.0 # {t=\"y\"} 1.0\n# EOF\n"), openMetricsType)
		if err != nil || p.Column.Values[0] != 2 || len(p.Column.Exemplars) != 1 || p.Skipped.Exemplars != 0 {
			t.Fatalf("%+v, %v", p, err)
		}
	}
}

func TestFamilies(t *testing.T) {
	l := NewLayout(Rules{}, NewSchemas())
	p := parse(t, l, "# HELP a first\n# TYPE a gauge\na 1\n# TYPE none gauge\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_sum 1\nother 1\n")
	want := []frame.Family{{Name: "a", Type: "gauge", Help: "first"}, {Name: "h", Type: "histogram"}}
	if !slices.Equal(p.Schema.Families, want) {
		t.Errorf("families %+v", p.Schema.Families)
	}
	var of []int
	for _, s := range p.Schema.Series {
		of = append(of, s.Family)
	}
	if !slices.Equal(of, []int{0, 1, 1, -1}) {
		t.Errorf("series are of families %v", of)
	}
	p = parse(t, l, "# HELP a second\n# TYPE a gauge\na 1\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_sum 1\nother 1\n")
	if p.Schema.Families[0].Help != "second" {
		t.Errorf("families %+v", p.Schema.Families)
	}
}

func TestLimitsOfTheSchema(t *testing.T) {
	lim := frame.DefaultLimits()
	lim.Series = 2
	_, err := NewLayout(Rules{Limits: &lim}, NewSchemas()).Parse([]byte("a 1\nb 1\nc 1\n"), textType)
	if err == nil || !strings.Contains(err.Error(), "3") || !strings.Contains(err.Error(), "2") {
		t.Errorf("error %v", err)
	}
}

func TestRefusalLeavesTheLayoutAsItWas(t *testing.T) {
	l := NewLayout(Rules{SampleLimit: 3}, NewSchemas())
	schema := parse(t, l, "a 1\nb 2\n").Schema
	for _, bad := range []string{"a 5\nb x\n", "a 5\nb 6\nc 7\nd 8\n", "<html>", "a{", "a 1\n# TYPE a wat\nb 1\n"} {
		if p, err := l.Parse([]byte(bad), textType); err == nil || p.Schema != nil {
			t.Errorf("%q: %+v, %v", bad, p, err)
		}
		if p := parse(t, l, "a 3\nb 4\n"); p.Schema != schema || !slices.Equal(p.Column.Values, []float64{3, 4}) || p.Added != 0 {
			t.Errorf("after %q: %+v", bad, p)
		}
	}
}

func TestErrorsAreShort(t *testing.T) {
	_, err := NewLayout(Rules{}, NewSchemas()).Parse([]byte("a{x=\""+strings.Repeat("y", 1<<20)+"\xff\"} 1\n"), textType)
	if err == nil || len(err.Error()) > 2*maxErrorText {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
}

func TestTargetsOfOneShapeShare(t *testing.T) {
	store := NewSchemas()
	layouts := make([]*Layout, 3)
	for i := range layouts {
		target := labels.FromStrings("job", "j", "instance", fmt.Sprint(i))
		layouts[i] = NewLayout(Rules{Target: target}, store)
		p := parse(t, layouts[i], fmt.Sprintf("# TYPE a gauge\na{x=\"1\"} %d\nb 1\n", i))
		if p.Schema != layouts[0].catalog.schema || layouts[i].skeleton != layouts[0].skeleton {
			t.Errorf("layout %d shares nothing", i)
		}
		if got, want := show(p, target), fmt.Sprintf(`{__name__="a", instance="%d", job="j", x="1"}=%d`, i, i); !strings.HasPrefix(got, want) {
			t.Errorf("%s, want %s", got, want)
		}
	}
	// One of them goes its own way and the others stay.
	p := parse(t, layouts[0], "# TYPE a gauge\na{x=\"1\"} 1\nb 1\nc 1\n")
	if q := parse(t, layouts[1], "# TYPE a gauge\na{x=\"1\"} 1\nb 1\n"); q.Schema == p.Schema || len(q.Schema.Series) != 2 {
		t.Errorf("schema of another: %+v", q.Schema)
	}
}

func TestKnownSchemasAreFoundAgain(t *testing.T) {
	body := "a 1\nb 2\n"
	before := parse(t, NewLayout(Rules{}, NewSchemas()), body).Schema
	after := parse(t, NewLayout(Rules{}, NewSchemas(before)), "a 100\nb 200\n").Schema
	if after != before {
		t.Errorf("schema %s after %s", after.ID, before.ID)
	}
	if other := parse(t, NewLayout(Rules{}, NewSchemas()), "a 100\nb 200\n").Schema; other.ID == before.ID {
		t.Error("the bases are not part of the id, so this shows nothing")
	}
}

func TestStoreLetsGo(t *testing.T) {
	store := NewSchemas()
	func() {
		l := NewLayout(Rules{}, store)
		for i := range 20 {
			parse(t, l, fmt.Sprintf("a%d 1\n", i))
		}
		runtime.KeepAlive(l)
	}()
	for range 100 {
		runtime.GC()
		store.mu.Lock()
		n := len(store.catalogs) + len(store.skeletons)
		store.mu.Unlock()
		if n == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Errorf("the store still has %d schemas and %d skeletons", len(store.catalogs), len(store.skeletons))
}

func TestFailedScrapesAreForgottenInTheEnd(t *testing.T) {
	l := NewLayout(Rules{}, NewSchemas())
	for i := range 100 {
		var b strings.Builder
		for j := range 100 {
			fmt.Fprintf(&b, "a%d_%d 1\n", i, j)
		}
		if _, err := l.Parse([]byte(b.String()+"wrong\n"), textType); err == nil {
			t.Fatal("it was taken")
		}
	}
	if n := len(l.failed); n > 1200 {
		t.Errorf("%d series of failed scrapes are kept", n)
	}
}

// Far more series than a schema may have are refused as soon as they are too many, not once all are in memory.
func TestSeriesAreBoundedWhileTheyAreRead(t *testing.T) {
	var body []byte
	for i := range 100_000 {
		body = fmt.Appendf(body, "s%d 1\n", i)
	}
	lim := frame.DefaultLimits()
	lim.Series = 100
	for want, sampleLimit := range map[string]int{"series of a schema: 101 is above the limit of 100": 0, "sample_limit exceeded: 100 samples after relabelling, limit 50": 50} {
		l := NewLayout(Rules{Limits: &lim, SampleLimit: sampleLimit}, NewSchemas())
		got, err := l.Parse(body, "text/plain")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
		if got.Scraped > lim.Series+1 {
			t.Errorf("%d samples were read", got.Scraped)
		}
	}
}

// TestDescribedTwice: what an exposition says twice of a family, differently, counts as Prometheus takes it, also where one of
// the two stands as in the exposition before and described nothing there.
func TestDescribedTwice(t *testing.T) {
	for _, bodies := range [][]string{
		{"# TYPE n histogram\nn{le=\"6\"} 5\nb 7\n", "# TYPE n histogram\nn{le=\"6\"} 5\n# TYPE n gauge\nb 7\n"},
		{"n{le=\"6\"} 5\n# TYPE n gauge\nb 7\n", "# TYPE n histogram\nn{le=\"6\"} 5\n# TYPE n gauge\nb 7\n"},
		{"n 5\n# TYPE n gauge\nb 7\nc 1\n", "# TYPE n gauge\nb 7\nn 5\nc 1\n", "n 5\n# TYPE n gauge\nb 7\nc 1\n# TYPE n counter\n", "# TYPE n gauge\nb 7\nn 5\nc 1\n"},
	} {
		rules := fuzzRules(0)
		l, r := NewLayout(rules, NewSchemas()), newReference(rules)
		for _, body := range bodies {
			check(t, l, r, []byte(body), textType)
		}
	}
}
