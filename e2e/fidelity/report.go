//go:build fidelity

package fidelity

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// What is printed at most, of a target and at all.
const shownOfTarget, shownAtAll = 6, 300

// near is how far the time of a scrape may be from the moment at which its target was asked; few may be further
// on a busy machine, besides those that Prometheus has too.
const near, few = 50 * time.Millisecond, 0.02

func newReport(x *site) *report {
	return &report{t: x.t, site: x, expected: map[string]int{}, expectable: map[string]int{}, expectedOf: map[string]map[string]int{}}
}

// report gathers the comparisons.
type report struct {
	t     testing.TB
	site  *site
	found []difference
	// expected and expectable add up those of the comparisons; expectedOf has the former by rule and target.
	expected, expectable map[string]int
	expectedOf           map[string]map[string]int
	samples              int
	series               int
	scrapes              int
	delays               [2][]time.Duration
}

func (r *report) add(c *comparison) {
	r.found = append(r.found, c.found...)
	for why, n := range c.expected {
		if r.expected[why] += n; r.expectedOf[why] == nil {
			r.expectedOf[why] = map[string]int{}
		}
		r.expectedOf[why][c.direct.target] += n
	}
	for why, n := range c.expectable {
		r.expectable[why] += n
	}
	r.samples += c.samples
	r.series += len(c.direct.series)
	r.scrapes += len(c.fed.numbers)
	r.delays[direct] = append(r.delays[direct], c.direct.delays...)
	r.delays[fed] = append(r.delays[fed], c.fed.delays...)
}

// headers compares what the two ask for.
func (r *report) headers(name string, e *exporter) {
	a, b := e.requests(direct), e.requests(fed)
	for i := range min(len(a), len(b)) {
		if a[i].headers != b[i].headers {
			r.found = append(r.found, difference{name, "", fmt.Sprint("request ", i+1), a[i].headers, b[i].headers})
			return
		}
	}
}

// metadata compares type, help and unit of the series that a strict server was sent with what Prometheus says of the targets that it
// scrapes. It takes the sum and count of a gauge histogram for its own only if they are called _gsum and _gcount.
func (r *report) metadata(x *site) {
	x.strict.mu.Lock()
	defer x.strict.mu.Unlock()
	for what, n := range x.strict.faults {
		r.found = append(r.found, difference{"remote write 2.0", "", what, "", fmt.Sprint(n, " times")})
	}
	compared, forgotten := 0, 0
	all := map[string]map[string]string{}
	for name := range x.fleet.all {
		var err error
		if all[name], err = metadataOf(x.direct, name); err != nil {
			r.t.Fatalf("metadata of %s: %v", name, err)
		}
	}
	for _, series := range slices.Sorted(maps.Keys(x.strict.said)) {
		who, name := labelOf(series, "who"), labelOf(series, "__name__")
		if who == "" || strings.HasPrefix(who, "removed-") || name == "up" || strings.HasPrefix(name, "scrape_") && name != "scrape_number" ||
			name == "timed_native" { // which is not shown any more at the end, and so not described
			continue
		}
		compared++
		want := none
		for _, suffix := range []string{"", "_total", "_bucket", "_sum", "_count", "_gsum", "_gcount", "_info"} {
			base, ok := strings.CutSuffix(name, suffix)
			said := all[who][base]
			gauge := strings.HasPrefix(said, `type "gaugehistogram"`)
			if ok && said != "" && (suffix == "" || suffix == "_bucket" || gauge == strings.HasPrefix(suffix, "_g")) {
				want = said
				break
			}
		}
		if want == none && (who == "changing" || strings.HasPrefix(who, "batches")) {
			// Prometheus forgets what the last ten scrapes did not describe: they were in other formats, or after the end, which
			// takes a while on a busy machine.
			forgotten++
			continue
		}
		if got := x.strict.said[series]; got != want {
			r.found = append(r.found, difference{"metadata", series, "", want, got})
		}
	}
	r.t.Logf("%d descriptions of series compared, and %d not that Prometheus has forgotten", compared-forgotten, forgotten)
}

// labelOf is a label of a series as labels.Labels prints it.
func labelOf(series, name string) string {
	_, rest, ok := strings.Cut(series, name+`="`)
	if !ok {
		return ""
	}
	v, _, _ := strings.Cut(rest, `"`)
	return v
}

// metadataOf is what a Prometheus says of each family of a target.
func metadataOf(p *harness.Prometheus, name string) (map[string]string, error) {
	status, body, err := harness.Get(p.URL + "/api/v1/targets/metadata?match_target=" + url.QueryEscape(fmt.Sprintf("{who=%q}", name)))
	if err != nil {
		return nil, err
	}
	if status == http.StatusNotFound { // none
		return nil, nil
	}
	var answer struct {
		Data []struct{ Metric, Type, Help, Unit string }
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || status != http.StatusOK {
		return nil, fmt.Errorf("status %d: %.200s: %v", status, body, err)
	}
	out := map[string]string{}
	for _, m := range answer.Data {
		out[m.Metric] = description(m.Type, m.Help, m.Unit)
	}
	return out, nil
}

// starts checks that the time at which a counter was created arrives.
func (r *report) starts(x *site) {
	x.strict.mu.Lock()
	defer x.strict.mu.Unlock()
	counters, histograms := 0, 0
	for series, got := range x.strict.starts {
		var want int64
		switch labelOf(series, "who") + " " + labelOf(series, "__name__") {
		case "mixed-protobuf requests_total":
			counters++
			code, err := strconv.Atoi(labelOf(series, "code"))
			if err != nil {
				r.t.Fatal(err)
			}
			want = x.fleet.w.begin.Add(-time.Hour).Add(time.Duration(code-200) * time.Second).UnixMilli()
		case "mixed-native native_seconds":
			histograms++
			want = x.fleet.w.begin.Add(-2 * time.Hour).UnixMilli()
		default:
			continue
		}
		if got != want {
			r.found = append(r.found, difference{"start timestamps", series, "", fmt.Sprint(want), fmt.Sprint(got)})
		}
	}
	if counters != 12 || histograms != 6 {
		r.t.Errorf("start timestamps of %d counters and %d native histograms, want 12 and 6", counters, histograms)
	}
}

func (r *report) print() {
	var share [2]float64
	for who, all := range r.delays {
		slices.Sort(all)
		if len(all) == 0 {
			continue
		}
		far := 0
		for _, d := range all {
			if d > near || d < -near {
				far++
			}
		}
		n := len(all)
		r.t.Logf("%s: targets were asked after the time of the scrape: least %v, median %v, 99%% %v, most %v; %d of %d beyond %v",
			asker(who), all[0], all[n/2], all[n*99/100], all[n-1], far, n, near)
		share[who] = float64(far) / float64(n)
	}
	if share[fed] > few+2*share[direct] {
		r.t.Errorf("of %.1f%% of the poller's scrapes the time is more than %v away, of %.1f%% of the others", 100*share[fed], near, 100*share[direct])
	}
	r.t.Logf("%d targets, %d series, %d scrapes, %d samples, markers and exemplars compared", len(r.site.fleet.all), r.series, r.scrapes, r.samples)
	r.checkRules()
	byTarget := map[string]int{}
	var b strings.Builder
	shown := 0
	for _, d := range r.found {
		if byTarget[d.target]++; byTarget[d.target] <= shownOfTarget && shown < shownAtAll {
			shown++
			fmt.Fprintln(&b, d)
		}
	}
	if len(r.found) > 0 {
		r.t.Errorf("%d differences; by target %v\n%s", len(r.found), byTarget, b.String())
	}
}
