//go:build chaos

package chaos

import (
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

// snapshot is what would be on the disk if the power failed now.
func (d *loopDisk) snapshot(t *testing.T) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "disk")
	run(t, "cp", "--sparse=always", d.file, file)
	return file
}

func run(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// spoolSync is how often the spool's data is forced to the disk in this test; syncSlack is what a busy machine and the
// bundle that was being filled add.
const (
	spoolSync = time.Second
	syncSlack = 1500 * time.Millisecond
)

// The power fails at a site, once with the hub there and once without: what came in the last second or so is lost, is
// reported as the end of an epoch that nobody knows, and everything else arrives, in order and once.
func TestPowerLoss(t *testing.T) {
	builds, err := harness.NewBuilds()
	if err != nil {
		t.Fatal(err)
	}
	defer builds.Remove()
	var ports harness.Ports
	var targets harness.Targets
	hub := harness.StartNATS(t, ports.Next(t), "")
	edge := newRelay(t, hub.URL)
	recorder := harness.StartRecorder(t, builds, ports.Next(t), hub, "power")
	all := targets.Many(t, "node", 4, 20)
	disk := newLoopDisk(t, 64)
	spool := filepath.Join(disk.dir, "spool")
	poller := harness.StartProduct(t, builds, "poller", ports.Next(t), fmt.Sprintf(`
identity: site
scrape_interval: 250ms
poller: {flush_age: 50ms}
spool: {directory: %s, sync: %s}
poller_stream: {urls: %s, topic: prometheus, stream: PROMETHEUS}
%s`, spool, spoolSync, edge.URL, harness.JobsYAML("edge", all...)))
	recorder.WaitNumbers(t, 60*time.Second, map[*harness.Target]int{all[0]: 8})

	var failures []time.Time
	for _, away := range []bool{false, true} {
		if away {
			edge.Cut()
		}
		time.Sleep(6 * time.Second)
		failed := time.Now()
		snapshot := disk.snapshot(t)
		poller.Kill()
		failures = append(failures, failed)
		disk.unmount()
		disk.file = snapshot
		disk.mount(t)
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
	accountPower(t, recorder, all, last, failures)
}

func accountPower(t *testing.T, recorder *harness.Recorder, all []*harness.Target, last map[*harness.Target]int, failures []time.Time) {
	t.Helper()
	a := recorder.Account(t)
	lost := make([]int, len(failures))
	for _, g := range all {
		key := record.TargetKey("site", fmt.Sprintf(`{instance=%q, job="edge"}`, g.Name))
		served := g.Served()
		for _, number := range harness.CheckTarget(t, a, key, g).Missing(last[g]) {
			asked := served[number-1].Asked
			n := slices.IndexFunc(failures, func(at time.Time) bool {
				// Between the snapshot and the kill the machine was already without power, so to say.
				return asked.After(at.Add(-spoolSync-syncSlack)) && asked.Before(at.Add(syncSlack))
			})
			if n < 0 {
				t.Errorf("%s: scrape %d, asked for at %s, was never delivered", g.Name, number, asked.Format(time.TimeOnly+".000"))
				continue
			}
			lost[n]++
		}
	}
	t.Logf("scrapes lost: %d with the hub there, %d without; %d frames delivered, %d again", lost[0], lost[1], a.Frames, a.Repeats)
	if lost[1] == 0 {
		t.Error("no scrape was lost without the hub: the power did not fail")
	}
}
