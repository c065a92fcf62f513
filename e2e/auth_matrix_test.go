package e2e

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/internal/tlsconf/tlstest"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// refusedWithin is how long a refusal may take: an attempt to connect is given up after five seconds, the rest is for slow
// machines.
const refusedWithin = 15 * time.Second

// guarded are the real servers of the matrix, each with a NATS Streaming server as its client, and the files of ours.
type guarded struct {
	dir string // of the configuration files and of what they name

	open, leaf, secured, mapped, token, operator, first string // host:port
	websocket                                           string // of secured
	proxy                                               *harness.Proxy
}

// certificate writes a certificate with its key and its authority: NAME.pem, NAME.key.
func (g *guarded) certificate(t *testing.T, name string, p tlstest.Pair) {
	t.Helper()
	tlstest.Write(t, filepath.Join(g.dir, name+".pem"), p.CertPEM)
	tlstest.Write(t, filepath.Join(g.dir, name+".key"), p.KeyPEM)
}

// newGuarded starts the servers.
func newGuarded(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{dir: t.TempDir()}
	file := func(name string) string { return filepath.Join(g.dir, name) }
	write := func(name, text string) { tlstest.Write(t, file(name), []byte(text)) }
	tomorrow := time.Now().Add(24 * time.Hour)
	ca, second, foreign := tlstest.NewCA(t, "First CA"), tlstest.NewCA(t, "Second CA"), tlstest.NewCA(t, "Foreign CA")
	for name, c := range map[string]*tlstest.CA{"ca": ca, "second": second, "foreign": foreign} {
		write(name+"-ca.pem", string(c.PEM()))
	}
	server := ca.Issue(t, "nats.example", tomorrow)
	g.certificate(t, "server", server)
	g.certificate(t, "server2", second.Issue(t, "nats.example", tomorrow))
	for name, p := range map[string]tlstest.Pair{
		"web1": ca.Issue(t, "web1", tomorrow), "expired": ca.Issue(t, "web1", time.Now().Add(-time.Minute)),
		"stranger": foreign.Issue(t, "web1", tomorrow), "stan": ca.Issue(t, "stan", tomorrow),
		"web1-second": second.Issue(t, "web1", tomorrow), "nobody-second": second.Issue(t, "nobody", tomorrow),
		"stan-second": second.Issue(t, "stan", tomorrow),
	} {
		g.certificate(t, name, p)
	}
	tlstest.Puppet(t, file("ssl"), "web1", ca, ca.Issue(t, "web1", tomorrow))
	tlstest.Write(t, file("ssl/crl.pem"), ca.CRL(t, tomorrow))
	tlstest.Puppet(t, file("revoked"), "web1", ca, ca.Issue(t, "web1", tomorrow))
	tlstest.Write(t, file("revoked/crl.pem"), ca.CRL(t, tomorrow, server.Cert))
	tlstest.Puppet(t, file("strange"), "web1", ca, foreign.Issue(t, "web1", tomorrow))

	nkey, seed := harness.NKey(t)
	_, other := harness.NKey(t)
	operator, elsewhere := harness.NewOperator(t), harness.NewOperator(t)
	write("web1.nk", string(seed))
	write("other.nk", string(other))
	write("web1.creds", string(operator.Credentials(t, "web1", time.Time{})))
	write("late.creds", string(operator.Credentials(t, "web1", time.Now().Add(-time.Minute))))
	write("elsewhere.creds", string(elsewhere.Credentials(t, "web1", time.Time{})))
	write("stan.creds", string(operator.Credentials(t, "stan", time.Time{})))
	write("password", "hunter2-right\n")
	write("token", "hunter3-right\n")

	tls := func(cert, ca, more string) string {
		return fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, %s }", file(cert+".pem"), file(cert+".key"), file(ca+"-ca.pem"), more)
	}
	start := func(more string) string {
		port := ports.Next(t)
		harness.StartServer(t, port, fmt.Sprintf("listen: 127.0.0.1:%d\n%s", port, more))
		return fmt.Sprintf("127.0.0.1:%d", port)
	}
	store := func(more string) string { return fmt.Sprintf("jetstream { store_dir: %q, %s }\n", t.TempDir(), more) }
	leaf, socket, behind := ports.Next(t), ports.Next(t), ports.Next(t)
	g.websocket = fmt.Sprintf("127.0.0.1:%d", socket)
	g.open = start(store("domain: hub") + fmt.Sprintf("leafnodes { listen: 127.0.0.1:%d }\n", leaf))
	g.leaf = start(store("domain: edge") + fmt.Sprintf("leafnodes { remotes: [ { url: \"nats-leaf://127.0.0.1:%d\" } ] }\n", leaf))
	g.secured = start(store("") + tls("server", "ca", "verify: true") +
		fmt.Sprintf("\nwebsocket { listen: %q, %s }\n", g.websocket, tls("server", "ca", "")) +
		fmt.Sprintf("authorization { users: [ {user: me, password: hunter2-right}, {user: stan, password: x}, {nkey: %s} ] }\n", nkey))
	g.mapped = start(store("") + tls("server2", "second", "verify_and_map: true") + "\nauthorization { users: [ {user: web1}, {user: stan} ] }\n")
	g.token = start(store("") + tls("server", "ca", "") + "\nauthorization { token: hunter3-right }\n")
	g.operator = start(store("") + tls("server", "ca", "") + "\n" + operator.Config())
	g.first = start(store("") + tls("server", "ca", "handshake_first: true") +
		fmt.Sprintf("\nleafnodes { listen: 127.0.0.1:%d }\n", behind))

	// stan is a NATS Streaming server that is a client of that server, with a certificate.
	stan := func(url, ca, cert, more string) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "stan.conf")
		tlstest.Write(t, path, fmt.Appendf(nil, "streaming { tls { client_ca: %q, client_cert: %q, client_key: %q }\n%s }\n",
			file(ca+"-ca.pem"), file(cert+".pem"), file(cert+".key"), more))
		harness.StartStreamingOn(t, url, "-sc", path)
	}
	harness.StartStreamingOn(t, "nats://"+g.open)
	stan("tls://stan:x@"+g.secured, "ca", "stan", "")
	stan("tls://"+g.mapped, "second", "stan-second", "")
	stan("tls://hunter3-right@"+g.token, "ca", "stan", "")
	stan("tls://"+g.operator, "ca", "stan", fmt.Sprintf("credentials: %q", file("stan.creds")))
	// NATS Streaming cannot begin with TLS: it is a client of a leaf node.
	harness.StartStreamingOn(t, "nats://"+start(fmt.Sprintf("leafnodes { remotes: [ { url: \"nats-leaf://127.0.0.1:%d\" } ] }\n", behind)))

	g.proxy = harness.StartProxy(t, "web1", "hunter4-right", map[string]string{
		"nats.example:4222": g.secured, "other.example:4222": g.secured, "nats.example:443": g.websocket,
	})
	for name, password := range map[string]string{"hub": "hunter2-right", "stale": "hunter2-wrong"} {
		write("config/nats/context/"+name+".json", fmt.Sprintf(
			`{"url": "nats://%s", "user": "me", "password": %q, "ca": %q, "cert": %q, "key": %q}`,
			g.secured, password, file("ca-ca.pem"), file("web1.pem"), file("web1.key")))
	}
	return g
}

