package enroll

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
)

// trust is the CA's own certificates and its lists of revoked ones.
type trust struct {
	authorities []*x509.Certificate
	lists       []*x509.RevocationList
}

// revokedError is a certificate on a list of revoked ones.
type revokedError struct {
	cert *x509.Certificate
	on   string
}

func (e *revokedError) Error() string {
	return fmt.Sprintf("the certificate (%s, serial %d) was revoked on %s", printable(e.cert.Subject.String()), e.cert.SerialNumber, e.on)
}

// pool has all authorities, those between as well: a server need not send them.
func (t *trust) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range t.authorities {
		pool.AddCert(c)
	}
	return pool
}

// tls is for connections to servers that the authorities vouch for.
func (t *trust) tls() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: t.pool(), VerifyConnection: func(s tls.ConnectionState) error {
		return t.checkRevoked(s.VerifiedChains)
	}}
}

// checkRevoked passes if there is a chain without a revoked certificate.
func (t *trust) checkRevoked(chains [][]*x509.Certificate) error {
	var first error
	for _, chain := range chains {
		err := t.checkChain(chain)
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return first
}

func (t *trust) checkChain(chain []*x509.Certificate) error {
	for i, c := range chain[:len(chain)-1] {
		for _, l := range t.lists {
			if !bytes.Equal(l.RawIssuer, c.RawIssuer) || l.CheckSignatureFrom(chain[i+1]) != nil {
				continue
			}
			for _, entry := range l.RevokedCertificateEntries {
				if entry.SerialNumber.Cmp(c.SerialNumber) == 0 {
					return &revokedError{c, day(entry.RevocationTime)}
				}
			}
		}
	}
	return nil
}

// vouches tells whether the authorities vouch for each of some certificates.
func (t *trust) vouches(certs []*x509.Certificate) error {
	between := x509.NewCertPool()
	for _, c := range certs {
		between.AddCert(c)
	}
	for _, c := range certs {
		_, err := c.Verify(x509.VerifyOptions{Roots: t.pool(), Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		if err != nil {
			return fmt.Errorf("%s: %w", printable(c.Subject.String()), err)
		}
	}
	return nil
}

// parseAuthorities reads certificates in PEM form, at least one.
func parseAuthorities(data []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(out)+1, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("no certificate in PEM form")
	}
	return out, nil
}

// parseLists reads lists of revoked certificates in PEM form, at least one, each signed by one of the authorities.
func parseLists(data []byte, authorities []*x509.Certificate) ([]*x509.RevocationList, error) {
	var out []*x509.RevocationList
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "X509 CRL" {
			continue
		}
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("list %d: %w", len(out)+1, err)
		}
		signed := false
		for _, a := range authorities {
			signed = signed || bytes.Equal(a.RawSubject, list.RawIssuer) && list.CheckSignatureFrom(a) == nil
		}
		if !signed {
			return nil, fmt.Errorf("list %d, of %s, is not signed by one of the CA's certificates", len(out)+1, printable(list.Issuer.String()))
		}
		out = append(out, list)
	}
	if len(out) == 0 {
		return nil, errors.New("no list of revoked certificates in PEM form")
	}
	return out, nil
}

// readBundle reads the file with the CA's certificates that we were given.
func readBundle(file string) (*trust, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("the CA's certificates %s: %w", file, cause(err))
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxBundle+1))
	if err != nil {
		return nil, fmt.Errorf("the CA's certificates %s: %w", file, cause(err))
	}
	if len(data) > maxBundle {
		return nil, fmt.Errorf("the CA's certificates %s have more than %d bytes", file, maxBundle)
	}
	authorities, err := parseAuthorities(data)
	if err != nil {
		return nil, fmt.Errorf("the CA's certificates %s: %w", file, err)
	}
	return &trust{authorities: authorities}, nil
}

// loadTrust takes ca.pem and crl.pem of the directory if they are there, and notes if ca.pem is not.
func (e *enroller) loadTrust() error {
	file := e.dir.full(caFile)
	data, err := e.dir.read(caFile, maxBundle)
	if errors.Is(err, os.ErrNotExist) {
		e.fresh = true
		return nil
	}
	if err != nil {
		return err
	}
	if e.trust.authorities, err = parseAuthorities(data); err != nil {
		return fmt.Errorf("%s, which says whom to trust, is damaged: %w; put it right, or remove it to trust the CA anew", file, err)
	}
	e.bundle = data
	if err := e.compare(file, data, e.trust.authorities); err != nil {
		return fmt.Errorf("%w; if the CA was made anew, remove the directory and enrol again", err)
	}
	if lists, err := e.dir.read(crlFile, maxLists); err == nil {
		if e.trust.lists, err = parseLists(lists, e.trust.authorities); err != nil {
			e.say("%s is damaged and fetched again: %s", e.dir.full(crlFile), err)
		}
	}
	e.ca.believe(e.trust.tls())
	e.say("the CA %s is the one of %s, SHA256 %s", e.ca.host, file, fingerprint(data))
	return nil
}

