//go:build puppet

package puppet

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
	"github.com/choria-io/prometheus-streams/internal/tlsconf/tlstest"
)

// site is a Puppet CA, a nats-server that takes certificates of it only, and a receiver that has one.
type site struct {
	builds   *harness.Builds
	ports    harness.Ports
	targets  harness.Targets
	ca       *authority
	nats     *harness.NATS
	url      string // of the nats-server
	monitor  string // of the nats-server
	receiver *harness.Product
}

// limit is how long what has to come may take.
const limit = 2 * time.Minute

// One CA serves all of it: it takes half a minute to start.
func TestPuppet(t *testing.T) {
	builds, err := harness.NewBuilds()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(builds.Remove)
	s := &site{builds: builds}
	s.ca = startAuthority(t, s.ports.Next(t))
	s.startNATS(t)
	s.startReceiver(t)
	for _, c := range []struct {
		name string
		test func(*testing.T, *site)
	}{
		{"signed", testSigned},
		{"killed", testKilled},
		{"wrong fingerprint", testWrongFingerprint},
		{"mismatch", testMismatch},
		{"expired", testExpired},
		{"not enrolled", testNotEnrolled},
		{"foreign", testForeign},
		{"agent", testAgent},
		{"renewed", testRenewed}, // the last one: the nats-server ends with it
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, s) })
	}
}

func (s *site) startNATS(t *testing.T) {
	t.Helper()
	port, monitor := s.ports.Next(t), s.ports.Next(t)
	s.url, s.monitor = fmt.Sprintf("tls://localhost:%d", port), fmt.Sprintf("http://127.0.0.1:%d", monitor)
	s.nats = harness.StartNATS(t, port, fmt.Sprintf(`http: 127.0.0.1:%d
tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true, timeout: 20 }
`, monitor, s.ca.path("ssl/certs/localhost.pem"), s.ca.path("ssl/private_keys/localhost.pem"), s.ca.path("ca/ca_crt.pem")))
}

// enrol starts `prometheus-streams enroll`.
func (s *site) enrol(t *testing.T, name, dir string, flags ...string) *harness.Process {
	t.Helper()
	return harness.Start(t, "enroll-"+name, append([]string{s.builds.Product(t), "enroll", name, "--ca", s.ca.host, "--dir", dir, "--poll", "500ms"}, flags...)...)
}

// enrolled enrols a name that is signed at once.
func (s *site) enrolled(t *testing.T, name string) (dir string) {
	t.Helper()
	s.ca.autosign(t, name)
	defer s.ca.autosign(t, "")
	dir = filepath.Join(t.TempDir(), "ssl")
	ends(t, s.enrol(t, name, dir), 0)
	return dir
}

// ends waits for the end of a program with an exit code, and for what it has to have printed.
func ends(t *testing.T, p *harness.Process, code int, patterns ...string) {
	t.Helper()
	if got := p.ExitCode(limit); got != code {
		t.Fatalf("exit code %d, want %d:\n%s", got, code, p.Output())
	}
	for _, pattern := range patterns {
		if !regexp.MustCompile(pattern).MatchString(p.Output()) {
			t.Errorf("%s does not print %q:\n%s", p.Name, pattern, p.Output())
		}
	}
}

// poller starts one under a name, with the keys of its tls block, and a target of its own.
func (s *site) poller(t *testing.T, name, tls string) (*harness.Product, *harness.Target) {
	t.Helper()
	target := s.targets.New(t, name, 5)
	return harness.StartProduct(t, s.builds, "poller", s.ports.Next(t), fmt.Sprintf(`
identity: %s
scrape_interval: 1s
tls: {%s}
poller_stream: {urls: %s, topic: prometheus, stream: PROMETHEUS}
%s`, name, tls, s.url, harness.JobsYAML("node", target))), target
}

func puppet(dir string) string { return "scheme: puppet, ssl_dir: " + dir }

