package receiver

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// A receiver that names its publishers takes nothing of others, and counts it.
func TestOnlyThesePublishers(t *testing.T) {
	each(t, func(t *testing.T, w *world, a *site) {
		b := newSite(w, "B", a.opts)
		w.only = []string{"A", "C"}
		w.start()
		w.send("A", a.bundle())
		w.send("B", b.bundle())
		w.stop()
		w.sink.want(t, "A/1")
		w.wantAcked(1, 2)
		w.wantMetric(1, "dropped_frames_total", "reason", "publisher_not_allowed", "publisher", "B")
	})
}

// FuzzPublishers reads whatever the file of the publishers may hold.
func FuzzPublishers(f *testing.F) {
	f.Add([]byte(`{"A": {"seen": "2026-11-23T00:00:00Z", "interval": 1000000000}}`))
	f.Add([]byte(`{"A": {"seen": "9999-11-23T00:00:00Z", "interval": -1}, "": {}}`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, publishersFile), data, 0o600); err != nil {
			t.Fatal(err)
		}
		reg := prometheus.NewPedanticRegistry()
		p, err := NewPublishers([]string{"A"}, dir, reg, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if p.known["A"] == nil || !p.known["A"].expected {
			t.Error("the publisher that is expected is not known")
		}
		if _, err := reg.Gather(); err != nil {
			t.Error(err)
		}
	})
}
