package main

import (
	"context"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/choria-io/prometheus-streams/internal/forward"
	"github.com/choria-io/prometheus-streams/internal/poller"
	"github.com/choria-io/prometheus-streams/internal/receiver"
	"github.com/choria-io/prometheus-streams/internal/scrape"
	"github.com/choria-io/prometheus-streams/internal/sink/gateway"
	"github.com/choria-io/prometheus-streams/internal/sink/pushgateway"
	"github.com/choria-io/prometheus-streams/internal/sink/remotewrite"
	"github.com/choria-io/prometheus-streams/internal/spool"
	"github.com/choria-io/prometheus-streams/internal/stream/access"
	"github.com/choria-io/prometheus-streams/internal/stream/jetstream"
	"github.com/choria-io/prometheus-streams/internal/target"
	"github.com/choria-io/prometheus-streams/internal/web"
)

// names is a Registerer that notes the names of the metrics it is given.
type names map[string]bool

func (n names) Register(c prometheus.Collector) error {
	descs := make(chan *prometheus.Desc, 1000)
	c.Describe(descs)
	close(descs)
	for d := range descs {
		if m := regexp.MustCompile(`fqName: "([^"]+)"`).FindStringSubmatch(d.String()); m != nil {
			n[m[1]] = true
		}
	}
	return nil
}

func (n names) MustRegister(all ...prometheus.Collector) {
	for _, c := range all {
		_ = n.Register(c)
	}
}

func (n names) Unregister(prometheus.Collector) bool { return false }

// TestMetricsAreDocumented makes every room that has metrics and looks for their names in docs/.
func TestMetricsAreDocumented(t *testing.T) {
	n := names{}
	memory := spool.NewMemory(spool.MemoryOptions{Registerer: n})
	disk, err := spool.OpenDisk(spool.DiskOptions{Directory: t.TempDir(), Registerer: n})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = disk.Release() })
	forward.New(forward.Config{Spool: memory, Registerer: n})
	poller.New(poller.Config{Publisher: "p", Registerer: n})
	target.NewManager(target.Options{Registerer: n})
	scrape.NewMetrics(n, nil)
	receiver.NewMetrics(n)
	receiver.NewSelfScrapeSkipped(n)
	gateway.New(gateway.Options{Registerer: n})
	if _, err := pushgateway.New(pushgateway.Options{URL: "http://127.0.0.1:9091", Registerer: n}); err != nil {
		t.Fatal(err)
	}
	if _, err := remotewrite.New(remotewrite.Options{Name: "r", URL: "http://127.0.0.1:9090", Registerer: n}); err != nil {
		t.Fatal(err)
	}
	conn, err := jetstream.Connect(context.Background(), jetstream.Options{Server: access.Server{URLs: []string{"nats://127.0.0.1:1"}, Registerer: n}, Topic: "t"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	if _, err := web.New(web.Options{Addresses: []string{"127.0.0.1:0"}, Registerer: n}); err != nil {
		t.Fatal(err)
	}
	newReloadMetrics(n)
	n.MustRegister(buildInfo())

	var docs strings.Builder
	entries, err := os.ReadDir("../../docs")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile("../../docs/" + e.Name())
		if err != nil {
			t.Fatal(err)
		}
		docs.Write(b)
	}
	if len(n) < 60 {
		t.Fatalf("only %d metrics found", len(n))
	}
	var missing []string
	for name := range n {
		if strings.HasPrefix(name, "prometheus_streams_") && !strings.Contains(docs.String(), "`"+name+"`") {
			missing = append(missing, name)
		}
	}
	slices.Sort(missing)
	if missing != nil {
		t.Errorf("not in docs/:\n%s", strings.Join(missing, "\n"))
	}
}
