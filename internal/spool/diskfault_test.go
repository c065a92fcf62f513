package spool

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// fill makes a spool with several segments and ends it.
func fill(t *testing.T, n int) (dir string, files []string) {
	t.Helper()
	d := openDisk(t, DiskOptions{MaxBytes: 8 << 20, SyncEvery: time.Hour})
	for i := 1; i <= n; i++ {
		mustAppend(t, d, record(fmt.Sprintf("r%d", i), 3000))
	}
	for _, s := range d.segments {
		files = append(files, s.path)
	}
	crash(d)
	return d.opts.Directory, files
}

func damage(t *testing.T, file string, change func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, change(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

// The end of the newest segment may be cut short by a crash: what was whole is there.
func TestDiskTornEnd(t *testing.T) {
	for name, change := range map[string]func([]byte) []byte{
		"cut":   func(b []byte) []byte { return b[:len(b)-1000] },
		"zeros": func(b []byte) []byte { clear(b[len(b)-1000:]); return b },
		"junk":  func(b []byte) []byte { return append(b, "junk that is no record"...) },
	} {
		t.Run(name, func(t *testing.T) {
			const n = 20
			dir, files := fill(t, n)
			damage(t, files[len(files)-1], change)
			d := openDisk(t, DiskOptions{Directory: dir})
			whole := n - 1
			if name == "junk" {
				whole = n
			}
			mustAppend(t, d, record(fmt.Sprintf("r%d", whole+1), 10))
			equal(t, drain(t, d), numbered(1, whole+1))
			release(t, d)
			d = openDisk(t, DiskOptions{Directory: dir})
			mustAppend(t, d, record("x", 10))
			equal(t, drain(t, d), []string{"x"})
			if lost, _ := dropped(d, reasonCorrupt); lost != 0 {
				t.Errorf("%d counted as lost", lost)
			}
		})
	}
}

// Damage elsewhere costs the rest of its segment, counted, and nothing after it.
func TestDiskDamage(t *testing.T) {
	for name, change := range map[string]func([]byte) []byte{
		"a bit":      func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"cut":        func(b []byte) []byte { return b[:len(b)/2] },
		"first byte": func(b []byte) []byte { b[8] ^= 1; return b },
		"all zeros":  func(b []byte) []byte { clear(b); return b },
		"gone":       nil,
	} {
		for _, when := range []string{"at start", "while it runs"} {
			t.Run(name+" "+when, func(t *testing.T) {
				const n = 1500
				dir, files := fill(t, n)
				if len(files) < 4 {
					t.Fatalf("%d segments", len(files))
				}
				harm := func() {
					if change == nil {
						if err := os.Remove(files[1]); err != nil {
							t.Fatal(err)
						}
						return
					}
					damage(t, files[1], change)
				}
				if when == "at start" {
					harm()
				}
				d := openDisk(t, DiskOptions{Directory: dir, SyncEvery: time.Second})
				if when != "at start" {
					waitFor(t, "all is counted", func() bool { r, _, _ := d.Held(); return r == n })
					harm()
				}
				got := drain(t, d)
				waitFor(t, "all was looked at", func() bool {
					d.mu.Lock()
					defer d.mu.Unlock()
					for _, s := range d.segments {
						if !s.counted {
							return false
						}
					}
					return true
				})
				lost, samples := dropped(d, reasonCorrupt)
				if lost == 0 || len(got)+lost != n {
					t.Errorf("%d read, %d counted as lost, of %d", len(got), lost, n)
				}
				if when != "at start" && samples != 10*lost {
					t.Errorf("%d samples lost in %d records", samples, lost)
				}
				if got[0] != "r1" || got[len(got)-1] != fmt.Sprintf("r%d", n) {
					t.Errorf("from %s to %s", got[0], got[len(got)-1])
				}
				if r, _, _ := d.Held(); r != 0 {
					t.Errorf("%d held after draining", r)
				}
				mustAppend(t, d, record("after", 10))
				equal(t, drain(t, d), []string{"after"})
			})
		}
	}
}

// faulty is a log on a disk that can be made to fail.
type faulty struct {
	segmentLog
	err *atomic.Pointer[error]
}

func (f faulty) Log(b ...[]byte) error {
	if err := f.err.Load(); err != nil {
		return *err
	}
	return f.segmentLog.Log(b...)
}

func (f faulty) NextSegment() (int, error) {
	if err := f.err.Load(); err != nil {
		return 0, *err
	}
	return f.segmentLog.NextSegment()
}

func openFaulty(t *testing.T, o DiskOptions) (*Disk, func(error)) {
	t.Helper()
	var fault atomic.Pointer[error]
	o.openLog = func(dir string, size int) (segmentLog, error) {
		l, err := openWAL(dir, size)
		return faulty{l, &fault}, err
	}
	return openDisk(t, o), func(err error) {
		if err == nil {
			fault.Store(nil)
		} else {
			fault.Store(&err)
		}
	}
}

// While the disk takes nothing, memory does, and the disk has it all when it is well again.
func TestDiskFails(t *testing.T) {
	d, fault := openFaulty(t, DiskOptions{MemoryBytes: 100 * record("x", 3000).size(), SyncEvery: time.Hour})
	for i := 1; i <= 10; i++ {
		mustAppend(t, d, record(fmt.Sprintf("r%d", i), 3000))
	}
	fault(syscall.EROFS)
	for i := 11; i <= 60; i++ {
		mustAppend(t, d, record(fmt.Sprintf("r%d", i), 3000))
	}
	if testutil.ToFloat64(d.metrics.failing) != 1 {
		t.Error("a failing disk is not shown")
	}
	if r, _, _ := d.Held(); r != 60 {
		t.Errorf("%d held", r)
	}
	for i := 61; i <= 130; i++ {
		mustAppend(t, d, record(fmt.Sprintf("r%d", i), 3000))
	}
	lost, samples := dropped(d, reasonDisk)
	if lost != 20 || samples != 200 {
		t.Errorf("%d records with %d samples lost, want the 20 that memory had no room for", lost, samples)
	}
	fault(nil)
	waitFor(t, "it recovers", func() bool { d.mu.Lock(); defer d.mu.Unlock(); return d.failing == nil })
	mustAppend(t, d, record("r131", 10))
	crash(d)
	d = openDisk(t, DiskOptions{Directory: d.opts.Directory})
	equal(t, drain(t, d), append(numbered(1, 10), numbered(31, 131)...))
}

// A full disk is freed of what is oldest.
func TestDiskNoSpace(t *testing.T) {
	d, fault := openFaulty(t, DiskOptions{MaxBytes: 1 << 20, MemoryBytes: 64 << 10, SyncEvery: time.Hour})
	for i := 1; i <= 200; i++ {
		mustAppend(t, d, record(fmt.Sprintf("r%d", i), 3000))
	}
	fault(syscall.ENOSPC)
	for i := 201; i <= 230; i++ {
		mustAppend(t, d, record(fmt.Sprintf("r%d", i), 3000))
	}
	lost, _ := dropped(d, reasonFull)
	if lost == 0 {
		t.Error("nothing was dropped for room on the disk")
	}
	fault(nil)
	waitFor(t, "it recovers", func() bool { d.mu.Lock(); defer d.mu.Unlock(); return d.failing == nil })
	got := drain(t, d)
	inMemory, _ := dropped(d, reasonDisk)
	if len(got)+lost+inMemory != 230 || got[len(got)-1] != "r230" {
		t.Errorf("%d read, %d + %d dropped, of 230; the last is %s", len(got), lost, inMemory, got[len(got)-1])
	}
}

// The directory goes away while the process runs: it is made again, with what is in memory.
func TestDiskVanishes(t *testing.T) {
	d := openDisk(t, DiskOptions{SyncEvery: time.Hour})
	for i := 1; i <= 10; i++ {
		mustAppend(t, d, record(fmt.Sprintf("r%d", i), 3000))
	}
	if err := os.RemoveAll(d.opts.Directory); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "it is made again", func() bool {
		_, err := os.Stat(filepath.Join(d.opts.Directory, "format"))
		d.mu.Lock()
		defer d.mu.Unlock()
		return err == nil && d.failing == nil
	})
	mustAppend(t, d, record("r11", 3000))
	crash(d)
	d = openDisk(t, DiskOptions{Directory: d.opts.Directory})
	equal(t, drain(t, d), numbered(1, 11))
}
