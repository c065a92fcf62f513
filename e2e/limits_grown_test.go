package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// ends tells of each series of a job whether its last sample is a stale marker, by instance and name.
func ends(p *harness.Prometheus, job string) (map[string]bool, error) {
	all, err := p.Raw(harness.Labels{"job": job})
	out := map[string]bool{}
	for _, s := range all {
		out[fmt.Sprint(s.Labels["instance"], " ", s.Labels["__name__"], " ", s.Labels["series"])] = s.Samples[len(s.Samples)-1].Stale
	}
	return out, err
}

// A job whose discovery finds more targets than its target_limit while it runs: all of them are down with the reason and
// nobody asks them, what they had is stale, and once there are fewer they go on, series by series as at a real Prometheus.
func TestTargetLimitIsGrownOver(t *testing.T) {
	t.Parallel()
	all := targets.Many(t, "grown", 3, 3)
	beside := targets.New(t, "beside", 3)
	dir := t.TempDir()
	list, file := filepath.Join(dir, "grown.json"), filepath.Join(dir, "prometheus.yml")
	replace(t, list, fileSD(all[:2]...))
	replace(t, file, fmt.Sprintf(`
global: {scrape_interval: 1s, scrape_timeout: 900ms}
scrape_configs:
- {job_name: grown, target_limit: 2, file_sd_configs: [{files: [grown.json]}]}
- {job_name: beside, static_configs: [{targets: ['%s']}]}
`, beside.Host()))
	theirs := harness.StartPrometheusFile(t, ports.Next(t), file)
	central := harness.StartPrometheus(t, ports.Next(t), "global: {scrape_interval: 1m}\n", "--web.enable-remote-write-receiver")
	p := harness.StartProduct(t, builds, "standalone", ports.Next(t), standaloneYAML(t, "edge", "1s", fmt.Sprintf(
		"remote_write: [{url: '%s/api/v1/write'}]\n", central.URL)), "--prometheus.config", file).Ready(t)

	// both waits until the two have the same series of the job, as many, of which so many are stale.
	both := func(what string, series, stale int) {
		t.Helper()
		harness.Wait(t, 60*time.Second, what, func() error {
			a, err := ends(central, "grown")
			if err != nil {
				return err
			}
			b, err := ends(theirs, "grown")
			if err != nil {
				return err
			}
			n := 0
			for _, ended := range b {
				if ended {
					n++
				}
			}
			if !reflect.DeepEqual(a, b) || len(b) != series || n != stale {
				return fmt.Errorf("the centre has %v, Prometheus %v", a, b)
			}
			return nil
		})
	}
	const own, report = 1 + 3, 5 // series of a target, and those that each scrape has besides
	both("the targets are scraped", 2*(own+report), 0)
	replace(t, list, fileSD(all...))
	both("what the targets had is stale, and all three are down", 2*own+3*report, 2*own)
	for _, x := range []*harness.Prometheus{central, theirs} {
		if v, err := x.One(`max(up{job="grown"})`); err != nil || v != 0 {
			t.Errorf("%s: up %v, %v", x.URL, v, err)
		}
	}
	reason(t, p, "grown", "target_limit exceeded", "3 targets", "limit 2")
	p.WaitOutput(10*time.Second, `target_limit exceeded: no target of the job is scraped.*count=3.*limit=2`)
	p.WaitOutput(10*time.Second, `scrape failed, the target is down.*target_limit exceeded: 3 targets, limit 2`)
	if v := p.Metrics(t).Sum("prometheus_streams_scrape_exceeded_limit_total", harness.Labels{"limit": "target_limit"}); v == 0 {
		t.Error("target_limit is not counted")
	}
	asked := all[0].Numbers() + all[1].Numbers() + all[2].Numbers()
	besides := beside.Numbers()
	time.Sleep(3 * time.Second)
	if now := all[0].Numbers() + all[1].Numbers() + all[2].Numbers(); now != asked {
		t.Errorf("targets over the limit were asked %d times", now-asked)
	}
	if beside.Numbers() < besides+2 {
		t.Error("the target of another job is not asked any more")
	}
	replace(t, list, fileSD(all[1:]...))
	both("the targets that are left go on, the other one ends", 3*(own+report), own+report)
}

// exploding has as many series as it is told.
type exploding struct {
	*httptest.Server
	series atomic.Int64
}

