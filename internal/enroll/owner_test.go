//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package enroll

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// What root makes in a service's directory belongs to the service.
func TestOwner(t *testing.T) {
	s := newSite(t)
	s.ca.Autosign(true)
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	want := os.Geteuid()
	if want == 0 {
		want = 65534
		if err := os.Chown(s.dir, want, want); err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.enrol()
	enrolled(t, err)
	files := s.files()
	if files["."] != 0o700 || len(files) != 10 {
		t.Errorf("there is %v", files)
	}
	for name := range files {
		info, err := os.Stat(filepath.Join(s.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Sys().(*syscall.Stat_t).Uid; int(got) != want {
			t.Errorf("%s belongs to %d, want %d", name, got, want)
		}
	}
}
