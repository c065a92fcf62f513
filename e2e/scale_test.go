package e2e

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// fleet is many targets behind one address, told apart by their paths, that notes when each was asked.
type fleet struct {
	*httptest.Server
	labels []string // of the series of a page

	mu    sync.Mutex
	asked map[string][]time.Time
}

func startFleet(t *testing.T, n, series int) *fleet {
	t.Helper()
	f := &fleet{asked: map[string][]time.Time{}}
	for i := range series {
		f.labels = append(f.labels, fmt.Sprintf("fleet_value{series=\"%d\",kind=\"%d\"} ", i, i%7))
	}
	var groups []any
	for i := range n {
		groups = append(groups, map[string]any{"targets": []string{"ADDRESS"},
			"labels": map[string]string{"__metrics_path__": fmt.Sprintf("/target/%d", i), "instance": fmt.Sprintf("host-%d", i)}})
	}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/sd" {
			text, _ := json.Marshal(groups)
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, strings.ReplaceAll(string(text), "ADDRESS", f.Listener.Addr().String()))
			return
		}
		f.mu.Lock()
		f.asked[r.URL.Path] = append(f.asked[r.URL.Path], time.Now())
		number := len(f.asked[r.URL.Path])
		f.mu.Unlock()
		w.Header().Set("Content-Type", textFormat)
		page := make([]byte, 0, 64<<10)
		for i, l := range f.labels {
			page = strconv.AppendInt(append(page, l...), int64(number*i), 10)
			page = append(page, '\n')
		}
		_, _ = w.Write(page)
	}))
	t.Cleanup(f.Close)
	return f
}

// A poller with many targets misses no interval of any, spreads the scrapes over the interval, and does not ask all at once
// when it starts. E2E_TARGETS=1000 is the long form, at an interval of 15 seconds.
func TestManyTargets(t *testing.T) {
	n, interval, rounds := 300, 5*time.Second, 4
	if text := os.Getenv("E2E_TARGETS"); text != "" {
		n, _ = strconv.Atoi(text)
		interval = 15 * time.Second
	}
	f := startFleet(t, n, 500)
	p := startStandalone(t, standaloneYAML(t, "edge", interval.String(), fmt.Sprintf(
		"scrape_configs: [{job_name: fleet, http_sd_configs: [{url: '%s/sd', refresh_interval: 10m}]}]\n", f.URL)))
	begin := time.Now()
	time.Sleep(time.Duration(rounds)*interval + interval/2)
	skipped := p.Metrics(t).Sum("prometheus_streams_poller_skipped_scrapes_total", nil)
	f.mu.Lock()
	defer f.mu.Unlock()

	var all []time.Time
	var late float64 // of the moment at which it was due, at most
	missed := 0
	for path, at := range f.asked {
		all = append(all, at...)
		for i := 1; i < len(at); i++ {
			gap := at[i].Sub(at[i-1])
			late = max(late, math.Abs((gap - interval).Seconds()))
			if gap > interval*3/2 {
				missed++
				t.Errorf("%s was not asked for %v", path, gap)
			}
		}
		if len(at) < rounds {
			t.Errorf("%s was asked %d times", path, len(at))
		}
	}
	if len(f.asked) != n || skipped != 0 {
		t.Errorf("%d of %d targets were asked, %v scrapes skipped", len(f.asked), n, skipped)
	}
	slices.SortFunc(all, time.Time.Compare)
	var tenths [10]int
	for _, x := range all {
		if x.Before(all[0].Add(time.Duration(rounds) * interval)) {
			tenths[x.Sub(all[0])%interval*10/interval]++
		}
	}
	mean := float64(n*rounds) / 10
	least, most := float64(slices.Min(tenths[:])), float64(slices.Max(tenths[:]))
	// The start: how many are asked in any tenth of a second of the first interval, and how many are due on average.
	burst, first := 0, 0
	for i, x := range all {
		if x.Sub(all[0]) > interval {
			break
		}
		for all[i].Sub(all[first]) > 100*time.Millisecond {
			first++
		}
		burst = max(burst, i-first+1)
	}
	average := float64(n) / interval.Seconds() / 10
	t.Logf("%d targets x 500 series / %v: %d scrapes in %v, %d intervals missed, at most %.3f s off; in the tenths of the interval %.0f%% to %.0f%% of the mean; "+
		"at the start at most %d in 100 ms (%.1f on average); %d MB of memory", n, interval, len(all), time.Since(begin).Round(time.Second), missed, late,
		least/mean*100, most/mean*100, burst, average, p.PeakMemory()>>20)
	if least < mean*0.5 || most > mean*1.5 {
		t.Errorf("tenths of the interval: %v, mean %.0f", tenths, mean)
	}
	// A machine that stands still for a while makes a burst too, but not of so many.
	if burst > n/4 {
		t.Errorf("%d targets were asked within 100 ms at the start", burst)
	}
}
