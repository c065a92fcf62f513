package pushgateway

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// answering answers every push with a status, except of groups for which the gateway itself is asked.
func answering(status int, except ...string) func(string, http.ResponseWriter, *http.Request) bool {
	return func(group string, w http.ResponseWriter, _ *http.Request) bool {
		if slices.Contains(except, group) {
			return false
		}
		http.Error(w, fmt.Sprintf("answer %d", status), status)
		return true
	}
}

// hanging never answers.
func hanging(_ string, _ http.ResponseWriter, r *http.Request) bool {
	<-r.Context().Done()
	return true
}

func TestFailuresAreTriedAgain(t *testing.T) {
	cut := func(string, http.ResponseWriter, *http.Request) bool { panic("replaced below") }
	for _, tc := range []struct {
		name, reason string
		before       func(string, http.ResponseWriter, *http.Request) bool
	}{
		{"500", "status_5xx", answering(500)},
		{"503", "status_5xx", answering(503)},
		{"429", "status_429", answering(429)},
		{"404", "status_4xx", answering(404)},
		{"401", "status_4xx", answering(401)},
		{"hangs", "timeout", hanging},
		{"down", "network", cut},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, Options{}, func(t *testing.T, r *rig) {
				if tc.name == "down" {
					real := r.sink.HTTPClient.Transport
					var up atomic.Bool
					r.sink.HTTPClient.Transport = roundTripper(func(req *http.Request) (*http.Response, error) {
						if up.Load() {
							return real.RoundTrip(req)
						}
						return nil, &net.OpError{Op: "dial", Err: io.ErrUnexpectedEOF}
					})
					time.AfterFunc(30*time.Second, func() { up.Store(true) })
				} else {
					r.gw.setBefore(tc.before)
					time.AfterFunc(30*time.Second, func() { r.gw.setBefore(nil) })
				}
				began := time.Now()
				feeds := make([]*feed, 20)
				for i := range feeds {
					feeds[i] = newFeed(t, "job", "a", "instance", fmt.Sprint(i))
				}
				// Four rounds at an interval of 10 s; the fault ends with the fourth.
				for round := range 4 {
					for i, f := range feeds {
						r.deliver(fmt.Sprintf("%d/%d", i, round), f.scrape(gauge("x", float64(round))))
					}
					if round == 2 {
						r.wantMetric(float64(began.Unix()), "pushgateway_oldest_unaccepted_timestamp_seconds")
						r.wantMetric(20, "pushgateway_waiting_groups")
						r.want("0/0", "ok") // superseded: two more came
						r.want("0/2", "waiting")
						if r.metric("receiver_publish_errors", "receiver_job", "a") == 0 {
							t.Error("no publish error counted")
						}
						if r.metric("pushgateway_retries_total", "reason", tc.reason) == 0 {
							t.Errorf("no retry for %s counted", tc.reason)
						}
					}
					if round < 3 {
						time.Sleep(10 * time.Second)
					}
				}
				time.Sleep(20 * time.Second) // two intervals
				synctest.Wait()
				for i := range feeds {
					r.wantExposed(fmt.Sprintf("job=a,instance=%d", i), "gauge x 3", "untyped up 1")
					for round := range 4 {
						r.want(fmt.Sprintf("%d/%d", i, round), "ok")
					}
				}
				r.wantMetric(0, "pushgateway_oldest_unaccepted_timestamp_seconds")
				r.wantMetric(0, "pushgateway_waiting_groups")
				if n := strings.Count(r.log.String(), "is tried again"); n < 1 || n > 3 {
					t.Errorf("%d lines in the log about the fault, want one in 30 s:\n%s", n, r.log)
				}
				if !strings.Contains(r.log.String(), "accepts all groups again") {
					t.Errorf("the end of the fault is not logged:\n%s", r.log)
				}
			})
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestOneBadGroupHarmsNoOther hangs or fails one group while others go on.
func TestOneBadGroupHarmsNoOther(t *testing.T) {
	for _, tc := range []struct {
		name, verdict string
		status        int
	}{{"400", "rejected: refused", 400}, {"413", "rejected: too_large", 413}, {"500", "waiting", 500}, {"hangs", "waiting", 0}} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, Options{}, func(t *testing.T, r *rig) {
				r.gw.setBefore(func(group string, w http.ResponseWriter, req *http.Request) bool {
					if group != a1 {
						return false
					}
					if tc.status == 0 {
						return hanging(group, w, req)
					}
					http.Error(w, "no "+strings.Repeat("x", 5000), tc.status)
					return true
				})
				bad := newFeed(t, "job", "a", "instance", "b:1")
				r.deliver("bad", bad.scrape(gauge("x", 1)))
				for i := range 20 {
					name := fmt.Sprint("good", i)
					r.deliver(name, newFeed(t, "job", "a", "instance", name).scrape(gauge("x", 1)))
					r.want(name, "ok") // at once
				}
				r.want("bad", tc.verdict)
				if tc.status == 400 || tc.status == 413 {
					r.wantMetric(1, "pushgateway_rejected_total", "reason", strings.TrimPrefix(tc.verdict, "rejected: "))
					r.wantMetric(1, "receiver_publish_errors", "receiver_job", "a")
					if !strings.Contains(r.log.String(), "no xxx") || len(r.log.String()) > 2000 {
						t.Errorf("the log should have the gateway's words, cut:\n%s", r.log)
					}
					before := len(r.log.String())
					r.deliver("bad2", bad.scrape(gauge("x", 1)))
					r.want("bad2", tc.verdict)
					if len(r.log.String()) != before {
						t.Errorf("the same refusal is logged twice")
					}
				}
			})
		})
	}
}

