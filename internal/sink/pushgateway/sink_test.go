package pushgateway

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/common/model"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

const a1 = "job=a,instance=b:1"

func TestScrapeReplacesGroup(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		f := newFeed(t, "job", "a", "instance", "b:1", "env", "prod")
		r.deliver("first", f.scrape(gauge("x", 1), gauge("y", 2, "k", "v")))
		r.want("first", "ok")
		r.wantExposed(a1, "gauge x{env=prod} 1", "gauge y{env=prod,k=v} 2", "untyped up{env=prod} 1")
		if got, want := r.gw.exposed(a1), []string{"untyped scrape_duration_seconds{env=prod} 2", "untyped scrape_samples_post_metric_relabeling{env=prod} 2",
			"untyped scrape_samples_scraped{env=prod} 2", "untyped scrape_series_added{env=prod} 3"}; !slices.Equal(got[2:6], want) {
			t.Errorf("report %q, want %q", got, want)
		}
		time.Sleep(time.Second)
		g := newFeed(t, "job", "a", "instance", "b:1", "env", "prod")
		g.seq = f.seq
		r.deliver("second", g.scrape(gauge("y", 3, "k", "v")))
		r.want("second", "ok")
		if got := r.gw.exposed(a1); slices.ContainsFunc(got, func(l string) bool { return strings.Contains(l, "x{") }) {
			t.Errorf("the vanished series is still there: %q", got)
		}
		if want := []string{"PUT " + a1, "PUT " + a1}; !slices.Equal(r.gw.requests(), want) {
			t.Errorf("requests %q, want %q", r.gw.requests(), want)
		}
		body := r.gw.bodies[0]
		for _, want := range []string{"# HELP x Help of x.\n", "# TYPE x gauge\n"} {
			if !strings.Contains(body, want) {
				t.Errorf("body lacks %q:\n%s", want, body)
			}
		}
		r.wantMetric(2, "pushgateway_pushes_total", "method", "put", "result", "accepted")
		r.wantMetric(0, "receiver_publish_errors")
		r.wantMetric(13, "pushgateway_samples_total")
		r.wantMetric(1, "pushgateway_groups")
		r.wantMetric(2, "pushgateway_push_duration_seconds")
		lint(t, r.reg)
	})
}

func TestTimestampsAndAbsentSeries(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		d := newFeed(t, "job", "a", "instance", "b:1").scrape(gauge("x", 1), gauge("y", 2))
		d.Frame.Column.Timestamps = []int64{12345, frame.NoTimestamp}
		d.Frame.Column.Absent = frame.NewBitmap(2)
		d.Frame.Column.Absent.Set(1)
		r.deliver("f", d)
		r.want("f", "ok")
		r.wantExposed(a1, "gauge x 1", "untyped up 1")
	})
}

func TestPost(t *testing.T) {
	inBubble(t, Options{Method: Post}, func(t *testing.T, r *rig) {
		f := newFeed(t, "job", "a", "instance", "b:1")
		r.deliver("1", f.scrape(gauge("x", 1)))
		time.Sleep(time.Second)
		r.deliver("2", f.scrape(gauge("y", 1)))
		r.wantExposed(a1, "gauge x 1", "gauge y 1", "untyped up 1")
		r.wantMetric(2, "pushgateway_pushes_total", "method", "post", "result", "accepted")
	})
}

func TestPublisherLabel(t *testing.T) {
	inBubble(t, Options{PublisherLabel: "publisher"}, func(t *testing.T, r *rig) {
		f := newFeed(t, "job", "a", "instance", "b:1")
		f.publisher = "edge/1"
		r.deliver("f", f.scrape(gauge("x", 1, "publisher", "mine")))
		r.want("f", "ok")
		r.wantExposed("job=a,instance=b:1,publisher=edge/1", "gauge x{exported_publisher=mine} 1", "untyped up 1")
	})
}

