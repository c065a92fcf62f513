package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/internal/tlsconf/tlstest"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// A password, an nkey and a certificate that are replaced, at the server and in the files of a process, count at the next
// connection, without a restart of the process; while only one side has changed, the process says why it cannot connect.
func TestRenewed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name string, data string) string { return tlstest.Write(t, filepath.Join(dir, name), []byte(data)) }
	tomorrow := time.Now().Add(24 * time.Hour)
	first, second := tlstest.NewCA(t, "First CA"), tlstest.NewCA(t, "Second CA")
	renew := func(ca *tlstest.CA, password, seed string) {
		p := ca.Issue(t, "edge", tomorrow)
		file("ca.pem", string(first.PEM())+string(second.PEM()))
		file("edge.pem", string(p.CertPEM))
		file("edge.key", string(p.KeyPEM))
		file("password", password)
		file("edge.nk", seed)
	}
	port := ports.Next(t)
	store := t.TempDir()
	config := func(ca *tlstest.CA, password, nkey string) string {
		p := ca.Issue(t, "nats", tomorrow)
		return fmt.Sprintf(`listen: 127.0.0.1:%d
jetstream { store_dir: %q }
tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true }
authorization { users: [ {user: edge, password: %s}, {nkey: %s} ] }
`, port, store, file("nats.pem", string(p.CertPEM)), file("nats.key", string(p.KeyPEM)), file("nats-ca.pem", string(ca.PEM())), password, nkey)
	}
	key1, seed1 := harness.NKey(t)
	key2, seed2 := harness.NKey(t)
	renew(first, "one", string(seed1))
	server := harness.StartServer(t, port, config(first, "one", key1))
	poller := func(name, who string) *harness.Product {
		return startPoller(t, fmt.Sprintf("identity: %s\nscrape_interval: 1s\npoller_stream: {urls: 'nats://127.0.0.1:%d', %s, tls: {scheme: manual, ca: %q, cert: %q, key: %q}}\n",
			name, port, who, filepath.Join(dir, "ca.pem"), filepath.Join(dir, "edge.pem"), filepath.Join(dir, "edge.key")))
	}
	pollers := map[string]*harness.Product{
		"password": poller("password", "user: edge, password_file: "+filepath.Join(dir, "password")),
		"nkey":     poller("nkey", "nkey_seed_file: "+filepath.Join(dir, "edge.nk")),
	}
	connected := func(times int) {
		t.Helper()
		for name, p := range pollers {
			harness.Wait(t, 30*time.Second, fmt.Sprintf("the poller with a %s connects %d times", name, times), func() error {
				if got := strings.Count(p.Output(), `msg="connected to NATS"`); got < times {
					return fmt.Errorf("%d times", got)
				}
				return nil
			})
		}
	}
	connected(1)
	server.Kill()
	server.Reconfigure(t, config(second, "two", key2))
	for _, p := range pollers {
		p.WaitOutput(30*time.Second, "the server does not take our certificate|the server.s certificate .* is of none of our authorities")
	}
	renew(second, "one", string(seed1))
	for who, p := range map[string]*harness.Product{`the user ..edge.. with its password`: pollers["password"], "the nkey in": pollers["nkey"]} {
		p.WaitOutput(30*time.Second, "the server does not accept "+who)
	}
	renew(second, "two", string(seed2))
	connected(2)
}
