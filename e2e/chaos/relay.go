//go:build chaos

package chaos

import (
	"net"
	"strings"
	"sync"
	"testing"
)

// relay is a link to a server that can be cut and stalled.
type relay struct {
	// URL to connect to instead of the server's.
	URL string

	to string

	mu    sync.Mutex
	down  bool
	conns map[net.Conn]struct{}

	flow sync.RWMutex // held for writing while nothing flows
}

// newRelay makes a link to the server of a URL.
func newRelay(t testing.TB, url string) *relay {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{URL: "nats://" + l.Addr().String(), to: strings.TrimPrefix(url, "nats://"), conns: map[net.Conn]struct{}{}}
	t.Cleanup(func() { l.Close(); r.Cut() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go r.serve(c)
		}
	}()
	return r
}

func (r *relay) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp4", r.to)
	if err != nil {
		return
	}
	defer server.Close()
	if !r.add(client, server) {
		return
	}
	defer r.remove(client, server)
	done := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		go func() {
			r.carry(way[0], way[1])
			done <- struct{}{}
		}()
	}
	<-done
}

func (r *relay) carry(from, to net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		r.wait()
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// wait waits for as long as nothing flows.
func (r *relay) wait() {
	r.flow.RLock()
	defer r.flow.RUnlock()
}

func (r *relay) add(conns ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return false
	}
	for _, c := range conns {
		r.conns[c] = struct{}{}
	}
	return true
}

func (r *relay) remove(conns ...net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range conns {
		delete(r.conns, c)
	}
}

// Cut closes all connections, and new ones at once, until Mend.
func (r *relay) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = true
	for c := range r.conns {
		c.Close()
	}
}

// Mend undoes Cut.
func (r *relay) Mend() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = false
}

// Stall leaves connections open and carries nothing; the function returned lets it flow again.
func (r *relay) Stall() (resume func()) {
	r.flow.Lock()
	return r.flow.Unlock
}
