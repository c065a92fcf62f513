package enroll

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/internal/enroll/enrolltest"
)

// limit is how long a test waits for what has to come.
const limit = time.Minute

// output is what a run says.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// site is a CA and the directory of one who enrols.
type site struct {
	t   *testing.T
	ca  *enrolltest.CA
	dir string
}

func newSite(t *testing.T) *site {
	t.Helper()
	return &site{t, enrolltest.Start(t), filepath.Join(t.TempDir(), "ssl")}
}

func (s *site) options() Options {
	return Options{Identity: "web1", CA: s.ca.Address(), Dir: s.dir, Poll: 5 * time.Millisecond}
}

// enrol enrols with some options changed. RSA keys are small, to be quick.
func (s *site) enrol(change ...func(*Options)) (string, error) {
	s.t.Helper()
	r := s.start(change...)
	err := r.end(s.t)
	return r.out.String(), err
}

// attempt is a run that goes on.
type attempt struct {
	out    *output
	done   chan error
	cancel context.CancelFunc
}

func (s *site) start(change ...func(*Options)) *attempt {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	r := &attempt{new(output), make(chan error, 1), cancel}
	o := s.options()
	o.Out = r.out
	o.Wait = Forever
	for _, c := range change {
		c(&o)
	}
	go func() { r.done <- run(ctx, o, 1024) }()
	return r
}

// end waits until the run ends.
func (r *attempt) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-r.done:
		return err
	case <-time.After(limit):
		t.Fatalf("it goes on and on:\n%s", r.out)
		return nil
	}
}

// until waits until something holds.
func (s *site) until(what string, holds func() bool) {
	s.t.Helper()
	for begin := time.Now(); !holds(); time.Sleep(time.Millisecond) {
		if time.Since(begin) > limit {
			s.t.Fatalf("still not: %s; asked %v", what, s.ca.Asked())
		}
	}
}

func (s *site) read(name string) string {
	s.t.Helper()
	data, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(data)
}

func (s *site) write(name, text string) {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// files are those of the directory with their modes.
func (s *site) files() map[string]fs.FileMode {
	s.t.Helper()
	all := map[string]fs.FileMode{}
	err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		name, _ := filepath.Rel(s.dir, path)
		all[name] = info.Mode().Perm()
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.t.Fatal(err)
	}
	return all
}

// untouched fails the test if the directory has anything, or the CA was sent a request.
func (s *site) untouched() {
	s.t.Helper()
	if files := s.files(); len(files) > 0 {
		s.t.Errorf("there is %v", files)
	}
	if n := s.ca.Count("PUT"); n > 0 {
		s.t.Errorf("%d requests were sent", n)
	}
}

func contains(t *testing.T, what any, want ...string) {
	t.Helper()
	text := ""
	switch v := what.(type) {
	case error:
		text = v.Error()
	case string:
		text = v
	}
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%q lacks %q", text, w)
		}
	}
}

func enrolled(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("not enrolled: %v", err)
	}
}

// Where the CA signs at once, one run is enough, and it leaves what Puppet 7 leaves. Another run finds all of it.
func TestAutosign(t *testing.T) {
	s := newSite(t)
	s.ca.Autosign(true)
	out, err := s.enrol(func(o *Options) { o.Wait = 0 })
	enrolled(t, err)
	contains(t, out, "SHA256 "+s.ca.Fingerprint(), "nothing vouches for it", "web1 is enrolled: ")
	want := map[string]fs.FileMode{
		".": 0o771, "certs": 0o755, "certificate_requests": 0o755, "public_keys": 0o755, "private": 0o750, "private_keys": 0o750,
		"certs/ca.pem": 0o644, "certs/web1.pem": 0o644, "crl.pem": 0o644, "private_keys/web1.pem": 0o640,
	}
	got := s.files()
	for name, mode := range want {
		if got[name] != mode {
			t.Errorf("%s has the mode %o, want %o", name, got[name], mode)
		}
	}
	if len(got) != len(want) {
		t.Errorf("there is %v, want %v", got, want)
	}
	if s.read("certs/ca.pem") != string(s.ca.Bundle()) {
		t.Error("ca.pem is not what the CA serves")
	}
	contains(t, s.read("private_keys/web1.pem"), "-----BEGIN RSA PRIVATE KEY-----")

	before, asked := s.read("certs/web1.pem"), s.ca.Count("")
	out, err = s.enrol()
	enrolled(t, err)
	contains(t, out, "web1 is enrolled already")
	if s.ca.Count("") != asked+1 || s.ca.Count("GET certificate_revocation_list") != 3 || s.read("certs/web1.pem") != before {
		t.Errorf("the second run asked for %v", s.ca.Asked()[asked:])
	}
	s.ca.Close()
	out, err = s.enrol()
	enrolled(t, err)
	contains(t, out, "crl.pem is not renewed: the CA", "is not reached")
}

