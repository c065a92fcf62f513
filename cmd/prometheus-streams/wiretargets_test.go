package main

import (
	"math"
	"os"
	"path/filepath"
	"testing"
)

func TestMemoryOfTheProcess(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	self := put("self", "0::/system.slice/x.service\n")
	if got := cgroupLimit(dir, self); got != math.MaxInt64 {
		t.Errorf("without limits: %d", got)
	}
	put("memory.max", "max\n")
	put("system.slice/memory.max", "1073741824\n")
	put("system.slice/x.service/memory.max", "2147483648\n")
	if got := cgroupLimit(dir, self); got != 1<<30 {
		t.Errorf("the least of the groups is %d", got)
	}
	if got := cgroupLimit(dir, filepath.Join(dir, "none")); got != math.MaxInt64 {
		t.Errorf("without control groups: %d", got)
	}
	if got := machineMemory(put("meminfo", "MemFree: 5 kB\nMemTotal:        2048 kB\n")); got != 2<<20 {
		t.Errorf("memory of the machine %d", got)
	}
	if got := machineMemory(filepath.Join(dir, "none")); got != 0 {
		t.Errorf("memory of no machine %d", got)
	}
	given := 7
	if got := seriesLimit(&given); got != 7 {
		t.Errorf("series limit %d, 7 was configured", got)
	}
	if got := seriesLimit(nil); got <= 0 {
		t.Errorf("no series limit on a machine with memory: %d", got)
	}
}