// compare holds certificates of a CA against the fingerprint and the bundle that we were given.
func (e *enroller) compare(of string, data []byte, certs []*x509.Certificate) error {
	if got := fingerprint(data); e.fingerprint != "" && got != e.fingerprint {
		return fmt.Errorf("this is not the CA with the fingerprint %s: %s has the SHA256 %s", e.fingerprint, of, got)
	}
	if e.Bundle == "" {
		return nil
	}
	given, err := readBundle(e.Bundle)
	if err != nil {
		return err
	}
	if err := given.vouches(certs); err != nil {
		return fmt.Errorf("%s does not vouch for %s: %w", e.Bundle, of, err)
	}
	return nil
}

// meet makes sure of the CA, gets its lists of revoked certificates and only then writes what it knows of it.
func (e *enroller) meet(ctx context.Context) error {
	if !e.fresh {
		return e.lists(ctx)
	}
	if err := e.acquaint(ctx); err != nil {
		return err
	}
	data, err := e.fetchLists(ctx)
	if err != nil {
		return err
	}
	if err := e.dir.layOut(); err != nil {
		return err
	}
	if err := e.dir.write(caFile, e.bundle, fileMode); err != nil {
		return err
	}
	e.fresh = false
	return e.dir.write(crlFile, data, fileMode)
}

// acquaint gets the CA's certificates. They count if they have the fingerprint, if the bundle vouches for them, or, with
// neither, just so. The server is held against them from then on: of a bundle with the root alone it could not be, as
// a Puppet server need not send the certificate between.
func (e *enroller) acquaint(ctx context.Context) error {
	if e.Bundle != "" {
		if _, err := readBundle(e.Bundle); err != nil {
			return err
		}
	}
	e.ca.believe(&tls.Config{InsecureSkipVerify: true}) //nolint:gosec // it is verified with what it answers, below
	data, err := e.ca.get(ctx, "certificate/ca", maxBundle)
	if err != nil {
		return err
	}
	certs, err := parseAuthorities(data)
	if err != nil {
		return fmt.Errorf("the certificates that the CA %s serves as its own: %w", e.ca.host, err)
	}
	for _, c := range certs {
		if !c.BasicConstraintsValid || !c.IsCA {
			return fmt.Errorf("the certificates that the CA %s serves as its own: %s is not that of a CA", e.ca.host, printable(c.Subject.String()))
		}
	}
	if err := e.compare("what "+e.ca.host+" serves", data, certs); err != nil {
		return err
	}
	if !bytes.Equal(data, e.bundle) {
		e.say("the CA %s has the certificates with the SHA256 %s", e.ca.host, fingerprint(data))
		if e.fingerprint == "" && e.Bundle == "" {
			e.say("nothing vouches for it: compare this with the SHA256 of the ca_crt.pem on the CA, or enrol with --ca-fingerprint")
		}
	}
	e.bundle, e.trust = data, trust{authorities: certs}
	e.ca.believe(e.trust.tls())
	return nil
}

// fetchLists gets the lists of revoked certificates, which count from now on.
func (e *enroller) fetchLists(ctx context.Context) ([]byte, error) {
	data, err := e.ca.get(ctx, "certificate_revocation_list/ca", maxLists)
	if err != nil {
		return nil, err
	}
	lists, err := parseLists(data, e.trust.authorities)
	if err != nil {
		return nil, fmt.Errorf("the lists of revoked certificates of the CA %s: %w", e.ca.host, err)
	}
	e.trust.lists = lists
	e.ca.believe(e.trust.tls())
	return data, nil
}

// lists renews crl.pem.
func (e *enroller) lists(ctx context.Context) error {
	data, err := e.fetchLists(ctx)
	if err != nil {
		return err
	}
	if err := e.dir.layOut(); err != nil {
		return err
	}
	if old, err := e.dir.read(crlFile, maxLists); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return e.dir.write(crlFile, data, fileMode)
}
