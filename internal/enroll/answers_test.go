package enroll

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/internal/enroll/enrolltest"
)

// What the CA answers instead of what it should ends the run, with the CA's words where it has any.
func TestAnswers(t *testing.T) {
	const ca, crl, cert, request = "GET /puppet-ca/v1/certificate/ca", "GET /puppet-ca/v1/certificate_revocation_list/ca",
		"GET /puppet-ca/v1/certificate/web1", "GET /puppet-ca/v1/certificate_request/web1"
	const put = "PUT /puppet-ca/v1/certificate_request/web1"
	other := enrolltest.Start(t)
	for name, c := range map[string]struct {
		request string
		status  int
		body    string
		want    []string
	}{
		"refused":             {put, 400, "Certificate names must be\nlower case.\x1b[0m", []string{"does not take our request: the CA answers 400: Certificate names must be lower case. [0m"}},
		"refused without why": {put, 400, "", []string{"answers 400: Bad Request"}},
		"forbidden":           {cert, 403, "Forbidden request", []string{"the CA answers 403: Forbidden request"}},
		"no put":              {put, 405, "no", []string{"answers 405: no"}},
		"long words":          {cert, 403, strings.Repeat("é", 9000), []string{"answers 403: " + strings.Repeat("é", 200) + "…"}},
		"no ca":               {ca, 404, "Not Found", []string{"the CA answers 404: Not Found"}},
		"ca of text":          {ca, 200, "hello", []string{"the certificates that the CA 127.0.0.1:", "no certificate in PEM form"}},
		"damaged ca":          {ca, 200, string(encode("CERTIFICATE", []byte("x"))), []string{"certificate 1: x509"}},
		"endless ca":          {ca, 200, strings.Repeat("x", maxBundle+1), []string{"the CA's answer for certificate/ca has more than 1048576 bytes"}},
		"no lists":            {crl, 404, "", []string{"answers 404"}},
		"lists of text":       {crl, 200, "hello", []string{"the lists of revoked certificates of the CA", "no list of revoked certificates in PEM form"}},
		"damaged lists":       {crl, 200, string(encode("X509 CRL", []byte("x"))), []string{"list 1: x509"}},
		"foreign lists":       {crl, 200, lists(t, other), []string{"list 1, of CN=Puppet CA: puppet, is not signed by"}},
		"certificate of text": {cert, 200, "hello", []string{`the certificate that the CA`, `has for "web1": no certificate in PEM form`}},
		"endless certificate": {cert, 200, strings.Repeat("x", maxCertificate+1), []string{"certificate/web1 has more than 65536 bytes"}},
		"another's":           {cert, 200, string(other.Bundle()), []string{"of no use here: it is for another key"}},
		"request of text":     {request, 200, "hello", []string{`the request that the CA`, "no request in PEM form"}},
		"damaged request":     {request, 200, string(encode("CERTIFICATE REQUEST", []byte("x"))), []string{"the request that the CA"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			serve(s.ca, c.request, c.status, c.body)
			_, err := s.enrol()
			if err == nil {
				t.Fatal("enrolled")
			}
			contains(t, err, c.want...)
			if len(err.Error()) > 1200 || strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("the error is %q", err)
			}
			if _, there := s.files()["certs/web1.pem"]; there {
				t.Error("there is a certificate")
			}
			if c.request == ca || c.request == crl {
				s.untouched()
			}
		})
	}
}

func lists(t *testing.T, ca *enrolltest.CA) string {
	t.Helper()
	s := &site{t, ca, filepath.Join(t.TempDir(), "ssl")}
	ca.Autosign(true)
	_, err := s.enrol()
	enrolled(t, err)
	return s.read("crl.pem")
}

