// Package harness runs the real thing for the end-to-end tests: our own binary, nats-server and Prometheus as separate
// processes, and targets that number their scrapes. Everything listens on 127.0.0.1 on ports that were free, lives in
// the test's own folder and is killed when the test ends; what a process printed is shown when its test failed.
package harness

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// shownLines is how much of a process's output a failed test shows, killedLines of one that the test itself killed.
const (
	shownLines  = 60
	killedLines = 8
)

// Process is one running program in its own process group. Its methods may be used from several goroutines.
type Process struct {
	// Name is the one given to Start: it appears in messages.
	Name string

	t    testing.TB
	cmd  *exec.Cmd
	path string
	done chan struct{}
	once sync.Once
	// killed: the test ended it on purpose.
	killed atomic.Bool
}

// Start runs a program in a folder of its own until the test ends. Its output, both streams together, goes to a file
// that is shown if the test fails; name is used in messages and may be used again.
func Start(t testing.TB, name string, argv ...string) *Process {
	t.Helper()
	file, err := os.CreateTemp(t.TempDir(), name+"-*.log")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = file, file
	cmd.Dir = filepath.Dir(file.Name())
	// Pdeathsig ends the program even if the test process is killed; it is tied to the thread that starts it, which
	// therefore must live as long as the program (see spawn).
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &Process{Name: name, t: t, cmd: cmd, path: file.Name(), done: make(chan struct{})}
	if err := p.spawn(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	file.Close()
	t.Cleanup(p.end)
	return p
}

// spawn starts and awaits the program on a thread of its own.
func (p *Process) spawn() error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.cmd.Wait()
			close(p.done)
		}
	}()
	return <-started
}

func (p *Process) end() {
	lines := shownLines
	if p.killed.Load() {
		lines = killedLines
	}
	p.Kill()
	p.once.Do(func() {
		if p.t.Failed() {
			p.t.Logf("the last lines of %s (%s):\n%s", p.Name, p.exit(), lastLines(p.Output(), lines))
		}
	})
}

// Done is closed once the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Running tells whether the program has not ended yet.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Signal sends a signal to the program alone.
func (p *Process) Signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("signal %s: %v", p.Name, err)
	}
}

// Kill ends the program and all its children with SIGKILL and waits until it is gone.
func (p *Process) Kill() {
	p.killed.Store(true)
	if p.Running() {
		syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.done
	}
}

// Freeze stops the program without ending it: its connections stay open and nothing answers. Thaw lets it go on.
func (p *Process) Freeze() { p.Signal(syscall.SIGSTOP) }

// Thaw undoes Freeze.
func (p *Process) Thaw() { p.Signal(syscall.SIGCONT) }

// Stop sends SIGTERM, waits at most limit and returns the exit code and how long it took.
func (p *Process) Stop(limit time.Duration) (code int, took time.Duration) {
	p.t.Helper()
	begin := time.Now()
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(limit):
		p.t.Errorf("%s still runs %v after SIGTERM", p.Name, limit)
		p.Signal(syscall.SIGQUIT) // for the goroutines in its output
		time.Sleep(200 * time.Millisecond)
		p.Kill()
	}
	return p.cmd.ProcessState.ExitCode(), time.Since(begin)
}

// ExitCode waits at most limit for the program to end by itself and returns its exit code.
func (p *Process) ExitCode(limit time.Duration) int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(limit):
		p.t.Fatalf("%s still runs after %v, it should have ended", p.Name, limit)
	}
	return p.cmd.ProcessState.ExitCode()
}

// Output is what the program has printed so far.
func (p *Process) Output() string {
	b, err := os.ReadFile(p.path)
	if err != nil {
		return fmt.Sprintf("(no output: %v)", err)
	}
	return string(b)
}

// WaitOutput waits until the program has printed something that pattern matches and returns that line.
func (p *Process) WaitOutput(limit time.Duration, pattern string) string {
	p.t.Helper()
	re := regexp.MustCompile("(?m)^.*(?:" + pattern + ").*$")
	var found string
	Wait(p.t, limit, fmt.Sprintf("%s prints %q", p.Name, pattern), func() error {
		if found = re.FindString(p.Output()); found != "" {
			return nil
		}
		if !p.Running() {
			p.t.Fatalf("%s ended (%s) and never printed %q", p.Name, p.exit(), pattern)
		}
		return errors.New("not printed")
	})
	return found
}

// PeakMemory is the largest resident memory so far, in bytes (VmHWM).
func (p *Process) PeakMemory() int64 {
	p.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatalf("memory of %s: %v", p.Name, err)
	}
	for line := range strings.Lines(string(b)) {
		if kib, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.ParseInt(strings.Fields(kib)[0], 10, 64)
			if err != nil {
				p.t.Fatalf("memory of %s: %v", p.Name, err)
			}
			return n << 10
		}
	}
	p.t.Fatalf("memory of %s: no VmHWM", p.Name)
	return 0
}

func (p *Process) exit() string {
	if p.Running() {
		return "running"
	}
	return p.cmd.ProcessState.String()
}

func lastLines(s string, n int) string {
	b := []byte(strings.TrimRight(s, "\n"))
	for i := len(b); n > 0; n-- {
		if i = bytes.LastIndexByte(b[:i], '\n'); i < 0 {
			return string(b)
		}
		if n == 1 {
			return string(b[i+1:])
		}
	}
	return ""
}
