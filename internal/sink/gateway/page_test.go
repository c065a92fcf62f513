package gateway

import (
	"context"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/exposition"
	"github.com/choria-io/prometheus-streams/internal/frame"
)

// described makes a metric of series that have a value of 1.
func described(f frame.Family, series ...labels.Labels) metric {
	m := metric{Family: f}
	for _, l := range series {
		m.samples = append(m.samples, sample{l, 1})
	}
	return m
}

func named(name string, pairs ...string) labels.Labels {
	return labels.FromStrings(append(pairs, "__name__", name)...)
}

// head cuts a page down to what comes before the report series.
func head(page string) string {
	page, _, _ = strings.Cut(page, "# HELP scrape_duration_seconds")
	return page
}

func TestFamilies(t *testing.T) {
	counter := frame.Family{Name: "m", Type: model.MetricTypeCounter, Help: "h"}
	whole := frame.Family{Name: "m_total", Type: model.MetricTypeCounter, Help: "h"}
	other := frame.Family{Name: "m", Type: model.MetricTypeGauge, Help: "other"}
	for name, c := range map[string]struct {
		targets  [][]metric
		text, om string
	}{
		"counter of the text format": {
			[][]metric{{described(whole, named("m_total"))}},
			"# HELP m_total h\n# TYPE m_total counter\nm_total{i=\"0\"} 1\n",
			"# HELP m h\n# TYPE m counter\nm_total{i=\"0\"} 1\n",
		},
		"counter of OpenMetrics": {
			[][]metric{{described(counter, named("m_total"))}},
			"# HELP m_total h\n# TYPE m_total counter\nm_total{i=\"0\"} 1\n",
			"# HELP m h\n# TYPE m counter\nm_total{i=\"0\"} 1\n",
		},
		"counter of both": {
			[][]metric{{described(counter, named("m_total"))}, {described(whole, named("m_total"))}},
			"# HELP m_total h\n# TYPE m_total counter\nm_total{i=\"0\"} 1\nm_total{i=\"1\"} 1\n",
			"# HELP m h\n# TYPE m counter\nm_total{i=\"0\"} 1\nm_total{i=\"1\"} 1\n",
		},
		"counter without _total": {
			[][]metric{{described(counter, named("m"))}},
			"# HELP m h\n# TYPE m counter\nm{i=\"0\"} 1\n",
			"# HELP m h\n# TYPE m unknown\nm{i=\"0\"} 1\n",
		},
		"most targets decide": {
			[][]metric{{described(other, named("m"))}, {described(counter, named("m"))}, {described(other, named("m"))}, {described(counter, named("m"))}, {described(counter, named("m"))}},
			"# HELP m h\n# TYPE m counter\nm{i=\"0\"} 1\nm{i=\"1\"} 1\nm{i=\"2\"} 1\nm{i=\"3\"} 1\nm{i=\"4\"} 1\n",
			"# HELP m h\n# TYPE m unknown\nm{i=\"0\"} 1\nm{i=\"1\"} 1\nm{i=\"2\"} 1\nm{i=\"3\"} 1\nm{i=\"4\"} 1\n",
		},
		"else the first": {
			[][]metric{{described(other, named("m"))}, {described(counter, named("m"))}},
			"# HELP m other\n# TYPE m gauge\nm{i=\"0\"} 1\nm{i=\"1\"} 1\n",
			"# HELP m other\n# TYPE m gauge\nm{i=\"0\"} 1\nm{i=\"1\"} 1\n",
		},
		"who says nothing does not vote": {
			[][]metric{{described(frame.Family{}, named("m"))}, {described(frame.Family{}, named("m"))}, {described(other, named("m"))}},
			"# HELP m other\n# TYPE m gauge\nm{i=\"0\"} 1\nm{i=\"1\"} 1\nm{i=\"2\"} 1\n",
			"# HELP m other\n# TYPE m gauge\nm{i=\"0\"} 1\nm{i=\"1\"} 1\nm{i=\"2\"} 1\n",
		},
		"nothing said": {
			[][]metric{{described(frame.Family{}, named("b"), named("a"))}},
			"a{i=\"0\"} 1\nb{i=\"0\"} 1\n", "a{i=\"0\"} 1\nb{i=\"0\"} 1\n",
		},
		"types that only OpenMetrics has": {
			[][]metric{{
				described(frame.Family{Name: "g", Type: model.MetricTypeGaugeHistogram}, named("g_bucket", "le", "+Inf")),
				described(frame.Family{Name: "i", Type: model.MetricTypeInfo}, named("i_info")),
				described(frame.Family{Name: "j", Type: model.MetricTypeStateset}, named("j", "s", "on")),
				described(frame.Family{Name: "k", Type: model.MetricTypeUnknown}, named("k")),
				described(frame.Family{Name: "l_seconds", Type: model.MetricTypeGauge, Unit: "seconds"}, named("l_seconds")),
				described(frame.Family{Name: "m", Type: model.MetricTypeGauge, Unit: "seconds"}, named("m")),
			}},
			"# TYPE g histogram\ng_bucket{le=\"+Inf\",i=\"0\"} 1\n# TYPE i_info gauge\ni_info{i=\"0\"} 1\n# TYPE j gauge\nj{s=\"on\",i=\"0\"} 1\n" +
				"# TYPE k untyped\nk{i=\"0\"} 1\n# TYPE l_seconds gauge\nl_seconds{i=\"0\"} 1\n# TYPE m gauge\nm{i=\"0\"} 1\n",
			"# TYPE g gaugehistogram\ng_bucket{le=\"+Inf\",i=\"0\"} 1\n# TYPE i info\ni_info{i=\"0\"} 1\n# TYPE j stateset\nj{s=\"on\",i=\"0\"} 1\n" +
				"# TYPE k unknown\nk{i=\"0\"} 1\n# TYPE l_seconds gauge\n# UNIT l_seconds seconds\nl_seconds{i=\"0\"} 1\n# TYPE m gauge\nm{i=\"0\"} 1\n",
		},
		"help that needs escaping": {
			[][]metric{{described(frame.Family{Name: "m", Type: model.MetricTypeGauge, Help: "a\\b\n\"c\" é"}, named("m"))}},
			"# HELP m a\\\\b\\n\"c\" é\n# TYPE m gauge\nm{i=\"0\"} 1\n",
			"# HELP m a\\\\b\\n\\\"c\\\" é\n# TYPE m gauge\nm{i=\"0\"} 1\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Options{})
			for i, m := range c.targets {
				w.take(site("A", "i", string(rune('0'+i))), scraped(t, m...))
			}
			if got := head(w.text("", acceptText)); got != c.text {
				t.Errorf("text\n%swant\n%s", got, c.text)
			}
			if got := head(w.text("", acceptOM)); got != c.om {
				t.Errorf("OpenMetrics\n%swant\n%s", got, c.om)
			}
			w.series("", acceptText)
			w.series("", acceptOM)
		})
	}
}

