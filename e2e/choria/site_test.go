//go:build choria

package choria

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
	"github.com/choria-io/prometheus-streams/internal/tlsconf/tlstest"
)

// patience is how long anything may take on a slow machine.
const patience = 90 * time.Second

var (
	builds  *harness.Builds
	ports   harness.Ports
	targets harness.Targets
)

func TestMain(m *testing.M) { harness.Main(m, &builds) }

// network is a Choria broker and the certificates of all who use it; without TLS it is a plain nats-server.
type network struct {
	*harness.Process
	t      *testing.T
	dir    string
	port   int
	secure bool
	ca     *tlstest.CA
	argv   []string
	ready  string
}

// people are all who have certificates; those of mcollective are on Choria's list of callers. Each has a key of its own.
var people = []string{"broker.example.net", "poller.example.net", "receiver.example.net", "me.mcollective", "ro.mcollective", "stranger.example.net"}

// newNetwork makes certificates and configuration; Restart starts the broker.
func newNetwork(t *testing.T) *network {
	t.Helper()
	n := &network{t: t, dir: t.TempDir(), port: ports.Next(t), secure: true, ca: tlstest.NewCA(t, "e2e CA"), ready: "Server is ready"}
	tlstest.Write(t, n.file("ca"), n.ca.PEM())
	for _, name := range people {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		n.issue(name, key)
	}
	config := n.write("broker.conf", fmt.Sprintf(`identity = localhost
logfile = stdout
loglevel = info
plugin.choria.broker_network = true
plugin.choria.network.listen_address = 127.0.0.1
plugin.choria.network.client_port = %d
plugin.choria.network.tls_timeout = 20
plugin.choria.use_srv = false
`, n.port)+n.security("broker.example.net"))
	n.argv = []string{harness.Server(t, "choria"), "broker", "run", "--config", config}
	return n
}

// newPlainNetwork is a nats-server.
func newPlainNetwork(t *testing.T) *network {
	t.Helper()
	n := &network{t: t, dir: t.TempDir(), port: ports.Next(t), ready: "Server is ready"}
	n.argv = []string{harness.Server(t, "nats-server"), "-a", "127.0.0.1", "-p", fmt.Sprint(n.port)}
	return n
}

func (n *network) issue(name string, key crypto.Signer) tlstest.Pair {
	n.t.Helper()
	p := n.ca.IssueKey(n.t, name, time.Now().Add(12*time.Hour), key)
	tlstest.Write(n.t, n.file(name), p.CertPEM)
	tlstest.Write(n.t, n.file(name+"-key"), p.KeyPEM)
	return p
}

func (n *network) file(name string) string { return filepath.Join(n.dir, name+".pem") }

func (n *network) write(name, text string) string {
	n.t.Helper()
	return tlstest.Write(n.t, filepath.Join(n.dir, name), []byte(text))
}

// security is Choria's configuration of certificates.
func (n *network) security(name string) string {
	text := "plugin.security.provider = file\n"
	if n.secure {
		text += fmt.Sprintf("plugin.security.file.ca = %s\nplugin.security.file.certificate = %s\nplugin.security.file.key = %s\n",
			n.file("ca"), n.file(name), n.file(name+"-key"))
	}
	return text
}

// Restart starts the broker, again on its port.
func (n *network) Restart() {
	n.t.Helper()
	n.Process = harness.Start(n.t, "broker", n.argv...)
	n.WaitOutput(patience, n.ready)
}

// management is the block of a process that is called name there; more is added to it.
func (n *network) management(name, more string) string {
	text := fmt.Sprintf("management:\n  identity: %s\n  brokers: [\"localhost:%d\"]\n", name, n.port)
	if n.secure {
		text += fmt.Sprintf("  tls: {scheme: manual, identity: %s, ca: %s, cert: %s, key: %s, cache: /unused}\n",
			name, n.file("ca"), n.file(name), n.file(name+"-key"))
	}
	return text + more
}