// Trouble that may pass is waited out: nobody listens yet, the CA has trouble of its own, or breaks off.
func TestTrouble(t *testing.T) {
	s := newSite(t)
	s.ca.Autosign(true)
	seen := map[string]int{}
	s.ca.Answer(func(w http.ResponseWriter, r *http.Request) bool {
		what := r.Method + r.URL.Path
		seen[what]++
		switch seen[what] {
		case 1:
			http.Error(w, "out of memory", http.StatusInternalServerError)
		case 2:
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, "-----BEG")
		case 3:
			panic(http.ErrAbortHandler)
		case 4:
			w.WriteHeader(http.StatusTooManyRequests)
		default:
			return false
		}
		return true
	})
	out, err := s.enrol()
	enrolled(t, err)
	contains(t, out, "the CA answers 500: out of memory; asking again every 5ms", "breaks off its answer", "is not reached: EOF", "answers 429: Too Many Requests")
	if n := s.ca.Count("PUT"); n < 4 || n > 5 { // the one that broke off may have counted
		t.Errorf("%d requests", n)
	}

	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	_ = l.Close()
	s = newSite(t)
	_, err = s.enrol(func(o *Options) { o.CA, o.Wait = nobody, 0 })
	contains(t, err, "web1 is not enrolled: the CA "+nobody+" is not reached: dial tcp", "connection refused; the same command goes on from here")
	s.untouched()
}

// A certificate is looked at before it is taken.
func TestDates(t *testing.T) {
	s := newSite(t)
	s.ca.Autosign(true)
	s.ca.Valid(-time.Hour, -time.Minute)
	_, err := s.enrol()
	contains(t, err, "of no use here: it has expired on ", "ca clean --certname web1")
	s.ca.Clean("web1")
	s.ca.Valid(time.Hour, 2*time.Hour)
	_, err = s.enrol(func(o *Options) { o.Wait = 0 })
	contains(t, err, `the certificate of "web1" is valid from `, "and our clock says")
	if _, there := s.files()["certs/web1.pem"]; there {
		t.Error("there is a certificate")
	}

	// One that has expired since is replaced with the same key, once the operator has cleaned it.
	s.ca.Clean("web1")
	s.ca.Valid(-time.Hour, 2*time.Second)
	_, err = s.enrol()
	enrolled(t, err)
	key, cert := s.read("private_keys/web1.pem"), s.read("certs/web1.pem")
	time.Sleep(2 * time.Second)
	out, err := s.enrol()
	contains(t, out, "web1.pem is of no use: it has expired on ")
	contains(t, err, "ca clean --certname web1")
	s.ca.Clean("web1")
	s.ca.Valid(-time.Hour, time.Hour)
	_, err = s.enrol()
	enrolled(t, err)
	if s.read("private_keys/web1.pem") != key || s.read("certs/web1.pem") == cert {
		t.Error("another key, or the old certificate")
	}
}

// Redirects lead nowhere but to the same server.
func TestRedirects(t *testing.T) {
	other := enrolltest.Start(t)
	to := ""
	redirecting := func(s *site, method string) {
		s.ca.Answer(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != method || strings.HasPrefix(r.URL.RawQuery, "again") || !strings.Contains(r.URL.Path, "web1") {
				return false
			}
			http.Redirect(w, r, to+r.URL.Path+"?again", http.StatusTemporaryRedirect)
			return true
		})
	}
	s := newSite(t)
	s.ca.Autosign(true)
	redirecting(s, http.MethodGet)
	_, err := s.enrol()
	enrolled(t, err)
	for _, to = range []string{"https://" + other.Address(), "http://" + s.ca.Address(), "https://" + strings.Replace(s.ca.Address(), "127.0.0.1", "localhost", 1)} {
		s = newSite(t)
		redirecting(s, http.MethodGet)
		_, err = s.enrol()
		contains(t, err, "the CA sends us elsewhere, which is not followed: "+to)
	}
	to = ""
	s = newSite(t)
	redirecting(s, http.MethodPut)
	_, err = s.enrol()
	contains(t, err, "the CA sends us elsewhere, which is not followed: https://")
	s = newSite(t)
	s.ca.Answer(func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, r.URL.Path, http.StatusFound)
		return true
	})
	_, err = s.enrol()
	contains(t, err, "the CA sends us elsewhere more than 3 times")
	if n := other.Count(""); n > 0 {
		t.Errorf("%d requests to another server", n)
	}
}

