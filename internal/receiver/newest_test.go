package receiver

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/choria-io/prometheus-streams/internal/sink"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// Over a restart, an older scrape is not delivered over a newer one, nor the newest one twice.
func TestFormat1Restart(t *testing.T) {
	each(t, func(t *testing.T, w *world, _ *site) {
		w.state = t.TempDir()
		w.start()
		first, second, third := old(t, "i", 0, "a 1\n"), old(t, "i", 10, "a 2\n"), old(t, "i", 20, "a 3\n")
		same := old(t, "i", 20, "a 4\n")
		other := old(t, "other", 5, "a 5\n")
		w.send("A", first)
		w.send("A", third)
		w.send("A", same)
		w.send("A", other)
		for range 2 {
			w.stop()
			w.start()
			for _, msg := range [][]byte{second, first, third, same, other} {
				w.send("A", msg)
			}
			w.wantMetric(2, "dropped_frames_total", "reason", "late", "publisher", "A")
			w.wantMetric(3, "duplicate_bundles_total", "publisher", "A")
		}
		w.send("A", old(t, "i", 20, "a 6\n"))
		w.send("A", old(t, "other", 6, "a 7\n"))
		w.stop()
		w.sink.want(t, "A/1", "A/3", "A/4", "A/5", "A/6", "A/7")
		if before, after := w.sink.got[2].Frame.Time, w.sink.got[4].Frame.Time; after <= before {
			t.Errorf("time %d after %d", after, before)
		}
	})
}

// What the sink was not done with when the process ended is delivered by the next one, also if the file was written anew
// meanwhile; and what is given up because it is older is counted.
func TestFormat1KilledBeforeTheVerdict(t *testing.T) {
	each(t, func(t *testing.T, w *world, _ *site) {
		w.state = t.TempDir()
		var late func(error)
		w.sink.verdict = func(d sink.Delivery, done func(error)) {
			if shown(d) == `{__name__="a"} 2` {
				late = done
				return
			}
			done(nil)
		}
		w.start()
		w.send("A", old(t, "i", 0, "a 1\n"))
		pending := w.send("A", old(t, "i", 10, "a 2\n"))
		if err := w.p.format1.newest.compact(time.Now()); err != nil {
			t.Fatal(err)
		}
		w.cancel() // as if it was killed: no verdict comes any more
		<-w.ended
		if late == nil {
			t.Fatal("the second scrape did not come to the sink")
		}
		w.sink.verdict = nil
		w.start()
		w.hand(pending)
		w.stop()
		w.sink.want(t, "A/1", "A/2", "A/2")
		w.wantAcked(1, pending)
	})
}

// A target that was silent for long is forgotten but for the time of its newest scrape.
func TestFormat1SilentTarget(t *testing.T) {
	each(t, func(t *testing.T, w *world, _ *site) {
		w.start()
		early := old(t, "i", -10, "a 0\n")
		w.send("A", old(t, "i", 0, "a 1\n"))
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		if n := len(w.p.format1.targets); n != 0 {
			t.Errorf("%d targets are known", n)
		}
		w.send("A", early)
		w.send("A", old(t, "i", 0, "a 2\n"))
		w.stop()
		w.sink.want(t, "A/1", "A/2")
		w.wantMetric(1, "dropped_frames_total", "reason", "late")
	})
}

// openTable opens the file of a table as a new process does.
func openTable(t *testing.T, path string, keep time.Duration) *newestTable {
	t.Helper()
	table, err := openNewest(path, keep, quiet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = table.close() })
	return table
}

// fill notes a scrape of many targets.
func fill(table *newestTable, from, to int, at int64) {
	for i := from; i < to; i++ {
		k := format1Key{"A", "j", fmt.Sprint(i)}
		n := table.targets[k]
		if n == nil {
			n = &newest{}
			table.add(k, n)
		}
		n.touched = time.Unix(at, 0)
		seen := format1Seen{at, uint64(i)}
		n.note(seen)
		table.done(k, n, seen, n.within, time.Unix(at, 0))
	}
}

func state(table *newestTable) map[format1Key]latest {
	out := make(map[format1Key]latest)
	for k, n := range table.targets {
		out[k] = n.done
	}
	return out
}

