package remotewrite

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/s2"

	"github.com/choria-io/prometheus-streams/internal/redact"
)

const (
	headerVersion = "X-Prometheus-Remote-Write-Version"
	headerWritten = "X-Prometheus-Remote-Write-Samples-Written"
	// headerHistograms and headerExemplars say how many of these were written.
	headerHistograms = "X-Prometheus-Remote-Write-Histograms-Written"
	headerExemplars  = "X-Prometheus-Remote-Write-Exemplars-Written"
	// maxAnswer is how much of an answer's text is read.
	maxAnswer = 256 << 10
	// defaultMinBackoff and defaultMaxBackoff are those of Options.
	defaultMinBackoff = 100 * time.Millisecond
	defaultMaxBackoff = 5 * time.Second
	// maxRetryAfter bounds what a server may ask for.
	maxRetryAfter = 5 * time.Minute
	// isolateAfter is after how many tries a request that fails while others do not is sent piece by piece.
	isolateAfter = 6
)

// answer is what became of a request.
type answer struct {
	status int // 0 if there was none
	err    error
	text   string
	// written are floats and histograms; -1 if the server did not say. exemplars are 0 then.
	written   int
	exemplars int
	after     time.Duration
	took      time.Duration
}

// send sends a batch beside Run, which gets it back with its answer.
func (s *Sink) send(ctx context.Context, b *batch) {
	if len(b.packed) == 0 || b.protocol != s.protocol {
		s.encode(b)
		b.packed = b.packed[:0]
	}
	b.tries++
	if b.samples == 0 {
		b.answer = answer{status: http.StatusNoContent, written: 0}
		s.results <- b
		return
	}
	go func() {
		if len(b.packed) == 0 {
			b.packed = pack(b.packed, b.body)
		}
		b.answer = s.post(ctx, b)
		s.results <- b
	}()
}

func pack(dst, body []byte) []byte {
	if n := s2.MaxEncodedLen(len(body)); cap(dst) < n {
		dst = make([]byte, n)
	}
	return s2.EncodeSnappy(dst[:cap(dst)], body)
}

// post makes one request.
func (s *Sink) post(ctx context.Context, b *batch) (a answer) {
	start := time.Now()
	a.written = -1
	defer func() { a.took = time.Since(start) }()
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, bytes.NewReader(b.packed))
	if err != nil {
		a.err = err
		return a
	}
	for name, v := range s.Headers {
		r.Header.Set(name, v)
	}
	r.Header.Set("Content-Encoding", "snappy")
	r.Header.Set("User-Agent", s.UserAgent)
	if b.protocol == 2 {
		r.Header.Set("Content-Type", "application/x-protobuf;proto=io.prometheus.write.v2.Request")
		r.Header.Set(headerVersion, "2.0.0")
	} else {
		r.Header.Set("Content-Type", "application/x-protobuf")
		r.Header.Set(headerVersion, "0.1.0")
	}
	if b.tries > 1 {
		r.Header.Set("Retry-Attempt", strconv.Itoa(b.tries-1))
	}
	res, err := s.HTTPClient.Do(r)
	if err != nil {
		a.err = redact.Error(err)
		return a
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	a.status, a.err, a.text = res.StatusCode, err, strings.TrimSpace(redact.Answer(res, string(text)))
	a.written, a.exemplars = writtenOf(res.Header)
	a.after = retryAfter(res.Header.Get("Retry-After"), start)
	if err == nil && a.status/100 != 2 {
		a.err = fmt.Errorf("HTTP status %d: %s", a.status, clip(a.text))
	}
	return a
}

// writtenOf reads what the server says that it wrote. One header is enough to know that it knows 2.0; what it does not
// name, it did not write.
func writtenOf(h http.Header) (samples, exemplars int) {
	said := false
	count := func(name string) int {
		n, err := strconv.Atoi(h.Get(name))
		if err != nil || n < 0 {
			return 0
		}
		said = true
		return min(n, 1<<40) // sums of these are no trouble
	}
	samples = count(headerWritten) + count(headerHistograms)
	exemplars = count(headerExemplars)
	if !said {
		return -1, 0
	}
	return samples, exemplars
}

func retryAfter(text string, now time.Time) time.Duration {
	if text == "" {
		return 0
	}
	d := time.Duration(0)
	if n, err := strconv.Atoi(text); err == nil {
		d = time.Duration(min(max(n, 0), 3600)) * time.Second
	} else if t, err := http.ParseTime(text); err == nil {
		d = t.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}

// backoff is how long to wait after a number of tries.
func (s *Sink) backoff(tries int) time.Duration {
	d := s.MinBackoff
	for n := 1; n < tries && d < s.MaxBackoff; n++ {
		d *= 2
	}
	d = min(d, s.MaxBackoff)
	return d*3/4 + time.Duration(rand.Int64N(int64(d/2)+1))
}

func clip(text string) string {
	const most = 400
	if i := strings.IndexByte(text, '\n'); i >= 0 && i < most {
		return text[:i] + " …"
	}
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
