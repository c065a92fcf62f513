package enroll

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/choria-io/prometheus-streams/internal/enroll/enrolltest"
)

// file writes a file outside of the directory.
func file(t *testing.T, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file.pem")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A CA that is not the one we were told of gets no request, and leaves nothing behind that would be trusted next time.
func TestWrongCA(t *testing.T) {
	other := enrolltest.Start(t)
	for name, c := range map[string]struct {
		change func(*testing.T, *site, *Options)
		want   []string
	}{
		"fingerprint": {func(_ *testing.T, _ *site, o *Options) { o.Fingerprint = other.Fingerprint() },
			[]string{"this is not the CA with the fingerprint " + other.Fingerprint(), "has the SHA256 "}},
		"bundle": {func(t *testing.T, _ *site, o *Options) { o.Bundle = file(t, other.Bundle()) },
			[]string{"file.pem does not vouch for what 127.0.0.1", "CN=Puppet CA: puppet: x509: certificate signed by unknown authority"}},
		"large bundle": {func(t *testing.T, _ *site, o *Options) { o.Bundle = file(t, make([]byte, maxBundle+1)) }, []string{"file.pem have more than 1048576 bytes"}},
		"name": {func(t *testing.T, s *site, o *Options) { o.CA = relay(t, s.ca.Address()) },
			[]string{"is not the CA that we trust: x509: ", "127.0.0.2"}},
		"no bundle":    {func(_ *testing.T, _ *site, o *Options) { o.Bundle = "/nowhere.pem" }, []string{"/nowhere.pem: no such file"}},
		"empty bundle": {func(t *testing.T, _ *site, o *Options) { o.Bundle = file(t, nil) }, []string{"no certificate in PEM form"}},
		"served bundle": {func(t *testing.T, s *site, _ *Options) {
			serve(s.ca, "GET /puppet-ca/v1/certificate/ca", http.StatusOK, string(other.Bundle()))
		}, []string{"is not the CA that we trust: x509: certificate signed by unknown authority"}},
		"served more than the bundle": {func(t *testing.T, s *site, o *Options) {
			o.Bundle = file(t, s.ca.Bundle())
			serve(s.ca, "GET /puppet-ca/v1/certificate/ca", http.StatusOK, string(s.ca.Bundle())+string(other.Bundle()))
		}, []string{"does not vouch for what 127.0.0.1", "CN=Puppet"}},
		// Who has a certificate of this CA is not the CA.
		"served one of a client": {func(t *testing.T, s *site, o *Options) {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			_, _, client, err := s.ca.Seeds("web2", key)
			if err != nil {
				t.Fatal(err)
			}
			o.Bundle = file(t, s.ca.Bundle())
			serve(s.ca, "GET /puppet-ca/v1/certificate/ca", http.StatusOK, string(s.ca.Bundle())+string(client))
		}, []string{"serves as its own: CN=web2 is not that of a CA"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			_, err := s.enrol(func(o *Options) { c.change(t, s, o) })
			if err == nil {
				t.Fatal("enrolled")
			}
			contains(t, err, c.want...)
			s.untouched()
		})
	}
}

// relay hands connections to 127.0.0.2, which is in no certificate, on.
func relay(t *testing.T, to string) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp4", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
			go func() { _, _ = io.Copy(in, out); _ = in.Close() }()
		}
	}()
	return l.Addr().String()
}

// serve answers one request with something else.
func serve(ca *enrolltest.CA, request string, status int, body string) {
	ca.Answer(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method+" "+r.URL.Path != request {
			return false
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
		return true
	})
}

// The CA that we were told of is believed, without a word on trust.
func TestRightCA(t *testing.T) {
	for name, change := range map[string]func(*testing.T, *site, *Options){
		"fingerprint": func(_ *testing.T, s *site, o *Options) { o.Fingerprint = s.ca.Fingerprint() },
		"with colons": func(_ *testing.T, s *site, o *Options) { o.Fingerprint = colons(s.ca.Bundle()) },
		"bundle":      func(t *testing.T, s *site, o *Options) { o.Bundle = file(t, s.ca.Bundle()) },
		"root": func(t *testing.T, s *site, o *Options) {
			// The server does not send the certificate between.
			_, root := pem.Decode(s.ca.Bundle())
			o.Bundle = file(t, root)
		},
		"root and fingerprint": func(t *testing.T, s *site, o *Options) {
			_, root := pem.Decode(s.ca.Bundle())
			o.Bundle, o.Fingerprint = file(t, root), s.ca.Fingerprint()
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.ca.Autosign(true)
			for range 2 {
				out, err := s.enrol(func(o *Options) { change(t, s, o) })
				enrolled(t, err)
				contains(t, out, s.ca.Fingerprint())
				if strings.Contains(out, "nothing vouches") {
					t.Errorf("it says\n%s", out)
				}
			}
		})
	}
}

