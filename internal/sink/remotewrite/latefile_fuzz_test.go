package remotewrite

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// FuzzLateFile ends files of late samples that a crash left, whatever is in them: whole lines stay as they are.
func FuzzLateFile(f *testing.F) {
	f.Add([]byte("a{b=\"c\"} 1 2\na{b=\"c\"} 1 "))
	f.Add([]byte("a 1 2\n# EOF\n"))
	f.Add([]byte("no line"))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		part := filepath.Join(dir, "x.p.1"+partSuffix)
		if err := os.WriteFile(part, data, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := openLateStore(dir, "x", 0)
		if err != nil {
			t.Fatal(err)
		}
		lines := data[:bytes.LastIndexByte(data, '\n')+1]
		got, err := os.ReadFile(filepath.Join(dir, "x.p.1"+lateSuffix))
		switch {
		case len(lines) == 0 && !os.IsNotExist(err):
			t.Errorf("no line, and there is a file: %v", err)
		case len(lines) > 0 && (!bytes.HasPrefix(got, lines) || !bytes.HasSuffix(got, []byte(lateEnd)) || len(got) > len(lines)+len(lateEnd)):
			t.Errorf("%q became %q", data, got)
		}
		if _, err := os.Stat(part); !os.IsNotExist(err) {
			t.Errorf("%s is still there", part)
		}
		if len(lines) > 0 && s.total < lateLeast {
			t.Errorf("%d bytes are counted", s.total)
		}
	})
}