// It waits for the operator's signature, says so, and sends its request once.
func TestSigned(t *testing.T) {
	s := newSite(t)
	r := s.start()
	s.until("ten rounds", func() bool { return s.ca.Count("GET certificate_request/web1") > 10 })
	contains(t, r.out.String(), "waiting for a signature", "puppetserver ca sign --certname web1", "asking again every 5ms")
	if n := strings.Count(r.out.String(), "waiting"); n != 1 {
		t.Errorf("it says %d times what it waits for:\n%s", n, r.out)
	}
	request, err := parseRequest([]byte(s.read("certificate_requests/web1.pem")))
	if err != nil {
		t.Fatal(err)
	}
	contains(t, r.out.String(), "shows web1 (SHA256) "+colons(request.Raw))
	if s.files()["certificate_requests/web1.pem"] != 0o644 || len(request.DNSNames) > 0 || request.Subject.String() != "CN=web1" {
		t.Errorf("the request is for %s %v", request.Subject, request.DNSNames)
	}
	s.ca.Sign("web1")
	enrolled(t, r.end(t))
	if n := s.ca.Count("PUT"); n != 1 {
		t.Errorf("the request was sent %d times", n)
	}
	if _, there := s.files()["certificate_requests/web1.pem"]; there {
		t.Error("the request stays")
	}
}

// A run that ended at any time is taken up by the next one, with the same key and the same request.
func TestResume(t *testing.T) {
	s := newSite(t)
	r := s.start()
	s.until("a request", func() bool { return s.ca.Pending("web1") })
	r.cancel()
	contains(t, r.end(t), "stopped", "the same command goes on from here")
	key, request := s.read("private_keys/web1.pem"), s.read("certificate_requests/web1.pem")

	out, err := s.enrol(func(o *Options) { o.Wait = 20 * time.Millisecond })
	contains(t, err, "is not enrolled: waiting for a signature", "the same command goes on")
	contains(t, out, "is the one of "+s.dir+"/certs/ca.pem, SHA256 "+s.ca.Fingerprint())
	s.ca.Sign("web1")
	_, err = s.enrol()
	enrolled(t, err)
	if s.read("private_keys/web1.pem") != key || s.ca.Count("PUT") != 1 {
		t.Errorf("another key, or %d requests", s.ca.Count("PUT"))
	}

	// Killed after the request was written and before it was sent, and in the midst of writing.
	s.ca.Clean("web1")
	s.ca.Autosign(true)
	for name, text := range map[string]string{"certificate_requests/web1.pem": request, "certs/.enroll-1": "-----BEG", "private_keys/.enroll-2": "x", ".enroll-3": ""} {
		s.write(name, text)
	}
	if err := os.Remove(filepath.Join(s.dir, "certs", "web1.pem")); err != nil {
		t.Fatal(err)
	}
	_, err = s.enrol()
	enrolled(t, err)
	if s.read("private_keys/web1.pem") != key {
		t.Error("another key")
	}
	for name := range s.files() {
		if strings.Contains(name, leftover) || strings.HasPrefix(name, "certificate_requests/") {
			t.Errorf("%s stays", name)
		}
	}
	// Killed between the certificate and the end.
	s.write("certificate_requests/web1.pem", request)
	_, err = s.enrol()
	enrolled(t, err)
	if _, there := s.files()["certificate_requests/web1.pem"]; there {
		t.Error("the request stays")
	}
}

