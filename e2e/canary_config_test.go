package e2e

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/choria-io/prometheus-streams/internal/tlsconf/tlstest"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// clientWays is how many ways there are for an HTTP client to say who it is, see clients.
const clientWays = 5

// clients are the keys of an HTTP client for a place, one block for each way to say who it is. The secrets are in the
// configuration or in files.
func (c *canaries) clients(t *testing.T, at string, files bool) (blocks []string) {
	t.Helper()
	name := func(key string) string { return at + " " + key }
	// secret is a key with a secret, or the key whose value is a file with it.
	secret := func(key, toFile, where string) string {
		if files {
			return toFile + ": " + c.file(t, name(where)+" file")
		}
		return key + ": " + c.in(name(where))
	}
	tls := fmt.Sprintf(`tls_config: {cert: "%s", key: "%s"}`, flat(c.pair(t).CertPEM), flat(c.pair(t).KeyPEM))
	if files {
		tls = fmt.Sprintf("tls_config: {cert_file: %s, key_file: %s}", c.certified(t, "cert"), c.certified(t, "key"))
	}
	header := "secrets: [" + c.in(name("header")) + "], values: [" + c.in(name("plain header")) + "]"
	if files {
		header = "files: [" + c.file(t, name("header file")) + "]"
	}
	proxy := func(way string) string {
		return "proxy_url: 'http://me:" + c.in(name(way+" proxy")) + "@127.0.0.1:1', proxy_connect_header: {X-Key: ['" + c.in(name(way+" proxy header")) + "']}"
	}
	oauth := func(way, secret string) string {
		return fmt.Sprintf("oauth2: {client_id: me, %s, token_url: 'http://me:%s@127.0.0.1:1/token', endpoint_params: {assertion: %s}, %s, %s}",
			secret, c.in(name(way+" token_url")), c.in(name(way+" endpoint_params")), proxy(way), tls)
	}
	jwt := `client_certificate_key: "` + flat(c.rsaKey(t)) + `"`
	if files {
		jwt = "client_certificate_key_file: " + tlstest.Write(t, filepath.Join(c.dir, "rsa.pem"), c.rsaKey(t))
	}
	blocks = []string{
		"basic_auth: {username: me, " + secret("password", "password_file", "basic_auth") + "}, " + tls + ", http_headers: {X-Key: {" + header + "}}",
		"authorization: {" + secret("credentials", "credentials_file", "authorization") + "}, " + proxy("authorization"),
		oauth("oauth2", secret("client_secret", "client_secret_file", "oauth2")),
		secret("bearer_token", "bearer_token_file", "bearer"),
		oauth("oauth2 jwt", "grant_type: 'urn:ietf:params:oauth:grant-type:jwt-bearer', claims: {who: "+c.in(name("claims"))+"}, "+jwt),
	}
	if len(blocks) != clientWays {
		t.Fatalf("%d ways", len(blocks))
	}
	return blocks
}

// pair is a certificate whose key is a secret.
func (c *canaries) pair(t *testing.T) *tlstest.Pair {
	t.Helper()
	if c.certificate == nil {
		ca := tlstest.NewCA(t, "canary")
		p := ca.Issue(t, "canary", time.Now().Add(24*time.Hour))
		c.certificate, c.authority = &p, ca
		c.secret["the key of the certificate"] = strings.Split(string(p.KeyPEM), "\n")[2][:40]
	}
	return c.certificate
}

// certified is a file with the certificate ("cert"), its key or its authority ("ca").
func (c *canaries) certified(t *testing.T, what string) string {
	t.Helper()
	p := c.pair(t)
	return tlstest.Write(t, filepath.Join(c.dir, what+".pem"), map[string][]byte{"cert": p.CertPEM, "key": p.KeyPEM, "ca": c.authority.PEM()}[what])
}

// tls is a block of ours.
func (c *canaries) tls(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("{scheme: manual, ca: %s, cert: %s, key: %s}", c.certified(t, "ca"), c.certified(t, "cert"), c.certified(t, "key"))
}

