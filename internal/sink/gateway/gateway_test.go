package gateway

import (
	"context"
	"math"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

func TestPage(t *testing.T) {
	w := newWorld(t, Options{PublisherLabel: "publisher"})
	w.take(site("DC1", "job", "j", "instance", "b"), scraped(t, gauge("zz", 1.5, "path", "/x\"\\\n"), gauge("aa", 2)))
	w.take(site("DC1", "job", "j", "instance", "a"), down())
	w.take(site("DC2", "job", "j", "instance", "b"), scraped(t, gauge("zz", 3)))
	want := `# HELP aa aa help
# TYPE aa gauge
aa{instance="b",job="j",publisher="DC1"} 2
# HELP scrape_duration_seconds Duration of the scrape in seconds.
# TYPE scrape_duration_seconds gauge
scrape_duration_seconds{instance="a",job="j",publisher="DC1"} 10
scrape_duration_seconds{instance="b",job="j",publisher="DC1"} 0.25
scrape_duration_seconds{instance="b",job="j",publisher="DC2"} 0.25
# HELP scrape_samples_post_metric_relabeling The number of samples left after metric relabelling.
# TYPE scrape_samples_post_metric_relabeling gauge
scrape_samples_post_metric_relabeling{instance="a",job="j",publisher="DC1"} 0
scrape_samples_post_metric_relabeling{instance="b",job="j",publisher="DC1"} 2
scrape_samples_post_metric_relabeling{instance="b",job="j",publisher="DC2"} 1
# HELP scrape_samples_scraped The number of samples that the target exposed.
# TYPE scrape_samples_scraped gauge
scrape_samples_scraped{instance="a",job="j",publisher="DC1"} 0
scrape_samples_scraped{instance="b",job="j",publisher="DC1"} 2
scrape_samples_scraped{instance="b",job="j",publisher="DC2"} 1
# HELP scrape_series_added The number of series that were not in the scrape before.
# TYPE scrape_series_added gauge
scrape_series_added{instance="a",job="j",publisher="DC1"} 0
scrape_series_added{instance="b",job="j",publisher="DC1"} 2
scrape_series_added{instance="b",job="j",publisher="DC2"} 1
# HELP up Whether the scrape of the target succeeded.
# TYPE up gauge
up{instance="a",job="j",publisher="DC1"} 0
up{instance="b",job="j",publisher="DC1"} 1
up{instance="b",job="j",publisher="DC2"} 1
# HELP zz zz help
# TYPE zz gauge
zz{path="/x\"\\\n",instance="b",job="j",publisher="DC1"} 1.5
zz{instance="b",job="j",publisher="DC2"} 3
`
	for range 3 {
		if got := w.text("", acceptText); got != want {
			t.Fatalf("got\n%s\nwant\n%s", got, want)
		}
	}
	if got := w.text("", acceptOM); got != want+"# EOF\n" {
		t.Fatalf("got\n%s", got)
	}
}

func TestEmptyPage(t *testing.T) {
	w := newWorld(t, Options{})
	if got := w.text("", acceptText); got != "" {
		t.Errorf("got %q", got)
	}
	if got := w.text("", acceptOM); got != "# EOF\n" {
		t.Errorf("got %q", got)
	}
}

func TestLifeOfATarget(t *testing.T) {
	s := site("A", "job", "j")
	up := func(w *world) string {
		switch v, ok := w.series("", acceptText)[`{__name__="up", job="j"}`]; {
		case !ok:
			return "gone"
		case v == 0:
			return "down"
		}
		return "up"
	}
	for name, c := range map[string]struct {
		frames []*frame.Frame
		after  time.Duration
		want   string
	}{
		"scraped":                     {nil, 0, "up"},
		"silent for five minutes":     {nil, 5 * time.Minute, "up"},
		"silent for longer":           {nil, 5*time.Minute + time.Millisecond, "gone"},
		"down":                        {[]*frame.Frame{down()}, 0, "down"},
		"down and up again":           {[]*frame.Frame{down(), scraped(t, gauge("a", 1))}, 0, "up"},
		"removed":                     {[]*frame.Frame{end(frame.Removed)}, 0, "gone"},
		"relabelled":                  {[]*frame.Frame{end(frame.Relabelled)}, 0, "gone"},
		"paused":                      {[]*frame.Frame{end(frame.Paused)}, 0, "gone"},
		"paused and resumed":          {[]*frame.Frame{end(frame.Paused), scraped(t, gauge("a", 1))}, 0, "up"},
		"removed while down":          {[]*frame.Frame{down(), end(frame.Removed)}, 0, "gone"},
		"removed and found once more": {[]*frame.Frame{end(frame.Removed), scraped(t, gauge("a", 1))}, 0, "up"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Options{})
			w.take(s, scraped(t, gauge("a", 1)))
			for _, f := range c.frames {
				w.now = w.now.Add(time.Millisecond)
				f.Time = 0
				w.take(s, f)
			}
			w.now = w.now.Add(c.after)
			if got := up(w); got != c.want {
				t.Errorf("the target is %s, want %s", got, c.want)
			}
			_, shows := w.series("", acceptText)[`{__name__="a", job="j"}`]
			if shows != (c.want == "up") {
				t.Errorf("its series are there: %v", shows)
			}
		})
	}
}