func TestDownReplaces(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		f := newFeed(t, "job", "a", "instance", "b:1")
		r.deliver("1", f.scrape(gauge("x", 1), gauge("y", 1, "job", "other")))
		r.wantExposed("job=other,instance=b:1", "gauge y 1")
		time.Sleep(time.Second)
		r.deliver("2", f.down())
		r.want("2", "ok")
		r.wantExposed(a1, "untyped up 0")
		if r.gw.has("job=other,instance=b:1") {
			t.Error("the group that only a scrape fills is still there")
		}
		r.wantMetric(1, "pushgateway_deleted_groups_total", "reason", "down")
		time.Sleep(time.Second)
		r.deliver("3", f.scrape(gauge("x", 2), gauge("y", 2, "job", "other")))
		r.wantExposed(a1, "gauge x 2", "untyped up 1")
		r.wantExposed("job=other,instance=b:1", "gauge y 2")
	})
}

func TestEnd(t *testing.T) {
	for _, tc := range []struct {
		why  frame.EndReason
		kept bool
	}{{frame.Removed, false}, {frame.Relabelled, false}, {frame.Paused, true}} {
		t.Run(fmt.Sprint(tc.why), func(t *testing.T) {
			inBubble(t, Options{}, func(t *testing.T, r *rig) {
				f := newFeed(t, "job", "a", "instance", "b:1")
				r.deliver("1", f.scrape(gauge("x", 1), gauge("y", 1, "instance", "c")))
				time.Sleep(time.Second)
				r.deliver("end", f.end(tc.why))
				r.want("end", "ok")
				time.Sleep(time.Hour)
				synctest.Wait()
				if got := r.gw.has(a1) && r.gw.has("job=a,instance=c"); got != tc.kept {
					t.Errorf("groups are there: %v, want %v", got, tc.kept)
				}
				if !tc.kept && len(r.gw.names()) != 0 {
					t.Errorf("groups left: %q", r.gw.names())
				}
			})
		})
	}
	t.Run("unknown", func(t *testing.T) {
		inBubble(t, Options{}, func(t *testing.T, r *rig) {
			r.deliver("end", newFeed(t, "job", "a", "instance", "b:1").end(frame.Removed))
			r.want("end", "ok")
			if len(r.gw.requests()) != 0 {
				t.Errorf("deleted what it never filled: %q", r.gw.requests())
			}
		})
	})
}

func TestSplitGroups(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		f := newFeed(t, "job", "federate", "instance", "prom:9090")
		r.deliver("1", f.scrape(
			gauge("x", 1, "job", "node", "instance", "n1"),
			fam{"x2", model.MetricTypeGauge, []ser{{"x2", 2, []string{"job", "node", "instance", "n2"}}}},
			gauge("own", 3),
			gauge("whole", 4, "instance", ""), // of the job as a whole
			gauge("push_time_seconds", 5),
			gauge("lost", 6, "job", ""),
			untyped(ser{"up", 1, []string{"job", "node", "instance", "n1"}}, ser{"up", 0, nil}),
		))
		r.want("1", "ok")
		r.wantExposed("job=node,instance=n1", "gauge x 1", "untyped up 1")
		r.wantExposed("job=node,instance=n2", "gauge x2 2")
		r.wantExposed("job=federate,instance=", "gauge whole 4")
		r.wantExposed("job=federate,instance=prom:9090", "gauge own 3", "untyped up 1")
		r.wantMetric(1, "pushgateway_left_out_samples_total", "reason", "push_time")
		r.wantMetric(1, "pushgateway_left_out_samples_total", "reason", "duplicate")
		r.wantMetric(1, "pushgateway_left_out_samples_total", "reason", "no_job")
		time.Sleep(time.Second)
		r.deliver("2", f.scrape(gauge("x", 2, "job", "node", "instance", "n1")))
		if got, want := r.gw.names(), []string{"job=federate,instance=prom:9090", "job=node,instance=n1"}; !slices.Equal(got, want) {
			t.Errorf("groups %q, want %q", got, want)
		}
		r.wantMetric(2, "pushgateway_deleted_groups_total", "reason", "unfilled")
	})
}

func TestSplitGroupWithoutSamplesIsDeleted(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		f := newFeed(t, "job", "a", "instance", "b:1")
		fams := []fam{gauge("x", 1), gauge("y", 1, "instance", "c")}
		r.deliver("1", f.scrape(fams...))
		time.Sleep(time.Second)
		d := f.scrape(fams...)
		d.Frame.Column.Absent = frame.NewBitmap(2)
		d.Frame.Column.Absent.Set(1)
		r.deliver("2", d)
		r.want("2", "ok")
		if got := r.gw.names(); !slices.Equal(got, []string{a1}) {
			t.Errorf("groups %q", got)
		}
	})
}