// The file stays small, and says the same after any number of scrapes.
func TestNewestTableCompacts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "newest")
	table := openTable(t, path, time.Hour)
	now := time.Now().Unix()
	for round := range int64(400) {
		fill(table, 0, 1000, now-400+round)
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() != table.size || info.Size() > newestCompactAt+100 {
		t.Errorf("file of %d bytes, counted %d: %v", info.Size(), table.size, err)
	}
	want := state(table)
	if again := openTable(t, path, time.Hour); len(want) != 1000 || !reflect.DeepEqual(state(again), want) || len(again.targets) != len(want) {
		t.Errorf("%d targets read, %d written, or another newest scrape", len(again.targets), len(want))
	}
	// Targets of which nothing came for long are not kept.
	fill(table, 0, 10, now)
	if short := openTable(t, path, 0); len(short.targets) > 10 {
		t.Errorf("%d targets kept", len(short.targets))
	}
}

// There is a limit to what is remembered; what is silent for longest goes first.
func TestNewestTableIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "newest")
	table := openTable(t, path, time.Hour)
	now := time.Now().Unix()
	fill(table, 0, newestKept, now-100)
	active := table.targets[format1Key{"A", "j", "0"}]
	active.touched = time.Unix(now-200, 0) // though something of it is with the sink
	fill(table, newestKept, newestKept+1, now)
	if n := len(table.targets); n > newestKept || n < newestKept*8/10 {
		t.Errorf("%d targets", n)
	}
	k := format1Key{"A", "j", "0"}
	if table.targets[k] != nil {
		t.Fatal("the oldest one was kept")
	}
	active.touched = time.Unix(now, 0)
	table.done(k, active, format1Seen{now, 1}, 0, time.Unix(now, 0))
	again := openTable(t, path, time.Hour)
	if n := again.targets[k]; n == nil || n.done.time != now || again.targets[format1Key{"A", "j", fmt.Sprint(newestKept)}] == nil {
		t.Error("a target that came back is not in the file, or the newest one is not")
	}
}

// A disk that takes nothing stops nobody; the file is written anew when it does.
func TestNewestTableWithoutDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		directory := t.TempDir()
		path := filepath.Join(directory, "sub", "newest")
		table := openTable(t, path, 24*time.Hour)
		if err := os.Remove(filepath.Dir(path)); err != nil {
			t.Fatal(err)
		}
		fill(table, 0, 5, time.Now().Unix())
		if table.failed.IsZero() {
			t.Fatal("writing into no directory succeeded")
		}
		fill(table, 5, 10, time.Now().Unix())
		if err := os.Mkdir(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		table.mend(time.Now())
		if table.failed.IsZero() {
			t.Error("tried again at once")
		}
		time.Sleep(newestRetry)
		table.mend(time.Now())
		fill(table, 10, 15, time.Now().Unix())
		if n := len(openTable(t, path, 24*time.Hour).targets); n != 15 {
			t.Errorf("%d targets in the file", n)
		}
	})
}

// A torn end costs what is in it; another file is not taken for one.
func TestNewestTableDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "newest")
	table := openTable(t, path, time.Hour)
	fill(table, 0, 20, time.Now().Unix())
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := len(newestMagic); cut < len(whole); cut += 7 {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		if got, most := len(openTable(t, path, time.Hour).targets), 20*cut/len(whole); got > most+1 || got < most-2 {
			t.Errorf("%d targets of %d of %d bytes", got, cut, len(whole))
		}
	}
	if err := os.WriteFile(path, []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openNewest(path, time.Hour, quiet()); err == nil {
		t.Error("another file is taken for one")
	}
}

func FuzzNewestTable(f *testing.F) {
	path := filepath.Join(f.TempDir(), "newest")
	table, err := openNewest(path, time.Hour, quiet())
	if err != nil {
		f.Fatal(err)
	}
	fill(table, 0, 3, 1795374938)
	_ = table.close()
	b, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(newestMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		now := time.Unix(1795374938, 0)
		read := func(b []byte) (*newestTable, error) {
			table := &newestTable{keep: 1 << 62, logger: quiet(), targets: map[format1Key]*newest{}}
			return table, table.read(bufio.NewReader(bytes.NewReader(b)), now)
		}
		table, err := read(b)
		if err != nil {
			return
		}
		table.encode(now)
		again, err := read(table.buf)
		if err != nil || !reflect.DeepEqual(state(again), state(table)) {
			t.Fatalf("written and read again, it is another: %v", err)
		}
	})
}
