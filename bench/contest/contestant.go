// Package contest runs contestants under the same load and measures them: it starts the targets, a relay for the bytes, a
// sink for what arrives and the contestant's own processes, waits until they have warmed up, and reads what each process
// used in a window of time from the kernel's own accounting.
package contest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

// Where what a contestant delivers is counted.
const (
	// ArrivesWrite: at the remote-write receiver that the harness starts. The default.
	ArrivesWrite = "write"
	// ArrivesPush: at the Push Gateway that the harness starts, which only counts.
	ArrivesPush = "push"
	// ArrivesOwn: a process of the contestant answers /stats and /mark at {{.Control}}, as "bench receive" does.
	ArrivesOwn = "own"
	// ArrivesCounter: a metric of a contestant's process counts it; see Counter.
	ArrivesCounter = "counter"
	// ArrivesNowhere: nothing arrives.
	ArrivesNowhere = "nowhere"
)

// Contestant is one way to bring metrics from the edge to a central place, as its JSON file describes it. All strings but
// the names are templates over Vars.
type Contestant struct {
	Name string
	Desc string
	// Needs are the binaries it runs; without one of them it is left out.
	Needs   []string
	Arrives string
	// Counter is where to read what arrived, for ArrivesCounter.
	Counter *Counter
	// Files are written to the work folder before the start: name to template, or to "@name" of a template file beside
	// the JSON file.
	Files map[string]string
	// Relays are where the edge dials and where that leads; without any, to the remote-write receiver.
	Relays []Relay
	// Procs in the order of their start.
	Procs []Proc

	dir, file string // of its file: the folder, and the name without .json
}

// Counter is a metric on a page.
type Counter struct {
	URL, Metric string
	// Exact: it counts the samples of the load and nothing else, so loss can be computed from it.
	Exact bool
}

// Relay is one counted connection.
type Relay struct{ Listen, To string }

// The roles of processes: their use is added up by role.
const (
	Edge      = "edge"
	Transport = "transport"
	Central   = "central"
)

// Proc is one process.
type Proc struct {
	Role, Name string
	Cmd        []string
	// Ready is a URL that answers 2xx or a host:port that takes connections; empty waits half a second.
	Ready string
	// Delay waits after that.
	Delay string
}

// Vars are what templates see.
type Vars struct {
	// Self is the bench binary, Bin the folder with the others, Work the contestant's own folder.
	Self, Bin, Work string
	// Sink is the remote-write URL through the relay, SinkDirect past it, Push that of the counting Push Gateway, Control where
	// to answer /stats.
	Sink, SinkDirect, Push, Control string
	// Targets are host:port.
	Targets        []string
	Interval       string
	N, M, BasePort int
}

// Read reads a contestant's file.
func Read(path string) (*Contestant, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	c := &Contestant{Arrives: ArrivesWrite}
	if err := d.Decode(c); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if (c.Arrives == ArrivesCounter) != (c.Counter != nil) {
		return nil, fmt.Errorf("%s: a counter goes with arrives %q", path, ArrivesCounter)
	}
	c.file = strings.TrimSuffix(filepath.Base(path), ".json")
	c.dir, err = filepath.Abs(filepath.Dir(path))
	return c, err
}

// missing names the first binary that the contestant needs and bin does not have; the last component of a path counts.
func (c *Contestant) missing(bin string) string {
	for _, name := range c.Needs {
		if _, err := os.Stat(filepath.Join(bin, name)); errors.Is(err, os.ErrNotExist) {
			return name
		}
	}
	return ""
}

// writeFiles makes the contestant's files.
func (c *Contestant) writeFiles(v Vars) error {
	for name, text := range c.Files {
		if text != "" && text[0] == '@' {
			b, err := os.ReadFile(filepath.Join(c.dir, text[1:]))
			if err != nil {
				return err
			}
			text = string(b)
		}
		out, err := expand(text, v)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(v.Work, name), []byte(out), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func expand(text string, v Vars) (string, error) {
	t, err := template.New("").Option("missingkey=error").Parse(text)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	err = t.Execute(&b, v)
	return b.String(), err
}

func expandAll(texts []string, v Vars) ([]string, error) {
	var all []string
	for _, text := range texts {
		out, err := expand(text, v)
		if err != nil {
			return nil, err
		}
		all = append(all, out)
	}
	return all, nil
}
