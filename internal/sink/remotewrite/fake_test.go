package remotewrite

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
)

// point is one stored sample.
type point struct {
	ms   int64
	bits uint64
}

// server is a strict receiver of remote write, reached without a network. It stores in order, as Prometheus does: an
// older sample is out of order, another value for the same time is a duplicate; 1.0 is all or nothing, 2.0 partial.
type server struct {
	t testing.TB

	mu       sync.Mutex
	versions []int // those it knows; one that it does not gets 415
	deaf     bool  // it takes a request for 1.0, whatever its headers say
	answer   func(n int, r *http.Request) *http.Response
	refuse   func(labels.Labels) string // a reason for each series that it never takes
	most     int                        // samples of a request, else 413; 0 is any
	delay    time.Duration

	requests  int
	stored    map[string][]point
	families  map[string]string // by series: type, help, unit
	busy      map[string]bool
	last      *http.Request
	perAnswer []int // samples of each request
}

func newServer(t testing.TB, versions ...int) *server {
	return &server{t: t, versions: versions, stored: make(map[string][]point), families: make(map[string]string), busy: make(map[string]bool)}
}

type sent struct {
	labels labels.Labels
	points []point
	family string
}

// RoundTrip answers one request.
func (f *server) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.requests++
	n := f.requests
	f.last = r
	answer, delay := f.answer, f.delay
	f.mu.Unlock()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	if answer != nil {
		if res := answer(n, r); res != nil {
			return res, nil
		}
	}
	version := f.checkHeaders(r)
	if version == 0 {
		return reply(http.StatusUnsupportedMediaType, "unsupported", -1), nil
	}
	raw, err := snappy.Decode(nil, body)
	if err != nil {
		f.t.Errorf("body: %v", err)
		return reply(http.StatusBadRequest, "snappy", -1), nil
	}
	if version == 1 {
		return f.write(f.parse1(raw), false), nil
	}
	return f.write(f.parse2(raw), true), nil
}

func reply(status int, text string, written int) *http.Response {
	res := &http.Response{StatusCode: status, Header: make(http.Header), Body: io.NopCloser(bytes.NewBufferString(text))}
	if written >= 0 {
		res.Header.Set(headerWritten, strconv.Itoa(written))
		res.Header.Set("X-Prometheus-Remote-Write-Histograms-Written", "0")
		res.Header.Set("X-Prometheus-Remote-Write-Exemplars-Written", "0")
	}
	return res
}

