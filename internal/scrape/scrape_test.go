package scrape

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/exposition"
	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/target"
)

const textType = "text/plain; version=0.0.4"

func serve(t *testing.T, h http.HandlerFunc) *target.Target {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return at(t, s.URL+"/metrics")
}

func at(t *testing.T, url string) *target.Target {
	t.Helper()
	tg, err := target.FromJob("j", "i", url, target.Schedule{Interval: 5 * time.Second}, labels.EmptyLabels())
	if err != nil {
		t.Fatal(err)
	}
	return tg
}

func text(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", textType)
		_, _ = w.Write([]byte(body))
	}
}

func scraper(t *testing.T, tg *target.Target) *Scraper {
	t.Helper()
	s, err := New(tg, Options{Version: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func scrape(t *testing.T, s *Scraper) *frame.Frame {
	t.Helper()
	f, err := s.Scrape(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// samples gives the frame's samples by their labels.
func samples(f *frame.Frame) map[string]float64 {
	m := map[string]float64{}
	b := labels.NewBuilder(labels.EmptyLabels())
	for i := range f.Schema.Series {
		if !f.Column.Absent.Has(i) {
			m[f.Schema.SeriesLabels(i, f.Target.Labels, b).String()] = f.Column.Values[i]
		}
	}
	return m
}

func TestScrapeGivesAFrame(t *testing.T) {
	before := time.Now().UnixMilli()
	tg := serve(t, text("# TYPE a counter\na{x=\"1\"} 5\nb{job=\"own\"} 2.5\n"))
	s := scraper(t, tg)
	f := scrape(t, s)
	if f.Kind != frame.Scraped || s.LastError() != nil || f.Time < before || f.Time > time.Now().UnixMilli() {
		t.Fatalf("frame %+v, error %v", f, s.LastError())
	}
	if f.Report.Scraped != 2 || f.Report.PostRelabel != 2 || f.Report.Added != 2 || f.Report.Duration <= 0 {
		t.Errorf("report %+v", f.Report)
	}
	if f.Target.Interval != tg.Interval || f.Target.Timeout != tg.Timeout || !labels.Equal(f.Target.Labels, tg.Labels) {
		t.Errorf("target %+v", f.Target)
	}
	got := samples(f)
	want := map[string]float64{
		`{__name__="a", instance="i", job="j", x="1"}`:              5,
		`{__name__="b", exported_job="own", instance="i", job="j"}`: 2.5,
	}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s is %v, want %v (all: %v)", k, got[k], v, got)
		}
	}
	if n := int64(len("# TYPE a counter\na{x=\"1\"} 5\nb{job=\"own\"} 2.5\n")); s.LastBytes() != n {
		t.Errorf("read %d bytes, want %d", s.LastBytes(), n)
	}
	if f = scrape(t, s); f.Report.Added != 0 {
		t.Errorf("the second scrape added %d", f.Report.Added)
	}
}

func TestRequestIsAsPrometheusSendsIt(t *testing.T) {
	var got http.Header
	tg := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		text("a 1\n")(w, r)
	})
	scrape(t, scraper(t, tg))
	for k, want := range map[string]string{
		"Accept": "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.7,application/openmetrics-text;version=0.0.1;q=0.6," +
			"text/plain;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.3",
		"Accept-Encoding":                     "gzip",
		"User-Agent":                          "prometheus-streams/1.2.3",
		"X-Prometheus-Scrape-Timeout-Seconds": "5",
	} {
		if got.Get(k) != want {
			t.Errorf("%s is %q, want %q", k, got.Get(k), want)
		}
	}
}

func gzipped(t testing.TB, body []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestGzip(t *testing.T) {
	body := gzipped(t, []byte("a 1\nb 2\n"))
	broken := false
	tg := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", textType)
		w.Header().Set("Content-Encoding", "gzip")
		if broken {
			_, _ = w.Write(body[:len(body)-6])
			return
		}
		_, _ = w.Write(body)
	})
	s := scraper(t, tg)
	for range 3 {
		if f := scrape(t, s); f.Kind != frame.Scraped || f.Report.Scraped != 2 || s.LastBytes() != 8 {
			t.Fatalf("frame %+v of %d bytes, error %v", f, s.LastBytes(), s.LastError())
		}
	}
	broken = true
	if f := scrape(t, s); f.Kind != frame.Down {
		t.Error("a body cut short was taken")
	}
	broken = false
	if f := scrape(t, s); f.Kind != frame.Scraped {
		t.Errorf("after a broken body: %v", s.LastError())
	}
}