// seeds are the files of an nkey and of credentials; what is secret in them is known from then on.
func (c *canaries) seeds(t *testing.T) (nkey, creds string) {
	t.Helper()
	if c.operator == nil {
		c.operator = harness.NewOperator(t)
	}
	name, seed := harness.NKey(t)
	c.nkey, c.secret["nkey"] = name, string(seed)
	whole := c.operator.Credentials(t, "canary", time.Time{})
	for line := range strings.Lines(string(whole)) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "SU") {
			c.secret["creds seed"] = line
		} else if strings.Count(line, ".") == 2 {
			c.secret["creds jwt"] = line
		}
	}
	if c.secret["creds seed"] == "" || c.secret["creds jwt"] == "" {
		t.Fatal("no secrets in the credentials")
	}
	return tlstest.Write(t, filepath.Join(c.dir, "nk"), seed), tlstest.Write(t, filepath.Join(c.dir, "creds"), whole)
}

// streams are blocks for a stream, one for each way to say who we are to NATS.
func (c *canaries) streams(t *testing.T, at, server string) (blocks []string) {
	t.Helper()
	name := func(key string) string { return at + " " + key }
	there := "urls: 'nats://" + server + "', "
	nkey, creds := c.seeds(t)
	blocks = []string{
		there + "user: me, password: " + c.in(name("password")) + ", proxy_url: 'http://me:" + c.in(name("proxy_url")) + "@127.0.0.1:1'",
		there + "user: me, password_file: " + c.file(t, name("password_file")) + ", tls: " + c.tls(t),
		there + "token: " + c.in(name("token")),
		there + "token_file: " + c.file(t, name("token_file")),
		there + "nkey_seed_file: " + nkey,
		there + "credentials: " + creds,
		"urls: ['nats://me:" + c.in(name("urls")) + "@" + server + "', 'nats://" + c.in(name("token in urls")) + "@" + server + "', 'nats://me:" + c.in(name("gone urls")) + "@127.0.0.1:1']",
		there + "cluster_id: here, client_id: canary, user: me, password: " + c.in(name("streaming password")),
		"cluster_id: here, client_id: canary2, urls: 'nats://me:" + c.in(name("streaming urls")) + "@" + server + "'",
	}
	return blocks
}

// list is a list in YAML, of blocks.
func list(indent int, blocks []string) string {
	var b strings.Builder
	for _, block := range blocks {
		b.WriteString("\n" + strings.Repeat(" ", indent) + "- {" + block + "}")
	}
	return b.String()
}

// config is one that is full of secrets, for a server; way is that of the Push Gateway's client.
func (c *canaries) config(t *testing.T, server string, files bool, way int) string {
	t.Helper()
	with := func(at, before string) (blocks []string) {
		for i, keys := range c.clients(t, at, files) {
			url := fmt.Sprintf("http://me:%s@127.0.0.1:1", c.in(fmt.Sprintf("%s url %d", at, i)))
			blocks = append(blocks, strings.NewReplacer("URL", url, "#", fmt.Sprint(i)).Replace(before)+", "+keys)
		}
		return blocks
	}
	token := fmt.Sprintf("http://%s@127.0.0.1:1", c.in("push_gateway url"))
	consul := append(with("consul", "server: '127.0.0.1:1'"),
		"server: '127.0.0.1:1', token: "+c.in("consul token"), "server: '127.0.0.1:1', username: me, password: "+c.in("consul password"))
	writes := append(with("remote_write", "name: n#, url: 'URL/write', headers: {X-Token: "+c.in("remote_write headers")+"}"),
		"name: sigv4, url: 'http://127.0.0.1:1/write', sigv4: {region: x, access_key: me, secret_key: '"+c.in("remote_write sigv4")+"'}",
		"name: azuread, url: 'http://127.0.0.1:1/write', azuread: {oauth: {client_id: 00000000-0000-0000-0000-000000000000, tenant_id: x, client_secret: '"+c.in("remote_write azuread")+"'}}",
		"name: azurecert, url: 'http://127.0.0.1:1/write', azuread: {certificate: {client_id: 00000000-0000-0000-0000-000000000000, tenant_id: x, certificate_path: "+c.certified(t, "cert")+
			", certificate_key_path: "+c.certified(t, "key")+", certificate_password: '"+c.in("remote_write azuread certificate")+"'}}",
		"name: google, url: 'http://127.0.0.1:1/write', google_iam: {credentials_file: "+c.google(t, "http://me:"+c.in("google token_uri")+"@127.0.0.1:1/token")+"}")
	receivers := c.streams(t, "receiver", server)
	for i := range receivers {
		receivers[i] += fmt.Sprintf(", stream: R%d", i)
		if strings.Contains(receivers[i], "cluster_id") {
			receivers[i] = receivers[i][:strings.LastIndex(receivers[i], ", stream")]
		}
	}
	poller := "user: me, password: " + c.in("poller password") + ", proxy_url: 'http://me:" + c.in("poller proxy_url") + "@127.0.0.1:1'"
	if files {
		poller = "user: me, password_file: " + c.file(t, "poller password_file")
	}
	web, _ := c.web(t, files)
	return fmt.Sprintf(`
identity: canary
scrape_interval: 1s
debug: true
management: {tls: %s, identity: canary, brokers: ["127.0.0.1:1"]}
spool: {directory: %s}
embedded: {directory: %s}
receiver: {state_directory: %s}
web: {config_file: '%s'}
poller_stream: {urls: 'nats://%s', %s}
receiver_stream:%s
jobs:
  one:
    targets:
      - {name: gone, url: 'http://me:%s@127.0.0.1:1/metrics'}
      - {name: token, url: 'http://%s@127.0.0.1:1/metrics'}
scrape_configs:%s
  - job_name: discovered
    consul_sd_configs:%s
    http_sd_configs:%s
    puppetdb_sd_configs:%s
    kubernetes_sd_configs:%s
scrape_config_files: ['%s']
push_gateway: {url: '%s', %s}
remote_write:%s
gateway: {}
`, c.tls(t), filepath.Join(c.dir, "spool"), filepath.Join(c.dir, "embedded"), filepath.Join(c.dir, "state"), web,
		server, poller, list(2, receivers), c.in("jobs"), c.in("token in jobs"),
		list(2, with("scrape", "job_name: j#, static_configs: [{targets: ['127.0.0.1:1']}]")),
		list(6, consul), list(6, with("http_sd", "url: 'URL/sd'")), list(6, with("puppetdb", "url: 'URL/pdb', query: x")),
		list(6, append(with("kubernetes", "role: pod, api_server: 'URL'"), "role: node, kubeconfig_file: '"+c.kubeconfig(t, "https://127.0.0.1:1", c.in("kubeconfig"))+"'")),
		c.more(t), token, c.clients(t, "push_gateway", files)[way], list(2, writes))
}

