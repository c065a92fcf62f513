package sink

import (
	"runtime"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

func schema(t testing.TB, series ...labels.Labels) *frame.Schema {
	t.Helper()
	all := make([]frame.Series, len(series))
	for i, l := range series {
		all[i] = frame.Series{Labels: l, Family: -1}
	}
	s, err := frame.NewSchema(nil, all, frame.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPrepare(t *testing.T) {
	target := labels.FromStrings("instance", "h:1", "job", "j", "zone", "z")
	for _, c := range []struct {
		name, label    string
		target, series labels.Labels
		want           string
		mixed          bool
	}{
		{"beside the target's", "", target, labels.FromStrings("__name__", "m", "a", "1"),
			`{__name__="m", a="1", instance="h:1", job="j", zone="z"}`, false},
		{"over the target's", "", target, labels.FromStrings("__name__", "m", "job", "own"),
			`{__name__="m", instance="h:1", job="own", zone="z"}`, true},
		{"without one of the target's", "", target, labels.FromStrings("__name__", "m", "zone", ""),
			`{__name__="m", instance="h:1", job="j"}`, true},
		{"with the publisher", "publisher", target, labels.FromStrings("__name__", "m", "a", "1"),
			`{__name__="m", a="1", instance="h:1", job="j", publisher="DC1", zone="z"}`, false},
		{"with the publisher under a name", "site", target, labels.FromStrings("__name__", "m"),
			`{__name__="m", instance="h:1", job="j", site="DC1", zone="z"}`, false},
		{"series has such a label", "publisher", target, labels.FromStrings("__name__", "m", "publisher", "own"),
			`{__name__="m", exported_publisher="own", instance="h:1", job="j", publisher="DC1", zone="z"}`, true},
		{"target has such a label", "zone", target, labels.FromStrings("__name__", "m"),
			`{__name__="m", exported_zone="z", instance="h:1", job="j", zone="DC1"}`, false},
		{"series takes away the target's", "zone", target, labels.FromStrings("__name__", "m", "zone", ""),
			`{__name__="m", instance="h:1", job="j", zone="DC1"}`, true},
		{"the exported name is taken", "zone", target, labels.FromStrings("__name__", "m", "exported_zone", "own"),
			`{__name__="m", exported_exported_zone="z", exported_zone="own", instance="h:1", job="j", zone="DC1"}`, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := NewLabels(Labelling{Publisher: c.label})
			p := l.Prepare(schema(t, c.series), c.target, "DC1")
			b := labels.NewBuilder(labels.EmptyLabels())
			if got := p.SeriesLabels(0, b).String(); got != c.want {
				t.Errorf("prepared\n%s, want\n%s", got, c.want)
			}
			if got := l.Series(p.Schema, 0, c.target, "DC1", b).String(); got != c.want {
				t.Errorf("directly\n%s, want\n%s", got, c.want)
			}
			if p.Mixed.Has(0) != c.mixed || p.HasMixed() != c.mixed {
				t.Errorf("mixed is %v, want %v", p.Mixed.Has(0), c.mixed)
			}
		})
	}
}

func TestReportSeries(t *testing.T) {
	p := NewLabels(Labelling{Publisher: "publisher"}).Prepare(nil, labels.FromStrings("job", "j"), "DC1")
	if p.Shape != nil {
		t.Error("a shape without a schema")
	}
	if got, want := p.Report[3].String(), `{__name__="scrape_samples_post_metric_relabeling", job="j", publisher="DC1"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	f := frame.Frame{Kind: frame.Scraped, Report: frame.Report{Duration: 1500 * time.Millisecond, Scraped: 3, PostRelabel: 2, Added: 1}}
	if got := ReportValues(&f); got != [ReportSeries]float64{1, 1.5, 3, 2, 1} {
		t.Errorf("values are %v", got)
	}
	f.Kind = frame.Down
	if got := ReportValues(&f); got[0] != 0 {
		t.Errorf("up is %v", got[0])
	}
}

func TestShapesAreShared(t *testing.T) {
	l := NewLabels(Labelling{})
	s := schema(t, labels.FromStrings("__name__", "m"))
	a := l.Prepare(s, labels.FromStrings("instance", "1", "job", "j"), "")
	b := l.Prepare(s, labels.FromStrings("instance", "2", "job", "j"), "")
	c := l.Prepare(s, labels.FromStrings("env", "e", "instance", "2", "job", "j"), "")
	if a.Shape != b.Shape {
		t.Error("targets with the same names have different shapes")
	}
	if a.Shape == c.Shape {
		t.Error("targets with different names have one shape")
	}
	runtime.KeepAlive(a)
}

func TestShapesAreForgotten(t *testing.T) {
	l := NewLabels(Labelling{})
	for i := range 1000 {
		l.Prepare(schema(t, labels.FromStrings("__name__", "m", "a", string(rune('a'+i)))), labels.FromStrings("job", "j"), "")
		if i%50 == 0 {
			runtime.GC()
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.shapes) > 500 {
		t.Errorf("%d shapes are kept though nobody uses them", len(l.shapes))
	}
}

func TestRejected(t *testing.T) {
	reason, ok := Rejected(Reject(Late, "by %d s", 3))
	if !ok || reason != Late {
		t.Errorf("got %q, %v", reason, ok)
	}
	if got := Reject(Late, "by %d s", 3).Error(); got != "rejected: late: by 3 s" {
		t.Errorf("got %q", got)
	}
	if _, ok := Rejected(nil); ok {
		t.Error("nil is a rejection")
	}
}
