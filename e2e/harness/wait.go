package harness

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// requestLimit bounds every request of the harness.
const requestLimit = 10 * time.Second

// Wait tries until it returns nil and fails the test with the last error after limit; what says what is waited for.
func Wait(t testing.TB, limit time.Duration, what string, try func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v still not: %s: %v", limit, what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Holds tries for the whole of the time and fails the test at the first error: for what must not happen.
func Holds(t testing.TB, during time.Duration, what string, try func() error) {
	t.Helper()
	for deadline := time.Now().Add(during); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err := try(); err != nil {
			t.Fatalf("no longer: %s: %v", what, err)
		}
	}
}

// Ports hands out ports of 127.0.0.1 that were free, none twice. They lie below those that the system gives to clients and
// to listeners that name none: one of those could take the port before the process that it is for.
type Ports struct {
	mu    sync.Mutex
	given map[int]bool
}

// Next is a free port.
func (p *Ports) Next(t testing.TB) int {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.given == nil {
		p.given = map[int]bool{}
	}
	for range 100 {
		port := lowestPort + rand.IntN(highestPort-lowestPort)
		if p.given[port] {
			continue
		}
		l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		l.Close()
		p.given[port] = true
		return port
	}
	t.Fatal("no free port")
	return 0
}

// Linux gives out ports from 32768 on.
const lowestPort, highestPort = 12000, 32000

// Get fetches a page and its status.
func Get(url string, header ...string) (status int, body string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), requestLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, "", fmt.Errorf("read %s: %w", url, err)
	}
	return resp.StatusCode, string(b), nil
}

// WaitReady waits until a page answers 200.
func WaitReady(t testing.TB, limit time.Duration, url string) {
	t.Helper()
	Wait(t, limit, url+" answers 200", func() error {
		status, body, err := Get(url)
		if err != nil {
			return err
		}
		if status != http.StatusOK {
			return fmt.Errorf("status %d: %s", status, lastLines(body, 3))
		}
		return nil
	})
}
