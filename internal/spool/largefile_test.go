package spool

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/choria-io/prometheus-streams/internal/bounded"
)

// A position of any size takes no memory.
func TestPositionOfAnySize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 1<<40); err != nil {
		t.Fatal(err)
	}
	if _, _, err := readPosition(path); !errors.As(err, new(*bounded.TooLargeError)) {
		t.Error(err)
	}
}