// TestSplitFrameIsDoneWithItsLastGroup holds one of two groups back.
func TestSplitFrameIsDoneWithItsLastGroup(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		r.gw.setBefore(func(group string, w http.ResponseWriter, _ *http.Request) bool {
			if group == "job=a,instance=c" {
				http.Error(w, "no", http.StatusServiceUnavailable)
				return true
			}
			return false
		})
		r.deliver("1", newFeed(t, "job", "a", "instance", "b:1").scrape(gauge("x", 1), gauge("y", 1, "instance", "c")))
		r.wantExposed(a1, "gauge x 1", "untyped up 1")
		r.want("1", "waiting")
		r.gw.setBefore(nil)
		time.Sleep(10 * time.Second)
		r.want("1", "ok")
	})
}

func TestConflict(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		one, other := newFeed(t, "job", "a", "instance", "b:1", "env", "x"), newFeed(t, "job", "a", "instance", "b:1", "env", "y")
		other.target.ID = 2
		r.deliver("one", one.scrape(gauge("x", 1)))
		time.Sleep(time.Second)
		r.deliver("other", other.scrape(gauge("x", 2), gauge("z", 2, "instance", "z")))
		r.want("other", "ok") // for its other group
		r.wantMetric(1, "pushgateway_rejected_total", "reason", "conflict")
		r.deliver("only", other.scrape(gauge("x", 2)))
		r.want("only", "rejected: conflict")
		r.deliver("end", other.end(frame.Removed))
		if !r.gw.has(a1) {
			t.Error("the end of one target deleted the group of another")
		}
		// After three intervals of silence the group changes hands.
		time.Sleep(31 * time.Second)
		r.deliver("takes", other.scrape(gauge("x", 3)))
		r.want("takes", "ok")
		if got := r.gw.exposed(a1); !slices.Contains(got, "gauge x{env=y} 3") {
			t.Errorf("group has %q", got)
		}
		r.deliver("back", one.end(frame.Removed))
		if !r.gw.has(a1) {
			t.Error("the end of the former owner deleted the group")
		}
	})
}

func TestOrder(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		f := newFeed(t, "job", "a", "instance", "b:1")
		old := f.scrape(gauge("x", 1))
		time.Sleep(time.Second)
		r.deliver("new", f.scrape(gauge("x", 2)))
		r.deliver("old", old)
		r.want("old", "rejected: late")
		r.wantExposed(a1, "gauge x 2", "untyped up 1")
		other := newFeed(t, "job", "a", "instance", "b:1")
		other.lane = "backlog"
		d := other.scrape(gauge("x", 3))
		d.Frame.Time -= 10_000
		r.deliver("lane", d)
		r.want("lane", "rejected: late")
		// A clock that was put back does not stop the lane's own order.
		d = f.scrape(gauge("x", 4))
		d.Frame.Time -= 60_000
		r.deliver("clock", d)
		time.Sleep(backlogFor)
		r.want("clock", "ok")
		r.wantExposed(a1, "gauge x 4", "untyped up 1")
	})
}

func TestRepeatIsNotPushedAgain(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		d := newFeed(t, "job", "a", "instance", "b:1").scrape(gauge("x", 1))
		r.deliver("1", d)
		r.deliver("2", d)
		r.want("2", "ok")
		if n := len(r.gw.requests()); n != 1 {
			t.Errorf("%d pushes, want 1", n)
		}
	})
}

