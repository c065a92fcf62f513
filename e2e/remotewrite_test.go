package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// startWritten starts a Prometheus that scrapes nothing and takes remote write.
func startWritten(t testing.TB) *harness.Prometheus {
	t.Helper()
	return harness.StartPrometheus(t, ports.Next(t), "global: {scrape_interval: 1m}\n", "--web.enable-remote-write-receiver")
}

// remoteWriteYAML is a remote_write block.
func remoteWriteYAML(p *harness.Prometheus, more string) string {
	return fmt.Sprintf("remote_write:\n- url: %s/api/v1/write\n  name: central\n%s", p.URL, more)
}

// eachProtocol runs a test once for each version of remote write.
func eachProtocol(t *testing.T, f func(t *testing.T, protocol string)) {
	t.Parallel()
	for _, p := range []string{"1", "2"} {
		t.Run("protocol "+p, func(t *testing.T) {
			t.Parallel()
			f(t, "  protocol: "+p+"\n")
		})
	}
}

// samplesOf are the samples of one of a target's series, stale markers among them.
func samplesOf(p *harness.Prometheus, g *harness.Target, series int) ([]harness.RawSample, error) {
	return p.OneRaw(harness.Labels{"__name__": harness.ValueMetric, "job": "edge", "instance": g.Name, "series": strconv.Itoa(series)})
}

// checkSamples compares all samples of a target with what it served: each scrape there once, in order, with the time at
// which it was asked for. It gives the number of stale markers.
func checkSamples(p *harness.Prometheus, g *harness.Target, series int, atLeast int) (markers int, err error) {
	samples, err := samplesOf(p, g, series)
	if err != nil {
		return 0, err
	}
	return compareSamples(samples, g, series, atLeast)
}

// checkTarget is checkSamples for all series of a target, each of which has as many samples as the others and as few markers, and for
// the reports on its scrapes.
func checkTarget(p *harness.Prometheus, g *harness.Target, atLeast int) error {
	all, err := p.Raw(harness.Labels{"job": "edge", "instance": g.Name})
	if err != nil {
		return err
	}
	count, values := 0, map[string]bool{}
	for _, s := range all {
		count = max(count, len(s.Samples))
	}
	for _, s := range all {
		if s.Labels["__name__"] == harness.ValueMetric {
			i, err := strconv.Atoi(s.Labels["series"])
			if err != nil {
				return err
			}
			values[s.Labels["series"]] = true
			if markers, err := compareSamples(s.Samples, g, i, atLeast); err != nil || markers > 0 {
				return fmt.Errorf("series %d, with %d markers: %w", i, markers, err)
			}
		}
		for n, x := range s.Samples {
			if name := s.Labels["__name__"]; name == harness.NumberMetric && x.Value != float64(n+1) || name == "up" && x.Value != 1 || x.Stale {
				return fmt.Errorf("%v: sample %d is %v", s.Labels, n+1, x.Value)
			}
		}
		if len(s.Samples) != count { // an answer may have come in the middle of a write
			return fmt.Errorf("%v: %d samples, others have %d", s.Labels, len(s.Samples), count)
		}
	}
	if len(values) != g.Series || len(all) != g.Series+1+sink.ReportSeries {
		return fmt.Errorf("%d series, %d of them values, want %d and %d", len(all), len(values), g.Series+1+sink.ReportSeries, g.Series)
	}
	return nil
}

// compareSamples is checkSamples for samples that were read somewhere.
func compareSamples(samples []harness.RawSample, g *harness.Target, series, atLeast int) (markers int, err error) {
	served := g.Served()
	number := 0
	for _, s := range samples {
		if s.Stale {
			markers++
			continue
		}
		number++
		if want := harness.Value(g.ID, number, series); s.Value != want {
			_, got := harness.Of(s.Value)
			return markers, fmt.Errorf("sample %d is of scrape %d: %v, want %v", number, got, s.Value, want)
		}
		if d := served[number-1].Asked.Sub(s.Time); d < -time.Millisecond || d > time.Second {
			return markers, fmt.Errorf("scrape %d has the time %v, the target was asked %v later", number, s.Time, d)
		}
	}
	if number < atLeast {
		return markers, fmt.Errorf("%d scrapes, want %d", number, atLeast)
	}
	return markers, nil
}

