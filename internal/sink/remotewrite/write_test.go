package remotewrite

import (
	"fmt"
	"math"
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

func each(t *testing.T, f func(t *testing.T, versions ...int)) {
	for _, v := range []int{1, 2} {
		t.Run(fmt.Sprint("version ", v), func(t *testing.T) {
			bubble(t, func(t *testing.T) { f(t, v) })
		})
	}
}

func TestSamples(t *testing.T) {
	each(t, func(t *testing.T, versions ...int) {
		w := newWorld(t, newServer(t, versions...), Options{PublisherLabel: "publisher"})
		defer w.stopped()
		now := time.Now().UnixMilli()
		nan := math.Float64frombits(0x7ff8000000000123)
		// Labels before, between and after the target's, one over the target's, one that takes it away.
		s := schemaOf(t,
			labels.FromStrings("__name__", "m", "a", "1"),
			labels.FromStrings("__name__", "m", "z", "héllo.with \"quotes\""),
			labels.FromStrings("__name__", "m", "job", "own"),
			labels.FromStrings("__name__", "m", "zone", ""),
			labels.FromStrings("__name__", "m", "publisher", "own"),
			labels.FromStrings("__name__", "explicit"),
			labels.FromStrings("__name__", "gone"))
		f := scraped(s, now, 0, math.Copysign(0, -1), math.Inf(1), nan, 5e-324, 1.5, 99)
		f.Column.Timestamps = []int64{frame.NoTimestamp, frame.NoTimestamp, frame.NoTimestamp, frame.NoTimestamp, frame.NoTimestamp, 777, frame.NoTimestamp}
		f.Column.Absent = frame.NewBitmap(7)
		f.Column.Absent.Set(6)
		w.give(site("instance", "h:1", "job", "j", "zone", "z"), f)
		w.settle(time.Second)
		base := []string{"instance", "h:1", "job", "j", "publisher", "DC1", "zone", "z"}
		n := float64(now)
		w.has(append([]string{"__name__", "m", "a", "1"}, base...), n, 0)
		w.has(append([]string{"__name__", "m", "z", "héllo.with \"quotes\""}, base...), n, math.Copysign(0, -1))
		w.has([]string{"__name__", "m", "instance", "h:1", "job", "own", "publisher", "DC1", "zone", "z"}, n, math.Inf(1))
		if got := w.server.series("__name__", "m", "instance", "h:1", "job", "j", "publisher", "DC1"); len(got) != 1 || got[0].bits != math.Float64bits(nan) {
			t.Errorf("NaN came as %v", got)
		}
		w.has(append([]string{"__name__", "m", "exported_publisher", "own"}, base...), n, 5e-324)
		w.has(append([]string{"__name__", "explicit"}, base...), 777, 1.5)
		w.has(append([]string{"__name__", "gone"}, base...))
		w.has(append([]string{"__name__", "up"}, base...), n, 1)
		w.has(append([]string{"__name__", "scrape_duration_seconds"}, base...), n, 0.012)
		w.has(append([]string{"__name__", "scrape_samples_scraped"}, base...), n, 7)
		if got := len(w.server.stored); got != 11 {
			t.Errorf("%d series stored, want 11", got)
		}
		if versions[0] == 2 {
			key := labels.FromStrings(append([]string{"__name__", "m", "a", "1"}, base...)...).String()
			if got := w.server.families[key]; got != "METRIC_TYPE_COUNTER|What m counts.|things" {
				t.Errorf("metadata %q", got)
			}
		}
		if got := w.metric("samples_total"); got != 11 {
			t.Errorf("%v samples counted", got)
		}
	})
}

func TestRelabel(t *testing.T) {
	each(t, func(t *testing.T, versions ...int) {
		rules := []*relabel.Config{
			{SourceLabels: model.LabelNames{"x"}, Regex: relabel.MustNewRegexp("drop"), Action: relabel.Drop},
			{SourceLabels: model.LabelNames{"__name__"}, Regex: relabel.MustNewRegexp("scrape_.*"), Action: relabel.Drop},
			{Regex: relabel.MustNewRegexp("instance"), Action: relabel.LabelDrop},
		}
		for _, r := range rules {
			rule := relabel.DefaultRelabelConfig
			rule.SourceLabels, rule.Regex, rule.Action = r.SourceLabels, r.Regex, r.Action
			if *r = rule; r.Validate(model.UTF8Validation) != nil {
				t.Fatalf("rule %+v", rule)
			}
		}
		w := newWorld(t, newServer(t, versions...), Options{WriteRelabel: rules})
		defer w.stopped()
		g := site("instance", "h:1", "job", "j")
		now := time.Now().UnixMilli()
		w.give(g, scraped(schemaOf(t, ms("drop", "keep")...), now, 1, 2))
		w.settle(time.Second)
		w.give(g, &frame.Frame{Kind: frame.Down, Time: now + 1000})
		w.settle(time.Second)
		w.has([]string{"__name__", "m", "x", "keep", "job", "j"}, float64(now), 2, float64(now+1000), stale)
		w.has([]string{"__name__", "up", "job", "j"}, float64(now), 1, float64(now+1000), 0)
		if got := len(w.server.stored); got != 2 {
			t.Errorf("%d series stored, want 2", got)
		}
	})
}

func TestFallBack(t *testing.T) {
	cases := map[string]func(*server){
		"415":            func(f *server) { f.versions = []int{1} },
		"takes anything": func(f *server) { f.deaf = true },
		"400 to what it does not know": func(f *server) {
			f.answer = func(_ int, r *http.Request) *http.Response {
				if r.Header.Get(headerVersion) == "2.0.0" {
					return reply(http.StatusBadRequest, "cannot parse", -1)
				}
				return nil
			}
		},
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newServer(t, 1, 2)
				change(f)
				w := newWorld(t, f, Options{})
				defer w.stopped()
				if f.deaf {
					// What such a server sees of 2.0 is an empty request.
					f.answer = func(_ int, r *http.Request) *http.Response {
						if r.Header.Get(headerVersion) == "2.0.0" {
							return reply(http.StatusNoContent, "", -1)
						}
						return nil
					}
				}
				s := schemaOf(t, ms("1", "2")...)
				now := time.Now().UnixMilli()
				w.give(site("job", "a"), scraped(s, now, 1, 2))
				w.settle(time.Second)
				w.give(site("job", "a"), scraped(s, now+1000, 3, 4))
				w.settle(time.Second)
				w.has([]string{"__name__", "m", "x", "2", "job", "a"}, float64(now), 2, float64(now+1000), 4)
				if n := f.count(); n != 3 {
					t.Errorf("%d requests, want 3: one of 2.0 and two of 1.0", n)
				}
				if v := w.metric("protocol_version"); v != 1 {
					t.Errorf("protocol_version is %v", v)
				}
			})
		})
	}
}

