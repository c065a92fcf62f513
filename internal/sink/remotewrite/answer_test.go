package remotewrite

import (
	"net/http"
	"testing"
	"time"
)

// FuzzAnswer reads whatever a server may put into the headers of its answer.
func FuzzAnswer(f *testing.F) {
	f.Add("1", "2", "3", "4")
	f.Add("-1", "99999999999999999999", "", "Wed, 21 Oct 2015 07:28:00 GMT")
	f.Add("9223372036854775807", "9223372036854775807", "1", "2")
	f.Add("0x10", "9223372036854775807", "9223372036854775807", "-5")
	f.Fuzz(func(t *testing.T, samples, histograms, exemplars, after string) {
		h := http.Header{headerWritten: {samples}, headerHistograms: {histograms}, headerExemplars: {exemplars}}
		if n, e := writtenOf(h); n < -1 || e < 0 {
			t.Errorf("%q, %q and %q: %d samples and %d exemplars written", samples, histograms, exemplars, n, e)
		}
		if d := retryAfter(after, time.Now()); d < 0 {
			t.Errorf("retry after %q: %v", after, d)
		}
	})
}
