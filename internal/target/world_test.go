package target

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/config"
)

// world is a Manager whose updates are remembered.
type world struct {
	t   *testing.T
	m   *Manager
	reg *prometheus.Registry

	mu      sync.Mutex
	log     bytes.Buffer
	targets []*Target
	updates int
}

func (w *world) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(p)
}

func (w *world) logged() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, reg: prometheus.NewPedanticRegistry()}
	w.m = NewManager(Options{
		Update: func(all []*Target) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.targets = all
			w.updates++
		},
		Logger: slog.New(slog.NewTextHandler(w, nil)), Registerer: w.reg,
	})
	return w
}

// run runs the Manager until the test ends.
func (w *world) run() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.m.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("Run: %v", err)
		}
	})
}

// apply applies scrape configs as a file has them.
func (w *world) apply(text string) {
	w.t.Helper()
	if err := w.m.Apply(Config{ScrapeConfigs: blocks(w.t, text)}); err != nil {
		w.t.Fatal(err)
	}
}

func blocks(t *testing.T, text string) []*promconfig.ScrapeConfig {
	t.Helper()
	c, _, err := config.Parse("c.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c.Scrape()
}

// urls are those of all targets, in order.
func (w *world) urls() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, t := range w.targets {
		out = append(out, strings.TrimPrefix(t.URL, "http://"))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// await waits until the targets are these.
func (w *world) await(want string) {
	w.t.Helper()
	for end := time.Now().Add(60 * time.Second); w.urls() != want; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("targets %q, want %q; log:\n%s", w.urls(), want, w.logged())
		}
	}
}

func (w *world) pool(name string) PoolStatus {
	w.t.Helper()
	for _, p := range w.m.Pools() {
		if p.Name == name {
			return p
		}
	}
	w.t.Fatalf("no pool %q", name)
	return PoolStatus{}
}

