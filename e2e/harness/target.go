package harness

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The metrics of a Target.
const (
	// NumberMetric numbers the scrapes of a target: 1 at the first.
	NumberMetric = "e2e_scrapes_total"
	// ValueMetric has a target's series; see Value.
	ValueMetric = "e2e_value"
)

// targetSpan lies between the values of two targets: more than one target is scraped in any test.
const targetSpan = 1 << 20

// Value is what series i of the target with an id shows at its scrape with a number: exact in a float64, different
// for each target and growing with each scrape, so that a sample alone tells which scrape of which target it is from.
func Value(id, number, i int) float64 {
	return float64(id)*targetSpan + float64(number) + float64(i)/4096
}

// Of tells which target and which of its scrapes a Value is from.
func Of(v float64) (id, number int) {
	return int(v) / targetSpan, int(v) % targetSpan
}

// Target is an exporter that numbers its scrapes. It counts a scrape once it is asked for; a scrape that a poller
// gives up counts as well. Its methods may be used at any time.
type Target struct {
	// ID makes its values differ from those of other targets.
	ID int
	// Name of the target as a poller's configuration may give it.
	Name string
	// Series is the number of its e2e_value series.
	Series int
	// Churn, if not 0, is after how many scrapes one of its series is replaced by another one, in turn; never the first. It is
	// set before the first scrape.
	Churn int

	address string
	server  *http.Server
	mu      sync.Mutex
	answer  http.HandlerFunc // nil: the numbered page
	served  []Served
	hung    chan struct{}
}

// Served is one scrape that a target was asked for.
type Served struct {
	Number int
	Asked  time.Time
	// From is who asked: the address and the port of a connection.
	From string
	// Page is what was answered.
	Page string
}

// Targets makes targets with ids of their own.
type Targets struct{ last atomic.Int64 }

// New starts a target on a free port until the test ends.
func (s *Targets) New(t testing.TB, name string, series int) *Target {
	t.Helper()
	return s.NewAt(t, name, "127.0.0.1:0", series)
}

// NewAt is New with an address.
func (s *Targets) NewAt(t testing.TB, name, address string, series int) *Target {
	t.Helper()
	target := &Target{ID: int(s.last.Add(1)), Name: name, Series: series, hung: make(chan struct{})}
	l, err := net.Listen("tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	target.address = l.Addr().String()
	target.serve(l)
	t.Cleanup(func() {
		close(target.hung)
		target.Down()
	})
	return target
}

// Many starts n targets named PREFIX-0 and so on.
func (s *Targets) Many(t testing.TB, prefix string, n, series int) []*Target {
	t.Helper()
	all := make([]*Target, n)
	for i := range all {
		all[i] = s.New(t, fmt.Sprintf("%s-%d", prefix, i), series)
	}
	return all
}

// URL of its page.
func (g *Target) URL() string { return "http://" + g.address + "/metrics" }

// Host is the host:port of its URL.
func (g *Target) Host() string { return g.address }

// Numbers is how often it was scraped with a numbered page.
func (g *Target) Numbers() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.served)
}

// Served lists the numbered scrapes.
func (g *Target) Served() []Served {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]Served(nil), g.served...)
}

// Down closes its port: connections are refused.
func (g *Target) Down() {
	g.mu.Lock()
	server := g.server
	g.server = nil
	g.mu.Unlock()
	if server != nil {
		server.Close()
	}
}

// Up opens its port again after Down and answers with numbered pages again after any of the others.
func (g *Target) Up(t testing.TB) {
	t.Helper()
	g.set(nil)
	g.mu.Lock()
	down := g.server == nil
	g.mu.Unlock()
	if !down {
		return
	}
	Wait(t, 5*time.Second, "port "+g.address+" is free", func() error {
		l, err := net.Listen("tcp4", g.address)
		if err == nil {
			g.serve(l)
		}
		return err
	})
}

// Hang makes it take requests and answer none, until Up.
func (g *Target) Hang() {
	g.set(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-g.hung:
		}
	})
}

// Slow makes it take its time over its numbered pages. A scrape that is given up meanwhile has no number.
func (g *Target) Slow(delay time.Duration) {
	g.set(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(delay):
			g.page(w, r)
		case <-r.Context().Done():
		case <-g.hung:
		}
	})
}

// Answer makes it answer something else: a status, a content type and a body.
func (g *Target) Answer(status int, contentType, body string) {
	g.set(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		io.WriteString(w, body)
	})
}

func (g *Target) set(answer http.HandlerFunc) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answer = answer
}

func (g *Target) serve(l net.Listener) {
	server := &http.Server{Handler: http.HandlerFunc(g.handle)}
	g.mu.Lock()
	g.server = server
	g.mu.Unlock()
	go server.Serve(l)
}

func (g *Target) handle(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	answer := g.answer
	g.mu.Unlock()
	if answer != nil {
		answer(w, r)
		return
	}
	g.page(w, r)
}

// page answers with the next numbered page.
func (g *Target) page(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	io.WriteString(w, g.next(r.RemoteAddr))
}

// next makes the next numbered page, for who asks.
func (g *Target) next(from string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	number := len(g.served) + 1
	var b bytes.Buffer
	fmt.Fprintf(&b, "# HELP %s How often this target was scraped.\n# TYPE %s counter\n%s %d\n", NumberMetric, NumberMetric, NumberMetric, number)
	fmt.Fprintf(&b, "# HELP %s Grows by one with each scrape.\n# TYPE %s gauge\n", ValueMetric, ValueMetric)
	for i := range g.Series {
		fmt.Fprintf(&b, "%s{series=\"%s\"} %v\n", ValueMetric, g.series(number, i), Value(g.ID, number, i))
	}
	g.served = append(g.served, Served{Number: number, Asked: time.Now(), From: from, Page: b.String()})
	return b.String()
}

// series is what the label of series i is at a scrape.
func (g *Target) series(number, i int) string {
	if g.Churn == 0 || i == 0 {
		return fmt.Sprint(i)
	}
	if changes, first := number/g.Churn, i; changes >= first {
		return fmt.Sprintf("%d-%d", i, 1+(changes-first)/(g.Series-1))
	}
	return fmt.Sprint(i)
}

// JobsYAML is the jobs block of a configuration with one job of these targets.
func JobsYAML(job string, targets ...*Target) string {
	return "jobs:\n" + JobYAML(job, targets...)
}

// JobYAML is one job within a jobs block.
func JobYAML(job string, targets ...*Target) string {
	var b strings.Builder
	fmt.Fprintf(&b, "  %s:\n    targets:\n", job)
	for _, g := range targets {
		fmt.Fprintf(&b, "      - {name: %s, url: %q}\n", g.Name, g.URL())
	}
	return b.String()
}
