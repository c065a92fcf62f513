package tlsconf_test

import (
	"crypto/tls"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/internal/tlsconf"
	"github.com/choria-io/prometheus-streams/internal/tlsconf/tlstest"
)

// What a server's certificate lacks is said with whose it is and with the files that are about it.
func TestExplainServer(t *testing.T) {
	s := newSite(t)
	dir := t.TempDir()
	other := tlstest.NewCA(t, "Other CA")
	ours := other.Issue(t, "web1", tomorrow)
	tlstest.Puppet(t, dir, "web1", other, ours)
	ca := tlstest.Write(t, filepath.Join(dir, "other.pem"), other.PEM())
	for name, c := range map[string]struct {
		o      tlsconf.Options
		change func(*tls.Config)
		want   []string
	}{
		"another Puppet CA": {tlsconf.Options{Scheme: "puppet", Identity: "web1", SSLDir: dir}, nil, []string{
			"the server's certificate (CN=nats.example, issued by CN=Puppet CA: puppet) is of none of our authorities in " + filepath.Join(dir, "certs/ca.pem"),
			`another Puppet CA than the one with which "web1" is enrolled, or ssl_dir is wrong`}},
		"another CA":   {tlsconf.Options{Scheme: "manual", CA: ca}, nil, []string{"is of none of our authorities in " + ca, "or ca is wrong"}},
		"the system's": {tlsconf.Options{Scheme: "manual"}, nil, []string{"is of none of our authorities, which are those of the operating system: set ca"}},
		"another name": {tlsconf.Options{Scheme: "puppet", Identity: "web1", SSLDir: s.dir}, serve(s.ca.Issue(t, "elsewhere", tomorrow)), []string{"(CN=elsewhere, ", "is not for nats.example, which stands in urls: it is for elsewhere"}},
		"it has ended": {tlsconf.Options{Scheme: "puppet", Identity: "web1", SSLDir: s.dir}, serve(s.ca.Issue(t, "nats.example", time.Now().Add(-time.Minute))), []string{"(CN=nats.example, ", "has expired on "}},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := tlsconf.New(c.o)
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.shake(t, f, nil, c.change)
			if err == nil {
				t.Fatal("the server is believed")
			}
			contains(t, errors.New(f.Explain(err)), c.want...)
		})
	}
}

func serve(p tlstest.Pair) func(*tls.Config) {
	return func(c *tls.Config) {
		c.Certificates = []tls.Certificate{{Certificate: [][]byte{p.Cert.Raw}, PrivateKey: must(tls.X509KeyPair(p.CertPEM, p.KeyPEM)).PrivateKey}}
	}
}

func must(c tls.Certificate, err error) tls.Certificate {
	if err != nil {
		panic(err)
	}
	return c
}

// What a server says of our certificate, or of its absence, is turned into what to do.
func TestExplainOurs(t *testing.T) {
	s := newSite(t)
	without, err := tlsconf.New(tlsconf.Options{Scheme: "manual", CA: filepath.Join(s.dir, "certs/ca.pem")})
	if err != nil {
		t.Fatal(err)
	}
	manual, err := tlsconf.New(tlsconf.Options{Scheme: "manual", Cert: filepath.Join(s.dir, "certs/web1.pem"), Key: filepath.Join(s.dir, "private_keys/web1.pem")})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		files *tlsconf.Files
		said  string
		want  []string
	}{
		{without, "remote error: tls: certificate required", []string{"the server wants a certificate, and none is configured here: set tls with the scheme puppet", "prometheus-streams enroll"}},
		{without, "remote error: tls: bad certificate", []string{"the server wants a certificate, and none is configured here"}},
		{manual, "remote error: tls: unknown certificate authority", []string{"the server does not take our certificate " + filepath.Join(s.dir, "certs/web1.pem") + " (CN=web1, issued by CN=Puppet CA: puppet, valid until ", "set cert and key"}},
		{s.files(t), "remote error: tls: revoked certificate", []string{"the server does not take our certificate", `"web1" has to be enrolled anew: move`, `"prometheus-streams enroll web1 --ca HOST:8140 --dir ` + s.dir}},
	} {
		contains(t, errors.New(c.files.Explain(errors.New(c.said))), c.want...)
	}
	for _, said := range []string{"connection refused", "EOF"} {
		if got := manual.Explain(errors.New(said)); got != "" {
			t.Errorf("%s: %s", said, got)
		}
	}
}