// shown waits until the receiver shows a scrape of the target that is later than those so far.
func (s *site) shown(t *testing.T, target *harness.Target) {
	t.Helper()
	target.WaitShown(t, limit, s.receiver, harness.Labels{"job": "node", "instance": target.Name, "publisher": target.Name}, target.Numbers())
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// Where the CA signs at once, enrolment does not wait. The receiver of all tests is enrolled so, and connects with it.
func (s *site) startReceiver(t *testing.T) {
	t.Helper()
	s.ca.autosign(t, "*.auto.example")
	dir := filepath.Join(t.TempDir(), "ssl")
	p := s.enrol(t, "hub.auto.example", dir, "--wait", "0")
	ends(t, p, 0, `hub\.auto\.example is enrolled: `)
	s.ca.autosign(t, "")
	s.receiver = harness.StartProduct(t, s.builds, "receiver", s.ports.Next(t), fmt.Sprintf(`
identity: hub.auto.example
tls: {%s}
receiver_stream: {urls: %s, topic: prometheus, stream: PROMETHEUS}
receiver: {state_directory: %s}
gateway: {publisher_label: true}
`, puppet(dir), s.url, t.TempDir())).Ready(t)
}

// Without it, enrolment waits for the operator, who sees the same fingerprint. Then a poller connects with it, and what it
// scrapes arrives.
func testSigned(t *testing.T, s *site) {
	dir := filepath.Join(t.TempDir(), "etc", "ssl")
	p := s.enrol(t, "site1.example", dir)
	line := p.WaitOutput(limit, "waiting for a signature")
	sum := sha256.Sum256(s.ca.bundle(t))
	if want := "SHA256 " + hex.EncodeToString(sum[:]); !strings.Contains(p.Output(), want) {
		t.Errorf("it does not print the CA's %s:\n%s", want, p.Output())
	}
	digest := regexp.MustCompile(`([0-9A-F]{2}:){31}[0-9A-F]{2}`).FindString(line)
	if list := s.ca.puppetserver(t, "list"); digest == "" || !regexp.MustCompile(`site1\.example\s+\(SHA256\)\s+`+digest).MatchString(list) {
		t.Errorf("the operator sees\n%s\nand we print\n%s", list, line)
	}
	if !p.Running() {
		t.Error("it does not wait")
	}
	s.ca.puppetserver(t, "sign", "--certname", "site1.example")
	ends(t, p, 0, `site1\.example is enrolled: `)
	for name, mode := range map[string]os.FileMode{
		".": 0o771, "certs": 0o755, "certificate_requests": 0o755, "public_keys": 0o755, "private": 0o750, "private_keys": 0o750,
		"certs/ca.pem": 0o644, "certs/site1.example.pem": 0o644, "crl.pem": 0o644, "private_keys/site1.example.pem": 0o640,
	} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v %v, want %o", name, info, err, mode)
		}
	}
	if left, err := os.ReadDir(filepath.Join(dir, "certificate_requests")); err != nil || len(left) > 0 {
		t.Errorf("requests that stay: %v %v", left, err)
	}
	if n := strings.Count(s.ca.Output(), "site1.example already has"); n > 0 {
		t.Errorf("the CA was sent %d requests too many", n)
	}
	poller, target := s.poller(t, "site1.example", puppet(dir))
	poller.Ready(t)
	s.shown(t, target)

	// Puppet's own program takes the directory for its own.
	agent := t.TempDir()
	if err := errors.Join(os.CopyFS(filepath.Join(agent, "ssl"), os.DirFS(dir)), os.Chmod(agent, 0o755), os.Chmod(filepath.Dir(agent), 0o755)); err != nil {
		t.Fatal(err)
	}
	own(t, agent)
	out := s.puppet(t, agent, "site1.example", "verify")
	if !strings.Contains(out, "Verified client certificate 'CN=site1.example'") && !strings.Contains(out, "Verified client certificate '/CN=site1.example'") {
		t.Errorf("puppet ssl verify says\n%s", out)
	}
}

