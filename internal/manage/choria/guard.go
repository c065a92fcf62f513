package choria

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/choria-io/go-choria/choria"
	"github.com/choria-io/go-choria/inter"
	"github.com/choria-io/go-choria/protocol"
	v1 "github.com/choria-io/go-choria/protocol/v1"

	"github.com/choria-io/prometheus-streams/internal/bounded"
)

// maxCertificate bounds the certificates in a request, in bytes.
const maxCertificate = 64 << 10

// guard stands between the network and go-choria. It does two things that go-choria 0.29.4 does not. A request that makes it
// panic is a bad request: a certificate with an ECDSA key does, for one, and needs no key to be sent. And the certificate
// in a request is checked again: go-choria takes a block that is not called CERTIFICATE for verified, whoever issued it, and
// the name of a caller for all up to the first odd character. Who may not even look gets no answer: filters would tell him
// the facts. A guard serves one instance.
type guard struct {
	*choria.Framework
	access access
	// authorities is the file with those of callers; empty if requests are not signed.
	authorities string
	source      protocol.ServerInfoSource
}

// watch says what filters are tried against; it comes before any request.
func (g *guard) watch(s protocol.ServerInfoSource) { g.source = s }

// try turns a panic into an error.
func try[T any](f func() (T, error)) (v T, err error) {
	defer func() {
		if r := recover(); r != nil {
			var none T
			v, err = none, fmt.Errorf("invalid request: %v", r)
		}
	}()
	return f()
}

// NewTransportFromJSON implements inter.ProtocolConstructor.
func (g *guard) NewTransportFromJSON(data []byte) (protocol.TransportMessage, error) {
	return try(func() (protocol.TransportMessage, error) { return g.Framework.NewTransportFromJSON(data) })
}

// NewSecureRequestFromTransport implements inter.ProtocolConstructor.
func (g *guard) NewSecureRequestFromTransport(t protocol.TransportMessage, skip bool) (protocol.SecureRequest, error) {
	return try(func() (protocol.SecureRequest, error) {
		r, err := g.Framework.NewSecureRequestFromTransport(t, true)
		if err != nil {
			return nil, err
		}
		signed, ok := r.(*v1.SecureRequest)
		if !ok {
			return nil, errors.New("invalid request: not of version 1 of the protocol")
		}
		if g.authorities == "" {
			return r, nil
		}
		request, err := g.Framework.NewRequestFromSecureRequest(r)
		if err != nil {
			return nil, err
		}
		if err := g.verify(signed.PublicCertificate, request.CallerID()); err != nil {
			return nil, fmt.Errorf("invalid request: %w", err)
		}
		return g.Framework.NewSecureRequestFromTransport(t, skip)
	})
}

// NewRequestFromSecureRequest implements inter.ProtocolConstructor. It tries the request's filter too, which go-choria
// evaluates next and where nobody would catch a panic.
func (g *guard) NewRequestFromSecureRequest(sr protocol.SecureRequest) (protocol.Request, error) {
	return try(func() (protocol.Request, error) {
		r, err := g.Framework.NewRequestFromSecureRequest(sr)
		if err != nil {
			return nil, err
		}
		if !g.access.allows(r.CallerID(), false) {
			return nil, fmt.Errorf("%.100q is not in management.auth", r.CallerID())
		}
		f, _ := r.Filter()
		f.MatchServerRequest(r, g.source, g.Logger("guard"))
		return r, nil
	})
}

// NewMessageFromRequest implements inter.ProtocolConstructor.
func (g *guard) NewMessageFromRequest(r protocol.Request, replyTo string) (inter.Message, error) {
	return try(func() (inter.Message, error) { return g.Framework.NewMessageFromRequest(r, replyTo) })
}

// caller is the name in a caller's id, empty if it is not one.
func caller(id string) string {
	if m := regexp.MustCompile(`^choria=([A-Za-z0-9_.-]+)$`).FindStringSubmatch(id); m != nil {
		return m[1]
	}
	return ""
}

// maxAuthorities bounds what is read of the file with authorities.
const maxAuthorities = 1 << 20

// verify tells whether a certificate is of our authorities and allows its owner to call with that id. Those that Choria
// calls privileged may sign for others.
func (g *guard) verify(text, id string) error {
	name := caller(id)
	if name == "" {
		return fmt.Errorf("caller %.100q has no certificate's name", id)
	}
	chain, err := certificates(text)
	if err != nil {
		return err
	}
	leaf := chain[0]
	if _, ok := leaf.PublicKey.(*rsa.PublicKey); !ok {
		return fmt.Errorf("the certificate of %s has a key of type %s, only RSA can sign requests", name, leaf.PublicKeyAlgorithm)
	}
	roots := x509.NewCertPool()
	data, err := bounded.ReadFile(g.authorities, maxAuthorities)
	if err != nil {
		return err
	}
	if !roots.AppendCertsFromPEM(data) {
		return fmt.Errorf("no certificate of an authority in %s", g.authorities)
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return fmt.Errorf("the certificate of %s: %w", name, err)
	}
	names := append([]string{leaf.Subject.CommonName}, leaf.DNSNames...)
	if slices.Contains(names, name) {
		return nil
	}
	privileged := func(n string) bool {
		return strings.HasSuffix(n, ".privileged.mcollective") || strings.HasSuffix(n, ".privileged.choria")
	}
	if slices.ContainsFunc(names, privileged) {
		return nil
	}
	return fmt.Errorf("the certificate is not that of %s", name)
}

// certificates are those in PEM data, which must hold nothing else, at least one.
func certificates(text string) ([]*x509.Certificate, error) {
	if len(text) > maxCertificate {
		return nil, fmt.Errorf("the certificate has %d bytes, more than %d", len(text), maxCertificate)
	}
	var out []*x509.Certificate
	for rest := []byte(strings.TrimSpace(text)); len(rest) > 0; {
		if !strings.HasPrefix(string(rest), "-----BEGIN CERTIFICATE-----") {
			return nil, errors.New("there is something else than certificates where the caller's belongs")
		}
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" || len(block.Headers) > 0 {
			return nil, errors.New("the certificate is not in PEM form")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("the certificate: %w", err)
		}
		out, rest = append(out, c), []byte(strings.TrimSpace(string(rest)))
	}
	if len(out) == 0 {
		return nil, errors.New("no certificate")
	}
	return out, nil
}