func TestSelfReadsTheRegistry(t *testing.T) {
	reg := prometheus.NewRegistry()
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "own_total", Help: "Mine."})
	reg.MustRegister(c)
	c.Add(3)
	tg, err := target.FromSelf("edge", "", target.Schedule{Interval: time.Second}, labels.EmptyLabels())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(tg, Options{}); err == nil {
		t.Error("a self target without a registry was taken")
	}
	s, err := New(tg, Options{Self: reg})
	if err != nil {
		t.Fatal(err)
	}
	f := scrape(t, s)
	if v := samples(f)[`{__name__="own_total", instance="edge", job="prometheus_streams"}`]; v != 3 {
		t.Errorf("own_total is %v in %v", v, samples(f))
	}
}

// down scrapes what must be found down, with both words in the reason.
func down(t *testing.T, s *Scraper, words ...string) *frame.Frame {
	t.Helper()
	f := scrape(t, s)
	if f.Kind != frame.Down || f.Schema != nil || f.Column.Values != nil || s.LastError() == nil {
		t.Fatalf("frame %+v, error %v", f, s.LastError())
	}
	for _, w := range words {
		if !strings.Contains(s.LastError().Error(), w) {
			t.Errorf("reason %q lacks %q", s.LastError(), w)
		}
	}
	if n := len(s.LastError().Error()); n > 1024 {
		t.Errorf("the reason has %d bytes", n)
	}
	return f
}

func TestDown(t *testing.T) {
	closed := httptest.NewServer(text("a 1\n"))
	closed.Close()
	for _, tc := range []struct {
		name  string
		h     http.HandlerFunc
		set   func(*target.Target)
		words []string
	}{
		{"refused", nil, func(g *target.Target) { g.URL = closed.URL }, []string{"refused"}},
		{"status", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, nil, []string{"503"}},
		{"no content", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, nil, []string{"204"}},
		{"redirect loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }, nil, []string{"redirects"}},
		{"junk", text("\x01\x02\xff junk"), nil, []string{"exposition"}},
		{"html", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write([]byte("<html><body>Hello</body></html>"))
		}, nil, []string{"exposition"}},
		{"bad utf-8", text("a{x=\"\xff\"} 1\n"), nil, []string{"UTF-8"}},
		{"giant label", text("a{x=\"" + strings.Repeat("y", 1<<20) + "} 1\n"), nil, []string{"exposition"}},
		{"openmetrics without end", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/openmetrics-text; version=1.0.0")
			_, _ = w.Write([]byte("a 1\n"))
		}, nil, []string{"EOF"}},
		{"unasked encoding", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			_, _ = w.Write([]byte("x"))
		}, nil, []string{"br"}},
		{"not gzip", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write([]byte("plain"))
		}, nil, []string{"gzip"}},
		{"body size", text(strings.Repeat("a 1\n", 100)), func(g *target.Target) { g.BodySizeLimit = 50 }, []string{"51", "50", "body_size_limit"}},
		{"sample limit", text("a 1\nb 1\nc 1\n"), func(g *target.Target) { g.SampleLimit = 2 }, []string{"3", "2", "sample_limit"}},
		{"label limit", text("a{b=\"c\"} 1\n"), func(g *target.Target) { g.LabelLimit = 3 }, []string{"4", "3", "label_limit"}},
		{"label name length", text("a{bcdefghijk=\"c\"} 1\n"), func(g *target.Target) { g.LabelNameLengthLimit = 9 }, []string{"10", "9", "label_name_length_limit"}},
		{"label value length", text("a{b=\"cdefghijkl\"} 1\n"), func(g *target.Target) { g.LabelValueLengthLimit = 9 }, []string{"10", "9", "label_value_length_limit"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tg := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if tc.h != nil {
					tc.h(w, r)
				}
			})
			if tc.set != nil {
				tc.set(tg)
			}
			down(t, scraper(t, tg), tc.words...)
		})
	}
}

