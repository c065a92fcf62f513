package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
	"github.com/choria-io/prometheus-streams/internal/tlsconf/tlstest"
)

// A Push Gateway with TLS that asks for a client certificate and a password. As long as the password is wrong nothing is
// acknowledged; once it is right everything arrives.
func TestPushGatewayAuthentication(t *testing.T) {
	eachPushGateway(t, func(t *testing.T, name string) {
		dir, ca, until := t.TempDir(), tlstest.NewCA(t, "push CA"), time.Now().Add(time.Hour)
		write := func(name string, data []byte) string { return tlstest.Write(t, filepath.Join(dir, name), data) }
		pair := func(of string) (cert, key string) {
			p := ca.Issue(t, of, until)
			return write(of+".pem", p.CertPEM), write(of+".key", p.KeyPEM)
		}
		caFile := write("ca.pem", ca.PEM())
		cert, key := pair("localhost")
		// The hash is that of the word pushed.
		web := write("web.yml", fmt.Appendf(nil, `
tls_server_config: {cert_file: %s, key_file: %s, client_ca_file: %s, client_auth_type: RequireAndVerifyClientCert}
basic_auth_users: {receiver: $2a$04$it4LTXZrmPgxWsTrURWnReOUxZHQcfO3SkkPVbO8xbXPgYwAs1aBG}
`, cert, key, caFile))
		address := fmt.Sprintf("127.0.0.1:%d", ports.Next(t))
		gateway := harness.Start(t, name, harness.Server(t, name), "--web.listen-address="+address, "--web.config.file="+web)
		gateway.WaitOutput(20*time.Second, "TLS is enabled")

		server := startNATS(t, "")
		cert, key = pair("receiver")
		password := write("password", []byte("swordfish"))
		receiver := startReceiver(t, pushYAML(server, "https://"+address, t.TempDir(), fmt.Sprintf(`
  basic_auth: {username: receiver, password_file: %s}
  tls_config: {ca_file: %s, cert_file: %s, key_file: %s}
`, password, caFile, cert, key), ""))
		target := targets.New(t, "alpha", 5)
		startPoller(t, pollerYAML(server, "site", "1s", namedJob("edge", target)))
		refused := func() float64 {
			return receiver.Metrics(t).Sum("prometheus_streams_pushgateway_retries_total", harness.Labels{"reason": "status_4xx"})
		}
		harness.Wait(t, 30*time.Second, "pushes with a wrong password are tried again", func() error {
			if refused() < 2 {
				return errors.New("they are not")
			}
			return nil
		})
		own := receiver.Metrics(t)
		if n := own.Sum("prometheus_streams_pushgateway_pushes_total", harness.Labels{"result": "accepted"}); n != 0 {
			t.Errorf("%v pushes were accepted", n)
		}
		if own.Sum("prometheus_streams_pushgateway_waiting_groups", nil) == 0 {
			t.Error("no group waits")
		}
		if strings.Contains(receiver.Output(), "swordfish") {
			t.Error("the log has the password")
		}
		write("password", []byte("pushed"))
		harness.Wait(t, 30*time.Second, "pushes with the right password are accepted", func() error {
			own := receiver.Metrics(t)
			accepted := own.Sum("prometheus_streams_pushgateway_pushes_total", harness.Labels{"result": "accepted"})
			if accepted < 2 || own.Sum("prometheus_streams_pushgateway_oldest_unaccepted_timestamp_seconds", nil) != 0 {
				return fmt.Errorf("%v are", accepted)
			}
			return nil
		})
		// Who comes without a certificate does not get in.
		if status, _, err := harness.Get("https://" + address + "/metrics"); err == nil && status == http.StatusOK {
			t.Error("the gateway lets everybody in")
		}
	})
}