// Something else that listens is said to be no Puppet CA.
func TestNoCA(t *testing.T) {
	for name, answer := range map[string]string{"http": "HTTP/1.0 400 Bad Request\r\n\r\n", "ssh": "SSH-2.0-OpenSSH_9.2\r\n"} {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, answer)
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			}
		}()
		s := newSite(t)
		_, err = s.enrol(func(o *Options) { o.CA = l.Addr().String() })
		contains(t, err, "what answers at "+l.Addr().String()+" is no Puppet CA")
		_ = l.Close()
		s.untouched()
		if t.Failed() {
			t.Fatal(name)
		}
	}
}

// A directory that cannot be written to is said before anything is asked.
func TestNotWritable(t *testing.T) {
	locked := filepath.Join(t.TempDir(), "locked")
	if err := os.Mkdir(locked, 0o500); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		locked = "/sys" // where root cannot either
	}
	s := newSite(t)
	for _, dir := range []string{locked, filepath.Join(locked, "a", "ssl"), file(t, nil), filepath.Join(file(t, nil), "ssl")} {
		_, err := s.enrol(func(o *Options) { o.Dir = dir })
		if err == nil || !strings.Contains(err.Error(), "cannot be written to: ") && !strings.Contains(err.Error(), ": not a directory") {
			t.Errorf("%s: %v", dir, err)
		}
	}
	if n := s.ca.Count(""); n > 0 {
		t.Errorf("%d requests", n)
	}
	// Nor are files of a symbolic link's folder.
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	elsewhere := t.TempDir()
	if err := os.Symlink(elsewhere, filepath.Join(s.dir, "private_keys")); err != nil {
		t.Fatal(err)
	}
	_, err := s.enrol(func(o *Options) { o.Wait = 0 })
	contains(t, err, "private_keys", "escapes")
	if left, err := os.ReadDir(elsewhere); err != nil || len(left) > 0 {
		t.Errorf("%v %v", left, err)
	}
}

func TestCheck(t *testing.T) {
	good := Options{Identity: "web1.example-net_2", CA: "puppet", Dir: "d", Poll: 1, Fingerprint: strings.Repeat("aB:", 31) + "cd"}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*Options){
		"the name of the certificate is missing":      func(o *Options) { o.Identity = "" },
		`"Web1" cannot be the name`:                   func(o *Options) { o.Identity = "Web1" },
		`"a b" cannot be`:                             func(o *Options) { o.Identity = "a b" },
		`"../a" cannot be`:                            func(o *Options) { o.Identity = "../a" },
		`"a/b" cannot be`:                             func(o *Options) { o.Identity = "a/b" },
		`"a..b" cannot be`:                            func(o *Options) { o.Identity = "a..b" },
		`"-a" cannot be`:                              func(o *Options) { o.Identity = "-a" },
		`"ä" cannot be`:                               func(o *Options) { o.Identity = "ä" },
		`"ca" is the CA's own name`:                   func(o *Options) { o.Identity = "ca" },
		"has 65 characters":                           func(o *Options) { o.Identity = strings.Repeat("a", 65) },
		`the CA "https://puppet:8140" is not`:         func(o *Options) { o.CA = "https://puppet:8140" },
		`the CA "puppet:x" is not HOST:PORT`:          func(o *Options) { o.CA = "puppet:x" },
		`the CA "puppet:0" is not HOST:PORT`:          func(o *Options) { o.CA = "puppet:0" },
		`the CA ":8140" is not HOST:PORT`:             func(o *Options) { o.CA = ":8140" },
		`the CA "a@b" is not HOST:PORT`:               func(o *Options) { o.CA = "a@b" },
		`the CA "a:b:c" is not HOST:PORT`:             func(o *Options) { o.CA = "a:b:c" },
		`the CA "" is not HOST:PORT`:                  func(o *Options) { o.CA = "" },
		`"abcd" is not a SHA-256: 64 hexadecimal`:     func(o *Options) { o.Fingerprint = "abcd" },
		`"xx" is not a SHA-256`:                       func(o *Options) { o.Fingerprint = "xx" },
		"the directory for key and certificate is":    func(o *Options) { o.Dir = "" },
		"between two rounds has to be more than 0, n": func(o *Options) { o.Poll = 0 },
	} {
		o := good
		change(&o)
		contains(t, errors.Join(o.Check()), want)
		if err := Run(t.Context(), o); err == nil {
			t.Errorf("%s: it ran", want)
		}
	}
	for ca, want := range map[string]string{"puppet": "puppet:8140", "puppet:1": "puppet:1", "::1": "[::1]:8140", "[::1]": "[::1]:8140", "[::1]:8141": "[::1]:8141", "10.0.0.1": "10.0.0.1:8140"} {
		if got, err := address(ca); err != nil || got != want {
			t.Errorf("%s: %s %v", ca, got, err)
		}
	}
}