// Killed at any time, the next run goes on with the same key and the same request.
func testKilled(t *testing.T, s *site) {
	dir := filepath.Join(t.TempDir(), "ssl")
	p := s.enrol(t, "killed.example", dir)
	first := p.WaitOutput(limit, "waiting for a signature")
	p.Kill()
	key := read(t, dir, "private_keys/killed.example.pem")
	p = s.enrol(t, "killed.example", dir)
	if second := p.WaitOutput(limit, "waiting for a signature"); second != first {
		t.Errorf("it waits for\n%s\nand then for\n%s", first, second)
	}
	s.ca.puppetserver(t, "sign", "--certname", "killed.example")
	ends(t, p, 0)
	if read(t, dir, "private_keys/killed.example.pem") != key {
		t.Error("another key")
	}

	s.ca.autosign(t, "often.example")
	defer s.ca.autosign(t, "")
	dir = filepath.Join(t.TempDir(), "ssl")
	for _, after := range []time.Duration{5, 20, 60, 120, 200, 300, 500, 800} {
		p := s.enrol(t, "often.example", dir, "--poll", "100ms")
		select {
		case <-p.Done():
		case <-time.After(after * time.Millisecond):
		}
		p.Kill()
	}
	ends(t, s.enrol(t, "often.example", dir), 0)
	left, err := filepath.Glob(filepath.Join(dir, "*", ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left over: %v %v", left, err)
	}
}

// A CA with another fingerprint gets nothing and leaves nothing.
func testWrongFingerprint(t *testing.T, s *site) {
	dir := filepath.Join(t.TempDir(), "ssl")
	ends(t, s.enrol(t, "wrong.example", dir, "--ca-fingerprint", strings.Repeat("ab", 32)), 1, "this is not the CA with the fingerprint abab")
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is a directory: %v", err)
	}
	if list := s.ca.puppetserver(t, "list", "--all"); strings.Contains(list, "wrong.example") {
		t.Errorf("the CA has\n%s", list)
	}
	// With the right one, and with the CA's certificates in a file, it goes on until it waits.
	bundle := s.ca.bundle(t)
	sum := sha256.Sum256(bundle)
	file := tlstest.Write(t, filepath.Join(t.TempDir(), "ca.pem"), bundle)
	ends(t, s.enrol(t, "wrong.example", dir, "--ca-fingerprint", hex.EncodeToString(sum[:]), "--ca-bundle", file, "--wait", "0"), 1, "waiting for a signature")

	// The root alone vouches for the whole chain; another root does not.
	root := bundle
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		root = pem.EncodeToMemory(block) // the last one
	}
	if len(root) >= len(bundle) {
		t.Fatal("the CA has no certificate between")
	}
	tlstest.Write(t, file, root)
	ends(t, s.enrol(t, "wrong.example", filepath.Join(t.TempDir(), "ssl"), "--ca-bundle", file, "--wait", "0"), 1, "it is for another key than")
	tlstest.Write(t, file, tlstest.NewCA(t, "Other CA").PEM())
	dir = filepath.Join(t.TempDir(), "ssl")
	ends(t, s.enrol(t, "wrong.example", dir, "--ca-bundle", file), 1, "does not vouch for what localhost:[0-9]+ serves")
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is a directory: %v", err)
	}
}

// A lost key: the CA's certificate is not taken, and what is printed for the operator to do is enough.
func testMismatch(t *testing.T, s *site) {
	const name = "lost.example"
	dir := s.enrolled(t, name)
	cert := read(t, dir, "certs/"+name+".pem")
	if err := os.Remove(filepath.Join(dir, "private_keys", name+".pem")); err != nil {
		t.Fatal(err)
	}
	p := s.enrol(t, name, dir)
	ends(t, p, 1, "it is for another key than "+dir)
	command := regexp.MustCompile(`run on the CA "puppetserver ca ([a-z]+) (--certname) ([a-z.]+)"`).FindStringSubmatch(p.Output())
	if command == nil {
		t.Fatalf("it names no command:\n%s", p.Output())
	}
	s.ca.puppetserver(t, command[1], command[2:]...)
	s.ca.autosign(t, name)
	defer s.ca.autosign(t, "")
	ends(t, s.enrol(t, name, dir), 0)
	if read(t, dir, "certs/"+name+".pem") == cert {
		t.Error("it is the old certificate")
	}
}