func TestCoalescing(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		release := make(chan struct{})
		r.gw.setBefore(func(string, http.ResponseWriter, *http.Request) bool { <-release; return false })
		f := newFeed(t, "job", "a", "instance", "b:1")
		for i := range 5 {
			r.deliver(fmt.Sprint(i), f.scrape(gauge("x", float64(i))))
			time.Sleep(100 * time.Millisecond)
		}
		for i, want := range []string{"waiting", "ok", "ok", "ok", "waiting"} { // 0 is on its way, 4 waits
			r.want(fmt.Sprint(i), want)
		}
		close(release)
		r.want("0", "ok")
		r.want("4", "ok")
		r.wantExposed(a1, "gauge x 4", "untyped up 1")
		if n := len(r.gw.requests()); n != 2 {
			t.Errorf("%d pushes, want 2", n)
		}
		r.wantMetric(3, "pushgateway_superseded_total")
	})
}

func TestAtMostEightAtOnce(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		release := make(chan struct{})
		r.gw.setBefore(func(string, http.ResponseWriter, *http.Request) bool { <-release; return false })
		for i := range 50 {
			r.deliver(fmt.Sprint(i), newFeed(t, "job", "a", "instance", fmt.Sprint(i)).scrape(gauge("x", 1)))
		}
		if n := len(r.gw.requests()); n != maxPushes {
			t.Errorf("%d pushes at once, want %d", n, maxPushes)
		}
		close(release)
		synctest.Wait()
		if r.gw.top != maxPushes {
			t.Errorf("at most %d at once, want %d", r.gw.top, maxPushes)
		}
		if n := len(r.gw.names()); n != 50 {
			t.Errorf("%d groups, want 50", n)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		r.gw.setBefore(func(_ string, w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Retry-After", "40")
			w.WriteHeader(http.StatusTooManyRequests)
			return true
		})
		r.deliver("1", newFeed(t, "job", "a", "instance", "b:1").scrape(gauge("x", 1)))
		time.Sleep(39 * time.Second)
		synctest.Wait()
		if n := len(r.gw.requests()); n != 1 {
			t.Errorf("%d pushes within the time that the gateway asked for, want 1", n)
		}
		r.gw.setBefore(nil)
		time.Sleep(2 * time.Second)
		r.want("1", "ok")
	})
}

