package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/choria-io/prometheus-streams/internal/config"
	"github.com/choria-io/prometheus-streams/internal/stream/embedded"
	"github.com/choria-io/prometheus-streams/internal/stream/jetstream"
	"github.com/choria-io/prometheus-streams/internal/tlsconf/tlstest"
)

// secured is a server that wants certificates, and a password or a token, at its ports for NATS and for websockets.
type secured struct {
	ca, other *tlstest.CA
	pair      tlstest.Pair // the server's
	dir       string       // for the files of clients
	address   string       // 127.0.0.1 and the port
	websocket string
}

var tomorrow = time.Now().Add(24 * time.Hour)

// newSecured starts the server. The name nats.example, which only a proxy finds, and 127.0.0.1 are in its certificate.
func newSecured(t *testing.T, authorization string) *secured {
	t.Helper()
	s := &secured{ca: tlstest.NewCA(t, "Puppet CA: puppet"), other: tlstest.NewCA(t, "Other CA"), dir: t.TempDir()}
	s.pair = s.ca.Issue(t, "nats.example", tomorrow)
	pair, dir := s.pair, t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.websocket = l.Addr().String()
	l.Close()
	tls := fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true }",
		tlstest.Write(t, dir+"/cert", pair.CertPEM), tlstest.Write(t, dir+"/key", pair.KeyPEM), tlstest.Write(t, dir+"/ca", s.ca.PEM()))
	conf := tlstest.Write(t, dir+"/nats.conf", fmt.Appendf(nil, "%s\nwebsocket { listen: %q, %s }\n%s\n", tls, s.websocket, tls, authorization))
	server, err := embedded.Start(embedded.Options{Directory: t.TempDir(), Listen: "127.0.0.1:0", ConfigFile: conf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	_, s.address, _ = strings.Cut(server.URL(), "://")
	tlstest.Puppet(t, filepath.Join(s.dir, "ssl"), "web1", s.ca, s.ca.Issue(t, "web1", tomorrow))
	tlstest.Puppet(t, filepath.Join(s.dir, "foreign"), "web1", s.ca, s.other.Issue(t, "web1", tomorrow))
	return s
}

// houseOf is a process with that configuration, whose log is kept.
func (s *secured) houseOf(t *testing.T, text string) (*house, *lockedLog) {
	t.Helper()
	cfg, _, err := config.Parse(filepath.Join(s.dir, "c.yaml"), []byte("identity: web1\n"+text))
	if err != nil {
		t.Fatal(err)
	}
	log := &lockedLog{}
	h := &house{cfg: cfg, env: &environment{Config: cfg, Logger: slog.New(slog.NewTextHandler(log, nil)), Registry: prometheus.NewRegistry(), Stdout: io.Discard}}
	t.Cleanup(h.close)
	return h, log
}

// try makes the stream as the configuration says; the error tells why not.
func (s *secured) try(t *testing.T, text string) error {
	t.Helper()
	h, _ := s.houseOf(t, text)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := h.connect(ctx, published(h.cfg.PollerStream), "poller", nil)
	if err != nil {
		return err
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		up, why := conn.Connected()
		if up {
			_, err = conn.EnsureStreams(ctx, jetstream.StreamConfig{Create: true})
			return err
		}
		if why != nil && !errors.Is(why, nats.ErrNoServers) {
			return why
		}
	}
	return errors.New("never connected, and no reason given")
}

type lockedLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Each way to connect works, and with one thing wrong says within seconds what it is.
func TestSecuredConnections(t *testing.T) {
	s := newSecured(t, `authorization { user: me, password: "hunter2" }`)
	proxy := newTestProxy(t, s, "user", "secret")
	tlstest.Write(t, s.dir+"/password", []byte("hunter2\n"))
	tlstest.Write(t, s.dir+"/ca.pem", s.ca.PEM())
	tlstest.Write(t, s.dir+"/other.pem", s.other.PEM())
	me := s.ca.Issue(t, "me", tomorrow)
	tlstest.Write(t, s.dir+"/me.pem", me.CertPEM)
	tlstest.Write(t, s.dir+"/me.key", me.KeyPEM)
	tlstest.Write(t, s.dir+"/config/nats/context/hub.json", fmt.Appendf(nil,
		`{"description": "the hub", "url": "nats://%s", "user": "me", "password": "hunter2", "ca": %q, "cert": %q, "key": %q}`,
		s.address, s.dir+"/ca.pem", s.dir+"/me.pem", s.dir+"/me.key"))
	t.Setenv("XDG_CONFIG_HOME", s.dir+"/config")

	const puppet, manual = "{scheme: puppet, ssl_dir: ssl}", "{scheme: file, ca: ca.pem, cert: me.pem, key: me.key}"
	block := func(url, more string) string {
		return "poller_stream: {urls: '" + url + "', user: me, password_file: password" + more + "}\n"
	}
	nats, named, wss := "nats://"+s.address, "tls://nats.example:4222", "wss://nats.example:443"
	for name, c := range map[string]struct{ text, want string }{
		"puppet above":                  {"tls: " + puppet + "\n" + block(nats, ""), ""},
		"manual in the block":           {block(nats, ", tls: "+manual), ""},
		"the block's before that above": {"tls: {scheme: puppet, ssl_dir: nowhere}\n" + block(nats, ", tls: "+manual), ""},
		"wss":                           {"tls: " + puppet + "\n" + block("wss://"+s.websocket, ""), ""},
		"context":                       {"tls: {scheme: puppet, ssl_dir: nowhere}\npoller_stream: {context: hub}\n", ""},
		"proxy":                         {block(named, ", tls: "+puppet+", proxy_url: "+proxy.url("secret")), ""},
		"proxy, wss":                    {block(wss, ", tls: "+puppet+", proxy_url: "+proxy.url("secret")), ""},

		"nothing":              {block(nats, ""), "certificate"},
		"not enrolled":         {block(nats, ", tls: {scheme: puppet, ssl_dir: ssl, identity: web2}"), `"web2" is not enrolled`},
		"of another authority": {block(nats, ", tls: {scheme: puppet, ssl_dir: foreign}"), "issued by CN=Other CA) does not go with the authorities"},
		"server of another":    {block(nats, ", tls: {scheme: manual, ca: other.pem, cert: me.pem, key: me.key}"), "unknown authority"},
		"no certificate":       {block(nats, ", tls: {scheme: manual, ca: ca.pem}"), "tls"}, // as the server's refusal arrives before or after we write,
		"another name":         {block("nats://other.example:4222", ", tls: "+puppet+", proxy_url: "+proxy.url("secret")), "certificate is valid for nats.example"},
		"wrong password":       {"tls: " + puppet + "\npoller_stream: {urls: '" + nats + "', user: me, password: hunter3}\n", "Authorization Violation"},
		"context, own user":    {"poller_stream: {context: hub, user: you}\n", "Authorization Violation"},
		"no such context":      {"poller_stream: {context: hob}\n", `poller_stream: context "hob": open `},
		"proxy, password":      {block(named, ", tls: "+puppet+", proxy_url: "+proxy.url("wrong")), "407 Proxy Authentication Required"},
		"proxy, nobody there":  {block("tls://nobody.example:1", ", tls: "+puppet+", proxy_url: "+proxy.url("secret")), "connecting to nobody.example:1 through proxy"},
	} {
		t.Run(name, func(t *testing.T) {
			err := s.try(t, c.text)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("error %v", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("error %v, want %q", err, c.want)
			case err != nil && (strings.Contains(err.Error(), "hunter") || strings.Contains(err.Error(), "secret")):
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
}

// NATS Streaming is reached the same ways. That no server of it is there is said only once NATS let us in.
func TestSecuredStreaming(t *testing.T) {
	s := newSecured(t, `authorization { token: "hunter2" }`)
	proxy := newTestProxy(t, s, "user", "secret")
	tlstest.Write(t, s.dir+"/token", []byte("hunter2\n"))
	const end = ", cluster_id: old, token_file: token}\n"
	const in = "no NATS Streaming server of this cluster id"
	for name, c := range map[string]struct{ text, want string }{
		"tls":     {"tls: {scheme: puppet, ssl_dir: ssl}\npoller_stream: {urls: 'nats://" + s.address + "'" + end, in},
		"proxy":   {"tls: {scheme: puppet, ssl_dir: ssl}\npoller_stream: {urls: 'tls://nats.example:4222', proxy_url: '" + proxy.url("secret") + "'" + end, in},
		"no tls":  {"poller_stream: {urls: 'nats://" + s.address + "'" + end, "certificate"},
		"foreign": {"poller_stream: {urls: 'nats://" + s.address + "', tls: {scheme: puppet, ssl_dir: foreign}" + end, "does not go with the authorities"},
	} {
		t.Run(name, func(t *testing.T) {
			h, log := s.houseOf(t, c.text)
			_, err := h.connectStreaming(t.Context(), h.cfg.PollerStream, "poller", "me")
			for end := time.Now().Add(10 * time.Second); err == nil && !strings.Contains(log.String(), c.want); time.Sleep(5 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("the log never says %q:\n%s", c.want, log)
				}
			}
			if err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

// Contexts that cannot be used as they are say why.
func TestBadContexts(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	for name, c := range map[string]struct{ text, want string }{
		"empty":  {"", "empty.json: unexpected end"},
		"nourl":  {`{"user": "a"}`, "nourl.json: no url"},
		"socks":  {`{"url": "a", "socks_proxy": "b"}`, "socks_proxy is not supported"},
		"two":    {`{"url": "a", "user": "a", "creds": "b"}`, "more than one of user, token, creds and nkey"},
		"nokey":  {`{"url": "a", "cert": "b"}`, "cert and key go together"},
		"number": {`{"url": 1}`, "number.json: json: cannot unmarshal number"},
		"large":  {strings.Repeat(" ", maxContext+1), "large.json has more than 1048576 bytes"},
		"../x":   {"{}", "not the name of a context"},
	} {
		tlstest.Write(t, filepath.Join(dir, "nats", "context", name+".json"), []byte(c.text))
		if _, err := readContext(name); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}
	t.Setenv("XDG_CONFIG_HOME", "")
	t.Setenv("HOME", dir)
	tlstest.Write(t, dir+"/.config/nats/context/home.json", []byte(`{"url": "nats://a", "creds": "~/me.creds", "color_scheme": "x"}`))
	if c, err := readContext("home"); err != nil || c.Creds != dir+"/me.creds" {
		t.Errorf("%+v, %v", c, err)
	}
}

// What a context says changes with its file, without a restart.
func TestContextAgain(t *testing.T) {
	s := &secured{dir: t.TempDir()}
	t.Setenv("XDG_CONFIG_HOME", s.dir)
	path := s.dir + "/nats/context/hub.json"
	tlstest.Write(t, path, []byte(`{"url": "nats://127.0.0.1:1", "user": "a", "password": "b", "inbox_prefix": "_I.a", "jetstream_domain": "d", "tls_first": true}`))
	h, _ := s.houseOf(t, "poller_stream: {context: hub, domain: mine}\n")
	o, err := h.natsOptions(published(h.cfg.PollerStream))
	if err != nil || o.URLs[0] != "nats://127.0.0.1:1" || o.InboxPrefix != "_I.a" || o.Domain != "mine" || !o.TLSFirst {
		t.Fatalf("%+v, %v", o, err)
	}
	tlstest.Write(t, path, []byte(`{"url": "nats://127.0.0.1:1", "user": "b", "password": "c"}`))
	if user, password := o.UserInfo(); user != "b" || password != "c" {
		t.Errorf("%s %s", user, password)
	}
}

// Files that change count for the next connection: authorities, certificates, and that the server's was revoked.
func TestFilesChange(t *testing.T) {
	s := newSecured(t, "")
	h, log := s.houseOf(t, "tls: {scheme: puppet, ssl_dir: ssl}\npoller_stream: {urls: 'nats://"+s.address+"'}\n")
	o, err := h.natsOptions(published(h.cfg.PollerStream))
	if err != nil {
		t.Fatal(err)
	}
	connect := func() error {
		nc, err := nats.Connect(o.URLs[0], nats.Secure(o.TLS), func(n *nats.Options) error { n.RootCAsCB = o.TLSRoots; return nil })
		if err == nil {
			nc.Close()
		}
		return err
	}
	if err := connect(); err != nil {
		t.Fatal(err)
	}
	tlstest.Puppet(t, s.dir+"/ssl", "web1", s.other, s.ca.Issue(t, "web1", tomorrow))
	if err := connect(); err == nil || !strings.Contains(err.Error(), "does not go with the authorities in") {
		t.Errorf("after a new authority: %v", err)
	}
	tlstest.Write(t, s.dir+"/ssl/certs/ca.pem", s.ca.PEM())
	tlstest.Write(t, s.dir+"/ssl/crl.pem", s.ca.CRL(t, tomorrow))
	if err := connect(); err != nil {
		t.Errorf("with a crl: %v", err)
	}
	tlstest.Write(t, s.dir+"/ssl/crl.pem", s.ca.CRL(t, tomorrow, s.pair.Cert))
	if err := connect(); err == nil || !strings.Contains(err.Error(), "the server's certificate (CN=nats.example, serial 2) was revoked") {
		t.Errorf("once the server's certificate is revoked: %v", err)
	}
	if !strings.Contains(log.String(), "expires on") {
		t.Errorf("our certificate ends tomorrow, the log says\n%s", log)
	}
}

// Streams in this process are not reached by TLS, whatever the top of the file says.
func TestStandaloneWithoutTLS(t *testing.T) {
	s := &secured{dir: t.TempDir()}
	h, _ := s.houseOf(t, "tls: {scheme: puppet, ssl_dir: nowhere}\nembedded: {directory: x}\n")
	if o, err := h.natsOptions(standaloneStream(h.cfg)); err != nil || o.TLS != nil {
		t.Errorf("%v, %v", o.TLS, err)
	}
}

// testProxy is a proxy that knows nats.example, and by another name too.
type testProxy struct{ address string }

func (p *testProxy) url(password string) string { return "http://user:" + password + "@" + p.address }

func newTestProxy(t *testing.T, s *secured, user, password string) *testProxy {
	t.Helper()
	p, stop, err := startTestProxy(user, password, map[string]string{
		"nats.example:4222": s.address, "other.example:4222": s.address, "nats.example:443": s.websocket,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return p
}

// startTestProxy starts a proxy that wants a password and leads to some places, by host:port.
func startTestProxy(user, password string, places map[string]string) (p *testProxy, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to := places[r.Host]
		switch {
		case r.Header.Get("Proxy-Authorization") != want:
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		case r.Method != http.MethodConnect || to == "":
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		there, err := net.Dial("tcp", to)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer there.Close()
		w.WriteHeader(http.StatusOK)
		here, early, err := w.(http.Hijacker).Hijack() // the client may have begun to speak
		if err != nil {
			return
		}
		go func() {
			_, _ = io.Copy(there, early)
			_ = there.Close()
		}()
		_, _ = io.Copy(here, there)
		_ = here.Close()
	})}
	go func() { _ = server.Serve(l) }()
	return &testProxy{address: l.Addr().String()}, func() { _ = server.Close() }, nil
}
