package tlsconf_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/internal/tlsconf"
	"github.com/choria-io/prometheus-streams/internal/tlsconf/tlstest"
)

var tomorrow = time.Now().Add(24 * time.Hour)

// site is an authority, the directory of a client and a server of it.
type site struct {
	ca     *tlstest.CA
	dir    string
	server tlstest.Pair
}

func newSite(t *testing.T) *site {
	t.Helper()
	ca := tlstest.NewCA(t, "Puppet CA: puppet")
	s := &site{ca: ca, dir: t.TempDir(), server: ca.Issue(t, "nats.example", tomorrow)}
	tlstest.Puppet(t, s.dir, "web1", ca, ca.Issue(t, "web1", tomorrow))
	return s
}

func (s *site) write(t *testing.T, name string, data []byte) {
	tlstest.Write(t, filepath.Join(s.dir, name), data)
}

func (s *site) files(t *testing.T) *tlsconf.Files {
	t.Helper()
	f, err := tlsconf.New(tlsconf.Options{Scheme: tlsconf.Puppet, SSLDir: s.dir, Identity: "web1"})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func contains(t *testing.T, err error, want ...string) {
	t.Helper()
	for _, w := range want {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("error %v, want %q", err, w)
		}
	}
}

func TestNew(t *testing.T) {
	for want, o := range map[string]tlsconf.Options{
		`not "vault"`:              {Scheme: "vault"},
		"needs ssl_dir":            {Scheme: "puppet", Identity: "a"},
		`"../a" cannot be`:         {Scheme: "puppet", SSLDir: "d", Identity: "../a"},
		`"" cannot be the name`:    {Scheme: "puppet", SSLDir: "d"},
		"cert and key go together": {Scheme: "manual", Cert: "a"},
	} {
		_, err := tlsconf.New(o)
		contains(t, err, want)
	}
}

// What is wrong with the files is said before anything is connected: which file, whose certificate, what and since when.
func TestBadFiles(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*testing.T, *site)
		want  []string
	}{
		"not enrolled": {func(t *testing.T, s *site) { os.Remove(filepath.Join(s.dir, "certs", "web1.pem")) }, []string{"certs/web1.pem", `"web1" is not enrolled`}},
		"no ca":        {func(t *testing.T, s *site) { os.Remove(filepath.Join(s.dir, "certs", "ca.pem")) }, []string{"certs/ca.pem", "not enrolled"}},
		"expired": {func(t *testing.T, s *site) {
			tlstest.Puppet(t, s.dir, "web1", s.ca, s.ca.Issue(t, "web1", time.Now().Add(-time.Minute)))
		}, []string{"certs/web1.pem (CN=web1) has expired: it was valid from ", "Z to "}},
		"wrong key": {func(t *testing.T, s *site) {
			s.write(t, "private_keys/web1.pem", s.ca.Issue(t, "web1", tomorrow).KeyPEM)
		}, []string{"private_keys/web1.pem and certificate ", "certs/web1.pem (CN=web1)", "does not match"}},
		"encrypted key": {func(t *testing.T, s *site) {
			s.write(t, "private_keys/web1.pem", []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"))
		}, []string{"private_keys/web1.pem is encrypted"}},
		"another ca": {func(t *testing.T, s *site) {
			s.write(t, "certs/ca.pem", tlstest.NewCA(t, "Other").PEM())
		}, []string{"CN=web1, issued by CN=Puppet CA: puppet", "does not go with the authorities in", "certs/ca.pem"}},
		"empty ca":     {func(t *testing.T, s *site) { s.write(t, "certs/ca.pem", nil) }, []string{"certs/ca.pem has no certificate"}},
		"damaged ca":   {func(t *testing.T, s *site) { s.write(t, "certs/ca.pem", damaged("CERTIFICATE")) }, []string{"certs/ca.pem: certificate 1:"}},
		"damaged crl":  {func(t *testing.T, s *site) { s.write(t, "crl.pem", damaged("X509 CRL")) }, []string{"crl.pem: list 1:"}},
		"crl of text":  {func(t *testing.T, s *site) { s.write(t, "crl.pem", []byte("hello")) }, []string{"crl.pem has no list"}},
		"too large ca": {func(t *testing.T, s *site) { s.write(t, "certs/ca.pem", make([]byte, 2<<20)) }, []string{"certs/ca.pem has more than 1048576 bytes"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			c.spoil(t, s)
			_, err := s.files(t).Config()
			contains(t, err, c.want...)
			if strings.Contains(name, "enrolled") && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%v is not fs.ErrNotExist", err)
			}
		})
	}
}