// Every sample with its value and time, and stale markers when a series or a target goes away.
func TestRemoteWriteToPrometheus(t *testing.T) {
	eachProtocol(t, func(t *testing.T, protocol string) {
		central := startWritten(t)
		g := targets.New(t, "alpha", 20)
		startStandalone(t, standaloneYAML(t, "site", "1s", harness.JobsYAML("edge", g)+remoteWriteYAML(central, protocol)))
		for i := range 20 {
			harness.Wait(t, 20*time.Second, "scrapes are in Prometheus", func() error {
				_, err := checkSamples(central, g, i, 3)
				return err
			})
		}
		g.Down()
		up := harness.Labels{"__name__": "up", "job": "edge", "instance": g.Name}
		var down time.Time
		harness.Wait(t, 20*time.Second, "up is 0", func() error {
			samples, err := central.OneRaw(up)
			for _, s := range samples {
				if s.Value == 0 {
					down = s.Time
					return nil
				}
			}
			return errors.Join(err, errors.New("up is 1"))
		})
		for i := range 20 {
			samples, err := samplesOf(central, g, i)
			if err != nil {
				t.Fatal(err)
			}
			if last := samples[len(samples)-1]; !last.Stale || !last.Time.Equal(down) {
				t.Errorf("series %d ends with %+v, want a stale marker at %v", i, last, down)
			}
		}
		g.Up(t)
		before := g.Numbers()
		harness.Wait(t, 20*time.Second, "it goes on", func() error {
			markers, err := checkSamples(central, g, 19, before+2)
			if err == nil && markers != 1 {
				err = fmt.Errorf("%d stale markers", markers)
			}
			return err
		})
		// One series vanishes.
		g.Answer(http.StatusOK, "text/plain", fmt.Sprintf("%s{series=\"0\"} 5\n", harness.ValueMetric))
		harness.Wait(t, 20*time.Second, "a series that is gone is stale", func() error {
			samples, err := samplesOf(central, g, 19)
			if err == nil && !samples[len(samples)-1].Stale {
				err = errors.New("no stale marker")
			}
			return err
		})
		if samples, err := samplesOf(central, g, 0); err != nil || samples[len(samples)-1].Value != 5 {
			t.Errorf("the series that is left: %v, %v", samples, err)
		}
	})
}

// Prometheus is killed with -9 and comes back, then it hangs for a while: nothing is missing.
func TestRemoteWriteKilled(t *testing.T) {
	eachProtocol(t, func(t *testing.T, protocol string) {
		central := startWritten(t)
		g, h := targets.New(t, "alpha", 20), targets.New(t, "beta", 5)
		p := startStandalone(t, standaloneYAML(t, "site", "1s", harness.JobsYAML("edge", g, h)+remoteWriteYAML(central, protocol+"  remote_timeout: 1s\n")))
		harness.Wait(t, 20*time.Second, "scrapes are in Prometheus", func() error { _, err := checkSamples(central, g, 3, 2); return err })
		for _, kill := range []bool{true, false} {
			if kill {
				central.Kill()
			} else {
				central.Freeze()
			}
			now := g.Numbers()
			harness.Wait(t, 20*time.Second, "scrapes go on", func() error {
				if n := g.Numbers(); n < now+4 {
					return fmt.Errorf("%d scrapes", n-now)
				}
				return nil
			})
			if kill {
				central.Restart(t)
			} else {
				central.Thaw()
			}
		}
		want, wantH := g.Numbers(), h.Numbers()
		harness.Wait(t, 30*time.Second, "every sample of every series is in Prometheus", func() error {
			return errors.Join(checkTarget(central, g, want), checkTarget(central, h, wantH))
		})
		if n := p.Metrics(t).Sum("prometheus_streams_remote_write_dropped_samples_total", nil); n != 0 {
			t.Errorf("%v samples dropped", n)
		}
	})
}

