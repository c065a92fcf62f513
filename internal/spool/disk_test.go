package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func openDisk(t *testing.T, o DiskOptions) *Disk {
	t.Helper()
	if o.Directory == "" {
		o.Directory = t.TempDir()
	}
	d, err := OpenDisk(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Release() })
	return d
}

// crash ends a spool as kill -9 does: nothing is written any more.
func crash(d *Disk) {
	close(d.stop)
	d.background.Wait()
	d.mu.Lock()
	d.closed, d.released = true, true
	d.mu.Unlock()
	_ = d.lock.Close()
}

func release(t *testing.T, d *Disk) {
	t.Helper()
	if err := d.Release(); err != nil {
		t.Fatal(err)
	}
}

// drain reads and trims everything, a few at a time, and gives the names.
func drain(t *testing.T, d *Disk) []string {
	t.Helper()
	var out []string
	var at Position
	for {
		list := names(t, d, at)
		if list == "" {
			return out
		}
		for n := range strings.SplitSeq(list, " ") {
			var p Position
			var name string
			if _, err := fmt.Sscanf(n, "%d%s", &p, &name); err != nil {
				t.Fatal(err)
			}
			if p <= at {
				t.Fatalf("position %d after %d", p, at)
			}
			at = p
			out = append(out, name)
		}
		if err := d.Trim(at); err != nil {
			t.Fatal(err)
		}
	}
}

func numbered(from, to int) []string {
	var out []string
	for i := from; i <= to; i++ {
		out = append(out, fmt.Sprintf("r%d", i))
	}
	return out
}

