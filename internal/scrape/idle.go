package scrape

import (
	"sync"
	"time"
)

// As many connections wait for their next request, for so long, as with Prometheus' client: longer than any sensible
// scrape interval.
const (
	keepIdle       = 5 * time.Minute
	maxIdle        = 20000
	maxIdleAddress = 1000
)

// idle are connections that wait for their next request. It is safe for concurrent use.
type idle struct {
	keep time.Duration

	mu sync.Mutex
	// conns are those of an address, the last used last.
	conns map[string][]*conn
	n     int
	// sweeping tells that a timer runs, as it does while there are any.
	sweeping bool
	// closed tells that nobody wants them: those that come back are closed, until one is asked for.
	closed bool
}

// get takes a connection to an address, or gives nil.
func (i *idle) get(address string) *conn {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.closed = false
	conns := i.conns[address]
	if len(conns) == 0 {
		return nil
	}
	c := conns[len(conns)-1]
	conns[len(conns)-1] = nil
	i.conns[address] = conns[:len(conns)-1] // its memory stays for the connection to come back
	i.n--
	return c
}

// put has a connection wait, or closes it if there are too many.
func (i *idle) put(c *conn, now time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed || i.n >= maxIdle || len(i.conns[c.address]) >= maxIdleAddress {
		_ = c.Close()
		return
	}
	if i.conns == nil {
		i.conns = map[string][]*conn{}
	}
	c.since = now
	i.conns[c.address] = append(i.conns[c.address], c)
	i.n++
	if !i.sweeping {
		i.sweeping = true
		time.AfterFunc(i.keep, i.sweep)
	}
}

// sweep closes what has waited too long, and comes back when the next one will have.
func (i *idle) sweep() {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := time.Now()
	next := i.keep
	for address, conns := range i.conns {
		old := 0
		for old < len(conns) && now.Sub(conns[old].since) >= i.keep {
			_ = conns[old].Close()
			old++
		}
		i.n -= old
		if old == len(conns) { // also one whose connection is in use, which will ask for it again
			delete(i.conns, address)
			continue
		}
		if old > 0 {
			i.conns[address] = append([]*conn(nil), conns[old:]...)
		}
		next = min(next, i.keep-now.Sub(conns[old].since))
	}
	if i.sweeping = i.n > 0; i.sweeping {
		time.AfterFunc(next, i.sweep)
	}
}

// close closes all that wait.
func (i *idle) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, conns := range i.conns {
		for _, c := range conns {
			_ = c.Close()
		}
	}
	i.conns, i.n, i.closed = nil, 0, true
}
