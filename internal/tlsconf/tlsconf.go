// Package tlsconf turns files with certificates into the TLS of a client: the directory that Puppet's agent keeps, or
// three files.
//
// What is in the files is checked before a connection is made, because what the other side says of a bad certificate, if
// it says anything, helps nobody: every error here names the file, whose certificate it is, and what is wrong with it.
// Files are read again for each new connection, so that a renewed certificate counts without a restart. With a list of
// revoked certificates (crl.pem beside a Puppet certificate) a server whose certificate is on it is refused.
package tlsconf

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The schemes: the directory of a Puppet agent, and files that are named one by one.
const (
	Puppet = "puppet"
	Manual = "manual"
)

// Options say where the files are.
type Options struct {
	// Scheme is Puppet or Manual; "file" is another name for Manual.
	Scheme string
	// Identity is the name in the certificate and SSLDir the directory, for Puppet: certs/ca.pem, certs/IDENTITY.pem,
	// private_keys/IDENTITY.pem and, if it is there, crl.pem.
	Identity, SSLDir string
	// CA, Cert and Key are PEM files, for Manual. Without CA the authorities of the operating system count, without Cert
	// and Key we show no certificate.
	CA, Cert, Key string
}

// Files are where the certificates are. They hold nothing: each use reads the files. They are safe for concurrent use.
type Files struct {
	ca, cert, key, crl string
	identity, dir      string // for Puppet
}

// New finds out which files are meant. It does not read them.
func New(o Options) (*Files, error) {
	switch o.Scheme {
	case Puppet:
		switch {
		case o.SSLDir == "":
			return nil, errors.New("tls: the scheme puppet needs ssl_dir")
		case o.Identity == "" || o.Identity == "." || o.Identity == ".." || strings.ContainsAny(o.Identity, "/\\\x00"):
			return nil, fmt.Errorf("tls: %q cannot be the name of a Puppet certificate", o.Identity)
		}
		return &Files{
			ca:       filepath.Join(o.SSLDir, "certs", "ca.pem"),
			cert:     filepath.Join(o.SSLDir, "certs", o.Identity+".pem"),
			key:      filepath.Join(o.SSLDir, "private_keys", o.Identity+".pem"),
			crl:      filepath.Join(o.SSLDir, "crl.pem"),
			identity: o.Identity, dir: o.SSLDir,
		}, nil
	case Manual, "file":
		if (o.Cert == "") != (o.Key == "") {
			return nil, errors.New("tls: cert and key go together")
		}
		return &Files{ca: o.CA, cert: o.Cert, key: o.Key}, nil
	}
	return nil, fmt.Errorf("tls: the scheme is puppet or manual, not %q", o.Scheme)
}

// Config is for a client of TLS 1.2 or newer. It checks the files first. Our own certificate and the list of revoked ones
// are read again at each handshake; the authorities are those of now, Roots has them anew.
func (f *Files) Config() (*tls.Config, error) {
	roots, err := f.Roots()
	if err != nil {
		return nil, err
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, VerifyConnection: f.verify}
	if f.cert != "" {
		c.GetClientCertificate = f.clientCertificate
	}
	return c, nil
}

// Roots checks all files and gives the authorities that a server's certificate may be of, nil for those of the operating
// system. Call it before each connection.
func (f *Files) Roots() (*x509.CertPool, error) {
	authorities, err := f.authorities()
	if err != nil {
		return nil, err
	}
	var roots *x509.CertPool
	if f.ca != "" {
		roots = x509.NewCertPool()
		for _, a := range authorities {
			roots.AddCert(a)
		}
	}
	if f.cert != "" {
		pair, err := f.pair()
		if err != nil {
			return nil, err
		}
		if f.identity != "" {
			if err := f.checkChain(pair, roots); err != nil {
				return nil, err
			}
		}
	}
	if _, err := f.revocations(); err != nil {
		return nil, err
	}
	return roots, nil
}

// missing says what it means that a file is not there.
func (f *Files) missing(path string, err error) error {
	if f.identity != "" && errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("tls: %w: either %q is not enrolled with the Puppet CA yet, or identity or ssl_dir is wrong; %s gets a certificate", err, f.identity, f.enrol())
	}
	return fmt.Errorf("tls: %w", err)
}
