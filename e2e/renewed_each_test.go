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

// renewal is a way to say who we are, with what server and file have before and after it is renewed.
type renewal struct {
	server [2]string // of the server's configuration
	file   string    // which is written again
	text   [2]string
	block  string // keys of the stream's block
	want   string // what is said while only the server has changed
}

// renewals are all that are in files, except for those with TLS, which are TestRenewed's. Files are in dir.
func renewals(t *testing.T, url string) map[string]renewal {
	key1, seed1 := harness.NKey(t)
	key2, seed2 := harness.NKey(t)
	one, two := harness.NewOperator(t), harness.NewOperator(t)
	user := func(password string) string {
		return fmt.Sprintf("authorization { users: [ {user: me, password: %s} ] }", password)
	}
	context := func(password string) string {
		return fmt.Sprintf(`{"url": %q, "user": "me", "password": %q}`, url, password)
	}
	at := "urls: '" + url + "', "
	return map[string]renewal{
		"password": {[2]string{user("first"), user("second")}, "password", [2]string{"first", "second\n"},
			at + "user: me, password_file: password", `the server does not accept the user`},
		"token": {[2]string{"authorization { token: first }", "authorization { token: second }"}, "token", [2]string{"first\n", "second"},
			at + "token_file: token", "the server does not accept the token"},
		"nkey": {[2]string{"authorization { users: [ {nkey: " + key1 + "} ] }", "authorization { users: [ {nkey: " + key2 + "} ] }"}, "me.nk",
			[2]string{string(seed1), string(seed2)}, at + "nkey_seed_file: me.nk", "the server does not accept the nkey in"},
		"creds": {[2]string{one.Config(), two.Config()}, "me.creds",
			[2]string{string(one.Credentials(t, "me", time.Time{})), string(two.Credentials(t, "me", time.Time{}))},
			at + "credentials: me.creds", "the server does not accept the credentials in"},
		"context": {[2]string{user("first"), user("second")}, "nats/context/hub.json", [2]string{context("first"), context("second")},
			"context: hub", `the server does not accept the user`},
	}
}

// Whatever says who we are is read again at the next connection, on both carriers, without a restart of the process; as
// long as only the server knows of it, the process says what the server does not accept.
func TestRenewedEach(t *testing.T) {
	t.Parallel()
	for _, carrier := range []string{"JetStream", "Streaming"} {
		for name := range renewals(t, "") {
			t.Run(carrier+"/"+name, func(t *testing.T) {
				t.Parallel()
				port, dir := ports.Next(t), t.TempDir()
				c := renewals(t, fmt.Sprintf("nats://127.0.0.1:%d", port))[name]
				config := func(i int) string { return fmt.Sprintf("listen: 127.0.0.1:%d\n%s\n", port, c.server[i]) }
				renew := func(i int) { tlstest.Write(t, filepath.Join(dir, c.file), []byte(c.text[i])) }
				in, more := `msg="connected to NATS"`, ""
				if carrier == "Streaming" { // the server behind NATS is not there, which is known only once NATS let us in
					in, more = "no NATS Streaming server of this cluster id", ", cluster_id: "+harness.ClusterID
				}
				renew(0)
				server := harness.StartServer(t, port, config(0))
				path := tlstest.Write(t, filepath.Join(dir, "poller.yaml"), fmt.Appendf(nil,
					"identity: me\nscrape_interval: 1s\nspool: {directory: spool}\nmonitor_port: %d\npoller_stream: {%s%s}\n", ports.Next(t), c.block, more))
				poller := harness.Start(t, "poller", "env", "XDG_CONFIG_HOME="+dir, builds.Product(t), "poller", "--config", path)
				times := func(n int) {
					t.Helper()
					harness.Wait(t, 40*time.Second, fmt.Sprintf("NATS lets the poller in %d times", n), func() error {
						if got := strings.Count(poller.Output(), in); got < n {
							return fmt.Errorf("%d times", got)
						}
						return nil
					})
				}
				times(1)
				server.Kill()
				server.Reconfigure(t, config(1))
				poller.WaitOutput(40*time.Second, c.want)
				renew(1)
				times(2)
			})
		}
	}
}
