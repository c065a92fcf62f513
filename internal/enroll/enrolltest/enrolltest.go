// Package enrolltest is a Puppet CA for tests, in the process: a root, an authority below it, and the HTTP interface with the
// answers of a real puppetserver 7.9. An operator's commands are methods.
package enrolltest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// CA is a running Puppet CA. Its methods are safe for concurrent use.
type CA struct {
	mu       sync.Mutex
	autosign bool
	from, to time.Duration // of what it signs, from now
	answer   func(w http.ResponseWriter, r *http.Request) bool
	server   *httptest.Server
	root     authority
	between  authority
	requests map[string]*x509.CertificateRequest
	signed   map[string]*x509.Certificate
	revoked  []*x509.Certificate
	next     int64
	asked    []string
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Start starts one on 127.0.0.1 until the test ends.
func Start(t testing.TB) *CA {
	t.Helper()
	ca, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ca.Close)
	return ca
}

// New starts one on 127.0.0.1.
func New() (*CA, error) {
	ca := &CA{requests: map[string]*x509.CertificateRequest{}, signed: map[string]*x509.Certificate{}, next: 10}
	ca.from, ca.to = -24*time.Hour, 24*time.Hour
	var err error
	if ca.root, err = newAuthority("Puppet Root CA", nil); err != nil {
		return nil, err
	}
	if ca.between, err = newAuthority("Puppet CA: puppet", &ca.root); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	own, err := ca.issue("puppet", key.Public())
	if err != nil {
		return nil, err
	}
	ca.signed["puppet"] = own
	ca.server = httptest.NewUnstartedServer(http.HandlerFunc(ca.serve))
	ca.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	ca.server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{own.Raw}, PrivateKey: key}}}
	ca.server.StartTLS()
	return ca, nil
}

// Close stops it.
func (ca *CA) Close() { ca.server.Close() }

// Address is its host:port.
func (ca *CA) Address() string { return ca.server.Listener.Addr().String() }

// Bundle is its certificates as it serves them.
func (ca *CA) Bundle() []byte {
	return append(encode("CERTIFICATE", ca.between.cert.Raw), encode("CERTIFICATE", ca.root.cert.Raw)...)
}

// Fingerprint is the SHA-256 of Bundle.
func (ca *CA) Fingerprint() string {
	sum := sha256.Sum256(ca.Bundle())
	return hex.EncodeToString(sum[:])
}

// Autosign makes it sign each request at once, or not any more.
func (ca *CA) Autosign(on bool) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.autosign = on
}

// Valid sets from when to when, counted from the signature, what it signs is valid; a day either way unless set.
func (ca *CA) Valid(from, to time.Duration) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.from, ca.to = from, to
}

// Answer sets who answers a request instead of the CA, if it returns true.
func (ca *CA) Answer(answer func(w http.ResponseWriter, r *http.Request) bool) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	ca.answer = answer
}

// Sign signs the request of a name, and tells whether there was one.
func (ca *CA) Sign(name string) bool {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	return ca.sign(name)
}

// Revoke revokes the certificate of a name, which is still served.
func (ca *CA) Revoke(name string) bool {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	c := ca.signed[name]
	if c != nil {
		ca.revoked = append(ca.revoked, c)
	}
	return c != nil
}

// Clean forgets request and certificate of a name, which it revokes.
func (ca *CA) Clean(name string) {
	ca.Revoke(name)
	ca.mu.Lock()
	defer ca.mu.Unlock()
	delete(ca.requests, name)
	delete(ca.signed, name)
}

// Pending tells whether a name has a request that is not signed.
func (ca *CA) Pending(name string) bool {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	return ca.requests[name] != nil
}

// Asked lists the requests so far, as METHOD WHAT/NAME.
func (ca *CA) Asked() []string {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	return slices.Clone(ca.asked)
}

// Count is how many requests so far began with a prefix.
func (ca *CA) Count(prefix string) int {
	n := 0
	for _, a := range ca.Asked() {
		if strings.HasPrefix(a, prefix) {
			n++
		}
	}
	return n
}

// Seeds are good answers for a name and its key, in PEM form: the lists of revoked certificates, a request and a certificate.
func (ca *CA) Seeds(name string, key crypto.Signer) (lists, request, cert []byte, err error) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	if lists, err = ca.lists(); err != nil {
		return nil, nil, nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		return nil, nil, nil, err
	}
	c, err := ca.issue(name, key.Public())
	if err != nil {
		return nil, nil, nil, err
	}
	return lists, encode("CERTIFICATE REQUEST", der), encode("CERTIFICATE", c.Raw), nil
}

func (ca *CA) sign(name string) bool {
	request := ca.requests[name]
	if request == nil {
		return false
	}
	cert, err := ca.issue(name, request.PublicKey)
	if err != nil {
		return false
	}
	delete(ca.requests, name)
	ca.signed[name] = cert
	return true
}

// issue makes a certificate as Puppet does: with the name as an alternative name, for clients and servers.
func (ca *CA) issue(name string, public crypto.PublicKey) (*x509.Certificate, error) {
	ca.next++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(ca.next), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(ca.from), NotAfter: time.Now().Add(ca.to),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    []string{name}, BasicConstraintsValid: true,
	}
	if name == "puppet" {
		template.DNSNames, template.IPAddresses = append(template.DNSNames, "localhost"), []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	return create(template, ca.between.cert, public, ca.between.key)
}

func newAuthority(name string, parent *authority) (authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authority{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	signer, by := template, key
	if parent != nil {
		template.SerialNumber, signer, by = big.NewInt(2), parent.cert, parent.key
	}
	cert, err := create(template, signer, key.Public(), by)
	return authority{cert, key}, err
}

func create(template, parent *x509.Certificate, public crypto.PublicKey, by *ecdsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, by)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// lists are those of the authority between and of the root, one after the other.
func (ca *CA) lists() ([]byte, error) {
	var out []byte
	for _, by := range []authority{ca.between, ca.root} {
		list := &x509.RevocationList{Number: big.NewInt(int64(len(ca.revoked) + 1)), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(24 * time.Hour)}
		for _, c := range ca.revoked {
			if string(c.RawIssuer) == string(by.cert.RawSubject) {
				list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
					x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: time.Now().Add(-time.Minute)})
			}
		}
		der, err := x509.CreateRevocationList(rand.Reader, list, by.cert, by.key)
		if err != nil {
			return nil, err
		}
		out = append(out, encode("X509 CRL", der)...)
	}
	return out, nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
