package bounded

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// A file that is too large takes no memory, however large it is.
func TestReadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("1234"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := ReadFile(path, 4); string(b) != "1234" || err != nil {
		t.Errorf("%q %v", b, err)
	}
	var large *TooLargeError
	if b, err := ReadFile(path, 3); b != nil || !errors.As(err, &large) || err.Error() != path+" has more than 3 bytes" {
		t.Errorf("%q %v", b, err)
	}
	if err := os.Truncate(path, 1<<40); err != nil {
		t.Fatal(err)
	}
	if b, err := ReadFile(path, 4); b != nil || !errors.As(err, &large) || large.Path != path || large.Most != 4 {
		t.Errorf("%q %v", b, err)
	}
	if _, err := ReadFile(path+"x", 4); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