// An operator who cleans a name that waits makes it ask again, as Puppet's agent does.
func TestCleaned(t *testing.T) {
	s := newSite(t)
	r := s.start()
	s.until("a request", func() bool { return s.ca.Pending("web1") })
	s.ca.Clean("web1")
	s.until("another", func() bool { return s.ca.Pending("web1") })
	s.ca.Sign("web1")
	enrolled(t, r.end(t))
	contains(t, r.out.String(), "the CA has our request no longer: it is sent again")
	if n := s.ca.Count("PUT"); n != 2 {
		t.Errorf("%d requests", n)
	}
}

// What the CA has for another key is not ours, and what the operator can do is said.
func TestMismatch(t *testing.T) {
	s := newSite(t)
	_, _ = s.enrol(func(o *Options) { o.Wait = 0 })
	lost := s.read("private_keys/web1.pem")
	if err := os.RemoveAll(s.dir); err != nil {
		t.Fatal(err)
	}
	_, err := s.enrol()
	contains(t, err, `has a request in the name "web1" already, and it is for another key than `+s.dir+"/private_keys/web1.pem", "puppetserver ca clean --certname web1")
	s.ca.Sign("web1")
	_, err = s.enrol()
	contains(t, err, `has a certificate for "web1" that is of no use here: it is for another key`, `run on the CA "puppetserver ca clean --certname web1" and enrol again`)
	if !errors.Is(err, ErrMismatch) {
		t.Errorf("%v is no ErrMismatch", err)
	}
	if _, there := s.files()["certs/web1.pem"]; there {
		t.Error("the certificate is written")
	}
	if n := s.ca.Count("PUT"); n != 1 {
		t.Errorf("%d requests", n)
	}
	s.ca.Clean("web1")
	s.ca.Autosign(true)
	_, err = s.enrol()
	enrolled(t, err)
	if s.read("private_keys/web1.pem") == lost {
		t.Error("the key is the lost one")
	}

	// A key that was lost after the enrolment: the certificate beside it is no hindrance, and stays until there is a good one.
	if err := os.Remove(filepath.Join(s.dir, "private_keys", "web1.pem")); err != nil {
		t.Fatal(err)
	}
	cert := s.read("certs/web1.pem")
	out, err := s.enrol()
	contains(t, out, "web1.pem is of no use: "+s.dir+"/private_keys/web1.pem: no such file")
	contains(t, err, "ca clean --certname web1")
	if s.read("certs/web1.pem") != cert {
		t.Error("the certificate is not what it was")
	}
	s.ca.Clean("web1")
	_, err = s.enrol()
	enrolled(t, err)
	if s.read("certs/web1.pem") == cert {
		t.Error("no new certificate")
	}
}

// Two runs in one directory would make two keys.
func TestTwoRuns(t *testing.T) {
	s := newSite(t)
	r := s.start()
	s.until("a request", func() bool { return s.ca.Pending("web1") })
	_, err := s.enrol()
	contains(t, err, s.dir+" is in use by another enrolment")
	s.ca.Sign("web1")
	enrolled(t, r.end(t))
}

// What it waits for is said when that changes, and again each minute.
func TestReminder(t *testing.T) {
	out := new(output)
	e := &enroller{Options: Options{Poll: time.Second, Out: out}, begin: time.Now().Add(-3 * time.Minute)}
	for range 3 {
		e.waits("for a signature")
	}
	e.toldAt = e.toldAt.Add(-reminder)
	e.waits("for a signature")
	e.waits("for the CA")
	want := "for a signature; asking again every 1s\nstill waiting after 3m0s: for a signature\nfor the CA; asking again every 1s\n"
	if out.String() != want {
		t.Errorf("it says\n%swant\n%s", out, want)
	}
}