// An expired certificate is said before anything is connected, and enrolled anew with the same key.
func testExpired(t *testing.T, s *site) {
	const name = "short.example"
	dir := filepath.Join(t.TempDir(), "ssl")
	p := s.enrol(t, name, dir)
	p.WaitOutput(limit, "waiting for a signature")
	s.ca.puppetserver(t, "sign", "--ttl", "20s", "--certname", name)
	signed := time.Now()
	ends(t, p, 0)
	key := read(t, dir, "private_keys/"+name+".pem")
	time.Sleep(time.Until(signed.Add(22 * time.Second)))
	poller, _ := s.poller(t, name, puppet(dir))
	ends(t, poller.Process, 1, `certs/short\.example\.pem \(CN=short\.example\) has expired: it was valid from`)
	ends(t, s.enrol(t, name, dir), 1, "of no use: it has expired on", "ca clean --certname short.example")
	s.ca.puppetserver(t, "clean", "--certname", name)
	s.ca.autosign(t, name)
	defer s.ca.autosign(t, "")
	ends(t, s.enrol(t, name, dir), 0)
	if read(t, dir, "private_keys/"+name+".pem") != key {
		t.Error("another key")
	}
	poller, target := s.poller(t, name, puppet(dir))
	poller.Ready(t)
	s.shown(t, target)
}

// Who is not enrolled is told so.
func testNotEnrolled(t *testing.T, s *site) {
	poller, _ := s.poller(t, "nobody.example", puppet(t.TempDir()))
	ends(t, poller.Process, 1, `certs/ca\.pem: no such file or directory: either \\?"nobody\.example\\?" is not enrolled with the Puppet CA yet, or identity or ssl_dir is wrong; \\?"prometheus-streams enroll nobody\.example --ca HOST:8140 --dir `)

	// Enrolled and not signed yet.
	dir := filepath.Join(t.TempDir(), "ssl")
	ends(t, s.enrol(t, "nobody.example", dir, "--wait", "0"), 1)
	poller, _ = s.poller(t, "nobody.example", puppet(dir))
	ends(t, poller.Process, 1, `certs/nobody\.example\.pem: no such file or directory: either \\?"nobody\.example\\?" is not enrolled`)

	// No certificate at all, which only the server can say: with nothing but its authority, and without a word about TLS.
	poller, _ = s.poller(t, "nobody.example", "scheme: manual, ca: "+filepath.Join(dir, "certs", "ca.pem"))
	poller.WaitOutput(limit, `the server wants a certificate, and none is configured here: set tls with the scheme puppet, identity and ssl_dir \(\\?"prometheus-streams enroll\\?" gets a certificate`)
}

// Certificates of another CA are refused, whoever finds out.
func testForeign(t *testing.T, s *site) {
	other := tlstest.NewCA(t, "Other CA")
	pair := other.Issue(t, "foreign.example", time.Now().Add(time.Hour))
	mine := s.enrolled(t, "mine.example")

	dir := t.TempDir()
	tlstest.Puppet(t, dir, "foreign.example", other, pair)
	poller, _ := s.poller(t, "foreign.example", puppet(dir))
	poller.WaitOutput(limit, `the server's certificate \(CN=localhost, issued by CN=.*\) is of none of our authorities in `+regexp.QuoteMeta(dir)+
		`/certs/ca\.pem: either urls lead to a server of another Puppet CA than the one with which \\?"foreign\.example\\?" is enrolled, or ssl_dir is wrong`)

	tlstest.Write(t, filepath.Join(dir, "certs", "ca.pem"), []byte(read(t, mine, "certs/ca.pem")))
	poller, _ = s.poller(t, "foreign.example", puppet(dir))
	ends(t, poller.Process, 1, `foreign\.example\.pem \(CN=foreign\.example, issued by CN=Other CA\) does not go with the authorities in .*: the two are of different Puppet CAs: `+
		`if its authority is not that of the server, ssl_dir is wrong, or \\?"foreign\.example\\?" has to be enrolled anew: move .*/certs/ca\.pem and .*/certs/foreign\.example\.pem away`)

	poller, _ = s.poller(t, "foreign.example", fmt.Sprintf("scheme: manual, ca: %s/certs/ca.pem, cert: %s/certs/foreign.example.pem, key: %s/private_keys/foreign.example.pem", mine, dir, dir))
	poller.WaitOutput(limit, `the server does not take our certificate .*foreign\.example\.pem \(CN=foreign\.example, issued by CN=Other CA\).*; it takes those of .*: set cert and key to one of an authority that the server takes`)
}

