package choria

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/go-choria/providers/data/ddl"

	"github.com/choria-io/prometheus-streams/internal/manage"
	"github.com/choria-io/prometheus-streams/internal/tlsconf/tlstest"
)

// selfSigned is a certificate that nobody issued, in a PEM block of that type; its key signs for who.
func (w *world) selfSigned(who, name, block string) string {
	w.t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		w.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		w.t.Fatal(err)
	}
	w.keys[who], w.pairs[who] = key, tlstest.Pair{}
	return string(pem.EncodeToMemory(&pem.Block{Type: block, Bytes: der}))
}

// Who may do what, under TLS.
func TestAuth(t *testing.T) {
	w := newWorld(t, true)
	c := w.config()
	c.Name = "metrics"
	c.Auth = &Auth{Full: []string{"full.mcollective"}, ReadOnly: []string{`^ro\.`}}
	w.run(c)
	const refused = "You are not authorized to call this agent or action"
	for _, q := range []struct {
		caller, agent, action string
		data                  map[string]any
		status                int
	}{
		{"full.mcollective", "prometheus_streams", "info", nil, 0},
		{"full.mcollective", "prometheus_streams", "switch", nil, 0},
		{"full.mcollective", "prometheus_streams", "switch", nil, 0},
		{"ro.mcollective", "prometheus_streams", "info", nil, 0},
		{"ro.mcollective", "prometheus_streams", "ping", nil, 0},
		{"ro.mcollective", "prometheus_streams", "health", nil, 0},
		{"ro.mcollective", "prometheus_streams", "switch", nil, 1},
		{"ro.mcollective", "prometheus_streams", "pause", nil, 1},
		{"ro.mcollective", "prometheus_streams", "resume", nil, 1},
		{"ro.mcollective", "prometheus_streams", "loglevel", map[string]any{"level": "info"}, 1},
		{"ro.mcollective", "backplane", "info", nil, 0},
		{"ro.mcollective", "backplane", "flip", nil, 1},
		{"ro.mcollective", "rpcutil", "get_fact", map[string]any{"fact": "mode"}, 0},
		{"ro.mcollective", "rpcutil", "inventory", nil, 0},
		{"ro.mcollective", "choria_util", "info", nil, 0},
		{"ro.mcollective", "choria_util", "machine_transition", nil, 1},
	} {
		a := w.must(call{agent: q.agent, action: q.action, caller: q.caller, data: q.data})
		if a.Statuscode != q.status || q.status == 1 && (a.Statusmsg != refused || len(a.Data) > 0) {
			t.Errorf("%s asks %s#%s: %+v, want status %d", q.caller, q.agent, q.action, a, q.status)
		}
	}
	if w.breaker.Paused() {
		t.Error("paused by one who may not")
	}
	if !strings.Contains(w.log.String(), `msg="refused on the Choria network" from="choria=ro.mcollective" subject=prometheus_streams#switch`) {
		t.Errorf("the log does not say who was refused:\n%s", w.log)
	}
	if a := w.must(call{agent: "discovery", caller: "ro.mcollective", raw: "ping"}); a.raw != "pong" {
		t.Errorf("discovery: %+v", a)
	}
	for _, q := range []call{
		{agent: "discovery", caller: "nobody.mcollective", raw: "ping"},
		{agent: "prometheus_streams", action: "info", caller: "nobody.mcollective"},
		{agent: "rpcutil", action: "get_fact", caller: "nobody.mcollective", data: map[string]any{"fact": "mode"}},
	} {
		if a, err := w.ask(q, 300*time.Millisecond); !errors.Is(err, errSilence) {
			t.Errorf("one who is in no list asks %s#%s: %+v", q.agent, q.action, a)
		}
	}
}

// Requests that are not what they seem do nothing, and leave the server able to answer the next.
func TestAttacks(t *testing.T) {
	w := newWorld(t, true)
	c := w.config()
	c.Auth = &Auth{Full: []string{"full.mcollective", "stranger.example.net", "ec.mcollective"}, ReadOnly: []string{"ro.mcollective"}}
	w.run(c)
	pause := func(q call) call {
		q.agent, q.action = "prometheus_streams", "pause"
		return q
	}
	for name, q := range map[string]call{
		"not on Choria's list":          pause(call{caller: "stranger.example.net"}),
		"a key that makes it panic":     pause(call{caller: "ec.mcollective"}),
		"another's name":                pause(call{caller: "ro.mcollective", as: "full.mcollective"}),
		"another's certificate":         pause(call{caller: "ro.mcollective", as: "full.mcollective", cert: string(w.pairs["full.mcollective"].CertPEM)}),
		"a name behind the name":        pause(call{caller: "ro.mcollective", id: "choria=ro.mcollective/full.mcollective"}),
		"another kind of id":            pause(call{caller: "full.mcollective", id: "up=full.mcollective"}),
		"no name":                       pause(call{caller: "full.mcollective", id: "choria="}),
		"self-signed":                   pause(call{caller: "a", as: "full.mcollective", cert: w.selfSigned("a", "full.mcollective", "CERTIFICATE")}),
		"self-signed, in another block": pause(call{caller: "b", as: "full.mcollective", cert: w.selfSigned("b", "full.mcollective", "X509 CERTIFICATE")}),
		"self-signed before a good one": pause(call{caller: "c", as: "full.mcollective", cert: w.selfSigned("c", "full.mcollective", "OTHER") + string(w.pairs["full.mcollective"].CertPEM)}),
		"text for a certificate":        pause(call{caller: "full.mcollective", cert: "none"}),
		"a key for a certificate":       pause(call{caller: "full.mcollective", cert: string(w.pairs["full.mcollective"].KeyPEM)}),
		"a large certificate":           pause(call{caller: "full.mcollective", cert: strings.Repeat(string(w.pairs["full.mcollective"].CertPEM), 100)}),
	} {
		if a, err := w.ask(q, 200*time.Millisecond); !errors.Is(err, errSilence) {
			t.Errorf("%s: answered %+v", name, a)
		}
		if w.breaker.Paused() {
			t.Fatalf("%s: it is paused", name)
		}
	}
	for _, want := range []string{"only RSA can sign requests", "certificate is not that of full.mcollective", "signed by unknown authority", "something else than certificates",
		"has no certificate's name", "not on allow list"} {
		if !strings.Contains(w.log.String(), want) {
			t.Errorf("the log never says %q:\n%s", want, w.log)
		}
	}
	if a := w.must(pause(call{caller: "full.mcollective"})); a.Statuscode != 0 || !w.breaker.Paused() {
		t.Errorf("who may is refused: %+v", a)
	}
}

