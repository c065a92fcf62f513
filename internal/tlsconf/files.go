package tlsconf

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/choria-io/prometheus-streams/internal/bounded"
)

// How large the files may be. A list of revoked certificates has some 40 bytes for each.
const (
	maxFile = 1 << 20
	maxCRL  = 32 << 20
)

// read reads a file that has at most limit bytes.
func (f *Files) read(path string, limit int) ([]byte, error) {
	data, err := bounded.ReadFile(path, limit)
	if err != nil {
		return nil, f.missing(path, err)
	}
	return data, nil
}

// certificates are all that is in PEM data, at least one.
func certificates(path string, data []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("tls: %s: certificate %d: %w", path, len(out)+1, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("tls: %s has no certificate in PEM form", path)
	}
	return out, nil
}

// authorities are those of the file, of which at least one is valid now; none without a file.
func (f *Files) authorities() ([]*x509.Certificate, error) {
	if f.ca == "" {
		return nil, nil
	}
	data, err := f.read(f.ca, maxFile)
	if err != nil {
		return nil, err
	}
	all, err := certificates(f.ca, data)
	if err != nil {
		return nil, err
	}
	var first error
	for _, c := range all {
		err := dates(f.ca, c, time.Now())
		if err == nil {
			return all, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// pair is our certificate with its key. They belong together, and the certificate is valid now.
func (f *Files) pair() (*tls.Certificate, error) {
	cert, err := f.read(f.cert, maxFile)
	if err != nil {
		return nil, err
	}
	key, err := f.read(f.key, maxFile)
	if err != nil {
		return nil, err
	}
	chain, err := certificates(f.cert, cert)
	if err != nil {
		return nil, err
	}
	if encrypted(key) {
		return nil, fmt.Errorf("tls: the key %s is encrypted, which is not supported", f.key)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("tls: key %s and certificate %s (%s): %w", f.key, f.cert, name(chain[0]), bare(err))
	}
	if pair.Leaf == nil {
		pair.Leaf = chain[0]
	}
	return &pair, dates(f.cert, pair.Leaf, time.Now())
}

func encrypted(key []byte) bool {
	for block, rest := pem.Decode(key); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED") {
			return true
		}
	}
	return false
}

// checkChain tells whether our certificate is of the authorities that the server's has to be of. In a Puppet CA it is.
func (f *Files) checkChain(pair *tls.Certificate, roots *x509.CertPool) error {
	between := x509.NewCertPool()
	for _, der := range pair.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(c)
		}
	}
	_, err := pair.Leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return fmt.Errorf("tls: certificate %s (%s, issued by %s) does not go with the authorities in %s: %w: the two are of different Puppet CAs: %s",
			f.cert, name(pair.Leaf), text(pair.Leaf.Issuer.String()), f.ca, err, f.another())
	}
	return nil
}

// dates tells whether a certificate is valid at a time.
func dates(path string, c *x509.Certificate, now time.Time) error {
	switch {
	case now.After(c.NotAfter):
		return fmt.Errorf("tls: certificate %s (%s) has expired: it was valid from %s to %s", path, name(c), day(c.NotBefore), day(c.NotAfter))
	case now.Before(c.NotBefore):
		return fmt.Errorf("tls: certificate %s (%s) is not valid yet: it is from %s on, and our clock says %s", path, name(c), day(c.NotBefore), day(now))
	}
	return nil
}

func day(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// name is the subject of a certificate, for messages.
func name(c *x509.Certificate) string { return text(c.Subject.String()) }

// text is a name out of a certificate, which may be anything, for messages.
func text(s string) string {
	if s == "" {
		return "without a subject"
	}
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}

// bare is an error of crypto/tls without its prefix.
func bare(err error) error {
	if rest, ok := strings.CutPrefix(err.Error(), "tls: "); ok {
		return errors.New(rest)
	}
	return err
}

// soon is how long before the end of our certificate it is time to tell.
const soon = 14 * 24 * time.Hour

// Notes are what is no error and yet should be told when a process starts, one sentence each.
func (f *Files) Notes() []string {
	var out []string
	if f.cert != "" {
		if pair, err := f.pair(); err == nil && time.Until(pair.Leaf.NotAfter) < soon {
			out = append(out, fmt.Sprintf("the certificate %s (%s) expires on %s", f.cert, name(pair.Leaf), day(pair.Leaf.NotAfter)))
		}
		if info, err := os.Stat(f.key); err == nil && info.Mode().Perm()&0o004 != 0 {
			out = append(out, fmt.Sprintf("the key %s can be read by everybody", f.key))
		}
	}
	lists, _ := f.revocations()
	for _, l := range lists {
		if !l.NextUpdate.IsZero() && time.Now().After(l.NextUpdate) {
			out = append(out, fmt.Sprintf("the list of revoked certificates %s of %s is out of date since %s; it is used as it is",
				f.crl, text(l.Issuer.String()), day(l.NextUpdate)))
		}
	}
	return out
}