func TestStaleAfter(t *testing.T) {
	for _, c := range []struct {
		option, interval, want time.Duration
	}{
		{0, 15 * time.Second, 5 * time.Minute},
		{0, 10 * time.Minute, 30*time.Minute + 30*time.Second},
		{0, 0, 5 * time.Minute},
		{0, math.MaxInt64, 72*time.Hour + 30*time.Second},
		{time.Minute, time.Hour, time.Minute},
	} {
		g := New(Options{StaleAfter: c.option})
		if got := g.staleAfter(&frame.Target{Interval: c.interval}); got != c.want {
			t.Errorf("option %s, interval %s: got %s, want %s", c.option, c.interval, got, c.want)
		}
	}
}

func TestStaleTargetsAreForgotten(t *testing.T) {
	w := newWorld(t, Options{})
	s := site("A", "job", "j")
	w.take(s, scraped(t, gauge("a", 1)))
	w.now = w.now.Add(time.Hour)
	if _, err := w.registry.Gather(); err != nil {
		t.Fatal(err)
	}
	if err := testutil.CollectAndCompare(w.registry, strings.NewReader(`
# HELP prometheus_streams_gateway_series Series of the targets on the page, as of their last scrape that succeeded.
# TYPE prometheus_streams_gateway_series gauge
prometheus_streams_gateway_series 0
# HELP prometheus_streams_gateway_stale_targets_total Targets taken off the page because nothing new came in time.
# TYPE prometheus_streams_gateway_stale_targets_total counter
prometheus_streams_gateway_stale_targets_total 1
# HELP prometheus_streams_gateway_targets Targets on the page, those that are down among them.
# TYPE prometheus_streams_gateway_targets gauge
prometheus_streams_gateway_targets 0
`), "prometheus_streams_gateway_series", "prometheus_streams_gateway_targets", "prometheus_streams_gateway_stale_targets_total"); err != nil {
		t.Error(err)
	}
	if len(w.targets)+len(w.texts) != 0 || w.publishers["A"].targets+w.publishers["A"].series != 0 {
		t.Errorf("%d targets and %d texts are kept, books %+v", len(w.targets), len(w.texts), w.publishers["A"])
	}
	w.now = w.now.Add(25 * time.Hour)
	w.text("", acceptText)
	if n := len(w.Publishers()); n != 0 {
		t.Errorf("%d publishers are kept", n)
	}
}

