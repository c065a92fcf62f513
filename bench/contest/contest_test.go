package contest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Every contestant's file can be read and expanded.
func TestContestants(t *testing.T) {
	paths, err := filepath.Glob("../contestants/*.json")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no contestants: %v", err)
	}
	vars := Vars{Self: "bench", Bin: "/bin", Control: sinkControl, Sink: "http://sink", Push: "http://push", Targets: []string{"h:1", "h:2"}, Interval: "5s", N: 2, M: 10}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			c, err := Read(path)
			if err != nil {
				t.Fatal(err)
			}
			v := vars
			v.Work = t.TempDir()
			if err := c.writeFiles(v); err != nil {
				t.Error(err)
			}
			for name := range c.Files {
				b, err := os.ReadFile(filepath.Join(v.Work, name))
				if err != nil || strings.Contains(string(b), "{{") {
					t.Errorf("%s: %v: %s", name, err, b)
				}
			}
			for _, p := range c.Procs {
				argv, err := expandAll(append(p.Cmd, p.Ready, p.Delay), v)
				if err != nil || argv[0] == "" {
					t.Errorf("%s: %q, %v", p.Name, argv, err)
				}
				if p.Role != Edge && p.Role != Transport && p.Role != Central {
					t.Errorf("%s has the unknown role %q", p.Name, p.Role)
				}
			}
		})
	}
}

func TestReport(t *testing.T) {
	load := Load{N: 2, M: 10, Interval: 5 * time.Second, Gzip: true}
	run := func(name string, edge, lost float64) *Result {
		return &Result{Contestant: name, Load: load, Floor: 0.5, Up: 1.234, Lost: lost, Roles: map[string]Use{Edge: {CPU: edge, Memory: 50, Anonymous: 20}}}
	}
	var b strings.Builder
	if err := writeReport(&b, []*Result{run("a", 3, 0), run("b", 7, -1), run("a", 1, 0.5), run("a", 2, 0)}); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	want := []string{
		"| a | 2 × 10, 5s | 3 | 2.00 (1.00..3.00) | - | - | 2.00 | 0.50 | 4.0 | 50 | 20 | - | - | 1.23 | - | - | - | 50.000 |",
		"| b | 2 × 10, 5s | 1 | 7.00 | - | - | 7.00 | 0.50 | 14.0 | 50 | 20 | - | - | 1.23 | - | - | - | - |",
	}
	if got := strings.Join(lines[len(lines)-2:], "\n"); got != strings.Join(want, "\n") {
		t.Errorf("rows\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}