func startExploding(t *testing.T) *exploding {
	x := &exploding{}
	x.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", textFormat)
		for i := range x.series.Load() {
			fmt.Fprintf(w, "exploding{user=\"%d\"} 1\n", i)
		}
	}))
	x.series.Store(50)
	t.Cleanup(x.Close)
	return x
}

// The limits of the whole poller: a target whose series explode is down, with the reason in log, metric and API, what it had
// is stale, its neighbours miss nothing, and it is whole again when it is as before.
func TestLimitsOfThePoller(t *testing.T) {
	t.Parallel()
	samples, series := startExploding(t), startExploding(t)
	beside := targets.New(t, "beside", 5)
	central := harness.StartPrometheus(t, ports.Next(t), "global: {scrape_interval: 1m}\n", "--web.enable-remote-write-receiver")
	p := startStandalone(t, standaloneYAML(t, "edge", "1s", fmt.Sprintf(`
poller: {sample_limit: 3000, series_limit: 4000}
remote_write: [{url: '%s/api/v1/write'}]
jobs: {job: {targets: [{name: beside, url: '%s'}]}}
scrape_configs:
- {job_name: sample_limit, sample_limit: 5000, static_configs: [{targets: ['%s']}]}
- {job_name: series_limit, static_configs: [{targets: ['%s']}]}
`, central.URL, beside.URL(), samples.Listener.Addr(), series.Listener.Addr())))
	exploded := map[string]*exploding{"sample_limit": samples, "series_limit": series}
	state := func(job string, up float64, user string, stale bool) {
		t.Helper()
		harness.Wait(t, 60*time.Second, fmt.Sprintf("%s: up is %v, and the series of user %s stale: %t", job, up, user, stale), func() error {
			if v, err := central.One(fmt.Sprintf("up{job=%q}", job)); err != nil || v != up {
				return fmt.Errorf("up %v, %v", v, err)
			}
			got, err := central.OneRaw(harness.Labels{"__name__": "exploding", "job": job, "user": user})
			if err == nil && got[len(got)-1].Stale != stale {
				err = fmt.Errorf("the last of %d samples: stale %t", len(got), !stale)
			}
			return err
		})
	}
	for job := range exploded {
		state(job, 1, "49", false)
	}
	samples.series.Store(3500) // of which the poller takes 3000, whatever the scrape config says
	series.series.Store(2999)
	time.Sleep(3 * time.Second)
	state("sample_limit", 0, "49", true)
	reason(t, p, "sample_limit", "sample_limit exceeded: 3500 samples after relabelling, limit 3000")
	// 2999 and the few of the others are within the limit; both targets together are not.
	state("series_limit", 1, "2998", false)
	series.series.Store(50)
	state("series_limit", 1, "2998", true)
	samples.series.Store(2500)
	state("sample_limit", 1, "2499", false)
	series.series.Store(2000)
	state("series_limit", 0, "49", true)
	reason(t, p, "series_limit", "series_limit exceeded: 2000 series beside the ", "limit 4000")
	state("sample_limit", 1, "2499", false)
	for job := range exploded {
		p.WaitOutput(10*time.Second, "scrape failed, the target is down.*"+job+" exceeded: ")
		if v := p.Metrics(t).Sum("prometheus_streams_scrape_exceeded_limit_total", harness.Labels{"limit": job}); v == 0 {
			t.Errorf("%s is not counted", job)
		}
	}
	// None of the thousands is left behind at the centre.
	if all, err := central.Raw(harness.Labels{"__name__": "exploding", "job": "series_limit"}); err != nil || len(all) != 2999 {
		t.Errorf("%d series: %v", len(all), err)
	}
	if n, err := central.Query(`count(exploding{job="series_limit"})`); err != nil || len(n) != 0 {
		t.Errorf("series of a target that is down: %v, %v", n, err)
	}
	for job, x := range exploded {
		x.series.Store(50)
		state(job, 1, "49", false)
	}
	got, err := central.OneRaw(harness.Labels{"__name__": harness.NumberMetric, "job": "job", "instance": "beside"})
	if err != nil || len(got) < 10 {
		t.Fatalf("%d samples of the neighbour: %v", len(got), err)
	}
	numbers(t, "beside", got)
	for _, x := range got {
		if x.Stale {
			t.Errorf("the neighbour was stale at %v", x.Time)
		}
	}
}