func TestStaticTargets(t *testing.T) {
	w := newWorld(t)
	self, err := FromSelf("edge", "", minute, labels.FromStrings("site", "x"))
	if err != nil {
		t.Fatal(err)
	}
	err = w.m.Apply(Config{
		ScrapeConfigs: blocks(t, `
scrape_configs:
- job_name: a
  sample_limit: 50
  scrape_interval: 20s
  params: {m: [x, y]}
  keep_dropped_targets: 1
  enable_compression: false
  scrape_native_histograms: true
  static_configs:
  - targets: ['h1:1', 'h2:2', 'h1:1', 'h3:3', 'h4:4', 'h5:5']
    labels: {site: own, __param_m: z, __meta_x: y}
  relabel_configs:
  - {source_labels: [__address__], regex: 'h[45].*', action: drop}
  - {source_labels: [__address__], regex: 'h2.*', target_label: __scrape_interval__, replacement: 5s}
  - {source_labels: [__address__], regex: 'h2.*', target_label: __scrape_timeout__, replacement: 1s}
  - {source_labels: [__address__], regex: 'h2.*', target_label: __scrape_native_histograms__, replacement: "false"}
  - {source_labels: [__address__], regex: 'h3.*', target_label: __address__, replacement: ""}
`),
		Fixed: []*Target{self}, External: labels.FromStrings("site", "dc1", "region", "eu"), SampleLimit: 40,
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := w.urls(); got != " h1:1/metrics?m=z&m=y h2:2/metrics?m=z&m=y" {
		t.Fatalf("targets %q", got)
	}
	p := w.pool("a")
	h1, h2 := p.Active[0], p.Active[1]
	if got, want := h1.Labels.String(), `{instance="h1:1", job="a", region="eu", site="own"}`; got != want {
		t.Errorf("labels %s, want %s", got, want)
	}
	if got, want := h1.Own().String(), `{instance="h1:1", job="a", site="own"}`; got != want {
		t.Errorf("own labels %s, want %s", got, want)
	}
	if got := h1.Discovered(); got.Get("__meta_x") != "y" || got.Get("__address__") != "h1:1" || got.Get("__scrape_interval__") != "20s" {
		t.Errorf("discovered %s", got)
	}
	if h1.SampleLimit != 40 || !h1.Uncompressed || !h1.NativeHistograms || h1.Interval != 20*time.Second || !h1.Strict {
		t.Errorf("settings of h1: %+v", h1)
	}
	if h2.NativeHistograms || h2.Interval != 5*time.Second || h2.Timeout != time.Second || h2.Client != h1.Client {
		t.Errorf("settings of h2: %+v", h2)
	}
	if p.DroppedCount != 2 || len(p.Dropped) != 1 || p.Dropped[0].Reason() != "relabel_configs[0]: action drop" ||
		p.Dropped[0].Discovered().Get("__address__") != "h4:4" || p.Dropped[0].Pool() != "a" {
		t.Errorf("dropped %d: %+v", p.DroppedCount, p.Dropped)
	}
	if len(p.Failed) != 1 || !strings.Contains(p.Failed[0].Reason, "no address") || strings.Count(w.logged(), "no address") != 1 {
		t.Errorf("failed %+v, logged %s", p.Failed, w.logged())
	}
	if s := w.pool(SelfJob); len(s.Active) != 1 || s.Active[0] != self {
		t.Errorf("the process itself: %+v", s)
	}
}

func TestTargetLimit(t *testing.T) {
	w := newWorld(t)
	const block = "scrape_configs: [{job_name: a, target_limit: 2, static_configs: [{targets: [x, y, z]}]}, {job_name: b, static_configs: [{targets: [x]}]}]"
	w.apply(block)
	for _, g := range w.pool("a").Active {
		if g.Refused != "target_limit exceeded: 3 targets, limit 2" {
			t.Errorf("%s: %q", g.URL, g.Refused)
		}
	}
	if g := w.pool("b").Active[0]; g.Refused != "" {
		t.Errorf("the other job: %q", g.Refused)
	}
	w.apply(block)
	if n := strings.Count(w.logged(), "target_limit exceeded"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, w.logged())
	}
	w.apply(strings.Replace(block, "target_limit: 2", "target_limit: 3", 1))
	for _, g := range w.pool("a").Active {
		if g.Refused != "" {
			t.Errorf("%s: %q", g.URL, g.Refused)
		}
	}
}

func TestApplyKeepsWhatStays(t *testing.T) {
	w := newWorld(t)
	const one = "- {job_name: a, basic_auth: {username: u, password: p}, static_configs: [{targets: [x]}]}\n"
	w.apply("scrape_configs:\n" + one)
	before := w.pool("a").Active[0]
	w.apply("scrape_configs:\n" + one + "- {job_name: b, static_configs: [{targets: [y]}]}\n")
	if after := w.pool("a").Active[0]; after.Key() != before.Key() || after.Client.ID != before.Client.ID {
		t.Error("a target that stayed has another key")
	}
	for _, change := range []string{"password: q", "username: v"} {
		w.apply("scrape_configs:\n" + strings.Replace(one, change[:8], change[:8], 1))
		key := w.pool("a").Active[0].Key()
		w.apply("scrape_configs:\n" + strings.NewReplacer("password: p", change, "username: u", change).Replace(one[:0]+
			"- {job_name: a, basic_auth: {username: x, password: "+change[len(change)-1:]+"}, static_configs: [{targets: [x]}]}\n"))
		if w.pool("a").Active[0].Key() == key {
			t.Errorf("%s changed nothing", change)
		}
	}
	if err := w.m.Apply(Config{ScrapeConfigs: append(blocks(t, "scrape_configs:\n"+one), blocks(t, "scrape_configs:\n"+one)...)}); err == nil {
		t.Error("two scrape configs of one name were taken")
	}
	if len(w.pool("a").Active) != 1 {
		t.Error("an error changed the targets")
	}
}
