package remotewrite

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/sink"
)

// poison refuses the series of m with some values of x.
func poison(xs ...string) func(labels.Labels) string {
	return func(l labels.Labels) string {
		if slices.Contains(xs, l.Get("x")) {
			return "sample is too old"
		}
		return ""
	}
}

func many(n int) (xs []string, values []float64) {
	for i := range n {
		xs, values = append(xs, fmt.Sprint(i)), append(values, float64(i))
	}
	return xs, values
}

func TestOneSeriesRefused(t *testing.T) {
	each(t, func(t *testing.T, versions ...int) {
		f := newServer(t, versions...)
		f.refuse = poison("617")
		w := newWorld(t, f, Options{Protocol: fmt.Sprint(versions[0])})
		defer w.stopped()
		xs, values := many(1000)
		s := schemaOf(t, ms(xs...)...)
		now := time.Now().UnixMilli()
		w.give(site("job", "a"), scraped(s, now, values...))
		w.give(site("job", "b"), scraped(s, now, values...), func(d *sink.Delivery) { d.Publisher = "DC2" })
		w.give(site("job", "c"), scraped(schemaOf(t, ms("5")...), now, 1))
		w.settle(time.Minute)
		if got := len(f.stored); got != 2*999+1+15 {
			t.Errorf("%d series stored, want all but 2", got)
		}
		for _, p := range []string{"DC1", "DC2"} {
			if got := w.metric("dropped_samples_total", "reason", tooOld, "publisher", p); got != 1 {
				t.Errorf("%v samples of %s dropped", got, p)
			}
		}
		if got := w.metric("samples_total"); got != float64(2*999+1+15) {
			t.Errorf("%v samples counted", got)
		}
		if n := f.count(); n > 60 {
			t.Errorf("%d requests", n)
		}
	})
}

// TestBoundedTries has so many series refused that they cannot all be found.
func TestBoundedTries(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newServer(t, 1)
		xs, values := many(256)
		f.refuse = func(l labels.Labels) string {
			if x := l.Get("x"); x != "" && strings.HasSuffix(x, "3") {
				return "out of order sample"
			}
			return ""
		}
		w := newWorld(t, f, Options{Protocol: V1})
		defer w.stopped()
		w.give(site("job", "a"), scraped(schemaOf(t, ms(xs...)...), time.Now().UnixMilli(), values...))
		w.settle(time.Minute)
		stored, dropped := len(f.stored), int(w.metric("dropped_samples_total", "reason", outOfOrder))
		if stored+dropped != 261 || dropped < 26 || stored == 0 {
			t.Errorf("%d stored and %d dropped of 261", stored, dropped)
		}
		if n := f.count(); n > 2*maxTries+2 {
			t.Errorf("%d requests", n)
		}
	})
}

func TestWholeFrameRefused(t *testing.T) {
	each(t, func(t *testing.T, versions ...int) {
		for _, repeated := range []bool{false, true} {
			f := newServer(t, versions...)
			w := newWorld(t, f, Options{Protocol: fmt.Sprint(versions[0])})
			s := schemaOf(t, ms("1", "2")...)
			now := time.Now().UnixMilli()
			w.give(site("job", "a"), scraped(s, now, 1, 2))
			w.settle(time.Second)
			// An earlier time in the order of the lane: the clock at the edge was set back.
			w.give(site("job", "a"), scraped(s, now-60000, 1, 2), func(d *sink.Delivery) { d.Repeated = repeated })
			got := w.reasons(time.Minute)
			if want := []string{outOfOrder}; !repeated && !slices.Equal(got, want) || repeated && len(got) != 0 {
				t.Errorf("repeated %v: rejected for %v", repeated, got)
			}
			name := "dropped_samples_total"
			if repeated {
				name = "already_samples_total"
			}
			if n := w.metric(name, "publisher", "DC1"); n != 7 {
				t.Errorf("repeated %v: %v samples in %s", repeated, n, name)
			}
			if n := f.count(); n != 2 {
				t.Errorf("%d requests for a frame that is known to be old", n)
			}
			w.stopped()
		}
	})
}

func TestTooLarge(t *testing.T) {
	each(t, func(t *testing.T, versions ...int) {
		f := newServer(t, versions...)
		f.most = 40
		w := newWorld(t, f, Options{})
		defer w.stopped()
		xs, values := many(300)
		s := schemaOf(t, ms(xs...)...)
		now := time.Now().UnixMilli()
		for i := range 5 {
			w.give(site("job", fmt.Sprint("j", i)), scraped(s, now, values...))
		}
		w.settle(time.Minute)
		if got := len(f.stored); got != 5*305 {
			t.Errorf("%d series stored, want %d", got, 5*305)
		}
		f.most = 0
		for i := range 200 {
			w.give(site("job", "a"), scraped(s, now+int64(i), values...))
			time.Sleep(time.Second)
		}
		w.settle(time.Second)
		if s := w.limit; s <= leastSamples {
			t.Errorf("still %d samples a request", s)
		}
	})
}

func TestSampleTooLarge(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newServer(t, 2)
		f.answer = func(int, *http.Request) *http.Response { return reply(http.StatusRequestEntityTooLarge, "", -1) }
		w := newWorld(t, f, Options{})
		defer w.stopped()
		w.give(site("job", "a"), scraped(schemaOf(t, ms("1")...), time.Now().UnixMilli(), 1))
		if got := w.reasons(time.Minute); !slices.Equal(got, []string{tooLarge}) {
			t.Errorf("rejected for %v", got)
		}
	})
}

