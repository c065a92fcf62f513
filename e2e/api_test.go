package e2e

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
	"github.com/choria-io/prometheus-streams/internal/tlsconf/tlstest"
)

// apiTarget is a target as Prometheus' API tells it, without what differs from moment to moment and host to host.
type apiTarget struct {
	DiscoveredLabels, Labels                             map[string]string
	ScrapePool, ScrapeURL, ScrapeInterval, ScrapeTimeout string
}

func (t apiTarget) String() string {
	return fmt.Sprintf("%s %s %s %s %v %v", t.ScrapePool, t.ScrapeURL, t.ScrapeInterval, t.ScrapeTimeout, t.Labels, t.DiscoveredLabels)
}

// apiTargets are the answer of /api/v1/targets.
type apiTargets struct {
	ActiveTargets, DroppedTargets []apiTarget
	DroppedTargetCounts           map[string]int
}

// ask asks a process by Prometheus' API.
func ask(url, path string, into any) error {
	status, body, err := harness.Get(url + path)
	if err != nil {
		return err
	}
	answer := struct {
		Status string
		Data   any
	}{Data: into}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || status != http.StatusOK || answer.Status != "success" {
		return fmt.Errorf("%s: status %d, %q: %s: %w", path, status, answer.Status, body, err)
	}
	return nil
}

// listed asks for targets, in order and without those of the process itself.
func listed(url, query string) (all apiTargets, err error) {
	if err := ask(url, "/api/v1/targets"+query, &all); err != nil {
		return all, err
	}
	own := func(t apiTarget) bool { return t.ScrapePool == "prometheus_streams" }
	all.ActiveTargets = slices.DeleteFunc(all.ActiveTargets, own)
	delete(all.DroppedTargetCounts, "prometheus_streams")
	order := func(a, b apiTarget) int { return cmp.Compare(a.String(), b.String()) }
	slices.SortFunc(all.ActiveTargets, order)
	slices.SortFunc(all.DroppedTargets, order)
	return all, nil
}

// differ tells what only one of two lists has.
func differ(ours, theirs []apiTarget) string {
	var b strings.Builder
	count := map[string]int{}
	for _, t := range ours {
		count[t.String()]++
	}
	for _, t := range theirs {
		count[t.String()]--
	}
	for text, n := range count {
		if n > 0 {
			fmt.Fprintf(&b, "only ours: %s\n", text)
		} else if n < 0 {
			fmt.Fprintf(&b, "only Prometheus': %s\n", text)
		}
	}
	return b.String()
}

// same checks that two processes list the same targets.
func same(ours, theirs, query string, atLeast int) error {
	a, err := listed(ours, query)
	if err != nil {
		return err
	}
	b, err := listed(theirs, query)
	if err != nil {
		return err
	}
	if d := differ(a.ActiveTargets, b.ActiveTargets) + differ(a.DroppedTargets, b.DroppedTargets); d != "" {
		return fmt.Errorf("%q:\n%s", query, d)
	}
	if !reflect.DeepEqual(a.DroppedTargetCounts, b.DroppedTargetCounts) {
		return fmt.Errorf("%q: dropped %v, Prometheus' %v", query, a.DroppedTargetCounts, b.DroppedTargetCounts)
	}
	if n := len(b.ActiveTargets) + len(b.DroppedTargets); n < atLeast {
		return fmt.Errorf("%q: only %d targets", query, n)
	}
	return nil
}

// everyKey writes a Prometheus file with every key, and what belongs to it.
func everyKey(t *testing.T) (file string) {
	t.Helper()
	dir := t.TempDir()
	ca := tlstest.NewCA(t, "ca")
	pair := ca.Issue(t, "edge", time.Now().Add(time.Hour))
	sd := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `[{"targets": ["h1:1", "h2:2"], "labels": {"__meta_rack": "1"}}, {"targets": ["h3:3"], "labels": {"__meta_rack": "2", "own": "x"}}]`)
	}))
	t.Cleanup(sd.Close)
	text, err := os.ReadFile(filepath.Join(harness.Root(), "internal", "target", "testdata", "everykey.yml"))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"prometheus.yml": strings.NewReplacer("ADDRESS", sd.Listener.Addr().String(), `"CA_PEM"`, strconv.Quote(string(ca.PEM())),
			`"CERT_PEM"`, strconv.Quote(string(pair.CertPEM)), `"KEY_PEM"`, strconv.Quote(string(pair.KeyPEM))).Replace(string(text)),
		"ca.pem": string(ca.PEM()), "cert.pem": string(pair.CertPEM), "key.pem": string(pair.KeyPEM), "token": "hunter8", "header": "hunter9",
		"targets.json":  `[{"targets": ["f:1", "f:2"], "labels": {"a": "b"}}, {"targets": []}]`,
		"targets2.json": `[{"targets": ["f:3"], "labels": {"__scheme__": "https", "__metrics_path__": "/own", "__scrape_interval__": "3h"}}]`,
		"more.yml":      "- targets: ['y:1']\n  labels: {job: its own}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "prometheus.yml")
}

