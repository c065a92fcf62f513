//go:build chaos

package chaos

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
	"github.com/choria-io/prometheus-streams/e2e/record"
)

// loopDisk is a file system in a file. What the kernel has not written to the file is lost when the power fails.
type loopDisk struct {
	dir, file, device string
}

func newLoopDisk(t *testing.T, megabytes int64) *loopDisk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("mounting a disk needs root")
	}
	d := &loopDisk{dir: t.TempDir(), file: filepath.Join(t.TempDir(), "disk")}
	if err := os.WriteFile(d.file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.file, megabytes<<20); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.ext4", "-q", d.file)
	d.mount(t)
	t.Cleanup(d.unmount)
	return d
}

func (d *loopDisk) mount(t *testing.T) {
	t.Helper()
	d.device = strings.TrimSpace(run(t, "losetup", "--find", "--show", d.file))
	run(t, "mount", d.device, d.dir)
}

func (d *loopDisk) unmount() {
	exec.Command("umount", "-l", d.dir).Run()
	exec.Command("losetup", "--detach", d.device).Run()
}

// fail is a power failure at a moment when a process that has the disk writes nothing more: its file is what the kernel
// had written until then. For as long as quiet before, that was nothing: what the process gave the kernel in that time is
// lost, and the file is not one of two times, as a copy made during a write would be. The process is killed.
func (d *loopDisk) fail(t *testing.T, p *harness.Process, quiet time.Duration) (at time.Time) {
	t.Helper()
	snapshot := filepath.Join(t.TempDir(), "disk")
	harness.Wait(t, 2*time.Minute, "the disk's file stays as it is for "+quiet.String(), func() error {
		run(t, "cp", "--sparse=always", d.file, snapshot)
		time.Sleep(quiet)
		at = time.Now()
		p.Freeze()
		if err := exec.Command("cmp", "--silent", d.file, snapshot).Run(); err != nil {
			p.Thaw()
			return errors.New("it was written to")
		}
		return nil
	})
	p.Kill()
	d.unmount()
	d.file = snapshot
	d.mount(t)
	return at
}

func run(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// syncSlack is what a busy machine and the bundle that was being filled add to the time between two syncs.
const syncSlack = 1500 * time.Millisecond

// The power fails at a site, once with the hub there and once without: what came since the last sync is lost, is reported
// as the end of an epoch that nobody knows, and everything else arrives, in order and once.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	builds, err := harness.NewBuilds()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(builds.Remove)
	for name, every := range map[string]time.Duration{"1s": time.Second, "always": 0} {
		t.Run("sync "+name, func(t *testing.T) {
			t.Parallel()
			powerLoss(t, builds, name, every)
		})
	}
}

// failure is one power failure.
type failure struct {
	at   time.Time
	kept int // records that the spool had taken so long before that they were on the disk
}

func powerLoss(t *testing.T, builds *harness.Builds, sync string, every time.Duration) {
	var targets harness.Targets
	hub := harness.StartNATS(t, ports.Next(t), "")
	edge := newRelay(t, hub.URL)
	recorder := harness.StartRecorder(t, builds, ports.Next(t), hub, "power")
	all := targets.Many(t, "node", 4, 20)
	disk := newLoopDisk(t, 64)
	poller := harness.StartProduct(t, builds, "poller", ports.Next(t), fmt.Sprintf(`
identity: site
scrape_interval: 250ms
poller: {flush_age: 50ms}
spool: {directory: %s, sync: %s}
poller_stream: {urls: %s, topic: prometheus, stream: PROMETHEUS}
%s`, filepath.Join(disk.dir, "spool"), sync, edge.URL, harness.JobsYAML("edge", all...)))
	recorder.WaitNumbers(t, 60*time.Second, map[*harness.Target]int{all[0]: 8})

	var failures []failure
	for _, away := range []bool{false, true} {
		if away {
			edge.Cut()
		}
		time.Sleep(3 * time.Second)
		f := failure{kept: appended(t, poller)}
		time.Sleep(2 * every)
		f.at = disk.fail(t, poller.Process, every/2)
		failures = append(failures, f)
		edge.Mend()
		poller.Restart(t)
		recorder.WaitNumbers(t, 60*time.Second, map[*harness.Target]int{all[0]: all[0].Numbers() + 4})
	}
	last := map[*harness.Target]int{}
	for _, g := range all {
		last[g] = g.Numbers()
	}
	recorder.WaitNumbers(t, 60*time.Second, last)
	if n := strings.Count(recorder.Output(), "an epoch ended without a word"); n != 2 {
		t.Errorf("%d lines tell of epochs with an unknown end, 2 have one", n)
	}
	unclean := harness.MustScrape(t, recorder.URL+"/metrics").Sum("prometheus_streams_receiver_unclean_epochs_total", nil)
	if unclean != 2 {
		t.Errorf("%v epochs were reported to have an unknown end, 2 have", unclean)
	}
	poller.Stop(15 * time.Second)
	recorder.Stop(15 * time.Second)
	checkKept(t, harness.Bundles(t, hub.JetStream(t), "PROMETHEUS"), failures)
	accountPower(t, recorder, all, last, failures, every)
}

// appended is how many records the spool of this process has taken: all that it counts are written, and synced if each is.
func appended(t *testing.T, poller *harness.Product) int {
	n := poller.Metrics(t).Sum("prometheus_streams_spool_appended_records_total", nil)
	poller.Metrics(t) // its gauges wait for an append that was counted and not yet over
	return int(n)
}

// checkKept checks that the stream has of each epoch what the spool had on disk when the power failed.
func checkKept(t *testing.T, stored []harness.Stored, failures []failure) {
	t.Helper()
	var epochs []uint64
	last := map[uint64]uint64{}
	for i := range stored {
		h := &stored[i].Header
		if _, seen := last[h.Epoch]; !seen {
			epochs = append(epochs, h.Epoch)
		}
		last[h.Epoch] = max(last[h.Epoch], h.Seq)
	}
	if len(epochs) != len(failures)+1 {
		t.Fatalf("%d epochs are in the stream, want %d", len(epochs), len(failures)+1)
	}
	for i, f := range failures {
		if got := last[epochs[i]]; got < uint64(f.kept) || f.kept == 0 {
			t.Errorf("power failure %d: the stream has %d bundles of the epoch, %d were on the disk", i+1, got, f.kept)
		}
	}
	checkEpochs(t, stored, true) // the hub may have got what the disk lost
}

func accountPower(t *testing.T, recorder *harness.Recorder, all []*harness.Target, last map[*harness.Target]int, failures []failure, every time.Duration) {
	t.Helper()
	a := recorder.Account(t)
	lost := make([]int, len(failures))
	for _, g := range all {
		key := record.TargetKey("site", fmt.Sprintf(`{instance=%q, job="edge"}`, g.Name))
		served := g.Served()
		for _, number := range harness.CheckTarget(t, a, key, g).Missing(last[g]) {
			asked := served[number-1].Asked
			n := slices.IndexFunc(failures, func(f failure) bool {
				return asked.After(f.at.Add(-every-syncSlack)) && asked.Before(f.at.Add(syncSlack))
			})
			if n < 0 {
				t.Errorf("%s: scrape %d, asked for at %s, was never delivered", g.Name, number, clockTime(asked))
				continue
			}
			lost[n]++
		}
	}
	t.Logf("scrapes lost: %d with the hub there, %d without; %d frames delivered, %d again", lost[0], lost[1], a.Frames, a.Repeats)
	if every > 0 && lost[1] == 0 {
		t.Error("no scrape was lost without the hub: the power did not fail")
	}
}
