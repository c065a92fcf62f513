package remotewrite

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// concurrent notes how many requests are on their way at a time.
type concurrent struct {
	http.RoundTripper
	now, most atomic.Int64
}

func (c *concurrent) RoundTrip(r *http.Request) (*http.Response, error) {
	defer c.now.Add(-1)
	if n := c.now.Add(1); n > c.most.Load() {
		c.most.Store(n)
	}
	return c.RoundTripper.RoundTrip(r)
}

func TestMaxRequests(t *testing.T) {
	for given, want := range map[int]int64{0: 8, 2: 2, 20: 20, 1000: 64} {
		bubble(t, func(t *testing.T) {
			f := newServer(t, 2)
			f.delay = 100 * time.Millisecond
			w := newWorld(t, f, Options{MaxRequests: given, MaxSamples: 10})
			defer w.stopped()
			c := &concurrent{RoundTripper: f}
			w.Sink.HTTPClient.Transport = c
			s, now := schemaOf(t, ms("1", "2", "3", "4", "5")...), time.Now().UnixMilli()
			for i := range 1000 {
				w.give(site("job", fmt.Sprint("j", i)), scraped(s, now, 1, 2, 3, 4, 5))
			}
			w.settle(time.Minute)
			if n := c.most.Load(); n != want {
				t.Errorf("MaxRequests %d: %d at a time, want %d", given, n, want)
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	for _, c := range []struct {
		least, most time.Duration
		from, to    int // requests in ten minutes
	}{{0, 0, 100, 200}, {time.Minute, 0, 8, 15}, {0, time.Second, 480, 850}, {time.Second, time.Minute, 12, 25}} {
		bubble(t, func(t *testing.T) {
			f := newServer(t, 2)
			f.answer = func(int, *http.Request) *http.Response { return reply(http.StatusServiceUnavailable, "", -1) }
			w := newWorld(t, f, Options{MinBackoff: c.least, MaxBackoff: c.most})
			w.give(site("job", "a"), scraped(schemaOf(t, ms("1")...), time.Now().UnixMilli(), 1))
			time.Sleep(10 * time.Minute)
			if n := f.count(); n < c.from || n > c.to {
				t.Errorf("%v to %v: %d requests, want %d to %d", c.least, c.most, n, c.from, c.to)
			}
			w.stopped()
		})
	}
}