// For the same file, with every key of scrape configs and each way to come to labels, we list what a real Prometheus
// lists: labels before and after relabelling, URLs, intervals, what was dropped.
func TestTargetsAreThoseOfPrometheus(t *testing.T) {
	t.Parallel()
	ways := filepath.Join(harness.Root(), "internal", "target", "testdata", "scrapeconfigs.yaml")
	for name, tc := range map[string]struct {
		file    string
		targets int
	}{
		"every key": {everyKey(t), 46},
		"labels":    {ways, 35},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(tc.file)
			if err != nil {
				t.Fatal(err)
			}
			theirs := harness.StartPrometheusFile(t, ports.Next(t), tc.file)
			ours := harness.StartProduct(t, builds, "standalone", ports.Next(t), standaloneYAML(t, "edge", "1h", ""), "--prometheus.config", tc.file).Ready(t)
			harness.Wait(t, 90*time.Second, "the targets are the same", func() error { return same(ours.URL, theirs.URL, "", tc.targets) })
			for _, query := range []string{"?state=active", "?state=dropped", "?state=any&scrapePool=file", "?scrapePool=none", "?state=x"} {
				if err := same(ours.URL, theirs.URL, query, 0); err != nil {
					t.Error(err)
				}
			}
			samePools(t, ours.URL, theirs.URL)
			sameShape(t, ours.URL, theirs.URL)
			var config struct{ YAML string }
			if err := ask(ours.URL, "/api/v1/status/config", &config); err != nil || !strings.Contains(config.YAML, "identity: edge") ||
				strings.Count(config.YAML, "job_name: ") < strings.Count(string(text), "job_name: ") || strings.Contains(config.YAML, "hunter") {
				t.Errorf("configuration: %v: %s", err, config.YAML)
			}
			checkTargetsKnows(t, ours, tc.file, strings.Count(string(text), "job_name"))
		})
	}
}

func samePools(t *testing.T, ours, theirs string) {
	t.Helper()
	var a, b struct{ ScrapePools []string }
	if err := ask(ours, "/api/v1/scrape_pools", &a); err != nil {
		t.Error(err)
	}
	if err := ask(theirs, "/api/v1/scrape_pools", &b); err != nil {
		t.Error(err)
	}
	a.ScrapePools = slices.DeleteFunc(a.ScrapePools, func(s string) bool { return s == "prometheus_streams" })
	if !slices.Equal(a.ScrapePools, b.ScrapePools) {
		t.Errorf("scrape pools %q, Prometheus' %q", a.ScrapePools, b.ScrapePools)
	}
}

// sameShape checks that all answers have the same keys, of the same kinds of values.
func sameShape(t *testing.T, ours, theirs string) {
	t.Helper()
	for _, path := range []string{"/api/v1/targets", "/api/v1/scrape_pools", "/api/v1/status/config", "/api/v1/status/buildinfo"} {
		var shapes [2]map[string]string
		for i, url := range []string{ours, theirs} {
			_, body, err := harness.Get(url + path)
			var answer any
			if err == nil {
				err = json.Unmarshal([]byte(body), &answer)
			}
			if err != nil {
				t.Errorf("%s: %v", path, err)
			}
			shapes[i] = map[string]string{}
			shape("", answer, shapes[i])
		}
		if !reflect.DeepEqual(shapes[0], shapes[1]) {
			t.Errorf("%s: %v, Prometheus' %v", path, shapes[0], shapes[1])
		}
	}
	var a, b map[string]string
	if err := ask(ours, "/api/v1/status/flags", &a); err != nil || a["web.listen-address"] == "" || a["web.enable-lifecycle"] != "false" {
		t.Errorf("flags: %v: %v", err, a)
	}
	if err := ask(theirs, "/api/v1/status/flags", &b); err != nil || b["web.listen-address"] == "" {
		t.Errorf("Prometheus' flags: %v: %v", err, b)
	}
}

// shape notes the kinds of values by their paths; labels and counts are maps of any names.
func shape(at string, v any, into map[string]string) {
	into[at] = fmt.Sprintf("%T", v)
	switch v := v.(type) {
	case map[string]any:
		if strings.HasSuffix(at, "abels") || strings.HasSuffix(at, "Counts") {
			return
		}
		for k, x := range v {
			shape(at+"."+k, x, into)
		}
	case []any:
		for _, x := range v {
			shape(at+"[]", x, into)
		}
	}
}

