package spool

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// Nothing waits longer than SyncEvery until the disk is told to keep it, also if that is no whole number of seconds; with
// none it does not wait at all.
func TestDiskSyncsInTime(t *testing.T) {
	for _, every := range []time.Duration{0, 100 * time.Millisecond, time.Second, 1600 * time.Millisecond, 2500 * time.Millisecond, 10 * time.Second} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			d, err := OpenDisk(DiskOptions{Directory: dir, SyncEvery: every})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = d.Release() }()
			syncs := 0
			var first time.Time // of those appended since the last sync
			for i := range 300 {
				if first.IsZero() {
					first = time.Now()
				}
				mustAppend(t, d, record(fmt.Sprint(i), 10))
				if every > 0 {
					time.Sleep(70 * time.Millisecond)
				}
				synctest.Wait()
				d.mu.Lock()
				dirty := d.dirty
				d.mu.Unlock()
				if !dirty {
					first = time.Time{}
					syncs++
					continue
				}
				if waits := time.Since(first); waits > every {
					t.Fatalf("SyncEvery %v: a record waits for %v", every, waits)
				}
			}
			if syncs == 0 {
				t.Errorf("SyncEvery %v: there was no sync", every)
			}
		})
	}
}
