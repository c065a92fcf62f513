package target

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/model/labels"
	promscrape "github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/storage"
)

// noStorage takes nothing: the targets of this test are never scraped.
type noStorage struct{ storage.Appendable }

// TestTargetsAreThoseOfPrometheus lets Prometheus' own scrape manager and ours make targets of the same file.
func TestTargetsAreThoseOfPrometheus(t *testing.T) {
	name := filepath.Join("testdata", "scrapeconfigs.yaml")
	theirs, err := promconfig.LoadFile(name, false, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	m, err := promscrape.NewManager(&promscrape.Options{DiscoveryReloadInterval: model.Duration(10 * time.Millisecond)}, nil, nil,
		noStorage{}, nil, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	if err := m.ApplyConfig(theirs); err != nil {
		t.Fatal(err)
	}
	sets, targets := map[string][]*targetgroup.Group{}, 0
	for _, s := range theirs.ScrapeConfigs {
		for _, c := range s.ServiceDiscoveryConfigs {
			for _, g := range c.(discovery.StaticConfig) {
				sets[s.JobName] = append(sets[s.JobName], g)
				targets += len(g.Targets)
			}
		}
	}
	feed := make(chan map[string][]*targetgroup.Group)
	go func() { _ = m.Run(feed) }()
	defer m.Stop()
	feed <- sets

	w := newWorld(t)
	w.apply(strings.Replace(read(t, name), "global: {scrape_interval: 1h}", "scrape_interval: 1h", 1))
	var ours []string
	for _, p := range w.m.Pools() {
		for _, g := range p.Active {
			ours = append(ours, line(p.Name, g.URL, g.Own(), g.Discovered()))
		}
		for _, d := range p.Dropped {
			ours = append(ours, line(p.Name, "dropped", labels.EmptyLabels(), d.Discovered()))
		}
	}
	slices.Sort(ours)

	var want []string
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		want = want[:0]
		b := labels.NewBuilder(labels.EmptyLabels())
		for pool, all := range m.TargetsActive() {
			for _, g := range all {
				want = append(want, line(pool, g.URL().String(), g.Labels(b), g.DiscoveredLabels(b)))
			}
		}
		for pool, all := range m.TargetsDropped() {
			for _, g := range all {
				want = append(want, line(pool, "dropped", labels.EmptyLabels(), g.DiscoveredLabels(b)))
			}
		}
		if len(want) >= len(ours) {
			break
		}
	}
	slices.Sort(want)
	if !slices.Equal(ours, want) {
		t.Errorf("ours:\n%s\nPrometheus':\n%s", strings.Join(ours, "\n"), strings.Join(want, "\n"))
	}
	if len(ours) < 35 || targets < 40 {
		t.Errorf("only %d targets of %d", len(ours), targets)
	}
}

func line(pool, url string, own, discovered labels.Labels) string {
	return fmt.Sprintf("%s %s %s %s", pool, url, own, discovered)
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
