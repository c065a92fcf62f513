package receiver

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// FuzzPublishersFiles reads what is remembered of publishers, and which to forget, whatever the files hold.
func FuzzPublishersFiles(f *testing.F) {
	f.Add([]byte(`{"a":{"seen":"2026-01-01T00:00:00Z","interval":60000000000},"b":{"seen":"9999-01-01T00:00:00Z","interval":-1}}`), []byte("a\nb\n"))
	f.Add([]byte(`{"":{}}`), []byte("\r\n\x00"))
	f.Add([]byte(`{`), []byte(nil))
	f.Fuzz(func(t *testing.T, known, forget []byte) {
		dir := t.TempDir()
		for name, data := range map[string][]byte{publishersFile: known, forgetFile: forget} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		reg := prometheus.NewRegistry()
		p, err := NewPublishers([]string{"expected"}, dir, reg, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if p.now.After(time.Now()) {
			t.Errorf("it is %s in the stream", p.now)
		}
		if p.known["expected"] == nil || !p.known["expected"].expected {
			t.Error("who is expected is forgotten")
		}
		p.forgetThose()
		p.listening(time.Now())
		if _, err := reg.Gather(); err != nil {
			t.Logf("names that are no labels: %v", err)
		}
		p.changed = true
		if err := p.save(); err != nil {
			t.Fatal(err)
		}
	})
}
