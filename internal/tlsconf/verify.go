package tlsconf

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
)

// clientCertificate is our certificate, if the server takes one of its issuer. Go would send none otherwise, and the
// server would only close the connection.
func (f *Files) clientCertificate(asked *tls.CertificateRequestInfo) (*tls.Certificate, error) {
	pair, err := f.pair()
	if err != nil {
		return nil, err
	}
	if err := asked.SupportsCertificate(pair); err != nil {
		return nil, fmt.Errorf("tls: the server does not take our certificate %s (%s, issued by %s): %w%s: %s",
			f.cert, name(pair.Leaf), text(pair.Leaf.Issuer.String()), bare(err), accepted(asked.AcceptableCAs), f.another())
	}
	return pair, nil
}

// accepted names the authorities whose certificates a server takes.
func accepted(cas [][]byte) string {
	const most = 5
	var names []string
	for _, raw := range cas {
		var sequence pkix.RDNSequence
		if rest, err := asn1.Unmarshal(raw, &sequence); err != nil || len(rest) > 0 {
			continue
		}
		if len(names) == most {
			names = append(names, "…")
			break
		}
		names = append(names, text(sequence.String()))
	}
	if names == nil {
		return ""
	}
	return "; it takes those of " + strings.Join(names, ", ")
}

// revocations are the lists of revoked certificates; none if there is no file.
func (f *Files) revocations() ([]*x509.RevocationList, error) {
	if f.crl == "" {
		return nil, nil
	}
	data, err := f.read(f.crl, maxCRL)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []*x509.RevocationList
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "X509 CRL" {
			continue
		}
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("tls: %s: list %d: %w", f.crl, len(out)+1, err)
		}
		out = append(out, list)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("tls: %s has no list of revoked certificates in PEM form", f.crl)
	}
	return out, nil
}

// verify is asked once the server's certificate has passed everything else: its chain, its dates and its name.
func (f *Files) verify(s tls.ConnectionState) error {
	lists, err := f.revocations()
	if err != nil || lists == nil {
		return err
	}
	err = errors.New("tls: the server's certificate was not verified")
	for _, chain := range s.VerifiedChains {
		if err = f.checkRevoked(chain, lists); err == nil {
			return nil
		}
	}
	return err
}

// checkRevoked looks each certificate of a chain up in the list of its issuer, which the next in the chain is. There has
// to be one for the server's own certificate.
func (f *Files) checkRevoked(chain []*x509.Certificate, lists []*x509.RevocationList) error {
	for i, c := range chain[:len(chain)-1] {
		known := false
		for _, l := range lists {
			if l.CheckSignatureFrom(chain[i+1]) != nil {
				continue
			}
			known = true
			for _, e := range l.RevokedCertificateEntries {
				if e.SerialNumber.Cmp(c.SerialNumber) == 0 {
					return fmt.Errorf("tls: the server's certificate (%s, serial %d) was revoked on %s, says %s", name(c), c.SerialNumber, day(e.RevocationTime), f.crl)
				}
			}
		}
		if !known && i == 0 {
			return fmt.Errorf("tls: %s has no list of %s, who issued the server's certificate (%s)", f.crl, name(chain[1]), name(c))
		}
	}
	return nil
}