// command is the choria command for a person.
func (n *network) command(ctx context.Context, who string, args ...string) *exec.Cmd {
	n.t.Helper()
	agents := filepath.Join(n.dir, "lib", "mcollective", "agent")
	for _, name := range []string{"prometheus_streams.json", "backplane.json"} {
		text, err := os.ReadFile(filepath.Join(harness.Root(), "packaging", "choria", name))
		if err != nil {
			n.t.Fatal(err)
		}
		tlstest.Write(n.t, filepath.Join(agents, name), text)
	}
	config := n.write(who+".conf", fmt.Sprintf(`identity = %s
collectives = prometheus,site_backplane
main_collective = prometheus
libdir = %s
logfile = stderr
loglevel = error
color = 0
default_discovery_method = mc
discovery_timeout = 2
plugin.choria.middleware_hosts = localhost:%d
plugin.choria.use_srv = false
`, who, filepath.Join(n.dir, "lib"), n.port)+n.security(who))
	cmd := exec.CommandContext(ctx, harness.Server(n.t, "choria"), append(args, "--config", config)...)
	cmd.Dir = n.dir
	cmd.Env = []string{"HOME=" + n.dir, "PATH=/usr/bin:/bin", "MCOLLECTIVE_CERTNAME=" + who}
	if !n.secure {
		cmd.Env = append(cmd.Env, "INSECURE_YES_REALLY=true")
	}
	return cmd
}

// choria runs the command and gives what it prints. That it found nobody, or was refused, is an error.
func (n *network) choria(who string, args ...string) (string, error) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	var out, problems strings.Builder
	cmd := n.command(ctx, who, args...)
	cmd.Stdout, cmd.Stderr = &out, &problems
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("choria %s: %w: %s%s", strings.Join(args, " "), err, problems.String(), out.String())
	}
	return out.String(), err
}

// must is choria for what has to work.
func (n *network) must(who string, args ...string) string {
	n.t.Helper()
	out, err := n.choria(who, args...)
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

// answers are what a request brought, as choria req --json prints it.
type answers struct {
	Replies []struct {
		Sender     string
		Statuscode int
		Statusmsg  string
		Data       map[string]any
	}
	Summaries json.RawMessage
}

// ask sends a request and gives the answers by who sent them.
func (n *network) ask(who string, args ...string) (map[string]map[string]any, answers) {
	n.t.Helper()
	out, err := n.choria(who, append([]string{"req", "--np", "--json"}, args...)...)
	var a answers
	if jerr := json.Unmarshal([]byte(out), &a); jerr != nil {
		n.t.Fatalf("%s: %v, %v", out, jerr, err)
	}
	all := map[string]map[string]any{}
	for _, r := range a.Replies {
		if r.Statuscode == 0 {
			all[r.Sender] = r.Data
		}
	}
	return all, a
}

// found waits until discovery finds exactly these.
func (n *network) found(who string, names ...string) {
	n.t.Helper()
	harness.Wait(n.t, patience, fmt.Sprintf("%s finds %v", who, names), func() error {
		out, err := n.choria(who, "ping", "-T", "prometheus", "--names")
		got := strings.Fields(out)
		if len(got) != len(names) {
			return fmt.Errorf("found %v, %v", got, err)
		}
		for _, name := range names {
			if !strings.Contains(out, name) {
				return fmt.Errorf("found %v", got)
			}
		}
		return nil
	})
}

// events runs "choria tool event" on the network, which shows what it hears until the test ends.
func (n *network) events() *harness.Process {
	n.t.Helper()
	cmd := n.command(context.Background(), "me.mcollective", "tool", "event")
	p := harness.Start(n.t, "events", append(append([]string{"/usr/bin/env"}, cmd.Env...), cmd.Args...)...)
	p.WaitOutput(patience, "Waiting for events")
	time.Sleep(2 * time.Second) // it says so before it subscribes
	return p
}

// heard waits for an event and checks that there were exactly so many like it.
func heard(t *testing.T, p *harness.Process, text string, times int) {
	t.Helper()
	harness.Wait(t, patience, "event "+text, func() error {
		if !strings.Contains(p.Output(), text) {
			return errors.New("not heard")
		}
		return nil
	})
	if got := strings.Count(p.Output(), text); got != times {
		t.Errorf("%q was heard %d times, want %d:\n%s", text, got, times, p.Output())
	}
}

// canary is in every secret of the configurations: it must not be seen anywhere.
const canary = "canary-3141"

// pollerYAML and receiverYAML are configurations with a management block.
func pollerYAML(hub *harness.NATS, target *harness.Target, management string) string {
	return fmt.Sprintf(`
identity: DC1
scrape_interval: 1s
poller_stream: {urls: %q, topic: prometheus, stream: PROMETHEUS, user: u, password: %s}
push_gateway: {url: "http://u:%s@127.0.0.1:1"}
%s%s`, hub.URL, canary, canary, harness.JobsYAML("edge", target), management)
}

func receiverYAML(t *testing.T, hub *harness.NATS, management string) string {
	return fmt.Sprintf(`
identity: centre
receiver_stream: {urls: %q, topic: prometheus, stream: PROMETHEUS, token: %s}
receiver: {state_directory: %s}
gateway: {}
%s`, hub.URL, canary, t.TempDir(), management)
}
