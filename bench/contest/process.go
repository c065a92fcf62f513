package contest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// readyLimit is how long a process may take until it is ready, stopLimit until it has ended after SIGTERM.
const (
	readyLimit = 30 * time.Second
	stopLimit  = 10 * time.Second
)

// process is a started program; what it prints goes to NAME.log in its folder.
type process struct {
	role, name string
	pid        int
	cmd        *exec.Cmd
	done       chan struct{}
	anonymous  atomic.Int64 // peak so far in KiB
}

func start(role, name, dir string, argv []string) (*process, error) {
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &process{role: role, name: name, cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// Pdeathsig fires when the starting thread ends: this one stays for as long as the process does.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p.pid = cmd.Process.Pid
	go p.watch()
	return p, nil
}

// sampleMemory is how often the memory is looked at of which the kernel keeps no peak.
const sampleMemory = 50 * time.Millisecond

// watch keeps the peak of anonymous memory until the process ends.
func (p *process) watch() {
	tick := time.NewTicker(sampleMemory)
	defer tick.Stop()
	for {
		p.anonymous.Store(max(p.anonymous.Load(), p.status("RssAnon:")))
		select {
		case <-tick.C:
		case <-p.done:
			return
		}
	}
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(stopLimit):
		syscall.Kill(-p.pid, syscall.SIGKILL)
		<-p.done
	}
}

// waitReady waits for a URL or an address; see Proc.Ready.
func (p *process) waitReady(ctx context.Context, ready string) error {
	if ready == "" {
		return sleep(ctx, 500*time.Millisecond)
	}
	for deadline := time.Now().Add(readyLimit); time.Now().Before(deadline); {
		if !p.running() {
			return fmt.Errorf("%s ended while it started: %s", p.name, p.cmd.ProcessState)
		}
		if strings.HasPrefix(ready, "http") {
			if get(ready) == nil {
				return nil
			}
		} else if c, err := net.DialTimeout("tcp4", ready, time.Second); err == nil {
			return c.Close()
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s is not ready at %s after %v", p.name, ready, readyLimit)
}

// cpu is the user and system time of the process so far in seconds, from its CPU clock, which counts nanoseconds.
func (p *process) cpu() (float64, error) {
	var ts syscall.Timespec
	// The clock id of another process's CPU clock is made from its pid, as clock_getcpuclockid(3) does.
	clock := uintptr(int32(^p.pid)<<3 | 2)
	if _, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, clock, uintptr(unsafe.Pointer(&ts)), 0); errno != 0 {
		return 0, fmt.Errorf("CPU time of %s: %w", p.name, errno)
	}
	return float64(ts.Sec) + float64(ts.Nsec)/1e9, nil
}

// peakMemory is the largest resident memory so far in MiB (VmHWM).
func (p *process) peakMemory() float64 { return float64(p.status("VmHWM:")) / 1024 }

// peakAnonymous is the largest resident memory so far in MiB without the pages of files, such as those of the program,
// which processes share and the kernel can take away (RssAnon, as far as sampling saw it).
func (p *process) peakAnonymous() float64 { return float64(p.anonymous.Load()) / 1024 }

// status is a line of the kernel's status of the process, in KiB; 0 if it cannot be had.
func (p *process) status(line string) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	if err != nil {
		return 0
	}
	for l := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(l, []byte(line)); ok {
			kib, _ := strconv.ParseInt(strings.Fields(string(rest))[0], 10, 64)
			return kib
		}
	}
	return 0
}

func get(url string) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}

// client bounds every request of the harness.
var client = &http.Client{Timeout: 10 * time.Second}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
