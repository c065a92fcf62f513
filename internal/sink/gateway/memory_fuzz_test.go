package gateway

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// FuzzMemory starts with a file of any content: it says how far to read back, within bounds.
func FuzzMemory(f *testing.F) {
	f.Add([]byte(`{"stale_after":"3h30m0s"}`))
	f.Add([]byte(`{"stale_after":"-1s"}`))
	f.Add([]byte(`{"stale_after":`))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, memoryFile), data, 0o600); err != nil {
			t.Fatal(err)
		}
		m := openMemory(dir, slog.New(slog.DiscardHandler), time.Unix(1, 0))
		if d := m.lookback(); d < lookbackAtLeast || d > longestMemory {
			t.Errorf("%s back", d)
		}
		m.note(longestMemory)
		if again := openMemory(dir, slog.New(slog.DiscardHandler), time.Unix(1, 0)); again.lookback() != longestMemory {
			t.Errorf("%s is remembered", again.lookback())
		}
	})
}