func TestRejections(t *testing.T) {
	s := site("A", "job", "j")
	good := func() *frame.Frame { return scraped(t, gauge("a", 1)) }
	at := func(f *frame.Frame, w *world, d time.Duration) *frame.Frame {
		f.Time = w.now.Add(d).UnixMilli()
		return f
	}
	for name, c := range map[string]struct {
		options Options
		source  source
		frame   func(w *world) *frame.Frame
		want    string
	}{
		"stale":              {Options{}, s, func(w *world) *frame.Frame { return at(good(), w, -6*time.Minute) }, Stale},
		"older than max_age": {Options{MaxAge: time.Minute}, s, func(w *world) *frame.Frame { return at(good(), w, -61*time.Second) }, Aged},
		"within max_age":     {Options{MaxAge: time.Minute}, s, func(w *world) *frame.Frame { return at(good(), w, -59*time.Second) }, ""},
		"the beginning of time": {Options{}, s, func(*world) *frame.Frame {
			f := good()
			f.Time = math.MinInt64
			return f
		}, Stale},
		"the end of time": {Options{}, s, func(*world) *frame.Frame {
			f := good()
			f.Time = math.MaxInt64
			return f
		}, sink.Future},
		"future":          {Options{}, s, func(w *world) *frame.Frame { return at(good(), w, 11*time.Minute) }, sink.Future},
		"no labels":       {Options{}, site("A"), func(*world) *frame.Frame { return good() }, sink.Malformed},
		"label not UTF-8": {Options{}, site("A", "job", "\xff"), func(*world) *frame.Frame { return good() }, sink.Malformed},
		"no schema":       {Options{}, s, func(*world) *frame.Frame { return &frame.Frame{Kind: frame.Scraped} }, sink.Malformed},
		"unknown kind":    {Options{}, s, func(*world) *frame.Frame { return &frame.Frame{Kind: 99} }, sink.Malformed},
		"too few values": {Options{}, s, func(*world) *frame.Frame {
			f := good()
			f.Column.Values = nil
			return f
		}, sink.Malformed},
		"too few timestamps": {Options{}, s, func(*world) *frame.Frame {
			f := good()
			f.Column.Timestamps = []int64{}
			return f
		}, sink.Malformed},
		"too many series":                {Options{MaxSeries: 1}, s, func(*world) *frame.Frame { return scraped(t, gauge("a", 1), gauge("b", 1)) }, sink.TooMany},
		"too many series of a publisher": {Options{MaxPublisherSeries: 1}, s, func(*world) *frame.Frame { return scraped(t, gauge("a", 1), gauge("b", 1)) }, sink.TooMany},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, c.options)
			if got := w.give(c.source, c.frame(w)); got != c.want {
				t.Errorf("reason %q, want %q", got, c.want)
			}
			if shown := w.text("", acceptText) != ""; shown != (c.want == "") {
				t.Errorf("shown: %v", shown)
			}
			if c.want != "" {
				if n := testutil.ToFloat64(w.metrics.rejected.WithLabelValues(c.want)); n != 1 {
					t.Errorf("counted %v times", n)
				}
			}
		})
	}
}

func TestSeriesLimitsCountWhatIsKept(t *testing.T) {
	w := newWorld(t, Options{MaxSeries: 3, MaxPublisherSeries: 2})
	for i, c := range []struct {
		source source
		series int
		want   string
	}{
		{site("A", "job", "1"), 2, ""},
		{site("A", "job", "1"), 1, ""},
		{site("A", "job", "2"), 1, ""},
		{site("A", "job", "2"), 2, sink.TooMany},
		{site("B", "job", "3"), 2, sink.TooMany},
		{site("B", "job", "3"), 1, ""},
	} {
		w.now = w.now.Add(time.Second)
		if got := w.give(c.source, scraped(t, []metric{gauge("a", 1), gauge("b", 2)}[:c.series]...)); got != c.want {
			t.Errorf("step %d: reason %q, want %q", i, got, c.want)
		}
	}
}