func TestBatchesAcrossTargets(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newServer(t, 2)
		w := newWorld(t, f, Options{})
		defer w.stopped()
		s := schemaOf(t, ms("1", "2")...)
		start := time.Now()
		for i := range 100 {
			w.give(site("job", fmt.Sprint("j", i)), scraped(s, start.UnixMilli(), 1, 2))
		}
		w.settle(100 * time.Millisecond)
		if n := f.count(); n != 1 {
			t.Errorf("%d requests for 100 small targets, want 1", n)
		}
		if len(f.stored) != 700 {
			t.Errorf("%d series stored", len(f.stored))
		}
	})
}

// TestOrder sends many scrapes of some targets through a slow server that fails now and then: each series must arrive in
// order and whole.
func TestOrder(t *testing.T) {
	each(t, func(t *testing.T, versions ...int) {
		f := newServer(t, versions...)
		f.delay = 20 * time.Millisecond
		f.answer = func(n int, _ *http.Request) *http.Response {
			switch n % 7 {
			case 3:
				return reply(http.StatusServiceUnavailable, "not now", -1)
			case 5:
				res := reply(http.StatusTooManyRequests, "slowly", -1)
				res.Header.Set("Retry-After", "1")
				return res
			}
			return nil
		}
		w := newWorld(t, f, Options{MaxSamples: 50})
		defer w.stopped()
		s := schemaOf(t, ms("1", "2", "3")...)
		start := time.Now().UnixMilli()
		const targets, scrapes = 20, 30
		for n := range scrapes {
			for i := range targets {
				w.give(site("job", fmt.Sprint("j", i)), scraped(s, start+int64(n), float64(n), 1, 2))
			}
		}
		w.settle(5 * time.Minute)
		for i := range targets {
			var want []float64
			for n := range scrapes {
				want = append(want, float64(start+int64(n)), float64(n))
			}
			w.has([]string{"__name__", "m", "x", "1", "job", fmt.Sprint("j", i)}, want...)
		}
		if got := w.metric("samples_total"); got != targets*scrapes*8 {
			t.Errorf("%v samples, want %v", got, targets*scrapes*8)
		}
		if w.metric("retries_total") == 0 || w.metric("pending_frames") != 0 {
			t.Error("no retries, or frames that are left")
		}
	})
}