// TestAgesWhileItWaits lets a target fall silent while the gateway is down.
func TestAgesWhileItWaits(t *testing.T) {
	inBubble(t, Options{StaleAfter: ptr(time.Minute)}, func(t *testing.T, r *rig) {
		f := newFeed(t, "job", "a", "instance", "b:1")
		r.deliver("1", f.scrape(gauge("x", 1)))
		r.gw.setBefore(answering(500))
		time.Sleep(10 * time.Second)
		r.deliver("2", f.scrape(gauge("x", 2)))
		time.Sleep(2 * time.Minute)
		r.want("2", "rejected: aged")
		r.gw.setBefore(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		if r.gw.has(a1) {
			t.Error("the silent target's group is not deleted once the gateway is back")
		}
		r.wantMetric(0, "pushgateway_oldest_unaccepted_timestamp_seconds")
	})
}

// TestRefusedGroupGoesStale: values that are not replaced because every newer scrape is refused do not stay for ever.
func TestRefusedGroupGoesStale(t *testing.T) {
	inBubble(t, Options{StaleAfter: ptr(time.Minute)}, func(t *testing.T, r *rig) {
		f := newFeed(t, "job", "a", "instance", "b:1")
		r.deliver("1", f.scrape(gauge("x", 1)))
		r.gw.setBefore(func(_ string, w http.ResponseWriter, req *http.Request) bool {
			if req.Method == http.MethodDelete {
				return false
			}
			http.Error(w, "no", http.StatusBadRequest)
			return true
		})
		for i := range 8 {
			time.Sleep(10 * time.Second)
			r.deliver(fmt.Sprint("r", i), f.scrape(gauge("x", 2)))
			r.want(fmt.Sprint("r", i), "rejected: refused")
		}
		if r.gw.has(a1) {
			t.Error("old values are still there")
		}
	})
}

func TestStopHandsBackWhatWaits(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		r.gw.setBefore(hanging)
		f := newFeed(t, "job", "a", "instance", "b:1")
		r.deliver("on its way", f.scrape(gauge("x", 1)))
		r.deliver("waits", f.scrape(gauge("x", 2)))
		began := time.Now()
		r.stop()
		if d := time.Since(began); d != shutdownFor {
			t.Errorf("stopping took %s, want %s", d, shutdownFor)
		}
		r.want("on its way", "kept")
		r.want("waits", "kept")
		r.deliver("after", f.scrape(gauge("x", 3)))
		r.want("after", "kept")
	})
}

func TestStopLetsPushesFinish(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		r.gw.setBefore(func(string, http.ResponseWriter, *http.Request) bool { time.Sleep(time.Second); return false })
		r.deliver("1", newFeed(t, "job", "a", "instance", "b:1").scrape(gauge("x", 1)))
		r.stop()
		r.want("1", "ok")
	})
}

// TestSplitFrameIsKeptWhenOnePartIs: what is kept is delivered again whole.
func TestSplitFrameIsKeptWhenOnePartIs(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		r.gw.setBefore(answering(500, a1))
		r.deliver("1", newFeed(t, "job", "a", "instance", "b:1").scrape(gauge("x", 1), gauge("y", 1, "instance", "c")))
		r.stop()
		r.want("1", "kept")
	})
}

func TestTimeoutGrows(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		// Slower than the interval: the second try gets longer.
		r.gw.setBefore(func(_ string, _ http.ResponseWriter, req *http.Request) bool {
			select {
			case <-time.After(15 * time.Second):
				return false
			case <-req.Context().Done():
				return true
			}
		})
		r.deliver("1", newFeed(t, "job", "a", "instance", "b:1").scrape(gauge("x", 1)))
		time.Sleep(28 * time.Second)
		r.want("1", "ok")
	})
	inBubble(t, Options{Timeout: 3 * time.Second}, func(t *testing.T, r *rig) {
		r.gw.setBefore(hanging)
		r.deliver("1", newFeed(t, "job", "a", "instance", "b:1").scrape(gauge("x", 1)))
		time.Sleep(20 * time.Second)
		if n := r.metric("pushgateway_pushes_total", "result", "failed"); n < 4 || n > 5 {
			t.Errorf("%v pushes failed in 20 s, want 4 or 5: each takes 3 s, then waits 0.5, 1, 2, 4 s", n)
		}
	})
}

// TestVerdictMayCallBack: a receiver may hand over the next frame from within a verdict.
func TestVerdictMayCallBack(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		f := newFeed(t, "job", "a", "instance", "b:1")
		first, second := f.scrape(gauge("x", 1)), f.scrape(gauge("x", 2))
		r.sink.Deliver(t.Context(), first, func(error) {
			r.sink.Deliver(t.Context(), second, r.done("second"))
		})
		r.want("second", "ok")
	})
}

func TestTwoSinksShareMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	shared(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "prometheus_streams_receiver_aged_discards",
		Help: "Scrapes not delivered because they were too old."}, []string{"receiver_job"}))
	if _, err := New(Options{URL: "http://g", Registerer: reg}); err != nil {
		t.Fatal(err)
	}
}
