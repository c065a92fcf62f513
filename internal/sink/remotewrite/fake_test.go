package remotewrite

import (
	"bytes"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
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
	mute     bool                       // it says nothing of exemplars and histograms written
	refuse   func(labels.Labels) string // a reason for each series that it never takes
	most     int                        // samples of a request, else 413; 0 is any
	delay    time.Duration

	requests  int
	stored    map[string][]point
	families  map[string]string // by series: type, help, unit
	natives   map[string][]native1
	exemplars map[string][]exemplar1
	starts    map[string][]int64 // of each sample
	busy      map[string]bool
	last      *http.Request
	perAnswer []int // samples of each request
	written   int   // series of all requests
}

func newServer(t testing.TB, versions ...int) *server {
	return &server{t: t, versions: versions, stored: make(map[string][]point), families: make(map[string]string), busy: make(map[string]bool),
		natives: make(map[string][]native1), exemplars: make(map[string][]exemplar1), starts: make(map[string][]int64)}
}

// native1 is one native histogram, exemplar1 one exemplar, as they were stored.
type native1 struct {
	ms    int64
	int   *histogram.Histogram
	float *histogram.FloatHistogram
}

type exemplar1 struct {
	ms     int64
	value  float64
	labels string
}

type sent struct {
	labels    labels.Labels
	points    []point
	natives   []native1
	exemplars []exemplar1
	start     int64
	family    string
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

func (f *server) write(all []sent, two bool) *http.Response {
	f.mu.Lock()
	defer f.mu.Unlock()
	samples, natives, exemplars := 0, 0, 0
	var errs []string
	before := make(map[string][]point)
	for _, s := range single(all) {
		key := s.labels.String()
		if len(s.natives) > 0 {
			s.points = []point{{s.natives[0].ms, math.Float64bits(float64(s.natives[0].ms))}}
		}
		if len(s.points) == 0 {
			exemplars += len(s.exemplars) // of a histogram before, in 1.0
			f.exemplars[key] = append(f.exemplars[key], s.exemplars...)
			continue
		}
		if _, ok := before[key]; !ok {
			before[key] = f.stored[key]
		}
		taken := 0
		for _, p := range s.points {
			old := f.stored[key]
			if why := f.why(s.labels, p, old); why != "" {
				errs = append(errs, why+" for series "+key)
				continue
			}
			taken++
			if n := len(old); n == 0 || old[n-1] != p {
				f.stored[key] = append(old[:n:n], p)
			}
		}
		if taken == 0 {
			continue
		}
		samples, natives, exemplars = samples+taken-len(s.natives), natives+len(s.natives), exemplars+len(s.exemplars)
		f.keep(key, &s)
		if two {
			f.families[key] = s.family
		}
	}
	count := 0
	for i := range all {
		count += len(all[i].points) + len(all[i].natives)
	}
	f.perAnswer = append(f.perAnswer, count)
	f.written += len(all)
	if f.most > 0 && count > f.most {
		f.restore(before)
		return reply(http.StatusRequestEntityTooLarge, "too large", -1)
	}
	written := -1
	if two {
		written = samples
	}
	said := func(status int, text string) *http.Response {
		res := reply(status, text, written)
		if written >= 0 && !f.mute {
			res.Header.Set(headerHistograms, strconv.Itoa(natives))
			res.Header.Set(headerExemplars, strconv.Itoa(exemplars))
		}
		return res
	}
	if len(errs) == 0 {
		return said(http.StatusNoContent, "")
	}
	if !two {
		f.restore(before)
		errs = errs[:1]
	}
	return said(http.StatusBadRequest, strings.Join(errs, "\n"))
}

// single parts series with several samples into such with one each, of which the last has the exemplars.
func single(all []sent) (out []sent) {
	for _, s := range all {
		for ; len(s.points) > 1; s.points = s.points[1:] {
			x := s
			x.points, x.exemplars = s.points[:1], nil
			out = append(out, x)
		}
		out = append(out, s)
	}
	return out
}

// why tells for what reason a sample is not taken.
func (f *server) why(l labels.Labels, p point, old []point) string {
	if f.refuse != nil {
		if why := f.refuse(l); why != "" {
			return why
		}
	}
	if n := len(old); n > 0 {
		switch last := old[n-1]; {
		case p.ms < last.ms:
			return "out of order sample"
		case p.ms == last.ms && p.bits != last.bits:
			return "duplicate sample for timestamp"
		}
	}
	return ""
}

// keep stores what a series has besides floats.
func (f *server) keep(key string, s *sent) {
	f.natives[key] = append(f.natives[key], s.natives...)
	f.exemplars[key] = append(f.exemplars[key], s.exemplars...)
	f.starts[key] = append(f.starts[key], s.start)
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
