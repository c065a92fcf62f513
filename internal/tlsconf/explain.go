package tlsconf

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Explain says what an error of a connection with these files means for who has configured them: what was refused, by whom,
// which files are about it, and what to do. It is "" if that is not known.
func (f *Files) Explain(err error) string {
	if wrong := (*tls.CertificateVerificationError)(nil); errors.As(err, &wrong) && len(wrong.UnverifiedCertificates) > 0 {
		return f.notVerified(wrong.UnverifiedCertificates[0], wrong.Err)
	}
	said := strings.ToLower(err.Error())
	has := func(any ...string) bool {
		return slices.ContainsFunc(any, func(s string) bool { return strings.Contains(said, s) })
	}
	switch {
	case f.cert == "" && has("certificate required", "bad certificate", "after tls handshake"):
		return "the server wants a certificate, and none is configured here: " + Wanted
	case f.cert != "" && has("certificate required", "bad certificate", "unknown certificate", "revoked certificate", "expired certificate",
		"unsupported certificate", "access denied", "after tls handshake"):
		return f.refused()
	}
	return ""
}

// Wanted is what there is to do where a server wants a certificate and there is none.
const Wanted = `set tls with the scheme puppet, identity and ssl_dir ("prometheus-streams enroll" gets a certificate from a Puppet CA), or with cert and key`

// notVerified is about a server's certificate that does not pass.
func (f *Files) notVerified(c *x509.Certificate, why error) string {
	server := fmt.Sprintf("the server's certificate (%s, issued by %s)", name(c), text(c.Issuer.String()))
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch now := time.Now(); {
	case errors.As(why, new(x509.UnknownAuthorityError)) && f.ca == "":
		return server + " is of none of our authorities, which are those of the operating system: set ca to the file with the authority of the server"
	case errors.As(why, new(x509.UnknownAuthorityError)) && f.identity != "":
		return fmt.Sprintf("%s is of none of our authorities in %s: either urls lead to a server of another Puppet CA than the one with which %q is enrolled, or ssl_dir is wrong",
			server, f.ca, f.identity)
	case errors.As(why, new(x509.UnknownAuthorityError)):
		return fmt.Sprintf("%s is of none of our authorities in %s: either urls lead to another server than the one that is meant, or ca is wrong", server, f.ca)
	case errors.As(why, &host):
		names := slices.Clone(c.DNSNames)
		for _, ip := range c.IPAddresses {
			names = append(names, ip.String())
		}
		return fmt.Sprintf("%s is not for %s, which stands in urls: it is for %s", server, text(host.Host), text(strings.Join(names, ", ")))
	case errors.As(why, &invalid) && invalid.Reason == x509.Expired && now.Before(c.NotBefore):
		return fmt.Sprintf("%s is not valid yet: it is from %s on, and our clock says %s", server, day(c.NotBefore), day(now))
	case errors.As(why, &invalid) && invalid.Reason == x509.Expired && now.After(c.NotAfter):
		return fmt.Sprintf("%s has expired on %s", server, day(c.NotAfter))
	}
	return ""
}

// refused is about a certificate of ours that the server does not take.
func (f *Files) refused() string {
	pair, err := f.pair()
	if err != nil {
		return bare(err).Error()
	}
	return fmt.Sprintf("the server does not take our certificate %s (%s, issued by %s, valid until %s): %s",
		f.cert, name(pair.Leaf), text(pair.Leaf.Issuer.String()), day(pair.Leaf.NotAfter), f.another())
}

// another is what to do for another certificate.
func (f *Files) another() string {
	if f.identity == "" {
		return "set cert and key to one of an authority that the server takes"
	}
	return fmt.Sprintf("if its authority is not that of the server, ssl_dir is wrong, or %q has to be enrolled anew: move %s and %s away, then %s", f.identity, f.ca, f.cert, f.enrol())
}

// enrol is the command that gets a certificate.
func (f *Files) enrol() string {
	return fmt.Sprintf(`"prometheus-streams enroll %s --ca HOST:8140 --dir %s"`, f.identity, f.dir)
}