// checkHeaders gives the version of a request, or 0 if the server does not know it.
func (f *server) checkHeaders(r *http.Request) int {
	if r.Method != http.MethodPost || r.Header.Get("Content-Encoding") != "snappy" || r.Header.Get("User-Agent") == "" {
		f.t.Errorf("request %s with %v", r.Method, r.Header)
	}
	version := 0
	switch ct, v := r.Header.Get("Content-Type"), r.Header.Get("X-Prometheus-Remote-Write-Version"); {
	case ct == "application/x-protobuf" && v == "0.1.0":
		version = 1
	case ct == "application/x-protobuf;proto=io.prometheus.write.v2.Request" && v == "2.0.0":
		version = 2
	default:
		f.t.Errorf("content type %q with version %q", ct, v)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.deaf {
		return 1
	}
	for _, v := range f.versions {
		if v == version {
			return v
		}
	}
	return 0
}

func (f *server) parse1(raw []byte) (out []sent) {
	var r prompb.WriteRequest
	if err := r.Unmarshal(raw); err != nil {
		f.t.Errorf("1.0: %v", err)
	}
	for _, ts := range r.Timeseries {
		var pairs []labels.Label
		for _, l := range ts.Labels {
			pairs = append(pairs, labels.Label{Name: l.Name, Value: l.Value})
		}
		s := sent{labels: f.checkLabels(pairs)}
		for _, p := range ts.Samples {
			s.points = append(s.points, point{p.Timestamp, math.Float64bits(p.Value)})
		}
		out = append(out, s)
	}
	return out
}

func (f *server) parse2(raw []byte) (out []sent) {
	var r writev2.Request
	if err := r.Unmarshal(raw); err != nil {
		f.t.Errorf("2.0: %v", err)
	}
	if len(r.Symbols) == 0 || r.Symbols[0] != "" {
		f.t.Errorf("the first symbol is not empty: %q", r.Symbols)
	}
	seen, used := make(map[string]bool), make([]bool, len(r.Symbols))
	for _, s := range r.Symbols {
		if seen[s] {
			f.t.Errorf("symbol %q twice", s)
		}
		seen[s] = true
	}
	used[0] = true
	symbol := func(n uint32) string {
		used[n] = true
		return r.Symbols[n]
	}
	for _, ts := range r.Timeseries {
		if len(ts.LabelsRefs)%2 != 0 || len(ts.LabelsRefs) == 0 {
			f.t.Fatalf("%d refs of labels", len(ts.LabelsRefs))
		}
		var pairs []labels.Label
		for i := 0; i < len(ts.LabelsRefs); i += 2 {
			pairs = append(pairs, labels.Label{Name: symbol(ts.LabelsRefs[i]), Value: symbol(ts.LabelsRefs[i+1])})
		}
		s := sent{labels: f.checkLabels(pairs)}
		s.family = fmt.Sprint(ts.Metadata.Type, "|", symbol(ts.Metadata.HelpRef), "|", symbol(ts.Metadata.UnitRef))
		for _, p := range ts.Samples {
			s.points = append(s.points, point{p.Timestamp, math.Float64bits(p.Value)})
		}
		out = append(out, s)
	}
	for n, u := range used {
		if !u {
			f.t.Errorf("symbol %q is not used", r.Symbols[n])
		}
	}
	return out
}

// checkLabels is what the specification says of a series.
func (f *server) checkLabels(pairs []labels.Label) labels.Labels {
	for i, l := range pairs {
		if l.Name == "" || l.Value == "" || i > 0 && pairs[i-1].Name >= l.Name {
			f.t.Errorf("labels %v: empty or not in order at %d", pairs, i)
		}
	}
	all := labels.New(pairs...)
	if all.Get("__name__") == "" {
		f.t.Errorf("series %v without a name", all)
	}
	return all
}

func (f *server) write(all []sent, two bool) *http.Response {
	f.mu.Lock()
	defer f.mu.Unlock()
	samples := 0
	var errs []string
	before := make(map[string][]point)
	for _, s := range all {
		key := s.labels.String()
		if len(s.points) != 1 {
			f.t.Errorf("%d samples of %s", len(s.points), key)
		}
		p := s.points[0]
		old := f.stored[key]
		if _, ok := before[key]; !ok {
			before[key] = old
		}
		why := ""
		if f.refuse != nil {
			why = f.refuse(s.labels)
		}
		if n := len(old); why == "" && n > 0 {
			switch last := old[n-1]; {
			case p.ms < last.ms:
				why = "out of order sample"
			case p.ms == last.ms && p.bits != last.bits:
				why = "duplicate sample for timestamp"
			}
		}
		if why != "" {
			errs = append(errs, why+" for series "+key)
			continue
		}
		samples++
		if n := len(old); n == 0 || old[n-1] != p {
			f.stored[key] = append(old[:n:n], p)
		}
		if two {
			f.families[key] = s.family
		}
	}
	f.perAnswer = append(f.perAnswer, len(all))
	if f.most > 0 && len(all) > f.most {
		f.restore(before)
		return reply(http.StatusRequestEntityTooLarge, "too large", -1)
	}
	written := -1
	if two {
		written = samples
	}
	if len(errs) == 0 {
		return reply(http.StatusNoContent, "", written)
	}
	if !two {
		f.restore(before)
		errs = errs[:1]
	}
	return reply(http.StatusBadRequest, strings.Join(errs, "\n"), written)
}

func (f *server) restore(before map[string][]point) {
	for k, v := range before {
		if v == nil {
			delete(f.stored, k)
		} else {
			f.stored[k] = v
		}
	}
}

// series gives what is stored of a series.
func (f *server) series(l ...string) []point {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stored[labels.FromStrings(l...).String()]
}

func (f *server) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests
}