// web is a file with users and a key of our own HTTP server. The hash of a password is no less a secret than the password.
func (c *canaries) web(t *testing.T, files bool) (file, password string) {
	t.Helper()
	tls := fmt.Sprintf(`{cert: "%s", key: "%s"}`, flat(c.pair(t).CertPEM), flat(c.pair(t).KeyPEM))
	if files {
		tls = fmt.Sprintf("{cert_file: %s, key_file: %s}", c.certified(t, "cert"), c.certified(t, "key"))
	}
	password = c.in("password of a visitor")
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	c.secret["hash in web.config_file"] = string(hash[7:])
	return tlstest.Write(t, filepath.Join(c.dir, "web.yaml"), fmt.Appendf(nil, "tls_server_config: %s\nbasic_auth_users: {me: '%s'}\n", tls, hash)), password
}

// more is a file with scrape configs.
func (c *canaries) more(t *testing.T) string {
	t.Helper()
	return tlstest.Write(t, filepath.Join(c.dir, "more.yaml"), fmt.Appendf(nil, `scrape_configs:
  - {job_name: more, basic_auth: {username: me, password: %s}, static_configs: [{targets: ["127.0.0.1:1"]}]}
`, c.in("scrape_config_files")))
}

// google is the file of an account of a cloud, whose tokens are at a URL.
func (c *canaries) google(t *testing.T, tokens string) string {
	t.Helper()
	return tlstest.Write(t, filepath.Join(c.dir, "google.json"), fmt.Appendf(nil,
		`{"type": "service_account", "client_email": "a@b", "private_key_id": %q, "token_uri": %q, "project_id": "p", "private_key": "%s"}`,
		c.in("google private_key_id"), tokens, flat(c.rsaKey(t))))
}

// kubeconfig is that of a cluster.
func (c *canaries) kubeconfig(t *testing.T, url, token string) string {
	t.Helper()
	return tlstest.Write(t, filepath.Join(c.dir, "kubeconfig"), fmt.Appendf(nil, `
apiVersion: v1
kind: Config
current-context: here
contexts: [{name: here, context: {cluster: here, user: me}}]
clusters: [{name: here, cluster: {server: %q, insecure-skip-tls-verify: true}}]
users: [{name: me, user: {token: %s}}]
`, url, token))
}

