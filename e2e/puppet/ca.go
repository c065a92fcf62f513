//go:build puppet

package puppet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// How long its parts may take on a slow machine.
const (
	startLimit   = 10 * time.Minute
	commandLimit = 3 * time.Minute
)

// authority is a real Puppet CA in a folder of its own, with a root and an authority below it.
type authority struct {
	*harness.Process
	dir  string
	host string
	port int
}

// startAuthority sets one up and starts it until the test ends.
func startAuthority(t *testing.T, port int) *authority {
	t.Helper()
	for _, needed := range []string{"/usr/share/puppetserver/puppetserver.jar", "/usr/bin/puppet", "/usr/bin/setpriv"} {
		if _, err := os.Stat(needed); err != nil {
			t.Fatalf("%v: run \"make debs\", which installs Debian's puppetserver and puppet-agent as root, or names them", err)
		}
	}
	dir, err := os.MkdirTemp("", "puppet-ca-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ca := &authority{dir: dir, port: port, host: fmt.Sprintf("localhost:%d", port)}
	ca.write(t)
	ca.puppetserver(t, "setup", "--certname", "localhost", "--subject-alt-names", "DNS:localhost,IP:127.0.0.1")
	ca.Process = harness.Start(t, "puppetserver", ca.as("java", "-Xms64m", "-Xmx384m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
		"-Djruby.logger.class=com.puppetlabs.jruby_utils.jruby.Slf4jLogger", "-Djruby.lib=/usr/share/jruby/lib",
		"-jar", "/usr/share/puppetserver/puppetserver.jar",
		"--config", ca.path("server/conf.d"), "--bootstrap-config", ca.path("server/services.d"))...)
	begin := time.Now()
	harness.Wait(t, startLimit, "the Puppet CA runs", func() error {
		if !ca.Running() {
			t.Fatal("it ended")
		}
		return ca.status()
	})
	t.Logf("the Puppet CA runs after %v", time.Since(begin).Round(time.Second))
	return ca
}

func (ca *authority) path(name string) string { return filepath.Join(ca.dir, name) }

// as is a command of the CA's own user: Debian's, which is the one that Puppet's programs choose, if we are root, else we.
func (ca *authority) as(argv ...string) []string {
	home := []string{"env", "HOME=" + ca.path("var"), "LC_ALL=C.UTF-8"}
	if os.Geteuid() == 0 {
		// The signal that ends a program with its parent is forgotten with a change of the user.
		home = append([]string{"setpriv", "--reuid=puppet", "--regid=puppet", "--clear-groups", "--pdeathsig", "KILL"}, home...)
	}
	return append(home, argv...)
}

// own gives a folder and all in it to the CA's user.
func own(t *testing.T, dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	u, err := user.Lookup("puppet")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	err = filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
		return errors.Join(err, os.Lchown(path, uid, gid))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// write makes the folders and the configuration.
func (ca *authority) write(t *testing.T) {
	t.Helper()
	replace := strings.NewReplacer("DIR", ca.dir, "PORT", strconv.Itoa(ca.port))
	for name, text := range map[string]string{
		"conf/puppet.conf": puppetConf, "conf/autosign.conf": "", "conf/code/environments/production/manifests/keep": "",
		"server/conf.d/server.conf": serverConf, "server/conf.d/auth.conf": authConf, "server/services.d/bootstrap.cfg": bootstrap,
		"server/logback.xml": logback, "var/keep": "", "run/keep": "", "log/keep": "",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(ca.path(name)), 0o755), os.WriteFile(ca.path(name), []byte(replace.Replace(text)), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(ca.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	own(t, ca.dir)
}

// puppetserver runs `puppetserver ca` as the operator does, and returns what it prints.
func (ca *authority) puppetserver(t *testing.T, action string, args ...string) string {
	t.Helper()
	return ca.run(t, append([]string{"puppetserver", "ca", action, "--config", ca.path("conf/puppet.conf")}, args...)...)
}

// run runs a command of the CA's user.
func (ca *authority) run(t *testing.T, argv ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	defer cancel()
	full := ca.as(argv...)
	cmd := exec.CommandContext(ctx, full[0], full[1:]...)
	cmd.Dir = ca.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// autosign sets whose requests are signed at once.
func (ca *authority) autosign(t *testing.T, names string) {
	t.Helper()
	if err := os.WriteFile(ca.path("conf/autosign.conf"), []byte(names+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// bundle is the CA's certificates as it serves them.
func (ca *authority) bundle(t *testing.T) []byte {
	t.Helper()
	data, err := os.ReadFile(ca.path("ca/ca_crt.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (ca *authority) status() error {
	bundle, err := os.ReadFile(ca.path("ca/ca_crt.pem"))
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(bundle)
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
	resp, err := client.Get("https://" + ca.host + "/status/v1/simple")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1000))
	if err == nil && string(body) != "running" {
		err = fmt.Errorf("it says %q", body)
	}
	return err
}