func TestEpochEndIsTaken(t *testing.T) {
	w := newWorld(t, Options{})
	w.Deliver(context.Background(), sink.Delivery{Frame: &frame.Frame{Kind: frame.EpochEnd}, Publisher: "A"}, func(err error) {
		if err != nil {
			t.Error(err)
		}
	})
}

// Two sites with the same job and instance: with the label both are shown, without it only one is, and its values
// do not mix with the other's.
func TestTwoPublishersOfOneTarget(t *testing.T) {
	a, b := site("A", "job", "j"), site("B", "job", "j")
	w := newWorld(t, Options{PublisherLabel: "site"})
	w.take(a, scraped(t, gauge("m", 1)))
	w.take(b, scraped(t, gauge("m", 2)))
	if got, want := without(w.series("", acceptOM)), (map[string]float64{
		`{__name__="m", job="j", site="A"}`: 1, `{__name__="m", job="j", site="B"}`: 2,
	}); !same(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}

	w = newWorld(t, Options{})
	for i := range 20 {
		w.now = w.now.Add(15 * time.Second)
		w.take(a, scraped(t, gauge("m", 1), gauge("n", float64(i))))
		if reason := w.give(b, scraped(t, gauge("m", 2), gauge("n", float64(-i)))); reason != sink.Conflict {
			t.Fatalf("reason %q", reason)
		}
		if got := w.series("", acceptText); got[`{__name__="m", job="j"}`] != 1 || got[`{__name__="n", job="j"}`] != float64(i) {
			t.Fatalf("got %v", got)
		}
	}
	w.now = w.now.Add(45 * time.Second)
	w.take(b, scraped(t, gauge("m", 2)))
	if got := w.series("?publisher=A", acceptText); len(got) != 0 {
		t.Errorf("of A there is %v", got)
	}
	if got := without(w.series("?publisher=B", acceptText)); !same(got, map[string]float64{`{__name__="m", job="j"}`: 2}) {
		t.Errorf("of B there is %v", got)
	}
}

func TestMetricsLint(t *testing.T) {
	w := newWorld(t, Options{})
	problems, err := testutil.GatherAndLint(w.registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	if n, err := testutil.GatherAndCount(w.registry); err != nil || n < 15 {
		t.Errorf("%d metrics, %v", n, err)
	}
}

func TestDeliverAndScrapeAtOnce(t *testing.T) {
	g := New(Options{PublisherLabel: "publisher", Registerer: prometheus.NewRegistry()})
	shapes := []*frame.Frame{
		scraped(t, gauge("a", 1), gauge("b", 2)), scraped(t, gauge("a", 1), gauge("c", 2, "job", "x")), down(), end(frame.Removed),
	}
	var wg sync.WaitGroup
	for publisher := range 3 {
		wg.Go(func() {
			for i := range 300 {
				f := *shapes[(i+publisher)%len(shapes)]
				f.Target = &frame.Target{ID: uint64(i % 5), Labels: labels.FromStrings("job", strconv.Itoa(i%5)), Interval: time.Second}
				f.Time, f.Position = time.Now().UnixMilli(), uint64(i)
				g.Deliver(context.Background(), sink.Delivery{
					Frame: &f, Publisher: strconv.Itoa(publisher), Epoch: 1, Seq: uint64(i + 1), Stored: time.Now(),
				}, func(error) {})
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			w := &world{Gateway: g, t: t}
			for range 100 {
				rec := w.get("?match[]=a&match[]={job=\"x\"}", acceptOM)
				parse(t, rec.Body.Bytes(), rec.Header().Get("Content-Type"))
				g.Shown(10)
				g.Publishers()
			}
		})
	}
	wg.Wait()
	series := 0
	for _, p := range g.publishers {
		series += p.series
	}
	users := 0
	for _, x := range g.texts {
		users += x.users
	}
	if series != g.series || users > len(g.targets) {
		t.Errorf("publishers have %d series, the gateway %d; %d users of texts, %d targets", series, g.series, users, len(g.targets))
	}
}