// One series that Prometheus refuses, because it has a newer sample of it, costs only that series, and each of its samples
// is counted once.
func TestRemoteWriteOneSeriesRefused(t *testing.T) {
	eachProtocol(t, func(t *testing.T, protocol string) {
		central := startWritten(t)
		g := targets.New(t, "alpha", 50)
		bad := harness.Labels{"__name__": harness.ValueMetric, "job": "edge", "instance": g.Name, "series": "17"}
		if err := central.Write(bad, time.Now().Add(5*time.Minute), -1); err != nil {
			t.Fatal(err)
		}
		p := startStandalone(t, standaloneYAML(t, "site", "1s", harness.JobsYAML("edge", g)+remoteWriteYAML(central, protocol)))
		for i := range 50 {
			if i == 17 {
				continue
			}
			harness.Wait(t, 30*time.Second, "the other series are in Prometheus", func() error {
				_, err := checkSamples(central, g, i, 5)
				return err
			})
		}
		g.Down()
		harness.Wait(t, 20*time.Second, "the losses are as many as the samples", func() error {
			others, err := samplesOf(central, g, 18)
			if err != nil {
				return err
			}
			if !others[len(others)-1].Stale {
				return errors.New("no stale marker yet")
			}
			m := p.Metrics(t)
			lost := m.Sum("prometheus_streams_remote_write_dropped_samples_total",
				harness.Labels{"reason": "out_of_order", "publisher": "site", "sink": "remote_write-central"})
			if all := m.Sum("prometheus_streams_remote_write_dropped_samples_total", nil); int(lost) != len(others) || all != lost {
				return fmt.Errorf("%v samples counted as lost, %v of them as out of order, the series beside it has %d", all, lost, len(others))
			}
			return nil
		})
		scrapes := g.Numbers()
		for i := range 50 {
			if i == 17 {
				continue
			}
			if markers, err := checkSamples(central, g, i, scrapes); err != nil || markers != 1 {
				t.Errorf("series %d, with %d markers: %v", i, markers, err)
			}
		}
		if samples, err := central.OneRaw(bad); err != nil || len(samples) != 1 {
			t.Errorf("the series that is refused: %v, %v", samples, err)
		}
		if n := p.Metrics(t).Sum("prometheus_streams_remote_write_pending_frames", nil); n > 2 {
			t.Errorf("%v frames wait", n)
		}
	})
}

// The receiver is killed with -9, then stopped: no scrape is missing, nothing counts as lost, and a series that vanishes
// while none runs gets its stale marker.
func TestRemoteWriteReceiverRestarted(t *testing.T) {
	t.Parallel()
	server, central := startNATS(t, ""), startWritten(t)
	receiver := startReceiver(t, fmt.Sprintf(`
identity: centre
receiver_stream:
  urls: %s
  topic: prometheus
  stream: PROMETHEUS
receiver:
  state_directory: %s
%s`, server.URL, t.TempDir(), remoteWriteYAML(central, "")))
	g := targets.New(t, "alpha", 20)
	startPoller(t, pollerYAML(server, "site", "1s", harness.JobsYAML("edge", g))).Ready(t)
	written := func(atLeast int) {
		harness.Wait(t, 30*time.Second, "scrapes are in Prometheus", func() error {
			return checkTarget(central, g, atLeast)
		})
	}
	written(2)
	receiver.Kill()
	time.Sleep(3 * time.Second)
	receiver.Restart(t)
	receiver.Ready(t)
	written(g.Numbers() + 1)
	if n := receiver.Metrics(t).Sum("prometheus_streams_remote_write_dropped_samples_total", nil); n != 0 {
		t.Errorf("%v samples dropped", n)
	}
	if code, _ := receiver.Stop(15 * time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
	g.Answer(http.StatusOK, "text/plain", fmt.Sprintf("%s{series=\"0\"} 5\n", harness.ValueMetric))
	time.Sleep(2 * time.Second)
	receiver.Restart(t)
	harness.Wait(t, 30*time.Second, "the series that vanished is stale", func() error {
		samples, err := samplesOf(central, g, 19)
		if err == nil && !samples[len(samples)-1].Stale {
			err = errors.New("no stale marker")
		}
		return err
	})
	if v := receiver.Metrics(t).Sum("prometheus_streams_remote_write_protocol_version", nil); v != 2 {
		t.Errorf("version %v of remote write is spoken to Prometheus", v)
	}
}
