//go:build fidelity

package fidelity

import (
	"compress/gzip"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// asker is one of the two that scrape the targets.
type asker int

const (
	direct asker = iota // the Prometheus that scrapes
	fed                 // our poller
)

func (a asker) String() string { return [...]string{"direct", "fed"}[a] }

// answer is what an exporter does with one scrape. The zero act is to send the body.
type answer struct {
	status      int // 0 is 200
	contentType string
	body        []byte
	act         act
}

type act int

const (
	send  act = iota
	hang      // no answer
	reset     // the connection ends without one
	cut       // the body ends too early
)

// request is one scrape that an exporter was asked for.
type request struct {
	number  int // 1 is the asker's first
	at      time.Time
	headers string
	// answered is when it had all that it got; zero if it gave up or still waits.
	answered time.Time
}

// exporter is one target. It answers the scrape with a number in the same way whoever asks for it.
type exporter struct {
	name    string
	answers func(number int) answer

	t       testing.TB
	address string
	// second is another exporter at the same address, under the path /second; nil if there is none.
	second *exporter
	stop   chan struct{}

	mu     sync.Mutex
	server *http.Server
	asked  [2][]request
	// made are answers that one of the two has not had yet.
	made map[int]answer
}

func startExporter(t testing.TB, name string, answers func(int) answer) *exporter {
	t.Helper()
	e := &exporter{name: name, answers: answers, t: t, stop: make(chan struct{})}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e.address = l.Addr().String()
	e.serve(l)
	t.Cleanup(func() {
		close(e.stop)
		e.close()
	})
	return e
}

func (e *exporter) serve(l net.Listener) {
	server := &http.Server{Handler: e}
	e.mu.Lock()
	e.server = server
	e.mu.Unlock()
	go server.Serve(l)
}

// close closes its port: connections are refused until open.
func (e *exporter) close() {
	e.mu.Lock()
	server := e.server
	e.mu.Unlock()
	server.Close()
}

func (e *exporter) open() {
	harness.Wait(e.t, 10*time.Second, "port "+e.address+" is free", func() error {
		l, err := net.Listen("tcp4", e.address)
		if err == nil {
			e.serve(l)
		}
		return err
	})
}

// requests lists what one of them asked for.
func (e *exporter) requests(who asker) []request {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]request(nil), e.asked[who]...)
}

func (e *exporter) count(who asker) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.asked[who])
}

func (e *exporter) note(r *http.Request) (number int, who asker, ok bool) {
	at := time.Now()
	switch agent := r.UserAgent(); {
	case strings.HasPrefix(agent, "Prometheus/"):
	case strings.HasPrefix(agent, "prometheus-streams/"):
		who = fed
	default:
		e.t.Errorf("target %s: a request from %q", e.name, agent)
		return 0, who, false
	}
	var headers []string
	for _, name := range []string{"Accept", "Accept-Encoding", "X-Prometheus-Scrape-Timeout-Seconds"} {
		headers = append(headers, name+": "+r.Header.Get(name))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	n := len(e.asked[who]) + 1
	e.asked[who] = append(e.asked[who], request{number: n, at: at, headers: r.URL.RequestURI() + " " + strings.Join(headers, "; ")})
	return n, who, true
}

// over notes that a scrape was answered.
func (e *exporter) over(number int, who asker) {
	at := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked[who][number-1].answered = at
}

// answer makes an answer once for both.
func (e *exporter) answer(number int) answer {
	e.mu.Lock()
	defer e.mu.Unlock()
	if a, ok := e.made[number]; ok {
		delete(e.made, number)
		return a
	}
	a := e.answers(number)
	if e.made == nil {
		e.made = make(map[int]answer)
	}
	e.made[number] = a
	return a
}

// ServeHTTP answers one scrape.
func (e *exporter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if e.second != nil && r.URL.Path == "/second" {
		e.second.ServeHTTP(w, r)
		return
	}
	n, who, ok := e.note(r)
	if !ok {
		return
	}
	a := e.answer(n)
	if a.act == hang {
		select {
		case <-r.Context().Done():
		case <-e.stop:
		}
		return
	}
	defer e.over(n, who)
	switch a.act {
	case reset:
		e.reset(w)
		return
	case cut:
		w.Header().Set("Content-Length", fmt.Sprint(len(a.body)))
		w.Header().Set("Content-Type", a.contentType)
		w.Write(a.body[:len(a.body)/2])
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", a.contentType)
	if a.contentType == "" {
		w.Header()["Content-Type"] = nil
	}
	if a.status == 0 {
		a.status = http.StatusOK
	}
	if len(a.body) > 20_000 && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		w.WriteHeader(a.status)
		z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed)
		z.Write(a.body)
		z.Close()
		return
	}
	w.WriteHeader(a.status)
	w.Write(a.body)
}

// reset ends a connection in the middle of the first line: before it, a client would ask again by itself.
func (e *exporter) reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		e.t.Errorf("target %s: %v", e.name, err)
		return
	}
	conn.Write([]byte("HTTP/1."))
	conn.Close()
}