// checkTargetsKnows checks that check targets finds the same as the process that runs.
func checkTargetsKnows(t *testing.T, p *harness.Product, file string, pools int) {
	t.Helper()
	ran := harness.Run(t, builds, time.Minute, nil, "check", "targets", "--json", "--wait", "6s", "--config", p.Config,
		"--prometheus.config", file, "--log.level", "error")
	var found struct {
		ScrapePools []struct {
			ScrapePool    string
			ActiveTargets []apiTarget
		}
	}
	start := strings.Index(ran.Output, "{\n")
	if start < 0 {
		t.Fatalf("check targets: exit code %d: %s", ran.Code, ran.Output)
	}
	if err := json.NewDecoder(strings.NewReader(ran.Output[start:])).Decode(&found); err != nil {
		t.Fatalf("check targets: %v: %s", err, ran.Output)
	}
	if len(found.ScrapePools) < pools {
		t.Errorf("check targets: %d scrape pools, want %d", len(found.ScrapePools), pools)
	}
	all, err := listed(p.URL, "?state=active")
	if err != nil {
		t.Fatal(err)
	}
	var urls, want []string
	for _, pool := range found.ScrapePools {
		for _, g := range pool.ActiveTargets {
			if pool.ScrapePool != "prometheus_streams" {
				urls = append(urls, pool.ScrapePool+" "+g.ScrapeURL)
			}
		}
	}
	for _, g := range all.ActiveTargets {
		want = append(want, g.ScrapePool+" "+g.ScrapeURL)
	}
	slices.Sort(urls)
	slices.Sort(want)
	if !slices.Equal(urls, want) {
		t.Errorf("check targets found\n%q\nthe process that runs\n%q", urls, want)
	}
}

// What is scraped is told as Prometheus tells it, and secrets are not; a scrape pool ends with a reload.
func TestAPITellsOfScrapes(t *testing.T) {
	t.Parallel()
	good, bad := targets.New(t, "good", 5), targets.New(t, "bad", 5)
	bad.Answer(500, "text/plain", "")
	config := standaloneYAML(t, "edge", "1s", fmt.Sprintf(`
scrape_configs:
- {job_name: good, basic_auth: {username: u, password: hunter2}, static_configs: [{targets: ['%s']}]}
- {job_name: bad, static_configs: [{targets: ['%s']}]}
jobs: {url: {targets: [{url: 'http://user:hunter3@%s/metrics'}]}}
`, good.Host(), bad.Host(), good.Host()))
	p := startStandalone(t, config)
	type target struct {
		ScrapePool, Health, LastError, GlobalURL, ScrapeURL string
		LastScrape                                          time.Time
		LastScrapeDuration                                  float64
	}
	find := func(pool string) (target, error) {
		var all struct{ ActiveTargets []target }
		if err := ask(p.URL, "/api/v1/targets?scrapePool="+pool, &all); err != nil {
			return target{}, err
		}
		if len(all.ActiveTargets) != 1 {
			return target{}, fmt.Errorf("%d targets", len(all.ActiveTargets))
		}
		return all.ActiveTargets[0], nil
	}
	harness.Wait(t, 30*time.Second, "all targets were scraped", func() error {
		for pool, health := range map[string]string{"good": "up", "bad": "down", "url": "up", "prometheus_streams": "up"} {
			g, err := find(pool)
			if err != nil || g.Health != health || time.Since(g.LastScrape) > 30*time.Second || g.LastScrapeDuration <= 0 {
				return fmt.Errorf("%s: %v: %+v", pool, err, g)
			}
			if (g.LastError != "") != (health == "down") || strings.Contains(g.GlobalURL, "127.0.0.1") {
				return fmt.Errorf("%+v", g)
			}
		}
		return nil
	})
	for _, path := range []string{"targets", "status/config", "status/flags"} {
		if _, body, err := harness.Get(p.URL + "/api/v1/" + path); err != nil || strings.Contains(body, "hunter") {
			t.Errorf("%s: %v: %s", path, err, body)
		}
	}
	p.Reload(t, strings.Replace(config, "job_name: bad", "job_name: worse", 1))
	harness.Wait(t, 30*time.Second, "the reload is told", func() error {
		if _, err := find("bad"); err == nil {
			return fmt.Errorf("the old pool is there")
		}
		var c struct{ YAML string }
		if err := ask(p.URL, "/api/v1/status/config", &c); err != nil || !strings.Contains(c.YAML, "job_name: worse") {
			return fmt.Errorf("%v: %s", err, c.YAML)
		}
		g, err := find("worse")
		if err == nil && g.Health != "down" {
			err = fmt.Errorf("health %s", g.Health)
		}
		return err
	})
}
