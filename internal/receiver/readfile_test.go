package receiver

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// Files that cannot be of ours take no memory, however large they are.
func TestFilesOfAnySize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := errors.Join(os.WriteFile(path, []byte("1234"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if b, err := readAtMost(path, 4); string(b) != "1234" || err != nil {
		t.Errorf("%q %v", b, err)
	}
	if err := os.Truncate(path, 1<<40); err != nil {
		t.Fatal(err)
	}
	if _, err := readAtMost(path, 4); !errors.Is(err, errTooLarge) {
		t.Error(err)
	}
	if _, err := readAtMost(path+"x", 4); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