// A renewed certificate on disk is used at the next connection, by the same process.
func testRenewed(t *testing.T, s *site) {
	const name = "renewed.example"
	dir := s.enrolled(t, name)
	poller, target := s.poller(t, name, puppet(dir))
	poller.Ready(t)
	s.shown(t, target)
	s.waitShows(t, dir, name)

	before := read(t, dir, "certs/"+name+".pem")
	s.ca.puppetserver(t, "clean", "--certname", name)
	if err := os.Remove(filepath.Join(dir, "certs", name+".pem")); err != nil {
		t.Fatal(err)
	}
	s.ca.autosign(t, name)
	defer s.ca.autosign(t, "")
	ends(t, s.enrol(t, name, dir), 0)
	if read(t, dir, "certs/"+name+".pem") == before {
		t.Fatal("it is the old certificate")
	}
	s.nats.Kill()
	s.nats.Restart(t)
	s.waitShows(t, dir, name)
	s.shown(t, target)
	if !poller.Running() {
		t.Error("the poller ended")
	}
}

// waitShows waits until a client shows the nats-server the certificate that is in a directory.
func (s *site) waitShows(t *testing.T, dir, name string) {
	t.Helper()
	block, _ := pem.Decode([]byte(read(t, dir, "certs/"+name+".pem")))
	sum := sha256.Sum256(block.Bytes)
	want := hex.EncodeToString(sum[:])
	harness.Wait(t, limit, "the nats-server is shown the certificate on disk", func() error {
		_, body, err := harness.Get(s.monitor + "/connz?auth=true")
		if err != nil {
			return err
		}
		var answer struct {
			Connections []struct {
				Peers []struct {
					Sum string `json:"cert_sha256"`
				} `json:"tls_peer_certs"`
			} `json:"connections"`
		}
		if err := json.NewDecoder(bytes.NewReader([]byte(body))).Decode(&answer); err != nil {
			return err
		}
		var shown []string
		for _, c := range answer.Connections {
			for _, p := range c.Peers {
				shown = append(shown, p.Sum)
			}
		}
		if !slices.Contains(shown, want) {
			return fmt.Errorf("shown are %v, on disk is %s", shown, want)
		}
		return nil
	})
}

// puppet runs `puppet ssl` in a folder with a certificate name.
func (s *site) puppet(t *testing.T, dir, name, action string, flags ...string) string {
	t.Helper()
	return s.ca.run(t, append([]string{"puppet", "ssl", action, "--server", "localhost", "--serverport", fmt.Sprint(s.ca.port),
		"--certname", name, "--ssldir", filepath.Join(dir, "ssl"), "--confdir", filepath.Join(dir, "conf"), "--vardir", filepath.Join(dir, "var"),
		"--publicdir", filepath.Join(dir, "public"), "--rundir", filepath.Join(dir, "run"), "--logdir", filepath.Join(dir, "log"), "--color", "false"}, flags...)...)
}

// A directory that Puppet's own agent made is as good as ours.
func testAgent(t *testing.T, s *site) {
	const name = "agent.example"
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	own(t, dir)
	s.ca.autosign(t, name)
	defer s.ca.autosign(t, "")
	s.puppet(t, dir, name, "bootstrap", "--waitforcert", "0")
	ssl := filepath.Join(dir, "ssl")
	before := read(t, ssl, "certs/"+name+".pem")
	ends(t, s.enrol(t, name, ssl), 0, "agent.example is enrolled already")
	if read(t, ssl, "certs/"+name+".pem") != before {
		t.Error("the certificate is another one")
	}
	poller, target := s.poller(t, name, puppet(ssl))
	poller.Ready(t)
	s.shown(t, target)
}