// Whatever targets and series are called, no series stands on a page twice.
func TestDuplicates(t *testing.T) {
	type from struct {
		source  source
		metrics []metric
	}
	for name, c := range map[string]struct {
		from    []from
		query   string
		want    map[string]float64
		dropped int
	}{
		"a series names another target": {
			[]from{
				{site("A", "job", "a"), []metric{gauge("m", 1)}},
				{site("A", "job", "b"), []metric{gauge("m", 2, "job", "a"), gauge("n", 2)}},
			}, "",
			map[string]float64{`{__name__="m", job="a"}`: 1, `{__name__="n", job="b"}`: 2}, 1,
		},
		"the other one is not asked for": {
			[]from{
				{site("A", "job", "a"), []metric{gauge("m", 1)}},
				{site("B", "job", "b"), []metric{gauge("m", 2, "job", "a")}},
			}, "?publisher=B",
			map[string]float64{`{__name__="m", job="a"}`: 2}, 0,
		},
		"the other one is absent": {
			[]from{
				{site("A", "job", "a"), []metric{gauge("m", 1)}},
				{site("A", "job", "b"), []metric{gauge("m", 2, "job", "c")}},
			}, "",
			map[string]float64{`{__name__="m", job="a"}`: 1, `{__name__="m", job="c"}`: 2}, 0,
		},
		"a series has what another target has": {
			[]from{
				{site("A", "job", "a"), []metric{gauge("m", 1, "env", "x")}},
				{site("A", "job", "a", "env", "x"), []metric{gauge("m", 2)}},
			}, "",
			map[string]float64{`{__name__="m", env="x", job="a"}`: 2}, 1,
		},
		"a series takes a target's label away": {
			[]from{
				{site("A", "job", "a"), []metric{gauge("m", 1)}},
				{site("A", "job", "a", "zone", "z"), []metric{gauge("m", 2, "zone", "")}},
			}, "",
			map[string]float64{`{__name__="m", job="a"}`: 1}, 1,
		},
		"two series of one target": {
			[]from{{site("A", "job", "a"), []metric{described(frame.Family{}, named("m"), named("m", "job", "a"), named("m", "job", "b"))}}}, "",
			map[string]float64{`{__name__="m", job="a"}`: 1, `{__name__="m", job="b"}`: 1}, 1,
		},
		"families of different names": {
			[]from{
				{site("A", "job", "a"), []metric{described(frame.Family{Name: "m", Type: model.MetricTypeSummary}, named("m_count"))}},
				{site("A", "job", "b"), []metric{described(frame.Family{Name: "m_count", Type: model.MetricTypeGauge}, named("m_count", "job", "a"))}},
			}, "",
			map[string]float64{`{__name__="m_count", job="a"}`: 1}, 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Options{})
			for _, f := range c.from {
				w.take(f.source, scraped(t, f.metrics...))
			}
			for i, accept := range []string{acceptText, acceptOM} {
				if got := without(w.series(c.query, accept)); !same(got, c.want) {
					t.Errorf("got %v, want %v", got, c.want)
				}
				if n := testutil.ToFloat64(w.metrics.twice); n != float64(c.dropped*(i+1)) {
					t.Errorf("%v counted after %d pages of %d", n, i+1, c.dropped)
				}
			}
		})
	}
}