func TestDownReportsWhatWasRead(t *testing.T) {
	s := scraper(t, serve(t, text("a 1\nb 2\nc x\n")))
	if r := down(t, s).Report; r.Scraped != 2 || r.PostRelabel != 2 || r.Added != 2 || r.Duration <= 0 {
		t.Errorf("report %+v", r)
	}
}

func TestDownAndUpAgain(t *testing.T) {
	up := true
	s := scraper(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		if !up {
			w.WriteHeader(500)
			return
		}
		text("a 1\n")(w, r)
	}))
	scrape(t, s)
	up = false
	if r := down(t, s, "500").Report; r.Scraped != 0 || r.Added != 0 {
		t.Errorf("report %+v", r)
	}
	up = true
	// Prometheus keeps its cache over a failed scrape, so nothing counts as added.
	if f := scrape(t, s); f.Kind != frame.Scraped || f.Report.Added != 0 || s.LastError() != nil {
		t.Errorf("frame %+v, error %v", f, s.LastError())
	}
}

func TestRedirectIsFollowed(t *testing.T) {
	s := scraper(t, serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/metrics" {
			http.Redirect(w, r, "/other", http.StatusFound)
			return
		}
		text("a 1\n")(w, r)
	}))
	if f := scrape(t, s); f.Kind != frame.Scraped {
		t.Error(s.LastError())
	}
}

func TestRedirectToAnotherHostTakesNoCredentials(t *testing.T) {
	auth := "unset"
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		auth = r.Header.Get("Authorization")
		text("a 1\n")(w, r)
	}))
	defer other.Close()
	first := ""
	tg := serve(t, func(w http.ResponseWriter, r *http.Request) {
		first = r.Header.Get("Authorization")
		http.Redirect(w, r, strings.Replace(other.URL, "127.0.0.1", "localhost", 1), http.StatusFound)
	})
	tg.URL = strings.Replace(tg.URL, "http://", "http://user:hunter2@", 1)
	s := scraper(t, tg)
	if f := scrape(t, s); f.Kind != frame.Scraped {
		t.Fatal(s.LastError())
	}
	if first == "" || auth != "" {
		t.Errorf("credentials: the target got %q, the other host %q", first, auth)
	}
}

func TestTimeoutIsDown(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"no answer": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"slow drip": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte("a"))
				w.(http.Flusher).Flush()
				time.Sleep(5 * time.Millisecond)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			tg := serve(t, h)
			tg.Timeout = 100 * time.Millisecond
			s := scraper(t, tg)
			down(t, s, "100ms")
			if !errors.Is(s.LastError(), context.DeadlineExceeded) {
				t.Errorf("reason %v is no deadline", s.LastError())
			}
		})
	}
}

func TestDeadlineOfTheCallerIsDown(t *testing.T) {
	s := scraper(t, serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if f, err := s.Scrape(ctx); err != nil || f.Kind != frame.Down {
		t.Errorf("frame %+v, error %v", f, err)
	}
}

func TestCancelledScrapeSaysNothing(t *testing.T) {
	begun := make(chan struct{})
	s := scraper(t, serve(t, func(_ http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
	}))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-begun
		cancel()
	}()
	if f, err := s.Scrape(ctx); f != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("frame %+v, error %v", f, err)
	}
}

