package harness

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Clock is the wall clock of one process, which can be made to jump as if somebody set it. The process is the program as it
// is, built with a standard library whose time.Now adds a number of nanoseconds that it finds in a file (the overlay of go
// build, which changes no source). As in a machine whose clock is set, timers and the monotonic clock know nothing of it.
type Clock struct {
	file  string
	ahead time.Duration
}

// clockVariable names the file in the environment of the process.
const clockVariable = "PROMETHEUS_STREAMS_E2E_CLOCK"

// NewClock makes a clock that is right.
func NewClock(t testing.TB) *Clock {
	t.Helper()
	c := &Clock{file: filepath.Join(t.TempDir(), "clock")}
	c.Set(t, 0)
	return c
}

// Set says how far the clock is ahead of the right time, from now on and after a restart of the process.
func (c *Clock) Set(t testing.TB, ahead time.Duration) {
	t.Helper()
	// The file is mapped by the process: it must stay the same one.
	f, err := os.OpenFile(c.file, os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(ahead)), 0)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	c.ahead = ahead
}

// Ahead is how far the clock is ahead of the right time.
func (c *Clock) Ahead() time.Duration { return c.ahead }

// env is what goes before a command line for the process to have the clock.
func (c *Clock) env() []string { return []string{"env", clockVariable + "=" + c.file} }

// nowFile is added to the package time.
const nowFile = `package time

import (
	"sync/atomic"
	"syscall"
	"unsafe"
)

var clockAhead = mapClock()

func mapClock() *int64 {
	path, ok := syscall.Getenv("` + clockVariable + `")
	if !ok {
		return new(int64)
	}
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		panic("open " + path + ": " + err.Error())
	}
	b, err := syscall.Mmap(fd, 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic("map " + path + ": " + err.Error())
	}
	return (*int64)(unsafe.Pointer(&b[0]))
}

// setNow is the runtime's time with the wall clock as it was set.
func setNow() (sec int64, nsec int32, mono int64) {
	sec, nsec, mono = runtimeNow()
	wall := sec*1e9 + int64(nsec)
	if clockAhead != nil {
		wall += atomic.LoadInt64(clockAhead)
	}
	return wall / 1e9, int32(wall % 1e9), mono
}
`

// clockOverlay writes what go build needs to put the clock into a program.
func clockOverlay(dir string) (file string, err error) {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", err
	}
	room := filepath.Join(strings.TrimSpace(string(out)), "src", "time")
	source, err := os.ReadFile(filepath.Join(room, "time.go"))
	if err != nil {
		return "", err
	}
	const begin, read = "func Now() Time {\n", "sec, nsec, mono := runtimeNow()\n"
	head, tail, found := strings.Cut(string(source), begin+"\t"+read)
	if !found {
		return "", fmt.Errorf("time.Now of this Go does not begin with %q", read)
	}
	changed, added := filepath.Join(dir, "time.go"), filepath.Join(dir, "clock.go")
	replace := map[string]map[string]string{"Replace": {
		filepath.Join(room, "time.go"):  changed,
		filepath.Join(room, "clock.go"): added,
	}}
	list, err := json.Marshal(replace)
	if err != nil {
		return "", err
	}
	file = filepath.Join(dir, "overlay.json")
	for path, text := range map[string]string{
		changed: head + begin + "\t" + strings.Replace(read, "runtimeNow", "setNow", 1) + tail, added: nowFile, file: string(list),
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	return file, nil
}