// way is one row of the matrix: a configuration that connects, and others with one thing wrong.
type way struct {
	name string
	// top is what the file begins with, block the keys of the poller's stream; receiver, if not empty, those of a
	// receiver's.
	top, block, receiver string
	wrong                []wrong
	jetstream            bool   // it is of JetStream alone
	refusal              string // what NATS Streaming says then
}

// wrong is a configuration that does not connect. Keys that are empty are those of the way.
type wrong struct {
	name, top, block, receiver, want string
}

func (g *guarded) ways() []way {
	const (
		manual = ", tls: {scheme: manual, ca: ca-ca.pem, cert: web1.pem, key: web1.key}"
		me     = ", user: me, password: hunter2-right"
		authed = ", tls: {scheme: manual, ca: ca-ca.pem}"
	)
	at := func(address string) string { return "urls: 'nats://" + address + "'" }
	with := func(files string) string { return ", tls: {scheme: manual, " + files + "}" }
	foreign := func(ca string) string {
		return "the server's certificate (CN=nats.example, issued by CN=First CA) is of none of our authorities in " + g.dir + "/" + ca + ": either urls lead to another server than the one that is meant, or ca is wrong"
	}
	secured, through := at(g.secured), func(url, user, password string) string {
		return "urls: '" + url + "'" + me + manual + ", proxy_url: '" + g.proxy.URL(user, password) + "'"
	}
	return []way{
		{name: "none", block: at(g.open), wrong: []wrong{
			{name: "nobody there", block: at("127.0.0.1:1"), want: "connection refused"},
			{name: "no tls there", block: at(g.open) + manual, want: "tls is configured and the server offers none"},
		}},
		{name: "manual", block: secured + me + manual, wrong: []wrong{
			{name: "none", block: secured + me, want: "the server's certificate is of none of our authorities, which are those of the operating system: set tls"},
			{name: "server of another authority", block: secured + me + with("ca: foreign-ca.pem, cert: web1.pem, key: web1.key"), want: foreign("foreign-ca.pem")},
			{name: "certificate of another authority", block: secured + me + with("ca: ca-ca.pem, cert: stranger.pem, key: stranger.key"), want: "CN=First CA: set cert and key to one of an authority that the server takes"},
			{name: "no certificate", block: secured + me + with("ca: ca-ca.pem"), want: "the server wants a certificate, and none is configured here: set tls with the scheme puppet"},
			{name: "expired", block: secured + me + with("ca: ca-ca.pem, cert: expired.pem, key: expired.key"), want: "has expired: it was valid from"},
			{name: "another key", block: secured + me + with("ca: ca-ca.pem, cert: web1.pem, key: stan.key"), want: "private key does not match public key"},
			{name: "another name", block: "urls: 'nats://localhost.localdomain:4222'" + me + manual + ", proxy_url: '" + g.proxy.URL("web1", "hunter4-right") + "'", want: "502 Bad Gateway"},
		}},
		{name: "puppet", top: "tls: {scheme: puppet, ssl_dir: ssl}", block: secured + me, wrong: []wrong{
			{name: "not enrolled", top: "tls: {scheme: puppet, ssl_dir: ssl, identity: web2}", want: `"web2" is not enrolled with the Puppet CA yet`},
			{name: "of another CA", top: "tls: {scheme: puppet, ssl_dir: strange}", want: `the two are of different Puppet CAs: if its authority is not that of the server, ssl_dir is wrong, or "web1" has to be enrolled anew`},
			{name: "server revoked", top: "tls: {scheme: puppet, ssl_dir: revoked}", want: "the server's certificate (CN=nats.example, serial 2) was revoked"},
		}},
		{name: "two authorities", block: secured + me + manual, receiver: at(g.mapped) + with("ca: second-ca.pem, cert: web1-second.pem, key: web1-second.key"), wrong: []wrong{
			{name: "poller's", block: secured + me + with("ca: second-ca.pem, cert: web1.pem, key: web1.key"), want: foreign("second-ca.pem")},
			{name: "receiver's", receiver: at(g.mapped) + manual, want: "(CN=nats.example, issued by CN=Second CA) is of none of our authorities in " + g.dir + "/ca-ca.pem"},
		}},
		{name: "password", block: secured + manual + ", user: me, password_file: password", wrong: []wrong{
			{name: "another", block: secured + manual + ", user: me, password: hunter2-wrong", want: `the server does not accept the user "me" with its password`},
			{name: "another user", block: secured + manual + ", user: you, password_file: password", want: `the server does not accept the user "you"`},
			{name: "none", block: secured + manual, want: "no user, token, credentials or nkey is configured"},
			{name: "no file", block: secured + manual + ", user: me, password_file: nowhere", want: "nowhere: no such file"},
		}},
		{name: "token", block: at(g.token) + authed + ", token_file: token", wrong: []wrong{
			{name: "another", block: at(g.token) + authed + ", token: hunter3-wrong", want: "the server does not accept the token"},
		}},
		{name: "nkey", block: secured + manual + ", nkey_seed_file: web1.nk", wrong: []wrong{
			{name: "another", block: secured + manual + ", nkey_seed_file: other.nk", want: "the server does not accept the nkey in " + g.dir + "/other.nk"},
			{name: "no seed", block: secured + manual + ", nkey_seed_file: password", want: "password: no seed of a user (it begins with SU)"},
			{name: "not known there", block: at(g.open) + ", nkey_seed_file: web1.nk", want: "the server knows no nkeys"},
		}},
		{name: "creds", block: at(g.operator) + authed + ", credentials: web1.creds", wrong: []wrong{
			{name: "of another operator", block: at(g.operator) + authed + ", credentials: elsewhere.creds", want: "the server does not accept the credentials in " + g.dir + "/elsewhere.creds"},
			{name: "expired", block: at(g.operator) + authed + ", credentials: late.creds", want: "late.creds, which have expired on "},
			{name: "no credentials", block: at(g.operator) + authed + ", credentials: password", want: "password: no user JWT in it"},
			{name: "none", block: at(g.operator) + authed, want: "no user, token, credentials or nkey is configured"},
		}},
		{name: "certificate", block: at(g.mapped) + with("ca: second-ca.pem, cert: web1-second.pem, key: web1-second.key"), wrong: []wrong{
			{name: "of nobody", block: at(g.mapped) + with("ca: second-ca.pem, cert: nobody-second.pem, key: nobody-second.key"), want: "the server does not accept a client with a certificate at most"},
		}},
		{name: "context", block: "context: hub", wrong: []wrong{
			{name: "unknown", block: "context: hob", want: `context "hob": open `},
			{name: "stale", block: "context: stale", want: `the server does not accept the user "me" with its password`},
		}},
		{name: "tls_first", block: at(g.first) + authed + ", tls_first: true", wrong: []wrong{
			{name: "without", block: at(g.first) + authed, want: "it may want TLS first (tls_first: true)"},
			{name: "not there", block: secured + me + manual + ", tls_first: true", want: "what answers there does not begin with TLS"},
		}},
		{name: "wss", block: "urls: 'wss://" + g.websocket + "'" + me + manual, wrong: []wrong{
			{name: "at the port of nats", block: "urls: 'wss://" + g.secured + "'" + me + manual, want: "does not speak TLS"},
			{name: "nats at its port", block: at(g.websocket) + me + manual, want: "the port is not that of nats:// and tls://"},
			{name: "of another authority", block: "urls: 'wss://" + g.websocket + "'" + me + with("ca: foreign-ca.pem"), want: foreign("foreign-ca.pem")},
		}},
		{name: "proxy", block: through("tls://nats.example:4222", "web1", "hunter4-right"), wrong: []wrong{
			{name: "password", block: through("tls://nats.example:4222", "web1", "hunter4-wrong"), want: "407 Proxy Authentication Required"},
			{name: "nobody there", block: through("tls://nobody.example:4222", "web1", "hunter4-right"), want: "connecting to nobody.example:4222 through proxy"},
			{name: "another name", block: through("tls://other.example:4222", "web1", "hunter4-right"), want: "is not for other.example, which stands in urls: it is for nats.example"},
			{name: "no proxy", block: secured + me + manual + ", proxy_url: 'http://127.0.0.1:1'", want: "connecting to proxy: "},
		}},
		{name: "wss through a proxy", block: through("wss://nats.example:443", "web1", "hunter4-right"), wrong: []wrong{
			{name: "password", block: through("wss://nats.example:443", "web1", "hunter4-wrong"), want: "407 Proxy Authentication Required"},
			{name: "to the port of nats", block: through("wss://nats.example:4222", "web1", "hunter4-right"), want: "does not speak TLS"},
		}},
		{name: "domain", block: at(g.leaf) + ", domain: hub", jetstream: true, refusal: "are of JetStream", wrong: []wrong{
			{name: "another", block: at(g.leaf) + ", domain: nowhere", want: `nobody answers for the domain "nowhere"`},
		}},
	}
}