// The panic that guard is there for is still in go-choria: when it is not, the check of the key may go.
func TestPanicsWithoutGuard(t *testing.T) {
	w := newWorld(t, true)
	w.run(w.config())
	m, err := w.server.fw.NewTransportFromJSON(w.bytes(call{agent: "discovery", caller: "ec.mcollective", raw: "ping"}, "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if recover() == nil {
			t.Error("go-choria takes a certificate with an ECDSA key without a panic: see whether guard is still needed")
		}
	}()
	_, _ = w.server.fw.NewSecureRequestFromTransport(m, false)
}

// What does not parse, and a flood of it, ends neither the server nor fills the log.
func TestJunk(t *testing.T) {
	w := newWorld(t, false)
	w.run(w.config())
	good := w.bytes(call{agent: "prometheus_streams", action: "info", caller: "me.mcollective"}, "prometheus.reply.x")
	for i := range 200 {
		_ = w.nc.Publish("prometheus.broadcast.agent.prometheus_streams", good[:i%len(good)])
		if i%5 == 0 { // go-choria takes ten at a time and drops what is more
			_ = w.nc.Flush()
			time.Sleep(5 * time.Millisecond)
		}
	}
	w.wait("an answer after junk", func() bool {
		a, err := w.ask(call{agent: "prometheus_streams", action: "info", caller: "me.mcollective"}, time.Second)
		return err == nil && a.Statuscode == 0
	})
	if n := strings.Count(w.log.String(), "level=WARN"); n > linesPerMinute+10 || !strings.Contains(w.log.String(), "more than fits here") {
		t.Errorf("%d warnings:\n%s", n, w.log)
	}
}

// FuzzRequest takes a request apart as the server does: whatever it is, there is an error or a request, and no panic.
func FuzzRequest(f *testing.F) {
	w := &world{t: f}
	for _, q := range []call{
		{agent: "prometheus_streams", action: "info", caller: "me.mcollective"},
		{agent: "discovery", raw: "ping", caller: "me.mcollective", filter: map[string]any{
			"fact":     []any{map[string]any{"fact": "jobs", "operator": "=~", "value": "/a(/"}},
			"compound": []any{[]any{map[string]any{"expr": "fact('config.a') > 1 and with('/x/')"}}},
			"cf_class": []any{"/a/"}, "identity": []any{"/p.*/"}, "agent": []any{"rpcutil"}}},
	} {
		f.Add(w.bytes(q, "prometheus.reply.x"))
	}
	f.Add([]byte(`{"protocol":"choria:transport:1","data":"bnVsbA==","headers":{}}`))
	b, err := manage.New(manage.Config{Version: "1"})
	if err != nil {
		f.Fatal(err)
	}
	s, err := New(Config{Identity: "a", Collective: "prometheus", Brokers: []string{"127.0.0.1:1"}, Logger: slog.New(slog.DiscardHandler)}, b)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(s.Close)
	g := &guard{Framework: s.fw, access: s.access, source: facts{}}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := g.NewTransportFromJSON(data)
		if err != nil {
			return
		}
		sr, err := g.NewSecureRequestFromTransport(m, true)
		if err != nil {
			return
		}
		r, err := g.NewRequestFromSecureRequest(sr)
		if err != nil {
			return
		}
		filter, _ := r.Filter()
		filter.MatchServerRequest(r, facts{}, g.Logger("test")) // as go-choria does next, with nobody to catch a panic
		if _, err := g.NewMessageFromRequest(r, m.ReplyTo()); err == nil && r.Agent() == "" {
			t.Errorf("a message for no agent: %s", data)
		}
	})
}

// FuzzCertificates reads what a request may have for a certificate.
func FuzzCertificates(f *testing.F) {
	pair := tlstest.NewCA(f, "a").Issue(f, "b", time.Now().Add(time.Hour))
	f.Add(string(pair.CertPEM))
	f.Add(string(pair.CertPEM) + string(pair.KeyPEM))
	f.Add("-----BEGIN CERTIFICATE-----\na: b\n\nAAAA\n-----END CERTIFICATE-----\n")
	f.Fuzz(func(t *testing.T, text string) {
		if all, err := certificates(text); err == nil && (len(all) == 0 || !x509.NewCertPool().AppendCertsFromPEM([]byte(text))) {
			t.Errorf("%d certificates in %q", len(all), text)
		}
	})
}

// facts are what a filter is tried against.
type facts struct{}

func (facts) Classes() []string { return []string{"a"} }

func (facts) Facts() json.RawMessage { return json.RawMessage(`{"jobs":"a","config":{"a":2}}`) }

func (facts) Identity() string { return "prom.example.net" }

func (facts) KnownAgents() []string { return []string{"rpcutil"} }

func (facts) DataFuncMap() (ddl.FuncMap, error) { return nil, nil }
