package gateway

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/choria-io/prometheus-streams/internal/bounded"
)

const (
	// memoryFile remembers in the state directory how far to read back.
	memoryFile = "gateway.json"
	// lookbackAtLeast is how far back is read when all targets go stale sooner.
	lookbackAtLeast = 10 * time.Minute
	// lookbackUnknown is how far back is read when nothing is remembered.
	lookbackUnknown = time.Hour
	// longestMemory bounds what is believed of a file.
	longestMemory = 7 * 24 * time.Hour
)

// memory knows the longest time after which any target goes stale, over restarts.
type memory struct {
	path   string // empty keeps nothing
	logger *slog.Logger

	mu      sync.Mutex
	began   time.Time
	longest time.Duration // 0 if it is not known
	written time.Duration
	failed  bool
}

// remembered is the content of the file.
type remembered struct {
	StaleAfter string `json:"stale_after"`
}

// openMemory reads what is remembered in directory. What cannot be read counts as unknown.
func openMemory(directory string, logger *slog.Logger, now time.Time) *memory {
	m := &memory{logger: logger, began: now}
	if directory == "" {
		return m
	}
	m.path = filepath.Join(directory, memoryFile)
	d, err := readMemory(m.path)
	if err != nil {
		logger.Warn("how far to read back is not known", "file", m.path, "error", err, "duration", lookbackUnknown)
	}
	m.longest, m.written = d, d
	return m
}

// maxMemory bounds the file in bytes.
const maxMemory = 4 << 10

func readMemory(path string) (time.Duration, error) {
	data, err := bounded.ReadFile(path, maxMemory)
	if os.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var r remembered
	if err := json.Unmarshal(data, &r); err != nil {
		return 0, err
	}
	d, err := time.ParseDuration(r.StaleAfter)
	if err != nil {
		return 0, err
	}
	if d <= 0 || d > longestMemory {
		return 0, fmt.Errorf("stale_after %s is not between 0 and %s", d, longestMemory)
	}
	return d, nil
}

func (m *memory) lookback() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.longest == 0 {
		return lookbackUnknown
	}
	return max(m.longest, lookbackAtLeast)
}

// note takes account of one target.
func (m *memory) note(stale time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if stale > m.longest {
		m.longest = min(stale, longestMemory)
		m.write()
	}
}

// settle takes the longest of all present targets for the truth, once it is certain that all of them were seen.
func (m *memory) settle(longest time.Duration, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if longest > 0 && now.Sub(m.began) > max(m.longest, lookbackUnknown) {
		m.longest = min(longest, longestMemory)
		m.write()
	}
}

// write stores the longest if it is not stored yet: into a file of its own, then into place. m.mu is held.
func (m *memory) write() {
	if m.path == "" || m.longest == m.written {
		return
	}
	if err := writeMemory(m.path, m.longest); err != nil {
		if !m.failed {
			m.logger.Warn("how far to read back cannot be remembered", "file", m.path, "error", err)
		}
		m.failed = true
		return
	}
	m.failed, m.written = false, m.longest
}

func writeMemory(path string, d time.Duration) (err error) {
	data, err := json.Marshal(remembered{StaleAfter: d.String()})
	if err != nil {
		return err
	}
	if err = os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), memoryFile+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(append(data, '\n')); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