// Each way to get in works, on both carriers, and with one thing wrong a command says within seconds what it is.
func TestWaysIn(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	for _, w := range g.ways() {
		for carrier, more := range map[string]string{"JetStream": "", "Streaming": ", cluster_id: " + harness.ClusterID} {
			t.Run(w.name+"/"+carrier, func(t *testing.T) {
				t.Parallel()
				streaming := more != ""
				want := ""
				if streaming && w.jetstream {
					want = w.refusal
				}
				g.check(t, w.top, w.block, w.receiver, more, want)
				for _, x := range w.wrong {
					if streaming && w.jetstream {
						break
					}
					t.Run(x.name, func(t *testing.T) {
						t.Parallel()
						top, block, receiver := w.top, w.block, w.receiver
						if x.top != "" {
							top = x.top
						}
						if x.block != "" {
							block = x.block
						}
						if x.receiver != "" {
							receiver = x.receiver
						}
						g.check(t, top, block, receiver, more, x.want)
					})
				}
			})
		}
	}
}

// check runs "check stream"; want is what it has to say, or "" if all has to be well.
func (g *guarded) check(t *testing.T, top, block, receiver, more, want string) {
	t.Helper()
	if more != "" { // NATS Streaming lets nobody in by the name of one who is there
		more += ", client_id: " + regexp.MustCompile(`\W+`).ReplaceAllString(t.Name(), "_")
	}
	text := "identity: web1\nmonitor_port: 1\n" + top + "\npoller_stream: {" + block + more + "}\n"
	if receiver != "" {
		text += "receiver_stream: {" + receiver + more + "}\n"
	}
	path := filepath.Join(g.dir, strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())+".yaml")
	tlstest.Write(t, path, []byte(text))
	r := harness.Run(t, builds, time.Minute, []string{"XDG_CONFIG_HOME=" + filepath.Join(g.dir, "config")},
		"check", "stream", "--create", "--debug", "--config", path)
	switch {
	case want == "" && r.Code != 0:
		t.Errorf("exit code %d after %v:\n%s%s", r.Code, r.Took, text, r.Output)
	case want != "" && (r.Code != 1 || !strings.Contains(r.Output, want)):
		t.Errorf("exit code %d after %v, want 1 and %q:\n%s%s", r.Code, r.Took, want, text, r.Output)
	case want != "" && r.Took > refusedWithin:
		t.Errorf("it took %v to say %q", r.Took, want)
	case want != "":
		t.Logf("after %v: %s", r.Took.Round(10*time.Millisecond), strings.TrimSpace(r.Output))
	}
	if strings.Contains(r.Output, "hunter") {
		t.Errorf("a secret is shown:\n%s", r.Output)
	}
}
