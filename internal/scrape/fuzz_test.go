package scrape

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/target"
)

// answers is a target that answers what it was told to.
type answers struct {
	status           int
	encoding, format string
	body             []byte
}

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: a.status, Status: http.StatusText(a.status), Request: r,
		Header: http.Header{"Content-Type": {a.format}, "Content-Encoding": {a.encoding}}, Body: io.NopCloser(bytes.NewReader(a.body)),
	}, nil
}

// FuzzAnswer scrapes whatever a target may answer, packed or not, with a limit that a bomb of gzip goes over.
func FuzzAnswer(f *testing.F) {
	const limit = 64 << 10
	pack := func(b []byte) []byte {
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		_, _ = z.Write(b)
		_ = z.Close()
		return out.Bytes()
	}
	text := []byte("# TYPE a counter\na 1\na{b=\"c\"} 2 3\n")
	f.Add(200, "", "text/plain", text)
	f.Add(200, "gzip", "text/plain", pack(text))
	f.Add(200, "gzip", "", pack(make([]byte, 8<<20)))
	f.Add(200, "gzip", "text/plain", pack(text)[:20])
	f.Add(200, "gzip", "text/plain", append(pack(text), pack(text)...))
	f.Add(200, "br", "text/plain", text)
	f.Add(200, "", "application/openmetrics-text; version=1.0.0", []byte("# TYPE a counter\na_total 1 # {x=\"y\"} 1\n# EOF\n"))
	f.Add(200, "", "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited", []byte("\x05\n\x01a\x18\x01"))
	f.Add(500, "", "", []byte("sorry"))
	f.Fuzz(func(t *testing.T, status int, encoding, format string, body []byte) {
		tg, err := target.FromJob("j", "i", "http://127.0.0.1:1/metrics", target.Schedule{Interval: time.Second}, labels.EmptyLabels())
		if err != nil {
			t.Fatal(err)
		}
		tg.BodySizeLimit = limit
		s, err := New(tg, Options{Client: &http.Client{Transport: &answers{status, encoding, format, body}}})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time over the layout of the first
			made, err := s.Scrape(t.Context())
			if err != nil {
				t.Fatalf("a scrape that failed is a frame: %v", err)
			}
			if (made.Kind == frame.Scraped) != (s.LastError() == nil) {
				t.Errorf("kind %v with the error %v", made.Kind, s.LastError())
			}
			if s.LastBytes() > limit+1 {
				t.Errorf("%d bytes were read, the limit is %d", s.LastBytes(), limit)
			}
		}
	})
}