func TestAged(t *testing.T) {
	inBubble(t, Options{MaxAge: 81 * time.Second}, func(t *testing.T, r *rig) {
		f := newFeed(t, "job", "a", "instance", "b:1")
		var backlog []func()
		for i := range 13 {
			d := f.scrape(gauge("x", float64(i)))
			backlog = append(backlog, func() { r.sink.Deliver(t.Context(), d, r.done(fmt.Sprint(i))) })
			time.Sleep(10 * time.Second)
		}
		for _, deliver := range backlog {
			deliver()
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(backlogFor)
		synctest.Wait()
		for i := range 13 {
			want := "ok"
			if i < 5 { // 130 to 90 seconds old
				want = "rejected: aged"
			}
			r.want(fmt.Sprint(i), want)
		}
		r.wantExposed(a1, "gauge x 12", "untyped up 1")
		r.wantMetric(5, "receiver_aged_discards", "receiver_job", "a")
		if n := len(r.gw.requests()); n != 1 {
			t.Errorf("%d pushes of the backlog, want that of the newest alone", n)
		}
	})
}

func TestSilence(t *testing.T) {
	stale := time.Minute
	inBubble(t, Options{StaleAfter: &stale}, func(t *testing.T, r *rig) {
		silent, alive := newFeed(t, "job", "a", "instance", "b:1"), newFeed(t, "job", "a", "instance", "c:1")
		r.deliver("1", silent.scrape(gauge("x", 1)))
		for range 7 {
			r.deliver(fmt.Sprint(time.Now()), alive.scrape(gauge("x", 1)))
			if !r.gw.has(a1) {
				t.Fatal("deleted too early")
			}
			time.Sleep(9 * time.Second)
		}
		synctest.Wait()
		if got, want := r.gw.names(), []string{"job=a,instance=c:1"}; !slices.Equal(got, want) {
			t.Fatalf("groups %q, want %q", got, want)
		}
		r.wantMetric(1, "pushgateway_deleted_groups_total", "reason", "silent")
		r.deliver("again", silent.scrape(gauge("x", 2)))
		r.want("again", "ok")
		r.wantExposed(a1, "gauge x 2", "untyped up 1")
	})
}

func TestSilenceDefaults(t *testing.T) {
	for _, tc := range []struct {
		name     string
		option   *time.Duration
		interval time.Duration
		there    time.Duration
		gone     time.Duration // 0: never
	}{
		{"short interval", nil, 10 * time.Second, 4*time.Minute + 59*time.Second, 6 * time.Minute},
		{"long interval", nil, 10 * time.Minute, 49 * time.Minute, 52 * time.Minute},
		{"never", ptr(time.Duration(0)), 10 * time.Second, 100 * time.Hour, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, Options{StaleAfter: tc.option}, func(t *testing.T, r *rig) {
				f := newFeed(t, "job", "a", "instance", "b:1")
				f.target.Interval = tc.interval
				r.deliver("1", f.scrape(gauge("x", 1)))
				time.Sleep(tc.there)
				synctest.Wait()
				if !r.gw.has(a1) {
					t.Fatal("deleted too early")
				}
				if tc.gone > 0 {
					time.Sleep(tc.gone - tc.there)
					synctest.Wait()
					if r.gw.has(a1) {
						t.Error("not deleted")
					}
				}
			})
		})
	}
}

func TestNoJob(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		r.deliver("1", newFeed(t, "instance", "b:1").scrape(gauge("x", 1)))
		r.want("1", "rejected: no_job")
		r.deliver("2", newFeed(t, "job", "a").scrape(gauge("x", 1)))
		r.want("2", "ok")
		r.wantExposed("job=a,instance=", "gauge x 1", "untyped up 1")
	})
}

func TestEpochEnd(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, r *rig) {
		d := newFeed(t, "job", "a").end(frame.Removed)
		d.Frame.Kind, d.Frame.Target = frame.EpochEnd, nil
		r.deliver("1", d)
		r.want("1", "ok")
	})
}

func TestOptions(t *testing.T) {
	for _, tc := range []struct {
		name, want string
		o          Options
	}{
		{"no url", "url", Options{}},
		{"scheme", "url", Options{URL: "gateway:9091"}},
		{"query", "url", Options{URL: "http://gateway:9091/?x=1"}},
		{"method", "method", Options{URL: "http://g", Method: "patch"}},
		{"label", "publisher_label", Options{URL: "http://g", PublisherLabel: "job"}},
		{"utf8 label", "publisher_label", Options{URL: "http://g", PublisherLabel: "a.b"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := New(tc.o); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one about %s", err, tc.want)
			}
		})
	}
	if _, err := New(Options{URL: "http://u:secret@g:9091/x/?"}); err != nil && strings.Contains(err.Error(), "secret") {
		t.Errorf("the error shows the password: %v", err)
	}
}