// script answers the requests of one run.
type script struct {
	ca, crl, request, cert []byte
	status                 int // of the last two
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	body, status := []byte(nil), http.StatusOK
	switch what := strings.TrimPrefix(r.URL.Path, "/puppet-ca/v1/"); {
	case what == "certificate/ca":
		body = s.ca
	case what == "certificate_revocation_list/ca":
		body = s.crl
	case r.Method == http.MethodPut:
		status, body = s.status, s.request
	case strings.HasPrefix(what, "certificate_request/"):
		body = s.request
	default:
		body = s.cert
	}
	if len(body) == 0 {
		status = http.StatusNotFound
	}
	return &http.Response{StatusCode: status, ContentLength: -1, Header: http.Header{}, Request: r, Body: io.NopCloser(strings.NewReader(string(body)))}, nil
}

// FuzzAnswers lets a CA answer anything: the run ends, well only with a certificate for our key in the directory.
func FuzzAnswers(f *testing.F) {
	ca, err := enrolltest.New()
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(ca.Close)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		f.Fatal(err)
	}
	keyPEM := encode("PRIVATE KEY", der)
	crl, request, cert, err := ca.Seeds("web1", key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ca.Bundle(), crl, []byte(nil), cert, 200)
	f.Add(ca.Bundle(), crl, request, []byte(nil), 200)
	f.Add(ca.Bundle(), crl, []byte("already has a signed certificate"), []byte(nil), 400)
	f.Add(crl, cert, ca.Bundle(), request, 500)
	f.Add([]byte("x"), []byte(nil), []byte(nil), []byte(nil), 0)
	f.Fuzz(func(t *testing.T, bundle, crl, request, cert []byte, status int) {
		dir := t.TempDir()
		for name, data := range map[string][]byte{"private_keys/web1.pem": keyPEM} {
			if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700), os.WriteFile(filepath.Join(dir, name), data, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		e, err := newEnroller(Options{Identity: "web1", CA: "puppet", Dir: dir, Poll: 1, Out: io.Discard}, 1024)
		if err != nil {
			t.Fatal(err)
		}
		e.ca.transport = &script{bundle, crl, request, cert, status}
		e.ca.believe(e.trust.tls())
		err = e.run(t.Context())
		written, readErr := os.ReadFile(filepath.Join(dir, "certs", "web1.pem"))
		if (err == nil) != (readErr == nil) {
			t.Fatalf("%v, and the certificate: %v", err, readErr)
		}
		if err == nil {
			c, err := parseCertificate(written)
			if err != nil || !key.PublicKey.Equal(c.PublicKey) || !slices.Equal(written, cert) {
				t.Fatalf("the certificate is %s %v", written, err)
			}
		}
		if err != nil && len(err.Error()) > 4000 {
			t.Errorf("the error has %d bytes", len(err.Error()))
		}
		if left := fmt.Sprint(os.ReadDir(filepath.Join(dir, "certs"))); strings.Contains(left, leftover) {
			t.Errorf("left over: %s", left)
		}
	})
}
