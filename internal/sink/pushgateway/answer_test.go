package pushgateway

import (
	"net/http"
	"strconv"
	"testing"
	"time"
)

// FuzzAnswer reads whatever a Push Gateway, or who stands in its place, may answer.
func FuzzAnswer(f *testing.F) {
	f.Add(400, "", `collected metric "a" has help "x" but should have "y"`, true)
	f.Add(400, "1", `gathered metric family a has type COUNTER but should have GAUGE`, true)
	f.Add(400, "", "gathered metric family a has help \"x\" but should have \"\\q", false)
	f.Add(503, "99999999999999999999", "", false)
	f.Add(429, "-1", "\x00\xff", true)
	f.Fuzz(func(t *testing.T, status int, after, words string, put bool) {
		method := http.MethodPut
		if !put {
			method = http.MethodDelete
		}
		resp := &http.Response{
			StatusCode: status, Status: strconv.Itoa(status), Header: http.Header{"Retry-After": {after}},
			Request: &http.Request{Method: method},
		}
		a := judge(method, resp, words)
		if (a.outcome == accepted) != (a.err == nil) || a.after < 0 || a.after > time.Minute {
			t.Errorf("%d %q: %+v", status, after, a)
		}
		if a.outcome != accepted && a.reason == "" {
			t.Errorf("%d %q: no reason", status, words)
		}
		if in, ok := insists(words); ok && in.typ == "" && in.help == "" && in.name == "" {
			t.Logf("%q insists on nothing", words)
		} else if ok {
			new(content).differs(in)
		}
	})
}
