package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

// Root is the repository's folder.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// Server is the path of a real server's binary. A test that lacks it fails: a round without it would prove nothing.
func Server(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("SERVERS_BIN")
	if dir == "" {
		dir = filepath.Join(Root(), ".cache", "bin")
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s is not in %s: run \"make servers\", which builds it once", name, dir)
	}
	return path
}

// Builds are the binaries of this repository that tests run, each built at most once per test process.
// The zero value is not usable: see NewBuilds.
type Builds struct {
	dir     string
	product func() (string, error)
	record  func() (string, error)
	// with a clock that can be set
	clockedProduct func() (string, error)
	clockedRecord  func() (string, error)
}

// Main runs the tests of a package that shares its builds, and ends the process: it is what TestMain does.
func Main(m *testing.M, b **Builds) {
	var err error
	if *b, err = NewBuilds(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	(*b).Remove()
	os.Exit(code)
}

// NewBuilds makes the binaries' folder; Remove takes it away.
func NewBuilds() (*Builds, error) {
	dir, err := os.MkdirTemp("", "prometheus-streams-e2e-")
	if err != nil {
		return nil, err
	}
	b := &Builds{dir: dir}
	b.product = sync.OnceValues(func() (string, error) {
		if path := os.Getenv("PROMETHEUS_STREAMS_BIN"); path != "" {
			return filepath.Abs(path)
		}
		return b.build(Root(), "prometheus-streams", "./cmd/prometheus-streams")
	})
	b.record = sync.OnceValues(func() (string, error) {
		return b.build(filepath.Join(Root(), "e2e"), "recorder", "./recorder")
	})
	overlay := sync.OnceValues(func() (string, error) { return clockOverlay(dir) })
	// All of the program and the standard library are built anew for it, so what takes long and has no clock is left out.
	clocked := func(module, name, pkg string) func() (string, error) {
		return sync.OnceValues(func() (string, error) {
			file, err := overlay()
			if err != nil {
				return "", fmt.Errorf("a clock that can be set: %w", err)
			}
			return b.build(module, name, pkg, "-overlay", file, "-tags", "nochoria,remove_all_sd")
		})
	}
	b.clockedProduct = clocked(Root(), "prometheus-streams-clocked", "./cmd/prometheus-streams")
	b.clockedRecord = clocked(filepath.Join(Root(), "e2e"), "recorder-clocked", "./recorder")
	return b, nil
}

// Remove deletes the binaries.
func (b *Builds) Remove() { os.RemoveAll(b.dir) }

// Product is the path of prometheus-streams: $PROMETHEUS_STREAMS_BIN, or built from the sources.
func (b *Builds) Product(t testing.TB) string { return must(t, b.product) }

// Recorder is the path of the recording receiver.
func (b *Builds) Recorder(t testing.TB) string { return must(t, b.record) }

func (b *Builds) build(module, name, pkg string, flags ...string) (string, error) {
	path := filepath.Join(b.dir, name)
	cmd := exec.Command("go", append(append([]string{"build", "-C", module, "-o", path}, flags...), pkg)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
	}
	return path, nil
}

func must(t testing.TB, path func() (string, error)) string {
	t.Helper()
	p, err := path()
	if err != nil {
		t.Fatal(err)
	}
	return p
}