func TestEndlessBodyIsCut(t *testing.T) {
	endless := func(w http.ResponseWriter) {
		line := []byte("a{x=\"" + strings.Repeat("y", 4000) + "\"} 1\n")
		for {
			if _, err := w.Write(line); err != nil {
				return
			}
		}
	}
	bomb := gzipped(t, make([]byte, 64<<20))
	for name, h := range map[string]http.HandlerFunc{
		"plain": func(w http.ResponseWriter, _ *http.Request) { endless(w) },
		"gzip bomb": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(bomb)
		},
	} {
		t.Run(name, func(t *testing.T) {
			tg := serve(t, h)
			tg.BodySizeLimit = 1 << 20
			s := scraper(t, tg)
			down(t, s, "1048577", "1048576")
			var e *BodySizeError
			if !errors.As(s.LastError(), &e) || e.Limit != 1<<20 {
				t.Errorf("reason %v", s.LastError())
			}
			if s.LastBytes() != 1<<20+1 {
				t.Errorf("held %d bytes", s.LastBytes())
			}
		})
	}
}

func TestBuffersAreBounded(t *testing.T) {
	b := &buffer{bytes: make([]byte, 0, 10)}
	err := b.read(strings.NewReader(strings.Repeat("x", 1000)), 100)
	if e := (*BodySizeError)(nil); !errors.As(err, &e) || e.Read != 101 || e.Limit != 100 {
		t.Errorf("error %v", err)
	}
	for _, n := range []int{0, 1, 9, 10, 11, 99, 100} {
		b := &buffer{bytes: make([]byte, 0, 10)}
		if err := b.read(strings.NewReader(strings.Repeat("x", n)), 100); err != nil || len(b.bytes) != n || cap(b.bytes) == n {
			t.Errorf("%d bytes: %v, length %d, capacity %d", n, err, len(b.bytes), cap(b.bytes))
		}
	}
	var pool Buffers
	pool.put(&buffer{bytes: make([]byte, 0, largestKept+1)})
	if got := pool.get(); cap(got.bytes) > largestKept {
		t.Errorf("a buffer of %d bytes was kept", cap(got.bytes))
	}
}

// The memory to decompress goes from scrape to scrape, whatever became of the one before.
func TestDecompressionIsShared(t *testing.T) {
	var pool Buffers
	body := []byte(strings.Repeat("a 1\n", 50000))
	whole := gzipped(t, body)
	read := func(compressed []byte) error {
		b := pool.get()
		defer pool.put(b)
		r, err := b.gunzip(bytes.NewReader(compressed))
		if err == nil {
			err = b.read(r, 1<<20)
		}
		if err == nil && !bytes.Equal(b.bytes, body) {
			t.Fatalf("%d bytes of %d, or others", len(b.bytes), len(body))
		}
		return err
	}
	checkReuse(t, body, whole, 2, read)
}

// checkReuse reads a whole body again and again, with bad ones between, with at most so many allocations for each.
func checkReuse(t *testing.T, body, whole []byte, most float64, read func(compressed []byte) error) {
	t.Helper()
	for range 3 {
		if err := read(whole); err != nil {
			t.Fatal(err)
		}
		for name, bad := range map[string][]byte{"cut short": whole[:len(whole)/2], "no gzip": body, "nothing": nil} {
			if read(bad) == nil {
				t.Errorf("%s: no error", name)
			}
		}
	}
	if n := testing.AllocsPerRun(50, func() {
		if err := read(whole); err != nil {
			t.Fatal(err)
		}
	}); n > most {
		t.Errorf("%v allocations for each body", n)
	}
}

func TestTargetsOfOneShapeShareTheSchema(t *testing.T) {
	o := Options{Schemas: exposition.NewSchemas(), Buffers: &Buffers{}}
	var schemas [2]*frame.Schema
	for i := range schemas {
		tg := serve(t, text(fmt.Sprintf("# TYPE a gauge\na{x=\"1\"} %d\n", i)))
		s, err := New(tg, o)
		if err != nil {
			t.Fatal(err)
		}
		schemas[i] = scrape(t, s).Schema
	}
	if schemas[0] != schemas[1] {
		t.Errorf("schemas %s and %s", schemas[0].ID, schemas[1].ID)
	}
}

func TestURLThatCannotBeAsked(t *testing.T) {
	_, err := New(&target.Target{URL: "http://u:hunter2@h/%zz", Labels: labels.FromStrings("job", "j")}, Options{})
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error %v", err)
	}
}
