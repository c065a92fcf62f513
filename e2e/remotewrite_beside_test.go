package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// arrivals is a server of remote write 2.0 that notes when each scrape of each target was complete there.
type arrivals struct {
	*httptest.Server

	mu     sync.Mutex
	series int // of a target
	// there has the scrapes by target and number.
	there  map[[2]int]*arrival
	faults []string
}

// arrival is one scrape of one target: which of its series came, and how old the last of them was.
type arrival struct {
	came  []bool
	count int
	lag   time.Duration
}

func startArrivals(t *testing.T, series int) *arrivals {
	a := &arrivals{series: series, there: map[[2]int]*arrival{}}
	a.Server = httptest.NewServer(http.HandlerFunc(a.serve))
	t.Cleanup(a.Close)
	return a
}

func (a *arrivals) serve(w http.ResponseWriter, r *http.Request) {
	var m writev2.Request
	body, err := io.ReadAll(r.Body)
	if err == nil {
		body, err = snappy.Decode(nil, body)
	}
	if err == nil {
		err = m.Unmarshal(body)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		a.faults = append(a.faults, err.Error())
	}
	now, samples := time.Now(), 0
	for i := range m.Timeseries {
		ts := &m.Timeseries[i]
		samples += len(ts.Samples)
		if m.Symbols[ts.LabelsRefs[1]] != harness.ValueMetric { // the name is the first label
			continue
		}
		for _, x := range ts.Samples {
			a.take(x, now)
		}
	}
	w.Header().Set("X-Prometheus-Remote-Write-Samples-Written", fmt.Sprint(samples))
	w.WriteHeader(http.StatusNoContent)
}

func (a *arrivals) take(x writev2.Sample, now time.Time) {
	id, number := harness.Of(x.Value)
	i := int((x.Value - harness.Value(id, number, 0)) * 4096)
	if x.Value != harness.Value(id, number, i) || i >= a.series {
		a.faults = append(a.faults, fmt.Sprint("a sample of ", x.Value))
		return
	}
	key := [2]int{id, number}
	s := a.there[key]
	if s == nil {
		s = &arrival{came: make([]bool, a.series)}
		a.there[key] = s
	}
	if s.came[i] {
		a.faults = append(a.faults, fmt.Sprintf("series %d of scrape %d of target %d again", i, number, id))
		return
	}
	s.came[i] = true
	s.count++
	s.lag = max(s.lag, now.Sub(time.UnixMilli(x.Timestamp)))
}

// complete tells whether every series of every scrape of a target up to a number came, each once.
func (a *arrivals) complete(g *harness.Target, last int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.faults) > 0 {
		return fmt.Errorf("%d faults, first %s", len(a.faults), a.faults[0])
	}
	for n := 1; n <= last; n++ {
		if s := a.there[[2]int{g.ID, n}]; s == nil || s.count != a.series {
			return fmt.Errorf("scrape %d of %s is not there with all series", n, g.Name)
		}
	}
	return nil
}

// lags are those of the scrapes from one number to another, sorted: the same ones at each server.
func (a *arrivals) lags(all []*harness.Target, from, to int) (out []time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, g := range all {
		for n := from; n <= to; n++ {
			out = append(out, a.there[[2]int{g.ID, n}].lag)
		}
	}
	slices.Sort(out)
	return out
}

// hungServer takes connections and answers none.
func hungServer(t *testing.T) string {
	l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", ports.Next(t)))
	if err != nil {
		t.Fatal(err)
	}
	var held []net.Conn
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			held = append(held, c)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-ended
		for _, c := range held {
			c.Close()
		}
	})
	return "http://" + l.Addr().String()
}

// A Push Gateway that is dead for the whole test, hung or refusing connections, does not slow remote write: of 25,000 series
// every two seconds each sample arrives, as soon as at a receiver that has no Push Gateway. All three get the same scrapes at
// the same moments, so that a busy machine is as busy for each.
func TestRemoteWriteBesideDeadPushGateway(t *testing.T) {
	const count, series, interval, scrapes, first = 50, 500, 2 * time.Second, 14, 3
	server := startNATS(t, "")
	dead := map[string]string{"none": "", "hung": hungServer(t), "refusing": fmt.Sprintf("http://127.0.0.1:%d", ports.Next(t))}
	names := []string{"none", "hung", "refusing"}
	written, receivers := map[string]*arrivals{}, map[string]*harness.Product{}
	for _, name := range names {
		written[name] = startArrivals(t, series)
		config := fmt.Sprintf("identity: centre\nreceiver_stream:\n  client_id: %s\n  urls: %s\n  topic: prometheus\n  stream: PROMETHEUS\n"+
			"receiver:\n  state_directory: %s\nremote_write:\n- {name: central, url: %s, protocol: 2}\n", name, server.URL, t.TempDir(), written[name].URL)
		if dead[name] != "" {
			config += "push_gateway: {url: '" + dead[name] + "'}\n"
		}
		receivers[name] = startReceiver(t, config)
	}
	all := targets.Many(t, "node", count, series)
	poller := startPoller(t, pollerYAML(server, "site", interval.String(), harness.JobsYAML("edge", all...))).Ready(t)
	harness.Wait(t, scrapes*interval+time.Minute, "the targets are scraped", func() error {
		for _, g := range all {
			if n := g.Numbers(); n < scrapes {
				return fmt.Errorf("%d scrapes of %s", n, g.Name)
			}
		}
		return nil
	})
	stopWell(t, poller.Process)
	harness.Wait(t, 30*time.Second, "every sample is there", func() error {
		var errs []error
		for _, name := range names {
			for _, g := range all {
				if err := written[name].complete(g, g.Numbers()); err != nil {
					errs = append(errs, fmt.Errorf("%s: %w", name, err))
				}
			}
		}
		return errors.Join(errs...)
	})
	lags := map[string][]time.Duration{}
	for _, name := range names {
		lags[name] = written[name].lags(all, first, scrapes)
	}
	at := func(name string, part int) time.Duration {
		return lags[name][len(lags[name])*part/100].Round(time.Millisecond)
	}
	for _, name := range names {
		t.Logf("Push Gateway %s: lag p50 %v, p90 %v, p99 %v", name, at(name, 50), at(name, 90), at(name, 99))
	}
	for _, name := range names[1:] {
		for part, more := range map[int]time.Duration{50: interval / 20, 90: interval / 10} {
			if with, without := at(name, part), at("none", part); with > without+without/2+more {
				t.Errorf("Push Gateway %s: of 100 scrapes %d arrive within %v, without one within %v", name, part, with, without)
			}
		}
		checkDead(t, name, receivers[name], count)
	}
}

// checkDead checks that a receiver had work for its Push Gateway all the time, and what it wrote besides.
func checkDead(t *testing.T, name string, p *harness.Product, groups int) {
	t.Helper()
	m := p.Metrics(t)
	sum := func(name string) float64 { return m.Sum("prometheus_streams_"+name, nil) }
	if a, b := sum("pushgateway_samples_total"), sum("pushgateway_waiting_groups"); a != 0 || int(b) < groups { // those of the targets, and of the poller itself
		t.Errorf("Push Gateway %s took %v samples, %v groups wait", name, a, b)
	}
	if n := sum("pushgateway_retries_total"); n == 0 && !strings.Contains(name, "hung") { // whose first request is not over yet
		t.Errorf("Push Gateway %s: no retries", name)
	}
	if n := sum("remote_write_dropped_samples_total") + sum("remote_write_retries_total"); n != 0 {
		t.Errorf("Push Gateway %s: %v samples dropped or requests repeated by remote write", name, n)
	}
}