// pollerStreams are the blocks of streams, those with files that are damaged too, and those with contexts.
func (c *canaries) pollerStreams(t *testing.T, server string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for i, block := range c.streams(t, "poller_stream", server) {
		out[fmt.Sprint(i)] = block
	}
	nkey, creds := c.seeds(t)
	half := func(name, file string) string {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return tlstest.Write(t, filepath.Join(c.dir, name), data[:len(data)/2+len(data)/3])
	}
	at := "urls: 'nats://" + server + "', "
	out["half an nkey"], out["half creds"] = at+"nkey_seed_file: "+half("nk2", nkey), at+"credentials: "+half("creds2", creds)
	out["key for a certificate"] = at + "tls: {scheme: manual, cert: " + c.certified(t, "key") + ", key: " + c.certified(t, "cert") + "}"
	out["puppet"] = at + "tls: " + c.puppetTLS(t)
	out["no url"] = "urls: 'nats://me:" + c.in("bad urls") + "@127.0.0.1:x'"
	for name := range c.contexts(t, server) {
		out["context "+name] = "context: " + name
	}
	return out
}

// puppetTLS is a block with the directory of a Puppet agent.
func (c *canaries) puppetTLS(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(c.dir, "ssl")
	tlstest.Puppet(t, dir, "canary", c.authority, *c.pair(t))
	return "{scheme: puppet, identity: canary, ssl_dir: " + dir + "}"
}

// everyTLS are configurations with a tls block wherever there may be one, of each scheme.
func (c *canaries) everyTLS(t *testing.T, server string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for scheme, block := range map[string]string{"manual": c.tls(t), "puppet": c.puppetTLS(t)} {
		out[scheme] = fmt.Sprintf("identity: canary\nmonitor_port: 1\ntls: %[1]s\nmanagement: {tls: %[1]s, brokers: ['127.0.0.1:1']}\npoller_stream: {urls: 'nats://%[2]s', tls: %[1]s}\n"+
			"receiver_stream: [{urls: 'nats://%[2]s', tls: %[1]s}, {urls: 'nats://%[2]s', stream: B}]\ngateway: {}\n", block, server)
	}
	return out
}

// contexts are those of the nats command, by name; c.dir/config is their place.
func (c *canaries) contexts(t *testing.T, server string) map[string]string {
	t.Helper()
	nkey, creds := c.seeds(t)
	at := "{\"url\": \"nats://" + server + "\", "
	out := map[string]string{
		"password": at + fmt.Sprintf(`"user": "me", "password": %q}`, c.in("context password")),
		"token":    at + fmt.Sprintf(`"token": %q}`, c.in("context token")),
		"creds":    at + fmt.Sprintf(`"creds": %q}`, creds),
		"nkey":     at + fmt.Sprintf(`"nkey": %q}`, nkey),
		"key":      at + fmt.Sprintf(`"ca": %q, "cert": %q, "key": %q}`, c.certified(t, "ca"), c.certified(t, "cert"), c.certified(t, "key")),
		"broken":   at + fmt.Sprintf(`"user": "me", "password": %q`, c.in("broken context")),
		"url":      fmt.Sprintf(`{"url": "nats://me:%s@%s"}`, c.in("context url"), server),
		"tokenurl": fmt.Sprintf(`{"url": "nats://%s@%s"}`, c.in("context url with a token"), server),
		"wrong":    at + fmt.Sprintf(`"password": [%q]}`, c.in("wrong context")),
		"jwt":      at + fmt.Sprintf(`"user_jwt": %q}`, c.in("context user_jwt")),
		"seed":     at + fmt.Sprintf(`"user_seed": %q}`, c.in("context user_seed")),
		"nsc":      at + fmt.Sprintf(`"nsc": "nsc://o/a/%s"}`, c.in("context nsc")),
		"socks":    at + fmt.Sprintf(`"socks_proxy": "socks5://me:%s@127.0.0.1:1"}`, c.in("context socks_proxy")),
	}
	for name, text := range out {
		tlstest.Write(t, filepath.Join(c.dir, "config", "nats", "context", name+".json"), []byte(text))
	}
	return out
}

// rsaKey is a key as clouds have it; its secret is known from then on.
func (c *canaries) rsaKey(t *testing.T) []byte {
	t.Helper()
	if c.rsa != nil {
		return c.rsa
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	c.rsa = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	c.secret["key of a cloud"] = strings.Split(string(c.rsa), "\n")[2]
	return c.rsa
}
