package hour

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
	"github.com/choria-io/prometheus-streams/e2e/receive"
)

var (
	builds *harness.Builds
	ports  harness.Ports
	beside harness.Targets
)

func TestMain(m *testing.M) { harness.Main(m, &builds) }

// number reads a number from the environment.
func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n <= 0 {
		t.Fatalf("%s: %q is not a positive number", name, text)
	}
	return n
}

// theLoad is HOUR_TARGETS with HOUR_SERIES each.
func theLoad(t *testing.T) load {
	return load{number(t, "HOUR_TARGETS", 20), number(t, "HOUR_SERIES", 500)}
}

// during is how long the hub is away, in simulated time; warm is when the poller has all that it needs for steady work.
const (
	during = time.Hour
	warm   = 10 * time.Minute
)

// memory is what is in use after a collection.
func memory() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// size adds up the files of a folder.
func size(t *testing.T, dir string) (bytes int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			bytes += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

// fill lets the hub be away for so long. The clock is simulated, all else is real: scrapes, encoder, bundles, disk.
func fill(t *testing.T, dir string, l load, away time.Duration) (frames, samples int) {
	t.Helper()
	started := time.Now()
	today := time.Now().Add(-away).Truncate(time.Hour)
	var early, late uint64
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(today)) // a bubble begins in 2000
		o, err := begin(dir, l)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(min(warm, away/2))
		early = memory()
		time.Sleep(away - min(warm, away/2))
		late = memory()
		if frames, samples, err = o.end(); err != nil {
			t.Fatal(err)
		}
	})
	if want := l.targets * int(away/interval); frames < want-l.targets || frames > want {
		t.Errorf("%d frames in the spool, %d targets give %d in %v", frames, l.targets, want, away)
	}
	onDisk := float64(size(t, dir)) / float64(samples)
	t.Logf("%v of %d targets with %d series every %v: %d samples, made in %.1f s; %.2f bytes a sample on disk; "+
		"heap %.1f MB after %v, %.1f MB at the end", away, l.targets, l.series, interval, samples, time.Since(started).Seconds(),
		onDisk, float64(early)/1e6, min(warm, away/2), float64(late)/1e6)
	if onDisk > 2 {
		t.Errorf("%.2f bytes a sample on disk, at most 2 are wanted", onDisk)
	}
	if late > early+early/10+4<<20 {
		t.Errorf("the heap grew from %d to %d bytes", early, late)
	}
	return frames, samples
}

// The hub is away for an hour; then the product sends it what waits, and is killed in the middle of that. Everything
// arrives as the targets showed it.
func TestHour(t *testing.T) {
	l := theLoad(t)
	dir := t.TempDir()
	frames, samples := fill(t, filepath.Join(dir, identity), l, during)
	server := harness.StartNATS(t, ports.Next(t), "")
	config := fmt.Sprintf(`
identity: %s
scrape_interval: 1m
poller_stream: {urls: %s, topic: prometheus, stream: PROMETHEUS}
spool: {directory: %s}
%s`, identity, server.URL, dir, harness.JobsYAML("other", beside.New(t, "other", 1)))
	file := filepath.Join(t.TempDir(), "poller.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := harness.Run(t, builds, time.Minute, nil, "check", "stream", "--create", "--config", file); r.Code != 0 {
		t.Fatalf("exit code %d:\n%s", r.Code, r.Output)
	}
	drain(t, server, config, uint64(size(t, dir)), samples)
	checkStored(t, server)
	checkDelivered(t, server, l, frames, samples)
}

