package hour

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
	"github.com/choria-io/prometheus-streams/internal/spool"
)

// startTries is how often each start is measured; the best counts, since a target has its place in its interval.
const startTries = 3

// slowest is how much later the first scrape may be than with an empty spool.
const slowest = 700 * time.Millisecond

// multiply makes a spool of about so many bytes out of a small one, whose bundles come again and again.
func multiply(t *testing.T, from, to string, bytes int64) (records int) {
	t.Helper()
	source, err := spool.OpenDisk(spool.DiskOptions{Directory: from})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Release()
	if err := source.Close(); err != nil { // reading ends with what is there
		t.Fatal(err)
	}
	large, err := spool.OpenDisk(spool.DiskOptions{Directory: to, MaxBytes: 2 * bytes, SyncEvery: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	schemas := source.Schemas(1 << 20)
	for written := int64(0); written < bytes; {
		entries, err := source.Read(t.Context(), 0, 1<<20)
		for after := spool.Position(0); !errors.Is(err, spool.ErrClosed); entries, err = source.Read(t.Context(), after, 1<<20) {
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if err := large.Append(e.Record, schemas...); err != nil {
					t.Fatal(err)
				}
				written += int64(len(e.Message))
				after = e.Position
				records++
			}
			if written >= bytes {
				break
			}
		}
	}
	if err := large.Release(); err != nil {
		t.Fatal(err)
	}
	return records
}

// cold takes the files of a folder out of the system's memory, as after a start of the machine.
func cold(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := f.Sync(); err != nil {
			return err
		}
		const dontNeed = 4
		if _, _, errno := syscall.Syscall6(syscall.SYS_FADVISE64, f.Fd(), 0, 0, dontNeed, 0, 0); errno != 0 {
			return errno
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A large spool does not hold up the first scrape after a start.
func TestStart(t *testing.T) {
	large := int64(number(t, "HOUR_SPOOL_MB", 128)) << 20
	small := t.TempDir()
	fill(t, filepath.Join(small, identity), theLoad(t), 20*time.Minute)
	spools := map[string]string{"empty": t.TempDir(), "large": t.TempDir()}
	records := multiply(t, filepath.Join(small, identity), filepath.Join(spools["large"], identity), large)
	first := map[string]time.Duration{}
	for range startTries {
		for name, dir := range spools {
			cold(t, dir)
			took, peak, looked := start(t, dir, map[string]int{"empty": 1, "large": records}[name])
			t.Logf("%s spool, %d MB: first scrape after %v; all of it looked through after %v; peak memory then %.1f MB", name,
				size(t, dir)>>20, took.Round(time.Millisecond), looked.Round(10*time.Millisecond), float64(peak)/1e6)
			if best, ok := first[name]; !ok || took < best {
				first[name] = took
			}
		}
	}
	if late := first["large"] - first["empty"]; late > slowest {
		t.Errorf("the first scrape comes %v later with a spool of %d bytes", late, large)
	}
}

// start starts the product, with the hub away, and says when it scraped first and when it knew how much waits.
func start(t *testing.T, dir string, records int) (scraped time.Duration, peak int64, looked time.Duration) {
	t.Helper()
	g := beside.New(t, "other", 1)
	config := fmt.Sprintf(`
identity: %s
scrape_interval: 100ms
poller_stream: {urls: "nats://127.0.0.1:%d", topic: prometheus, stream: PROMETHEUS}
spool: {directory: %s, max_size: 8GiB}
%s`, identity, ports.Next(t), dir, harness.JobsYAML("other", g))
	begin := time.Now()
	p := harness.StartProduct(t, builds, "poller", ports.Next(t), config)
	harness.Wait(t, time.Minute, "the first scrape", func() error {
		if g.Numbers() == 0 {
			return errors.New("none yet")
		}
		return nil
	})
	scraped = g.Served()[0].Asked.Sub(begin)
	harness.Wait(t, 2*time.Minute, "all of the spool is known", func() error {
		page, err := harness.Scrape(p.URL + "/metrics")
		if err != nil {
			return err
		}
		if n := page.Sum("prometheus_streams_spool_records", nil); n < float64(records) {
			return fmt.Errorf("%v of %d records", n, records)
		}
		return nil
	})
	looked, peak = time.Since(begin), p.PeakMemory()
	p.Kill()
	return scraped, peak, looked
}