// ca.pem is what counts from the first time on.
func TestPinned(t *testing.T) {
	s := newSite(t)
	s.ca.Autosign(true)
	_, err := s.enrol()
	enrolled(t, err)
	other := enrolltest.Start(t)
	_, err = s.enrol(func(o *Options) { o.Fingerprint = other.Fingerprint() })
	contains(t, err, "this is not the CA with the fingerprint", s.dir+"/certs/ca.pem has the SHA256 "+s.ca.Fingerprint(), "if the CA was made anew, remove the directory")
	_, err = s.enrol(func(o *Options) { o.Bundle = file(t, other.Bundle()) })
	contains(t, err, "does not vouch for "+s.dir+"/certs/ca.pem")

	if err := os.Remove(filepath.Join(s.dir, "certs", "web1.pem")); err != nil {
		t.Fatal(err)
	}
	_, err = s.enrol(func(o *Options) { o.CA = other.Address() })
	contains(t, err, "is not the CA that we trust")
	if other.Count("PUT") > 0 || s.read("certs/ca.pem") != string(s.ca.Bundle()) {
		t.Error("the other CA got a request, or our trust")
	}

	s.write("certs/ca.pem", s.read("certs/ca.pem")[:300])
	_, err = s.enrol()
	contains(t, err, s.dir+"/certs/ca.pem, which says whom to trust, is damaged")
}

// The lists of revoked certificates are fetched, renewed, and looked at.
func TestRevoked(t *testing.T) {
	s := newSite(t)
	s.ca.Autosign(true)
	_, err := s.enrol()
	enrolled(t, err)
	before := s.read("crl.pem")
	if strings.Count(before, "BEGIN X509 CRL") != 2 {
		t.Errorf("crl.pem is %s", before)
	}
	_, err = s.enrol(func(o *Options) { o.Identity = "web2" })
	enrolled(t, err)
	s.ca.Revoke("web2")
	_, err = s.enrol()
	enrolled(t, err)
	if s.read("crl.pem") == before {
		t.Error("crl.pem is not renewed")
	}

	// Our own, which the CA serves still.
	cert := s.read("certs/web1.pem")
	s.ca.Revoke("web1")
	out, err := s.enrol()
	contains(t, out, "web1.pem is of no use: the certificate (CN=web1, serial ")
	contains(t, err, "was revoked on ", "ca clean --certname web1")
	if s.read("certs/web1.pem") != cert {
		t.Error("the certificate is not what it was")
	}
	s.ca.Clean("web1")
	_, err = s.enrol()
	enrolled(t, err)
	if s.read("certs/web1.pem") == cert {
		t.Error("no new certificate")
	}

	// That of the server: it is not the CA's any more.
	s.ca.Revoke("puppet")
	_, _ = s.enrol() // this one gets the list
	if err := os.Remove(filepath.Join(s.dir, "certs", "web1.pem")); err != nil {
		t.Fatal(err)
	}
	_, err = s.enrol()
	contains(t, err, "cannot be the CA: the certificate (CN=puppet, serial ", "was revoked")
}

// Files that are only half there are got again, if that is safe.
func TestHalfWritten(t *testing.T) {
	for name, again := range map[string]bool{"certs/web1.pem": true, "crl.pem": true, "private_keys/web1.pem": false} {
		for _, cut := range []int{0, 100} {
			s := newSite(t)
			s.ca.Autosign(true)
			_, err := s.enrol()
			enrolled(t, err)
			whole := s.read(name)
			s.write(name, whole[:cut])
			out, err := s.enrol()
			if !again {
				contains(t, err, "the key "+s.dir+"/"+name+" is of no use: no key in PEM form; put it right, or remove it")
				if s.read(name) != whole[:cut] {
					t.Error("a key is overwritten")
				}
				continue
			}
			enrolled(t, err)
			if name != "crl.pem" && s.read(name) != whole || !strings.HasSuffix(s.read(name), "-----\n") {
				t.Errorf("%s with %d bytes is now\n%s\n%s", name, cut, s.read(name), out)
			}
		}
	}
	s := newSite(t)
	s.write("certificate_requests/web1.pem", "-----BEGIN CERT")
	s.ca.Autosign(true)
	_, err := s.enrol()
	enrolled(t, err)
}
