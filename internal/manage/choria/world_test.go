package choria

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/choria-io/prometheus-streams/internal/manage"
	"github.com/choria-io/prometheus-streams/internal/tlsconf/tlstest"
)

// Patience of the tests; machines are slow.
const patience = 30 * time.Second

// log is what a server said.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// world is a NATS server, an embedded Choria server on it and whoever calls.
type world struct {
	t       testing.TB
	dir     string
	ca      *tlstest.CA
	keys    map[string]crypto.Signer
	pairs   map[string]tlstest.Pair
	nats    *server.Server
	options server.Options
	nc      *nats.Conn
	breaker *manage.Breaker
	log     *log
	server  *Server
	stop    context.CancelFunc
	stopped chan error
}

// callers of a world with TLS, beside prom.example.net, the server.
var callers = []string{"full.mcollective", "nobody.mcollective", "stranger.example.net"}

// newWorld starts the NATS server; with secure all have certificates.
func newWorld(t *testing.T, secure bool) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), log: &log{}, keys: map[string]crypto.Signer{}, pairs: map[string]tlstest.Pair{}}
	w.options = server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true, AuthTimeout: 20, TLSTimeout: 20}
	if secure {
		w.ca = tlstest.NewCA(t, "Test CA")
		for _, names := range [][]string{append(callers, "prom.example.net", "broker.example.net"), {"ro.mcollective"}} {
			key, err := rsa.GenerateKey(rand.Reader, 2048) // one for all but ro: that takes long
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range names {
				w.issue(name, key)
			}
		}
		w.issue("ec.mcollective", nil)
		broker, err := tls.X509KeyPair(w.pairs["broker.example.net"].CertPEM, w.pairs["broker.example.net"].KeyPEM)
		if err != nil {
			t.Fatal(err)
		}
		w.options.TLSConfig = &tls.Config{Certificates: []tls.Certificate{broker}, MinVersion: tls.VersionTLS12}
	}
	w.startNATS()
	return w
}

func (w *world) issue(name string, key crypto.Signer) {
	w.t.Helper()
	pair := w.ca.Issue(w.t, name, time.Now().Add(time.Hour))
	if key != nil {
		pair = w.ca.IssueKey(w.t, name, time.Now().Add(time.Hour), key)
	}
	w.pairs[name], w.keys[name] = pair, key
	tlstest.Write(w.t, filepath.Join(w.dir, name+".pem"), pair.CertPEM)
	tlstest.Write(w.t, filepath.Join(w.dir, name+".key"), pair.KeyPEM)
	tlstest.Write(w.t, filepath.Join(w.dir, "ca.pem"), w.ca.PEM())
}

// startNATS starts the server, again on the port that it had.
func (w *world) startNATS() {
	w.t.Helper()
	o := w.options
	s, err := server.NewServer(&o)
	if err != nil {
		w.t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(patience) {
		w.t.Fatal("the NATS server is not ready")
	}
	w.nats, w.options.Port = s, s.Addr().(*net.TCPAddr).Port
	w.t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
}

func (w *world) address() string { return fmt.Sprintf("127.0.0.1:%d", w.options.Port) }

// connect opens the callers' connection.
func (w *world) connect() {
	w.t.Helper()
	o := []nats.Option{nats.MaxReconnects(-1), nats.ReconnectWait(50 * time.Millisecond), nats.Timeout(patience)}
	if w.ca != nil {
		roots := x509.NewCertPool()
		roots.AddCert(w.ca.Cert)
		o = append(o, nats.Secure(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}))
	}
	nc, err := nats.Connect("nats://"+w.address(), o...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.nc = nc
	w.t.Cleanup(nc.Close)
}

// config is that of a server on this network.
func (w *world) config() Config {
	c := Config{
		Identity: "prom.example.net", Collective: "prometheus", Brokers: []string{w.address()},
		Facts: func() Facts {
			return Facts{Config: map[string]any{"scrape_interval": "1m", "poller_stream": map[string]any{"password": "<secret>"}}, Jobs: []string{"node", "app"}}
		},
		Logger: slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if w.ca != nil {
		c.TLS = &TLS{Scheme: Manual, Identity: "prom.example.net", CA: filepath.Join(w.dir, "ca.pem"),
			Cert: filepath.Join(w.dir, "prom.example.net.pem"), Key: filepath.Join(w.dir, "prom.example.net.key")}
	}
	return c
}

// run starts the Choria server and waits until it is on the network.
func (w *world) run(c Config) {
	w.t.Helper()
	w.begin(c)
	w.logs("connected to the Choria network")
	w.connect()
}

// begin starts the Choria server and does not wait.
func (w *world) begin(c Config) {
	w.t.Helper()
	var err error
	if w.breaker == nil {
		if w.breaker, err = manage.New(manage.Config{Identity: "DC1", Mode: "poller", Version: "2.1.0", Logger: c.Logger}); err != nil {
			w.t.Fatal(err)
		}
	}
	if w.server, err = New(c, w.breaker); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.stop, w.stopped = cancel, make(chan error, 1)
	go func() { w.stopped <- w.server.Run(ctx) }()
	w.t.Cleanup(func() { w.end() })
}

// end stops the Choria server and says how long that took.
func (w *world) end() time.Duration {
	begin := time.Now()
	w.stop()
	select {
	case err := <-w.stopped:
		if err != nil {
			w.t.Errorf("Run: %v", err)
		}
		w.stopped <- nil
	case <-time.After(patience):
		w.t.Error("Run does not end")
	}
	return time.Since(begin)
}

func (w *world) wait(what string, done func() bool) {
	w.t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("not yet: %s; the log says\n%s", what, w.log)
		}
	}
}

