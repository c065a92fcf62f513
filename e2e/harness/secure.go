package harness

import (
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// StartServer starts a nats-server with a configuration file that is used as it is; it has to listen on the port at
// 127.0.0.1.
func StartServer(t testing.TB, port int, config string) *NATS {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nats.conf")
	n := &NATS{URL: fmt.Sprintf("nats://127.0.0.1:%d", port), binary: Server(t, "nats-server"), config: path}
	n.write(t, config)
	n.Restart(t)
	return n
}

func (n *NATS) write(t testing.TB, config string) {
	t.Helper()
	if err := os.WriteFile(n.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
}

// StartStreamingOn starts a nats-streaming-server without a NATS of its own: it is a client of the server with that URL,
// and keeps its messages in memory. flags say who it is there.
func StartStreamingOn(t testing.TB, url string, flags ...string) *Streaming {
	t.Helper()
	s := &Streaming{URL: url}
	s.argv = append([]string{Server(t, "nats-streaming-server"), "-ns", url, "-cid", ClusterID, "-st", "memory"}, flags...)
	s.Restart(t)
	return s
}

// Ran is a command that has ended.
type Ran struct {
	Code   int
	Output string // both streams
	Took   time.Duration
}

// Run runs the product to its end; env is added to the environment.
func Run(t testing.TB, b *Builds, limit time.Duration, env []string, args ...string) Ran {
	t.Helper()
	cmd := exec.Command(b.Product(t), args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Dir = t.TempDir()
	cmd.WaitDelay = time.Second
	begin := time.Now()
	timer := time.AfterFunc(limit, func() { _ = cmd.Process.Kill() })
	out, err := cmd.CombinedOutput()
	if !timer.Stop() {
		t.Fatalf("%v ran for more than %v:\n%s", args, limit, out)
	}
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return Ran{cmd.ProcessState.ExitCode(), string(out), time.Since(begin)}
}

// Proxy is an HTTP proxy for one user: it lets CONNECT through to the names that it knows, and forwards requests for
// them. It ends with the test.
type Proxy struct {
	address, authorization string
	names                  map[string]string

	mu    sync.Mutex
	asked []Proxied
}

// Proxied is what a proxy was asked.
type Proxied struct {
	Method string
	// URL is as it stood in the request: absolute, or host and port of a CONNECT.
	URL    string
	Header http.Header
}

// Asked is all that it was asked by who may use it.
func (p *Proxy) Asked() []Proxied {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked)
}

// StartProxy starts a proxy; names say where each host:port really is.
func StartProxy(t testing.TB, user, password string, names map[string]string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{
		address: l.Addr().String(), names: names,
		authorization: "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password)),
	}
	server := &http.Server{ReadHeaderTimeout: requestLimit, Handler: p}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return p
}

// URL of the proxy for somebody with that name and password.
func (p *Proxy) URL(user, password string) string {
	return "http://" + user + ":" + password + "@" + p.address
}

// ServeHTTP answers CONNECT and requests with absolute URLs.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	to, known := p.names[r.Host]
	switch {
	case r.Header.Get("Proxy-Authorization") != p.authorization:
		w.WriteHeader(http.StatusProxyAuthRequired)
		return
	case !known || r.Method != http.MethodConnect && !r.URL.IsAbs():
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	p.mu.Lock()
	p.asked = append(p.asked, Proxied{r.Method, r.RequestURI, r.Header.Clone()})
	p.mu.Unlock()
	if r.Method != http.MethodConnect {
		forward := httputil.ReverseProxy{Rewrite: func(out *httputil.ProxyRequest) {
			out.Out.URL.Host = to
			out.Out.Header.Del("Proxy-Authorization")
		}}
		forward.ServeHTTP(w, r)
		return
	}
	there, err := net.Dial("tcp", to)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	w.WriteHeader(http.StatusOK)
	here, early, err := w.(http.Hijacker).Hijack() // the client may have begun to speak
	if err != nil {
		there.Close()
		return
	}
	go func() {
		io.Copy(there, early)
		there.Close()
	}()
	io.Copy(here, there)
	here.Close()
}

// Reconfigure starts the server again, after it was ended, with another configuration file.
func (n *NATS) Reconfigure(t testing.TB, config string) {
	t.Helper()
	n.write(t, config)
	n.Restart(t)
}