func equal(t *testing.T, got, want []string) {
	t.Helper()
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("got %d records %.200v, want %d %.200v", len(got), got, len(want), want)
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func dropped(d *Disk, reason string) (records, samples int) {
	return int(testutil.ToFloat64(d.metrics.droppedRecords.WithLabelValues(reason))),
		int(testutil.ToFloat64(d.metrics.droppedSamples.WithLabelValues(reason)))
}

func TestDiskOrder(t *testing.T) {
	d := openDisk(t, DiskOptions{SyncEvery: time.Second})
	for _, n := range []string{"a", "b", "c"} {
		mustAppend(t, d, record(n, 10))
	}
	for after, want := range []string{"1a 2b 3c", "2b 3c", "3c", ""} {
		if got := names(t, d, Position(after)); got != want {
			t.Errorf("after %d: %q, want %q", after, got, want)
		}
	}
	if r, f, s := d.Held(); r != 3 || f != 6 || s != 30 {
		t.Errorf("Held = %d, %d, %d", r, f, s)
	}
	if err := d.Trim(2); err != nil {
		t.Fatal(err)
	}
	if r, f, s := d.Held(); r != 1 || f != 2 || s != 10 {
		t.Errorf("Held = %d, %d, %d", r, f, s)
	}
	if got := names(t, d, 0); got != "3c" {
		t.Errorf("after trimming 2: %q", got)
	}
	_ = d.Trim(99)
	mustAppend(t, d, record("d", 10))
	if got := names(t, d, 1); got != "4d" {
		t.Errorf("positions must go on: %q", got)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Append(record("e", 10)); !errors.Is(err, ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
	if _, err := d.Read(t.Context(), 4, 1); !errors.Is(err, ErrClosed) {
		t.Errorf("read after close: %v", err)
	}
	if got := names(t, d, 0); got != "4d" {
		t.Errorf("after close: %q", got)
	}
}

// A restart, clean or not, goes on where the last process was; many segments, read from the disk.
func TestDiskRestart(t *testing.T) {
	for name, end := range map[string]func(*testing.T, *Disk){
		"clean": release, "crash": func(_ *testing.T, d *Disk) { crash(d) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			o := DiskOptions{Directory: dir, MaxBytes: 8 << 20, SyncEvery: 20 * time.Millisecond} // segments of 1 MiB
			d := openDisk(t, o)
			const n = 1500
			for i := 1; i <= n; i++ {
				mustAppend(t, d, record(fmt.Sprintf("r%d", i), 3000, "s1"), schema("s1", 500))
			}
			if len(d.segments) < 4 {
				t.Fatalf("%d segments, the test wants more", len(d.segments))
			}
			read, err := d.Read(t.Context(), 0, 100)
			if err != nil || len(read) != 100 {
				t.Fatalf("%d records, %v", len(read), err)
			}
			_ = d.Trim(read[49].Position)
			waitFor(t, "the position is on disk", func() bool {
				p, _, err := readPosition(d.positionFile())
				return err == nil && p == 50
			})
			end(t, d)

			reg := prometheus.NewPedanticRegistry()
			o.Registerer = reg
			d = openDisk(t, o)
			if p := d.Previous(); p == nil || !strings.HasPrefix(string(p.Message), fmt.Sprintf("r%d.", n)) {
				t.Errorf("previous %v", p)
			}
			waitFor(t, "all is counted", func() bool {
				r, f, s := d.Held()
				return r == n-50 && f == 2*(n-50) && s == 10*(n-50)
			})
			if s, err := d.Schema("s1"); err != nil || s.Subject != "t.schemas.dc1.s1" || len(s.Message) != 500 {
				t.Errorf("schema %v %v", s, err)
			}
			if got := d.Schemas(1000); len(got) != 1 || got[0].ID != "s1" {
				t.Errorf("schemas %v", got)
			}
			mustAppend(t, d, record(fmt.Sprintf("r%d", n+1), 10, "s1"))
			equal(t, drain(t, d), numbered(51, n+1))
			if r, _, _ := d.Held(); r != 0 {
				t.Errorf("%d held after draining", r)
			}
			waitFor(t, "segments are removed", func() bool { d.mu.Lock(); defer d.mu.Unlock(); return len(d.segments) == 1 })
			if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
				t.Errorf("lint: %v %v", problems, err)
			}
			for _, r := range []string{reasonFull, reasonAge, reasonCorrupt, reasonDisk} {
				if n, _ := dropped(d, r); n != 0 {
					t.Errorf("%d dropped for %s", n, r)
				}
			}
			release(t, d)
			d = openDisk(t, DiskOptions{Directory: dir})
			if p := d.Previous(); p == nil || !strings.HasPrefix(string(p.Message), fmt.Sprintf("r%d.", n+1)) {
				t.Errorf("previous after all was trimmed: %v", p)
			}
			if got := names(t, d, 0); got != "" {
				t.Errorf("trimmed records came back: %.100q", got)
			}
			mustAppend(t, d, record("z", 10))
			if got := names(t, d, 0); got != fmt.Sprintf("%dz", n+2) {
				t.Errorf("positions must go on: %q", got)
			}
		})
	}
}

func TestDiskLock(t *testing.T) {
	d := openDisk(t, DiskOptions{})
	if _, err := OpenDisk(DiskOptions{Directory: d.opts.Directory}); !errors.Is(err, ErrLocked) {
		t.Errorf("two processes: %v", err)
	}
	release(t, d)
	openDisk(t, DiskOptions{Directory: d.opts.Directory})
}

func TestDiskFormat(t *testing.T) {
	d := openDisk(t, DiskOptions{})
	release(t, d)
	if err := os.WriteFile(filepath.Join(d.opts.Directory, "format"), []byte("prometheus-streams spool 9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenDisk(DiskOptions{Directory: d.opts.Directory}); err == nil || !strings.Contains(err.Error(), "spool 9") {
		t.Errorf("a later format: %v", err)
	}
	if err := os.WriteFile(filepath.Join(t.TempDir(), "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	_ = os.WriteFile(file, nil, 0o600)
	var pathErr *fs.PathError
	if _, err := OpenDisk(DiskOptions{Directory: filepath.Join(file, "sub")}); !errors.As(err, &pathErr) {
		t.Errorf("no directory: %v", err)
	}
}

func TestDiskDropsOldest(t *testing.T) {
	d := openDisk(t, DiskOptions{MaxBytes: 1 << 20, SyncEvery: time.Second}) // segments of 128 KiB
	const n = 600
	for i := 1; i <= n; i++ {
		mustAppend(t, d, record(fmt.Sprintf("r%d", i), 3000))
	}
	lost, samples := dropped(d, reasonFull)
	if lost == 0 || samples != 10*lost {
		t.Errorf("%d records with %d samples dropped", lost, samples)
	}
	if r, _, _ := d.Held(); r != n-lost {
		t.Errorf("%d held, %d dropped of %d", r, lost, n)
	}
	if l := d.level(); l.bytes > 1<<20 || l.bytes < 700<<10 {
		t.Errorf("%d bytes", l.bytes)
	}
	equal(t, drain(t, d), numbered(lost+1, n))
}

func TestDiskRefuses(t *testing.T) {
	d := openDisk(t, DiskOptions{MaxBytes: 1 << 20, Refuse: true, SyncEvery: time.Second})
	n := 0
	for ; ; n++ {
		if err := d.Append(record(fmt.Sprintf("r%d", n+1), 3000)); err != nil {
			if !errors.Is(err, ErrFull) {
				t.Fatal(err)
			}
			break
		}
	}
	if n < 200 {
		t.Fatalf("full after %d records", n)
	}
	if !d.voice.warned {
		t.Error("no warning before it was full")
	}
	_ = d.Trim(100)
	mustAppend(t, d, record(fmt.Sprintf("r%d", n+1), 3000))
	equal(t, drain(t, d), numbered(101, n+1))
	if err := d.Append(record("huge", 2<<20)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a record larger than the spool: %v", err)
	}
}

func TestDiskMaxAge(t *testing.T) {
	d := openDisk(t, DiskOptions{MaxAge: time.Hour, SyncEvery: time.Second})
	mustAppend(t, d, record("a", 10))
	d.mu.Lock()
	d.clockBase += 30 * time.Minute // as if the process had run
	d.expire()
	d.mu.Unlock()
	mustAppend(t, d, record("b", 10))
	d.mu.Lock()
	d.clockBase += 31 * time.Minute
	d.expire()
	d.mu.Unlock()
	if got := names(t, d, 0); got != "2b" {
		t.Errorf("held %q", got)
	}
	if n, s := dropped(d, reasonAge); n != 1 || s != 10 {
		t.Errorf("%d dropped with %d samples", n, s)
	}
	entries, err := d.Read(t.Context(), 0, 1)
	if err != nil || len(entries) != 1 {
		t.Fatal(err)
	}
	if a := d.level().age; a < 1800 || a > 2000 {
		t.Errorf("age %v", a)
	}
	crash(d)
	d = openDisk(t, DiskOptions{Directory: d.opts.Directory, MaxAge: time.Hour})
	if got := names(t, d, 0); got != "2b" {
		t.Errorf("the time in which nothing ran counts: %q", got)
	}
}

func TestDiskRewind(t *testing.T) {
	d := openDisk(t, DiskOptions{SyncEvery: time.Hour, Retain: time.Hour})
	for i := 1; i <= 500; i++ {
		mustAppend(t, d, record(fmt.Sprintf("r%d", i), 3000))
	}
	equal(t, drain(t, d), numbered(1, 500))
	if to := d.Rewind(); to != 0 {
		t.Errorf("rewound to %d", to)
	}
	if r, _, s := d.Held(); r != 500 || s != 5000 {
		t.Errorf("%d records, %d samples held", r, s)
	}
	equal(t, drain(t, d), numbered(1, 500))
}

func TestDiskSchemas(t *testing.T) {
	d := openDisk(t, DiskOptions{})
	if err := d.Append(record("a", 10, "s1")); !errors.Is(err, ErrNoSchema) || !strings.Contains(err.Error(), "s1") {
		t.Fatalf("a record that names an unknown schema: %v", err)
	}
	mustAppend(t, d, record("a", 10, "s1"), schema("s1", 50), schema("unwanted", 50))
	if has(d, "unwanted") {
		t.Error("a schema that nobody names is kept")
	}
	mustAppend(t, d, record("b", 10, "s2"), schema("s2", 50))
	d.SetLive([]string{"s2", "s3"})
	if got := d.Live(); len(got) != 1 || got[0] != "s2" {
		t.Errorf("live %v", got)
	}
	_ = d.Trim(2)
	d.mu.Lock()
	d.rotate()
	d.save()
	d.mu.Unlock()
	mustAppend(t, d, record("c", 10))
	_ = d.Trim(3)
	d.mu.Lock()
	d.removeDone(true)
	d.collect(true, nil)
	d.mu.Unlock()
	if has(d, "s1") || !has(d, "s2") {
		t.Errorf("s1 %v, s2 %v: only the live one is needed", has(d, "s1"), has(d, "s2"))
	}
	// A damaged file is as good as none.
	damage(t, d.schemas.file("s2"), func(b []byte) []byte { b[10] ^= 1; return b })
	if _, err := d.Schema("s2"); !errors.Is(err, ErrNoSchema) || has(d, "s2") {
		t.Errorf("damaged schema: %v", err)
	}
}

func TestDiskConcurrent(t *testing.T) {
	d := openDisk(t, DiskOptions{MaxBytes: 1 << 20, Refuse: true, SyncEvery: 5 * time.Millisecond})
	const n = 2000
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 1; i <= n; {
			err := d.Append(record(fmt.Sprintf("r%d", i), 3000))
			switch {
			case err == nil:
				i++
			case errors.Is(err, ErrFull):
				time.Sleep(time.Millisecond)
			default:
				t.Error(err)
				return
			}
		}
		_ = d.Close()
	})
	next := 1
	var at Position
	for {
		entries, err := d.Read(t.Context(), at, 7)
		if errors.Is(err, ErrClosed) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if want := fmt.Sprintf("r%d.", next); !strings.HasPrefix(string(e.Message), want) {
				t.Fatalf("got %.10s, want %s", e.Message, want)
			}
			next, at = next+1, e.Position
			if next%3 == 0 {
				_ = d.Trim(at)
			}
		}
	}
	wg.Wait()
	if next != n+1 {
		t.Errorf("%d records read", next-1)
	}
}

func FuzzRecord(f *testing.F) {
	e := stamped{Entry: Entry{Record: record("a", 20, "s1", "s2"), Position: 7}, clock: time.Hour}
	f.Add(appendRecord(nil, &e))
	f.Add([]byte{recordKind})
	f.Add([]byte{recordKind, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parseRecord(b, false)
		if err != nil {
			return
		}
		again, err := parseRecord(appendRecord(nil, &e), false)
		if err != nil || again.Position != e.Position || again.clock != e.clock || again.Subject != e.Subject ||
			string(again.Message) != string(e.Message) || len(again.Schemas) != len(e.Schemas) {
			t.Fatalf("%+v became %+v, %v", e, again, err)
		}
		if s, err := parseSchema("x", b); err == nil && len(s.Message) > len(b) {
			t.Fatal("more than there was")
		}
	})
}

// FuzzFiles reads the small files of a spool, whatever they hold. One with a good checksum is what was written.
func FuzzFiles(f *testing.F) {
	f.Add([]byte("7 3600000 00000000\n"), uint64(7), int64(3600000))
	f.Add([]byte("-1 x"), uint64(0), int64(0))
	f.Add([]byte(schemaMagic+"\x00\x00\x00\x00\x01a"), uint64(1)<<63, int64(1)<<62)
	f.Add([]byte("\x01a\x02bcdef"), uint64(1), int64(1))
	f.Fuzz(func(t *testing.T, b []byte, floor uint64, ms int64) {
		file := filepath.Join(t.TempDir(), "position")
		read := func(b []byte) (Position, time.Duration, error) {
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
			return readPosition(file)
		}
		if _, clock, err := read(b); err == nil && clock < 0 {
			t.Errorf("a clock of %s", clock)
		}
		text := fmt.Sprintf("%d %d", floor, ms)
		got, clock, err := read(fmt.Appendf(nil, "%s %08x\n", text, crc32.Checksum([]byte(text), castagnoli)))
		if ms >= 0 && err == nil && (got != Position(floor) || clock < 0) {
			t.Errorf("%s is read as %d %s", text, got, clock)
		}
		for _, magic := range []string{schemaMagic, childMagic} {
			sealed := binary.LittleEndian.AppendUint32([]byte(magic), crc32.Checksum(b, castagnoli))
			sealed = append(sealed, b...)
			s, err := parseSchema("x", sealed)
			if err != nil {
				continue
			}
			if len(s.Message)+len(s.Subject)+len(s.Parent) > len(b) || (s.Parent != "") && magic == schemaMagic {
				t.Errorf("a schema of %d bytes out of %d, with parent %q", len(s.Message), len(b), s.Parent)
			}
			if again, err := parseSchema("x", appendSchema(nil, &s)); err != nil || !reflect.DeepEqual(again, s) {
				t.Errorf("%+v is written and read as %+v, %v", s, again, err)
			}
			if err := os.WriteFile(file, sealed, 0o600); err != nil {
				t.Fatal(err)
			}
			if parent, err := parentIn(file); err == nil && parent != s.Parent {
				t.Errorf("parent %q, want %q", parent, s.Parent)
			}
		}
	})
}

// FuzzSegment reads segments of any content: it ends, and gives nothing but records.
func FuzzSegment(f *testing.F) {
	dir := f.TempDir()
	l, err := openWAL(dir, 0)
	if err != nil {
		f.Fatal(err)
	}
	for i := range 3 {
		e := stamped{Entry: Entry{Record: record("a", 20, "s1"), Position: Position(i + 1)}, gap: i == 1}
		if err := l.Log(appendRecord(nil, &e)); err != nil {
			f.Fatal(err)
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "00000000"))
	if err != nil {
		f.Fatal(err)
	}
	_ = l.Close()
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		found := findIn(bytes.NewReader(b), 0, true)
		if (found.total.records > 0) != (found.newestRecord != nil) || found.held != found.total {
			t.Fatalf("%+v", found)
		}
	})
}
