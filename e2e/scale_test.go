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

// A poller with many targets misses no interval of any, spreads the scrapes over the interval as evenly as chance does, and
// does not ask all at once when it starts. E2E_TARGETS takes another number of targets, for twice as long.
func TestManyTargets(t *testing.T) {
	n, interval, rounds := 1000, 15*time.Second, 2
	if text := os.Getenv("E2E_TARGETS"); text != "" {
		n, _ = strconv.Atoi(text)
		rounds *= 2
	}
	f := startFleet(t, n, 500)
	stalled := watchStalls(t)
	p := startStandalone(t, standaloneYAML(t, "edge", interval.String(), fmt.Sprintf(
		"scrape_configs: [{job_name: fleet, http_sd_configs: [{url: '%s/sd', refresh_interval: 10m}]}]\n", f.URL)))
	begin := time.Now()
	time.Sleep(time.Duration(rounds)*interval + interval/2)
	skipped := p.Metrics(t).Sum("prometheus_streams_poller_skipped_scrapes_total", nil)
	stall := stalled()
	f.mu.Lock()
	defer f.mu.Unlock()

	var all, first []time.Time
	var late float64 // of the moment at which it was due, at most
	missed := 0
	for path, at := range f.asked {
		all, first = append(all, at...), append(first, at[0])
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
	// Those that are due while the machine stands still are asked together afterwards.
	held, rate := stall.Seconds(), float64(n)/interval.Seconds()
	uneven, herd := unevenness(first, interval), burst(first, herdWindow)
	t.Logf("%d targets x 500 series / %v: %d scrapes in %v, %d intervals missed, at most %.3f s off; at most %.1f%% of the targets from where an even spread has them; "+
		"at the start at most %d in %v (%.1f on average); %d MB of memory; this process stood still for %v", n, interval, len(all),
		time.Since(begin).Round(time.Second), missed, late, uneven*100, herd, herdWindow, rate*herdWindow.Seconds(), p.PeakMemory()>>20, stall)
	// By the Kolmogorov-Smirnov test, one spread of 8,000 that is due to chance is this uneven.
	if most := 2.2/math.Sqrt(float64(n)) + held/interval.Seconds(); uneven > most {
		t.Errorf("%.1f%% of the targets are not where an even spread has them, more than %.1f%%", uneven*100, most*100)
	}
	// By chance alone the fullest window has less than that many more than the mean.
	mean := rate * (herdWindow.Seconds() + held)
	if most := mean + 6*math.Sqrt(mean) + 6; float64(herd) > most {
		t.Errorf("%d targets were asked within %v at the start, more than %.0f", herd, herdWindow, most)
	}
}

// herdWindow is how long targets may not be asked too many at once.
const herdWindow = 100 * time.Millisecond

// unevenness is the largest difference, over all moments of the interval, between the share of scrapes that began by then
// and the share of the interval that is over.
func unevenness(at []time.Time, interval time.Duration) (most float64) {
	phases := make([]float64, 0, len(at))
	for _, x := range at {
		phases = append(phases, float64(x.UnixNano()%int64(interval))/float64(interval))
	}
	slices.Sort(phases)
	for i, x := range phases {
		n := float64(len(phases))
		most = max(most, math.Abs(float64(i)/n-x), math.Abs(float64(i+1)/n-x))
	}
	return most
}

// burst is how many began at most within any window of that length.
func burst(at []time.Time, window time.Duration) (most int) {
	slices.SortFunc(at, time.Time.Compare)
	from := 0
	for i := range at {
		for at[i].Sub(at[from]) > window {
			from++
		}
		most = max(most, i-from+1)
	}
	return most
}