// As in Prometheus, what a target exposes under the name of a report series stands before it.
func TestTargetExposesReportSeries(t *testing.T) {
	w := newWorld(t, Options{})
	w.take(site("A", "job", "a"), scraped(t, gauge("up", 7), gauge("scrape_series_added", 8, "x", "y")))
	w.take(site("A", "job", "b"), scraped(t))
	got := w.series("", acceptText)
	for series, want := range map[string]float64{
		`{__name__="up", job="a"}`: 7, `{__name__="up", job="b"}`: 1,
		`{__name__="scrape_series_added", job="a", x="y"}`: 8, `{__name__="scrape_series_added", job="a"}`: 2,
	} {
		if got[series] != want {
			t.Errorf("%s is %v, want %v", series, got[series], want)
		}
	}
	if n := strings.Count(w.text("", acceptText), "# TYPE up "); n != 1 {
		t.Errorf("%d TYPE lines for up", n)
	}
}

func TestPublisherLabelThatIsTaken(t *testing.T) {
	w := newWorld(t, Options{PublisherLabel: "publisher"})
	w.take(site("A", "job", "a", "publisher", "target's"), scraped(t, gauge("m", 1), gauge("n", 2, "publisher", "own"), gauge("o", 3, "exported_publisher", "own")))
	want := map[string]float64{
		`{__name__="m", exported_publisher="target's", job="a", publisher="A"}`:                                    1,
		`{__name__="n", exported_publisher="own", job="a", publisher="A"}`:                                         2,
		`{__name__="o", exported_exported_publisher="target's", exported_publisher="own", job="a", publisher="A"}`: 3,
	}
	if got := without(w.series("", acceptText)); !same(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestNamesThatNeedQuotes(t *testing.T) {
	w := newWorld(t, Options{})
	w.take(site("A", "job", "a"), scraped(t,
		gauge("my.metric", 1, "a.b", "x"), gauge("my_metric", 2, "a_b", "x"), gauge("plain", 3), gauge("bare.metric", 4), gauge("mixed.metric", 5, "job", "")))
	w.take(site("A", "job", "b", "host.name", "h"), scraped(t, gauge("plain", 6)))
	quoted := map[string]float64{
		`{__name__="my.metric", "a.b"="x", job="a"}`: 1, `{__name__="my_metric", a_b="x", job="a"}`: 2,
		`{__name__="plain", job="a"}`: 3, `{__name__="bare.metric", job="a"}`: 4, `{__name__="mixed.metric"}`: 5,
		`{__name__="plain", "host.name"="h", job="b"}`: 6,
	}
	if got := without(w.series("", acceptOM)); !same(got, quoted) {
		t.Errorf("quoted: got %v, want %v", got, quoted)
	}
	// my.metric and my_metric become one: the first of the page stays.
	escaped := map[string]float64{
		`{__name__="my_metric", a_b="x", job="a"}`: 1,
		`{__name__="plain", job="a"}`:              3, `{__name__="bare_metric", job="a"}`: 4, `{__name__="mixed_metric"}`: 5,
		`{__name__="plain", host_name="h", job="b"}`: 6,
	}
	for _, accept := range []string{acceptText, "application/openmetrics-text;version=1.0.0"} {
		if got := without(w.series("", accept)); !same(got, escaped) {
			t.Errorf("%s: got %v, want %v", accept, got, escaped)
		}
		if text := w.text("", accept); strings.Contains(text, `{"`) || !strings.Contains(text, "up{host_name=\"h\",job=\"b\"} 1\n") {
			t.Errorf("%s: names in quotes\n%s", accept, text)
		}
	}
}

func TestSeriesThatCannotBeWritten(t *testing.T) {
	w := newWorld(t, Options{})
	w.take(site("A", "job", "a"), scraped(t,
		described(frame.Family{}, labels.FromStrings("a", "b"), named("m"), labels.EmptyLabels()),
		described(frame.Family{Name: "", Type: model.MetricTypeGauge, Help: "h"}, named("n"))))
	if got, want := without(w.series("", acceptText)), (map[string]float64{`{__name__="m", job="a"}`: 1, `{__name__="n", job="a"}`: 1}); !same(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if n := testutil.ToFloat64(w.metrics.invalid); n != 2 {
		t.Errorf("%v counted", n)
	}
}

func TestOtherEscapings(t *testing.T) {
	w := newWorld(t, Options{})
	w.take(site("A", "job", "a"), scraped(t, gauge("my.metric_x", 1, "a.b", "x")))
	for scheme, want := range map[string]map[string]float64{
		"dots":   {`{__name__="my_dot_metric__x", a_dot_b="x", job="a"}`: 1},
		"values": {`{U__a_2e_b="x", __name__="U__my_2e_metric__x", job="a"}`: 1},
	} {
		got := w.series("", "application/openmetrics-text;version=1.0.0;escaping="+scheme)
		for series := range want {
			if got[series] != 1 {
				t.Errorf("%s: no %s in %v", scheme, series, got)
			}
		}
	}
}

type failing struct{ after int }

func (f *failing) Write(b []byte) (int, error) {
	if f.after--; f.after < 0 {
		return 0, context.DeadlineExceeded
	}
	return len(b), nil
}

func TestPageEndsWithItsClient(t *testing.T) {
	w := newWorld(t, Options{})
	for i := range 300 {
		w.take(site("A", "job", "a", "instance", strings.Repeat("x", 500)+string(rune('a'+i))), scraped(t, gauge("m", 1)))
	}
	p := w.page(t.Context(), &failing{after: 1}, exposition.Format{}, &filter{})
	if err := p.write(); err != context.DeadlineExceeded {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.page(ctx, &failing{after: 100}, exposition.Format{}, &filter{}).write(); err != context.Canceled {
		t.Errorf("error %v", err)
	}
}

// A page is written in pieces: its buffer does not grow with it.
func TestPageIsStreamed(t *testing.T) {
	w := newWorld(t, Options{})
	big := metric{}
	for i := range 5000 {
		big.samples = append(big.samples, sample{named("m", "n", strings.Repeat("y", 100)+string(rune('a'+i))), 1})
	}
	w.take(site("A", "job", "a"), scraped(t, big))
	w.take(site("A", "job", "b"), scraped(t, big))
	p := w.page(t.Context(), &failing{after: 1000}, exposition.Format{}, &filter{})
	if err := p.write(); err != nil {
		t.Fatal(err)
	}
	if c := cap(p.buf); c > 2*flushAt {
		t.Errorf("the buffer has %d bytes", c)
	}
}
