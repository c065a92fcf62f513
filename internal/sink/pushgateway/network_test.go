package pushgateway

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestRedirectIsNoSuccess(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/landing", http.StatusMovedPermanently)
	})
	mux.HandleFunc("GET /landing", func(http.ResponseWriter, *http.Request) {})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	reg := prometheus.NewRegistry()
	s, err := New(Options{URL: srv.URL, Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	a := s.send(t.Context(), push{method: http.MethodPut, path: "/metrics/job/a/instance/b", content: &content{}, timeout: time.Second}, nil, false)
	if a.outcome != failed || a.reason != "redirected" {
		t.Errorf("answer %+v, want a failure that names the redirection", a)
	}
}

// TestOverTheNetwork runs against sockets: a server that cuts connections in the middle of a body, that keeps them
// open over many pushes, and that has a path prefix.
func TestOverTheNetwork(t *testing.T) {
	gw := newFake()
	var cuts atomic.Int64
	cuts.Store(3)
	var conns atomic.Int64
	srv := httptest.NewUnstartedServer(http.StripPrefix("/pre/fix", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if cuts.Add(-1) >= 0 {
			_, _ = io.ReadFull(r.Body, make([]byte, 100))
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				conn.Close()
			}
			return
		}
		gw.ServeHTTP(w, r)
	})))
	srv.Config.ConnState = func(_ net.Conn, st http.ConnState) {
		if st == http.StateNew {
			conns.Add(1)
		}
	}
	srv.Start()
	defer srv.Close()
	s, err := New(Options{URL: srv.URL + "/pre/fix/"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	verdicts := make(chan error, 40)
	f := newFeed(t, "job", "a", "instance", "web/1 ü?#%2F")
	f.target.Interval = 2 * time.Second
	for i := range 20 {
		d := f.scrape(fam{"x", "gauge", []ser{{"x", float64(i), []string{"pad", strings.Repeat("p", 100_000)}}}})
		s.Deliver(ctx, d, func(err error) { verdicts <- err })
		if err := wait(t, verdicts); err != nil {
			t.Fatalf("push %d: %v", i, err)
		}
	}
	if got := gw.names(); !slices.Equal(got, []string{"job=a,instance=web/1 ü?#%2F"}) {
		t.Errorf("groups %q", got)
	}
	if n := conns.Load(); n > 6 {
		t.Errorf("%d connections for 20 pushes: they are not kept", n)
	}
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
}

func wait(t *testing.T, verdicts <-chan error) error {
	t.Helper()
	select {
	case err := <-verdicts:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("no verdict")
		return nil
	}
}