func (w *world) logs(text string) {
	w.t.Helper()
	w.wait("log line "+text, func() bool { return strings.Contains(w.log.String(), text) })
}

// call is one request, wrong in whatever way a test wants it.
type call struct {
	agent, action string
	data          any
	// caller signs with his certificate and key.
	caller string
	// as is the name that he gives, his own by default; id the whole caller id, if that is to be odd.
	as, id string
	// cert stands in the request instead of the caller's own.
	cert string
	// filter of the request.
	filter map[string]any
	// raw is the message instead of a request to an agent of mcorpc.
	raw string
	// to is the subject, that of the agent in the main collective by default.
	to string
}

// answer of an agent of mcorpc.
type answer struct {
	Statuscode int
	Statusmsg  string
	Data       map[string]any
	raw        string
}

var errSilence = errors.New("no answer")

// bytes make a message for the subject of an agent.
func (w *world) bytes(c call, reply string) []byte {
	w.t.Helper()
	must := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			w.t.Fatal(err)
		}
		return b
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id)
	if c.as == "" {
		c.as = c.caller
	}
	if c.id == "" {
		c.id = "choria=" + c.as
	}
	filter := map[string]any{"fact": []any{}, "cf_class": []any{}, "agent": []any{}, "identity": []any{}, "compound": []any{}}
	for k, v := range c.filter {
		filter[k] = v
	}
	body := []byte(c.raw)
	if c.raw == "" {
		if c.data == nil {
			c.data = map[string]any{}
		}
		body = must(map[string]any{"agent": c.agent, "action": c.action, "data": c.data})
	}
	request := must(map[string]any{"protocol": "choria:request:1", "message": base64.StdEncoding.EncodeToString(body), "envelope": map[string]any{
		"requestid": hex.EncodeToString(id), "senderid": "test", "callerid": c.id, "collective": "prometheus", "agent": c.agent,
		"ttl": 60, "time": time.Now().Unix(), "filter": filter}})
	secure := map[string]any{"protocol": "choria:secure:request:1", "message": string(request), "signature": "insecure", "pubcert": "insecure"}
	if w.ca != nil {
		sum := sha256.Sum256(request)
		secure["pubcert"] = string(w.pairs[c.caller].CertPEM)
		if key := w.keys[c.caller]; key != nil {
			signature, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
			if err != nil {
				w.t.Fatal(err)
			}
			secure["signature"] = base64.StdEncoding.EncodeToString(signature)
		}
		if c.cert != "" {
			secure["pubcert"] = c.cert
		}
	}
	return must(map[string]any{"protocol": "choria:transport:1", "data": base64.StdEncoding.EncodeToString(must(secure)),
		"headers": map[string]any{"reply-to": reply, "mc_sender": "test"}})
}

// ask sends a request and awaits the answer; errSilence if there is none within limit.
func (w *world) ask(c call, limit time.Duration) (answer, error) {
	w.t.Helper()
	reply := "prometheus.reply.test." + nats.NewInbox()
	sub, err := w.nc.SubscribeSync(reply)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if c.to == "" {
		c.to = "prometheus.broadcast.agent." + c.agent
	}
	if err := w.nc.Publish(c.to, w.bytes(c, reply)); err != nil {
		w.t.Fatal(err)
	}
	m, err := sub.NextMsg(limit)
	if err != nil {
		return answer{}, errSilence
	}
	got, err := w.server.fw.NewReplyFromTransportJSON(m.Data, true)
	if err != nil {
		w.t.Fatalf("answer %s: %v", m.Data, err)
	}
	a := answer{raw: string(got.Message())}
	if c.raw == "" {
		if err := json.Unmarshal(got.Message(), &a); err != nil {
			w.t.Fatalf("answer %s: %v", got.Message(), err)
		}
	}
	return a, nil
}

// must is ask for a request that is answered.
func (w *world) must(c call) answer {
	w.t.Helper()
	a, err := w.ask(c, patience)
	if err != nil {
		w.t.Fatalf("%+v: %v; the log says\n%s", c, err, w.log)
	}
	return a
}
