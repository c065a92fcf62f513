package gateway

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

func TestLookback(t *testing.T) {
	directory := filepath.Join(t.TempDir(), "state")
	open := func() *world { return newWorld(t, Options{StateDirectory: directory}) }
	w := open()
	if got := w.Lookback(); got != time.Hour {
		t.Errorf("with nothing remembered: %s", got)
	}
	w.take(site("A", "job", "j"), scraped(t, gauge("a", 1)))
	if got := w.Lookback(); got != 10*time.Minute {
		t.Errorf("with short intervals: %s", got)
	}
	slow := source{"A", labels.FromStrings("job", "slow"), time.Hour}
	w.take(slow, scraped(t, gauge("a", 1)))
	const long = 3*time.Hour + 30*time.Second
	if got := w.Lookback(); got != long {
		t.Errorf("with a long interval: %s", got)
	}
	w = open()
	if got := w.Lookback(); got != long {
		t.Errorf("after a restart: %s", got)
	}
	// The slow target does not come back: after its time has passed, the present ones count.
	for range 50 {
		w.now = w.now.Add(4 * time.Minute)
		w.take(site("A", "job", "j"), scraped(t, gauge("a", 1)))
	}
	if got := open().Lookback(); got != 10*time.Minute {
		t.Errorf("after the slow target went: %s", got)
	}
	for _, junk := range []string{"", "{", `{"stale_after":"x"}`, `{"stale_after":"-1s"}`, `{"stale_after":"9999h"}`} {
		if err := os.WriteFile(filepath.Join(directory, memoryFile), []byte(junk), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := open().Lookback(); got != time.Hour {
			t.Errorf("with %q remembered: %s", junk, got)
		}
	}
	files, err := os.ReadDir(directory)
	if err != nil || len(files) != 1 {
		t.Errorf("the directory has %v, %v", files, err)
	}
}
