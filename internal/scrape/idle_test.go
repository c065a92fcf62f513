package scrape

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// piped is a server at the other end of pipes.
type piped struct {
	mu     sync.Mutex
	opened int
	open   int
}

func (p *piped) dial(context.Context, string, string) (net.Conn, error) {
	here, there := net.Pipe()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opened++
	p.open++
	go func() {
		in := bufio.NewReader(there)
		for {
			r, err := http.ReadRequest(in)
			if err != nil {
				break
			}
			_ = r.Body.Close()
			_, _ = io.WriteString(there, fine)
		}
		_ = there.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.open--
	}()
	return here, nil
}

func (p *piped) counts() (opened, open int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.opened, p.open
}

func TestConnectionsDoNotStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &piped{}
		d := newDirect(http.DefaultTransport)
		d.dial = p.dial
		c := &http.Client{Transport: d}
		want := func(what string, opened, open int) {
			t.Helper()
			synctest.Wait()
			d.idle.mu.Lock()
			defer d.idle.mu.Unlock()
			if o, n := p.counts(); o != opened || n != open || d.idle.n != open {
				t.Errorf("%s: %d connections made, %d open, %d known, want %d and %d", what, o, n, d.idle.n, opened, open)
			}
			if open == 0 && len(d.idle.conns) != 0 {
				t.Errorf("%s: addresses are known: %v", what, d.idle.conns)
			}
		}
		get := func(url string) {
			t.Helper()
			if g := ask(t.Context(), c, url); g.body != "a 1\n" {
				t.Fatal(g)
			}
		}
		for range 3 {
			get("http://a/x")
			get("http://b/x")
		}
		want("two targets", 2, 2)
		time.Sleep(3 * time.Minute)
		get("http://a/x")
		time.Sleep(keepIdle - 3*time.Minute)
		want("one is gone for its time", 2, 1)
		time.Sleep(keepIdle)
		want("both are gone", 2, 0)
		get("http://a/x")
		c.CloseIdleConnections()
		want("the client is released", 3, 0)

		// One that is in use then is closed when it comes back.
		r, err := c.Get("http://a/x")
		if err != nil {
			t.Fatal(err)
		}
		c.CloseIdleConnections()
		if _, err := io.ReadAll(r.Body); err != nil {
			t.Error(err)
		}
		want("it came back after that", 4, 0)
		if r, err = c.Get("http://a/x"); err != nil {
			t.Fatal(err)
		}
		_ = r.Body.Close()
		want("a body that was not read", 5, 0)
		if _, err := r.Body.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("reading a closed body: %v", err)
		}
		time.Sleep(2 * keepIdle)
		d.idle.mu.Lock()
		defer d.idle.mu.Unlock()
		if d.idle.sweeping {
			t.Error("a timer runs for nothing")
		}
	})
}

func TestIdleConnectionsAreBounded(t *testing.T) {
	p := &piped{}
	i := &idle{keep: time.Hour}
	for n := range maxIdleAddress + 2 {
		c, err := p.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		if i.put(newConn(c, "a"), time.Now()); i.n != min(n+1, maxIdleAddress) {
			t.Fatalf("%d of %d wait", i.n, n+1)
		}
	}
	i.close()
	if c := i.get("a"); c != nil || i.n != 0 {
		t.Error("a connection is there after all were closed")
	}
}