// drain sends the bytes that wait in the spool, with a kill in the middle, and says how fast that is.
func drain(t *testing.T, server *harness.NATS, config string, waiting uint64, samples int) {
	t.Helper()
	js := server.JetStream(t)
	stored := func() uint64 {
		s, err := js.Stream(t.Context(), "PROMETHEUS")
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().State.Bytes
	}
	begin := time.Now()
	p := harness.StartProduct(t, builds, "poller", ports.Next(t), config)
	for deadline := begin.Add(2 * time.Minute); stored() < waiting/3; {
		if time.Now().After(deadline) {
			t.Fatalf("a third of %d bytes is not in the stream after %v", waiting, time.Since(begin))
		}
	}
	p.Kill()
	killed := stored()
	if killed == 0 || killed > waiting*9/10 {
		t.Errorf("the poller was killed with %d of %d bytes in the stream: that is not the middle", killed, waiting)
	}
	p.Restart(t)
	harness.Wait(t, 2*time.Minute, "the spool is empty", func() error {
		page, err := harness.Scrape(p.URL + "/metrics")
		if err != nil {
			return err
		}
		if n := page.Sum("prometheus_streams_spool_records", nil); n > 0 {
			return fmt.Errorf("%v bundles wait", n)
		}
		return nil
	})
	took := time.Since(begin)
	peak := p.PeakMemory()
	p.Stop(15 * time.Second)
	p.Restart(t)
	p.Ready(t)
	time.Sleep(2 * time.Second)
	t.Logf("killed with %d of %d bytes in the stream; all of it there after %.2f s, both starts included: %.0f times real time, "+
		"%.1f million samples a second; peak memory %.1f MB, with an empty spool %.1f MB", killed, waiting, took.Seconds(),
		during.Seconds()/took.Seconds(), float64(samples)/took.Seconds()/1e6, float64(peak)/1e6, float64(p.PeakMemory())/1e6)
	if took > during/50 {
		t.Errorf("took %v, an hour is wanted in %v", took, during/50)
	}
	p.Stop(15 * time.Second)
}

// checkStored checks that the stream has every bundle of each epoch, the first copies in order, the others the same bytes.
func checkStored(t *testing.T, server *harness.NATS) {
	t.Helper()
	last := map[uint64]uint64{}
	first := map[[2]uint64][]byte{}
	again := 0
	for _, b := range harness.Bundles(t, server.JetStream(t), "PROMETHEUS") {
		epoch, seq := b.Header.Epoch, b.Header.Seq
		if before, ok := first[[2]uint64{epoch, seq}]; ok {
			again++
			if !bytes.Equal(before, b.Data) {
				t.Errorf("bundle %d of epoch %x is there twice with different content", seq, epoch)
			}
			continue
		}
		if seq != last[epoch]+1 {
			t.Errorf("bundle %d of epoch %x comes after bundle %d", seq, epoch, last[epoch])
		}
		first[[2]uint64{epoch, seq}], last[epoch] = b.Data, seq
	}
	t.Logf("%d bundles of %d epochs in the stream, %d of them a second time", len(first), len(last), again)
}

// checkDelivered receives all of it and compares every sample with what its target shows when it is scraped again.
func checkDelivered(t *testing.T, server *harness.NATS, l load, frames, samples int) {
	t.Helper()
	c := newCompare(l)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	begin := time.Now()
	go func() {
		ended <- receive.Run(ctx, receive.Options{
			URL: server.URL, Topic: "prometheus", Stream: "PROMETHEUS", ClientID: "hour", Name: "compare", State: t.TempDir(),
			Logger: slog.New(slog.DiscardHandler),
		}, c)
	}()
	harness.Wait(t, 10*time.Minute, "all is delivered", func() error {
		n, _, _, err := c.state()
		if err != nil {
			t.Fatal(err)
		}
		if n < frames {
			return fmt.Errorf("%d of %d frames", n, frames)
		}
		return nil
	})
	took := time.Since(begin)
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	gotFrames, gotSamples, repeats, err := c.state()
	if err != nil || gotFrames != frames || gotSamples != samples || repeats > 0 {
		t.Errorf("%d frames with %d samples delivered, %d again, of %d with %d: %v", gotFrames, gotSamples, repeats, frames, samples, err)
	}
	t.Logf("%d frames with %d samples delivered and equal, in %.1f s", gotFrames, gotSamples, took.Seconds())
}
