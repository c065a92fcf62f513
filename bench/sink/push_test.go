package sink

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestPush(t *testing.T) {
	p := &pusher{newCounter()}
	server := httptest.NewServer(p)
	defer server.Close()
	push := func(path, body, encoding string) int {
		t.Helper()
		r, err := http.NewRequest(http.MethodPut, server.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Encoding", encoding)
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	page := "# TYPE a gauge\na 1\na{b=\"c\"} 2\nup 1\nscrape_duration_seconds 0.1\n"
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write([]byte(page))
	z.Close()
	for _, c := range []struct {
		path, body, encoding string
		want                 int
	}{
		{"/metrics/job/bench/instance/a", page, "", 200},
		{"/metrics/job/bench/instance/a", packed.String(), "gzip", 200},
		{"/metrics/job/prometheus_streams/instance/a", page, "", 200},
		{"/metrics/job/bench/instance/a", page, "gzip", 400},
	} {
		if got := push(c.path, c.body, c.encoding); got != c.want {
			t.Errorf("%s: status %d, want %d", c.path, got, c.want)
		}
	}
	if s := p.stats; s.Samples != 4 || s.Auto != 8 || s.Errors != 1 || s.Requests["PUT"] != 3 || s.RawBytes != int64(3*len(page)) {
		t.Errorf("counted %+v", s)
	}
}
