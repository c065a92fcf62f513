package spool

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// A file that cannot be one of ours takes no memory, however large it is.
func TestReadAtMost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := errors.Join(os.WriteFile(path, []byte("1234"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if b, err := readAtMost(path, 4); string(b) != "1234" || err != nil {
		t.Errorf("%q %v", b, err)
	}
	if b, err := readAtMost(path, 3); b != nil || !errors.Is(err, errTooLarge) {
		t.Errorf("%q %v", b, err)
	}
	if err := os.Truncate(path, 1<<40); err != nil {
		t.Fatal(err)
	}
	if _, err := readAtMost(path, maxNote); !errors.Is(err, errTooLarge) {
		t.Error(err)
	}
	if _, _, err := readPosition(path); !errors.Is(err, errTooLarge) {
		t.Error(err)
	}
	if _, err := readAtMost(path+"x", 4); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
