package enroll

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"
)

// ErrMismatch is a certificate, or a request for one, that the CA has in our name for another key. Only the CA's operator
// can clear that.
var ErrMismatch = errors.New("it is for another key")

// errUnsigned: the CA has no certificate in our name.
var errUnsigned = errors.New("no certificate yet")

// clean is what the operator does at the CA to let a name be enrolled anew.
func (e *enroller) clean() string {
	return fmt.Sprintf(`if the name belongs to this machine, run on the CA "puppetserver ca clean --certname %s" and enrol again`, e.Identity)
}

// loadKey takes the key of the directory, or makes one. A key is never replaced.
func (e *enroller) loadKey() error {
	name := e.dir.key()
	data, err := e.dir.read(name, maxKey)
	switch {
	case err == nil:
		if e.key, err = parseKey(data); err != nil {
			return fmt.Errorf("the key %s is of no use: %w; put it right, or remove it, and then, %s", e.dir.full(name), err, e.clean())
		}
		return nil
	case !errors.Is(err, os.ErrNotExist):
		return err
	}
	e.say("making a key of %d bits: %s", e.bits, e.dir.full(name))
	key, err := rsa.GenerateKey(rand.Reader, e.bits)
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	e.key = key
	return e.dir.write(name, encode("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key)), keyMode)
}

// obtain gets the certificate, after asking for it if that was not done yet. It looks for the request first: a signature
// turns it into a certificate, never the other way round.
func (e *enroller) obtain(ctx context.Context) error {
	pending, err := e.pending(ctx)
	if err != nil {
		return err
	}
	if pending != nil {
		return e.unsigned(pending)
	}
	data, err := e.fetch(ctx)
	if errors.Is(err, errUnsigned) {
		data, err = e.ask(ctx)
	}
	if err != nil {
		return err
	}
	cert, err := parseCertificate(data)
	if err != nil {
		return fmt.Errorf("the certificate that the CA %s has for %q: %w", e.ca.host, e.Identity, err)
	}
	if err := e.lists(ctx); err != nil {
		return err
	}
	var later *laterError
	if err := e.check(cert); errors.As(err, &later) {
		return err
	} else if err != nil {
		return fmt.Errorf("the CA %s has a certificate for %q that is of no use here: %w; %s", e.ca.host, e.Identity, err, e.clean())
	}
	if err := e.dir.write(e.dir.certificate(), data, fileMode); err != nil {
		return err
	}
	e.dir.forget(e.dir.request())
	e.say("%s is enrolled: %s is valid until %s", e.Identity, e.dir.full(e.dir.certificate()), day(cert.NotAfter))
	return nil
}

// fetch gets our certificate in PEM form, or errUnsigned.
func (e *enroller) fetch(ctx context.Context) ([]byte, error) {
	data, err := e.ca.get(ctx, "certificate/"+e.Identity, maxCertificate)
	if is(err, http.StatusNotFound) {
		return nil, errUnsigned
	}
	return data, err
}

// ask sends our request, and returns the certificate if that was signed at once.
func (e *enroller) ask(ctx context.Context) ([]byte, error) {
	request, err := e.makeRequest()
	if err != nil {
		return nil, err
	}
	if e.sent {
		e.say("the CA has our request no longer: it is sent again")
	}
	_, refused := e.ca.do(ctx, http.MethodPut, "certificate_request/"+e.Identity, encode("CERTIFICATE REQUEST", request.Raw), maxCertificate)
	if refused != nil && !is(refused, http.StatusBadRequest) {
		return nil, refused
	}
	e.sent = true
	data, err := e.fetch(ctx)
	if !errors.Is(err, errUnsigned) {
		return data, err
	}
	if refused == nil {
		return nil, e.unsigned(request)
	}
	// The status says too little: the CA may have had a request already.
	pending, err := e.pending(ctx)
	if err != nil {
		return nil, err
	}
	if pending == nil {
		return nil, fmt.Errorf("the CA %s does not take our request: %w", e.ca.host, refused)
	}
	return nil, e.unsigned(pending)
}

// unsigned says what is waited for.
func (e *enroller) unsigned(request *x509.CertificateRequest) error {
	e.sent = true
	return &laterError{fmt.Errorf(`waiting for a signature; on the CA "puppetserver ca list" shows %s (SHA256) %s, and "puppetserver ca sign --certname %s" signs it`,
		e.Identity, colons(request.Raw), e.Identity)}
}

// pending is the request that the CA has in our name, nil if it has none.
func (e *enroller) pending(ctx context.Context) (*x509.CertificateRequest, error) {
	data, err := e.ca.get(ctx, "certificate_request/"+e.Identity, maxCertificate)
	if is(err, http.StatusNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	request, err := parseRequest(data)
	if err != nil {
		return nil, fmt.Errorf("the request that the CA %s has in the name %q: %w", e.ca.host, e.Identity, err)
	}
	if !e.ours(request.PublicKey) {
		return nil, fmt.Errorf("the CA %s has a request in the name %q already, and %w than %s; %s",
			e.ca.host, e.Identity, ErrMismatch, e.dir.full(e.dir.key()), e.clean())
	}
	return request, nil
}

// makeRequest takes the request of the directory if it is good, else makes one and puts it there.
func (e *enroller) makeRequest() (*x509.CertificateRequest, error) {
	name := e.dir.request()
	if data, err := e.dir.read(name, maxCertificate); err == nil {
		request, err := parseRequest(data)
		if err == nil && request.CheckSignature() == nil && request.Subject.CommonName == e.Identity && e.ours(request.PublicKey) {
			return request, nil
		}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: e.Identity}}, e.key)
	if err != nil {
		return nil, fmt.Errorf("make a request with the key %s: %w", e.dir.full(e.dir.key()), err)
	}
	if err := e.dir.write(name, encode("CERTIFICATE REQUEST", der), fileMode); err != nil {
		return nil, err
	}
	return x509.ParseCertificateRequest(der)
}

// ours tells whether a public key is that of our key.
func (e *enroller) ours(public any) bool {
	own, ok := e.key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && own.Equal(public)
}

// check tells what is wrong with a certificate in our name.
func (e *enroller) check(cert *x509.Certificate) error {
	now := time.Now()
	switch {
	case !e.ours(cert.PublicKey):
		return fmt.Errorf("%w than %s", ErrMismatch, e.dir.full(e.dir.key()))
	case cert.Subject.CommonName != e.Identity:
		return fmt.Errorf("it is in the name of %s", printable(cert.Subject.String()))
	case now.After(cert.NotAfter):
		return fmt.Errorf("it has expired on %s", day(cert.NotAfter))
	case now.Before(cert.NotBefore):
		return &laterError{fmt.Errorf("the certificate of %q is valid from %s on, and our clock says %s", e.Identity, day(cert.NotBefore), day(now))}
	}
	chains, err := cert.Verify(x509.VerifyOptions{Roots: e.trust.pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return fmt.Errorf("it was issued by %s: %w", printable(cert.Issuer.String()), err)
	}
	return e.trust.checkRevoked(chains)
}

// parseCertificate reads the first certificate in PEM form.
func parseCertificate(data []byte) (*x509.Certificate, error) {
	certs, err := parseAuthorities(data)
	if err != nil {
		return nil, err
	}
	return certs[0], nil
}

// parseRequest reads a request in PEM form.
func parseRequest(data []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(data)
	if block == nil || !strings.HasSuffix(block.Type, "CERTIFICATE REQUEST") {
		return nil, errors.New("no request in PEM form")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}

// parseKey reads a key in the forms that Puppet and others write.
func parseKey(data []byte) (crypto.Signer, error) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		var key any
		var err error
		switch {
		case block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
			return nil, errors.New("it is encrypted, which is not supported")
		case block.Type == "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case block.Type == "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case block.Type == "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		default:
			continue // parameters of a curve
		}
		if err != nil {
			return nil, err
		}
		if signer, ok := key.(crypto.Signer); ok {
			return signer, nil
		}
		return nil, fmt.Errorf("it is a %T, which cannot sign", key)
	}
	return nil, errors.New("no key in PEM form")
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