func TestRetryAfter(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newServer(t, 2)
		f.answer = func(n int, r *http.Request) *http.Response {
			if n > 1 {
				return nil
			}
			res := reply(http.StatusTooManyRequests, "", -1)
			res.Header.Set("Retry-After", "40")
			return res
		}
		w := newWorld(t, f, Options{})
		defer w.stopped()
		w.give(site("job", "a"), scraped(schemaOf(t, ms("1")...), time.Now().UnixMilli(), 1))
		time.Sleep(39 * time.Second)
		if n := f.count(); n != 1 {
			t.Errorf("%d requests before Retry-After had passed", n)
		}
		w.settle(2 * time.Second)
		if n := f.count(); n != 2 {
			t.Errorf("%d requests, want 2", n)
		}
	})
}

func TestStopGivesBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newServer(t, 2)
		f.answer = func(int, *http.Request) *http.Response { return reply(http.StatusInternalServerError, "", -1) }
		w := newWorld(t, f, Options{})
		s := schemaOf(t, ms("1")...)
		w.give(site("job", "a"), scraped(s, time.Now().UnixMilli(), 1))
		time.Sleep(time.Minute)
		w.give(site("job", "a"), scraped(s, time.Now().UnixMilli(), 1))
		w.give(site("job", "b"), &frame.Frame{Kind: frame.End, Reason: frame.Removed, Time: time.Now().UnixMilli()})
		time.Sleep(time.Second)
		w.stopped() // checks that all have a verdict
		w.give(site("job", "a"), scraped(s, time.Now().UnixMilli(), 1))
		if n := len(w.verdicts); n != 4 {
			t.Errorf("%d verdicts, want 4", n)
		}
		for _, err := range w.verdicts {
			if _, rejected := sink.Rejected(err); err == nil || rejected {
				t.Errorf("verdict %v, want one that keeps the frame", err)
			}
		}
	})
}

// TestServerIsChanged has a server know 1.0 only, then 2.0 only, and meanwhile neither.
func TestServerIsChanged(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newServer(t, 1)
		w := newWorld(t, f, Options{})
		defer w.stopped()
		s := schemaOf(t, ms("1", "2")...)
		now := time.Now().UnixMilli()
		for i, versions := range [][]int{{1}, {2}, {1}, {}} {
			f.mu.Lock()
			f.versions = versions
			f.mu.Unlock()
			w.give(site("job", "a"), scraped(s, now+int64(i), float64(i), 2))
			time.Sleep(time.Minute)
		}
		if n := f.count(); n > 60 {
			t.Errorf("%d requests", n)
		}
		f.mu.Lock()
		f.versions = []int{2}
		f.mu.Unlock()
		w.settle(time.Minute)
		n := float64(now)
		w.has([]string{"__name__", "m", "x", "1", "job", "a"}, n, 0, n+1, 1, n+2, 2, n+3, 3)
	})
}

// TestReservedHeaders gives headers that the protocol sets itself: they are not what is sent.
func TestReservedHeaders(t *testing.T) {
	each(t, func(t *testing.T, versions ...int) {
		f := newServer(t, versions...)
		w := newWorld(t, f, Options{Protocol: fmt.Sprint(versions[0]), UserAgent: "ours/1", Headers: map[string]string{
			"content-type": "text/plain", "Content-Encoding": "gzip", headerVersion: "9", "user-agent": "theirs", "X-Scope-OrgID": "tenant",
		}})
		defer w.stopped()
		now := time.Now().UnixMilli()
		w.give(site("job", "a"), scraped(schemaOf(t, ms("1")...), now, 1))
		w.settle(time.Second)
		w.has(m("1"), float64(now), 1)
		if h := f.last.Header; h.Get("X-Scope-OrgID") != "tenant" || h.Get("User-Agent") != "ours/1" {
			t.Errorf("headers %v", h)
		}
	})
}