// TestTroubleThatIsMended answers what must not cost a sample.
func TestTroubleThatIsMended(t *testing.T) {
	for _, status := range []int{0, 301, 401, 403, 404, 408, 429, 500, 502, 503, 504} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newServer(t, 2)
				mended := time.Now().Add(10 * time.Minute)
				f.answer = func(int, *http.Request) *http.Response {
					if time.Now().After(mended) {
						return nil
					}
					return reply(status, "trouble", -1)
				}
				w := newWorld(t, f, Options{})
				defer w.stopped()
				now := time.Now().UnixMilli()
				s := schemaOf(t, ms("1")...)
				for i := range 3 {
					w.give(site("job", "a"), scraped(s, now+int64(i), float64(i)))
				}
				w.settle(11 * time.Minute)
				n := float64(now)
				w.has(m("1"), n, 0, n+1, 1, n+2, 2)
				if c := f.count(); c > 250 {
					t.Errorf("%d requests in ten minutes", c)
				}
			})
		})
	}
}

func TestHangAndNetwork(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newServer(t, 2)
		f.delay = time.Hour
		w := newWorld(t, f, Options{Timeout: 2 * time.Second})
		defer w.stopped()
		now := time.Now().UnixMilli()
		w.give(site("job", "a"), scraped(schemaOf(t, ms("1")...), now, 1))
		time.Sleep(time.Minute)
		f.mu.Lock()
		f.delay = 0
		f.mu.Unlock()
		w.settle(10 * time.Second)
		w.has(m("1"), float64(now), 1)
		if got := w.metric("requests_total", "code", "failed"); got < 5 {
			t.Errorf("%v requests failed", got)
		}
	})
}

// TestPoisonousFrame has a server answer 500 to one frame for ever: others go on.
func TestPoisonousFrame(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newServer(t, 1)
		f.refuse = func(l labels.Labels) string {
			if l.Get("job") == "bad" {
				return "bad"
			}
			return ""
		}
		w := newWorld(t, f, Options{Protocol: V1})
		defer w.stopped()
		f.answer = nil
		w.Sink.HTTPClient.Transport = rewrite{f}
		s := schemaOf(t, ms("1")...)
		now := time.Now().UnixMilli()
		for i := range 40 {
			w.give(site("job", fmt.Sprint("j", i)), scraped(s, now, 1))
		}
		w.give(site("job", "bad"), scraped(s, now, 1))
		time.Sleep(time.Second)
		// Something goes through beside it, in a shard that is not held.
		for i := 100; i < 140; i++ {
			w.give(site("job", fmt.Sprint("j", i)), scraped(s, now, 1))
		}
		time.Sleep(5 * time.Minute)
		w.mu.Lock()
		open := w.open
		w.mu.Unlock()
		if open == 0 || open > 3 {
			t.Errorf("%d frames wait because of one", open)
		}
	})
}

// rewrite turns each 400 into a 500.
type rewrite struct{ *server }

func (r rewrite) RoundTrip(q *http.Request) (*http.Response, error) {
	res, err := r.server.RoundTrip(q)
	if err == nil && res.StatusCode == http.StatusBadRequest {
		res.StatusCode = http.StatusInternalServerError
	}
	return res, err
}

func TestReasons(t *testing.T) {
	for _, c := range []struct {
		text string
		lost int
		want string
	}{
		{"out of order sample", 3, "[{out_of_order 3}]"},
		{"out of bounds: timestamp is too far in the future", 1, "[{too_far_in_future 1}]"},
		{"out of bounds", 1, "[{too_old 1}]"},
		{"user: err-mimir-sample-duplicate-timestamp: x", 2, "[{duplicate 2}]"},
		{"failed: err-mimir-sample-out-of-order", 2, "[{out_of_order 2}]"},
		{"duplicate sample for timestamp a\nout of order sample b\nout of order sample c", 3, "[{out_of_order 2} {duplicate 1}]"},
		{"duplicate sample for timestamp a\nout of order sample b", 9, "[{duplicate 9}]"},
		{"no idea", 4, "[{rejected 4}]"},
		{"", 4, "[{rejected 4}]"},
	} {
		if got := fmt.Sprint(reasonsOf(c.text, c.lost)); got != c.want {
			t.Errorf("%q: %s, want %s", c.text, got, c.want)
		}
	}
}

func FuzzReasons(f *testing.F) {
	f.Add("out of order sample\nDuplicate-Sample", 2)
	f.Fuzz(func(t *testing.T, text string, lost int) {
		sum := 0
		for _, r := range reasonsOf(text, lost) {
			sum += r.count
		}
		if sum != lost {
			t.Errorf("%d of %d lost samples have a reason", sum, lost)
		}
	})
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{
		{URL: "::"}, {URL: "ftp://a"}, {URL: "http://"}, {URL: "http://a", Protocol: "3"}, {URL: "http://a", PublisherLabel: "__name__"},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

// TestRedirectToAPage has a POST turned into the GET of some page, which is no answer to a write.
func TestRedirectToAPage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newServer(t, 1)
		f.answer = func(n int, r *http.Request) *http.Response {
			if n > 3 {
				return nil
			}
			if r.Method != http.MethodPost {
				t.Errorf("a %s was sent", r.Method)
			}
			res := reply(http.StatusFound, "", -1)
			res.Header.Set("Location", "http://centre/login")
			return res
		}
		w := newWorld(t, f, Options{Protocol: V1})
		defer w.stopped()
		now := time.Now().UnixMilli()
		w.give(site("job", "a"), scraped(schemaOf(t, ms("1")...), now, 1))
		w.settle(time.Minute)
		w.has(m("1"), float64(now), 1)
	})
}
