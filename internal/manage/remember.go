package manage

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/choria-io/prometheus-streams/internal/bounded"
)

// memory is what a breaker's file holds, as JSON.
type memory struct {
	Paused bool `json:"paused"`
	// From is who asked for it.
	From  string    `json:"from"`
	Since time.Time `json:"since"`
}

// maxMemory bounds the file in bytes.
const maxMemory = 64 << 10

// recall reads what was remembered; nothing if there is no file. A file that is not understood is an error: to go on
// polling, or not to, would be a guess.
func recall(path string) (memory, error) {
	var m memory
	data, err := bounded.ReadFile(path, maxMemory)
	if errors.Is(err, os.ErrNotExist) {
		return m, nil
	}
	if errors.As(err, new(*bounded.TooLargeError)) {
		return m, fmt.Errorf("remembered state %w; remove it to start without", err)
	}
	if err != nil {
		return m, fmt.Errorf("read remembered state: %w", err)
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("remembered state %s: %w; remove it to start without", path, err)
	}
	return m, nil
}

// remember writes the file so that a crash leaves the old one or the new one.
func remember(path string, m memory) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	if d, err := os.Open(filepath.Dir(path)); err == nil {
		_ = d.Sync() // of no use where directories cannot be synced
		_ = d.Close()
	}
	return nil
}