func damaged(kind string) []byte {
	return []byte("-----BEGIN " + kind + "-----\nAAAA\n-----END " + kind + "-----\n")
}

// shake lets a client with the files meet a server; clients have to be of that authority, if there is one.
func (s *site) shake(t *testing.T, f *tlsconf.Files, clients *tlstest.CA, change func(*tls.Config)) (peer string, err error) {
	t.Helper()
	config, err := f.Config()
	if err != nil {
		t.Fatal(err)
	}
	config.ServerName = "nats.example"
	pair, err := tls.X509KeyPair(s.server.CertPEM, s.server.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	sc := &tls.Config{Certificates: []tls.Certificate{pair}}
	if clients != nil {
		sc.ClientAuth, sc.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		sc.ClientCAs.AddCert(clients.Cert)
	}
	if change != nil {
		change(sc)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // with a pipe, both sides could write and neither read
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	left, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer left.Close()
	right, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	server := tls.Server(right, sc)
	served := make(chan error, 1)
	go func() {
		defer right.Close()
		served <- server.HandshakeContext(t.Context())
	}()
	err = tls.Client(left, config).HandshakeContext(t.Context())
	left.Close()
	if serr := <-served; err == nil && serr != nil {
		return "", serr
	}
	if peers := server.ConnectionState().PeerCertificates; len(peers) > 0 {
		peer = peers[0].SerialNumber.String()
	}
	return peer, err
}

func TestHandshake(t *testing.T) {
	s := newSite(t)
	if _, err := s.shake(t, s.files(t), s.ca, nil); err != nil {
		t.Errorf("without a crl: %v", err)
	}
	s.write(t, "crl.pem", s.ca.CRL(t, tomorrow))
	if _, err := s.shake(t, s.files(t), s.ca, nil); err != nil {
		t.Errorf("with an empty crl: %v", err)
	}
	other := tlstest.NewCA(t, "Other CA")
	_, err := s.shake(t, s.files(t), other, nil)
	contains(t, err, "the server does not take our certificate", "certs/web1.pem (CN=web1, issued by CN=Puppet CA: puppet)", "it takes those of CN=Other CA")
	_, err = s.shake(t, s.files(t), s.ca, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS11 })
	contains(t, err, "protocol version")

	s.write(t, "crl.pem", append(other.CRL(t, tomorrow), s.ca.CRL(t, tomorrow, s.server.Cert)...))
	_, err = s.shake(t, s.files(t), s.ca, nil)
	contains(t, err, "the server's certificate (CN=nats.example, serial "+s.server.Cert.SerialNumber.String()+") was revoked on", "crl.pem")
	s.write(t, "crl.pem", other.CRL(t, tomorrow))
	_, err = s.shake(t, s.files(t), s.ca, nil)
	contains(t, err, "crl.pem has no list of CN=Puppet CA: puppet")
}

// An authority that calls itself like ours does not make a list of ours.
func TestForgedCRL(t *testing.T) {
	s := newSite(t)
	s.write(t, "crl.pem", tlstest.NewCA(t, "Puppet CA: puppet").CRL(t, tomorrow))
	_, err := s.shake(t, s.files(t), s.ca, nil)
	contains(t, err, "has no list of")
}

// What changes on disk counts for the next handshake, with the same Files and, but for the authorities, the same Config.
func TestRotation(t *testing.T) {
	s := newSite(t)
	f := s.files(t)
	before, err := s.shake(t, f, s.ca, nil)
	if err != nil {
		t.Fatal(err)
	}
	tlstest.Puppet(t, s.dir, "web1", s.ca, s.ca.Issue(t, "web1", tomorrow))
	after, err := s.shake(t, f, s.ca, nil)
	if err != nil || before == after {
		t.Errorf("the new certificate is not shown: serial %s, then %s, %v", before, after, err)
	}
	next := tlstest.NewCA(t, "Next CA")
	tlstest.Puppet(t, s.dir, "web1", next, next.Issue(t, "web1", tomorrow))
	s.server = next.Issue(t, "nats.example", tomorrow)
	if _, err := s.shake(t, f, next, nil); err != nil {
		t.Errorf("with a new authority: %v", err)
	}
}

func TestManual(t *testing.T) {
	s := newSite(t)
	ca := tlstest.Write(t, filepath.Join(t.TempDir(), "ca"), s.ca.PEM())
	f, err := tlsconf.New(tlsconf.Options{Scheme: "file", CA: ca})
	if err != nil {
		t.Fatal(err)
	}
	if peer, err := s.shake(t, f, nil, nil); err != nil || peer != "" {
		t.Errorf("without a certificate: %s %v", peer, err)
	}
	other := tlstest.NewCA(t, "Other")
	pair := other.Issue(t, "me", tomorrow)
	dir := t.TempDir()
	f, err = tlsconf.New(tlsconf.Options{
		Scheme: "manual", CA: ca,
		Cert: tlstest.Write(t, dir+"/c", pair.CertPEM), Key: tlstest.Write(t, dir+"/k", pair.KeyPEM),
	})
	if err != nil {
		t.Fatal(err)
	}
	if peer, err := s.shake(t, f, other, nil); err != nil || peer == "" {
		t.Errorf("with a certificate of another authority than the server's: %v", err)
	}
	s.server = other.Issue(t, "nats.example", tomorrow)
	_, err = s.shake(t, f, other, nil)
	contains(t, err, "unknown authority")
	f, _ = tlsconf.New(tlsconf.Options{Scheme: "manual"})
	if c, err := f.Config(); err != nil || c.RootCAs != nil || c.MinVersion != tls.VersionTLS12 {
		t.Errorf("the operating system's authorities: %+v, %v", c, err)
	}
}

func TestNotes(t *testing.T) {
	s := newSite(t)
	s.write(t, "crl.pem", s.ca.CRL(t, time.Now().Add(-time.Minute)))
	if err := os.Chmod(filepath.Join(s.dir, "private_keys", "web1.pem"), 0o644); err != nil {
		t.Fatal(err)
	}
	got := strings.Join(s.files(t).Notes(), "\n")
	for _, want := range []string{"certs/web1.pem (CN=web1) expires on", "can be read by everybody", "crl.pem of CN=Puppet CA: puppet is out of date"} {
		if !strings.Contains(got, want) {
			t.Errorf("notes lack %q:\n%s", want, got)
		}
	}
	if _, err := s.shake(t, s.files(t), s.ca, nil); err != nil {
		t.Errorf("an old crl: %v", err)
	}
}

// FuzzFiles reads files of any content: an error or none, nothing else.
func FuzzFiles(f *testing.F) {
	ca := tlstest.NewCA(f, "ca")
	pair := ca.Issue(f, "web1", tomorrow)
	f.Add(ca.PEM(), pair.CertPEM, pair.KeyPEM, ca.CRL(f, tomorrow, pair.Cert))
	f.Add(pair.CertPEM, ca.PEM(), []byte("x"), bytes.Repeat(ca.CRL(f, tomorrow), 2))
	dir := f.TempDir()
	files, err := tlsconf.New(tlsconf.Options{Scheme: "puppet", SSLDir: dir, Identity: "web1"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, ca, cert, key, crl []byte) {
		for name, data := range map[string][]byte{"certs/ca.pem": ca, "certs/web1.pem": cert, "private_keys/web1.pem": key, "crl.pem": crl} {
			tlstest.Write(t, filepath.Join(dir, name), data)
		}
		config, err := files.Config()
		if (config == nil) == (err == nil) {
			t.Errorf("%v and %v", config, err)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "tls: ") {
			t.Errorf("%v", err)
		}
		files.Notes()
	})
}
