package access

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// Failed adds to the error of an attempt to connect what it means for the configuration, if that is known.
func (a *Access) Failed(err error) error {
	if hint := a.silence(err); hint != "" {
		return &explained{hint: hint, err: err}
	}
	return a.Lost(err)
}

// Lost is Failed for the error with which a connection ended.
func (a *Access) Lost(err error) error {
	if hint := a.hint(err); hint != "" {
		return &explained{hint: hint, err: err}
	}
	return err
}

// explained is an error with its meaning.
type explained struct {
	hint string
	err  error
}

func (e *explained) Error() string { return e.err.Error() + ": " + e.hint }

func (e *explained) Unwrap() error { return e.err }

func (a *Access) hint(err error) string {
	text := strings.ToLower(err.Error())
	has := func(part string) bool { return strings.Contains(text, part) }
	meaning := ""
	if a.server.TLSMeaning != nil {
		meaning = a.server.TLSMeaning(err)
	}
	switch {
	case errors.As(err, new(*explained)):
	case meaning != "":
		return meaning
	case has("authorization violation"):
		return "the server does not accept " + a.who()
	case has("authentication expired"):
		return "the rights of " + a.who() + " have expired"
	case has("authentication revoked"):
		return a.who() + " was revoked"
	case errors.Is(err, nats.ErrNkeysNotSupported):
		return "the server knows no nkeys, and " + a.who() + " needs them"
	case errors.Is(err, nats.ErrSecureConnWanted):
		return "tls is configured and the server offers none"
	case has("first record does not look like a tls handshake") && a.server.TLSFirst:
		return "what answers there does not begin with TLS: set no tls_first, or handshake_first at the server"
	case has("first record does not look like a tls handshake"):
		return "what answers there does not speak TLS"
	case has("certificate required"), has("after tls handshake") && (a.server.TLS == nil || a.server.TLS.GetClientCertificate == nil):
		return "the server wants a certificate, and no tls is configured here: set tls with the scheme puppet, identity and ssl_dir, or with ca, cert and key"
	case has("after tls handshake"):
		return "the server does not take our certificate (cert), or wants something else"
	case has("signed by unknown authority"):
		return "the server's certificate is of none of our authorities, which are those of the operating system: set tls with ca, or with the scheme puppet"
	case has("unknown certificate authority") || has("bad certificate"):
		return "the server does not take our certificate (cert)"
	case has("invalid websocket connection") || has("malformed http"):
		return "what answers there is no websocket of NATS: ws:// and wss:// have a port of their own"
	}
	return ""
}

// silence is what it means that a connection was made and nothing came.
func (a *Access) silence(err error) string {
	var op *net.OpError
	switch {
	case errors.As(err, new(*explained)):
	case !errors.Is(err, io.EOF) && !(errors.As(err, &op) && op.Op == "read" && op.Timeout()):
	case a.server.TLSFirst:
		return "the server was reached and says nothing"
	default:
		return "the server was reached and says nothing: it may want TLS first (tls_first: true), or the port is not that of nats:// and tls://"
	}
	return ""
}

// who is what the server is told of us, without secrets.
func (a *Access) who() string {
	o := &a.server
	switch {
	case o.UserInfo != nil:
		user, _ := o.UserInfo()
		return fmt.Sprintf("the user %q with its password", user)
	case o.TokenSource != nil:
		return "the token"
	case o.CredentialsFile != "":
		if end := expiry(o.CredentialsFile); !end.IsZero() && time.Now().After(end) {
			return fmt.Sprintf("the credentials in %s, which have expired on %s", o.CredentialsFile, end.UTC().Format(time.RFC3339))
		}
		return "the credentials in " + o.CredentialsFile
	case o.NKeySeedFile != "":
		return "the nkey in " + o.NKeySeedFile
	case o.inURL():
		return "the user or the token in urls"
	case o.TLS != nil:
		return "a client with a certificate at most: no user, token, credentials or nkey is configured"
	}
	return "a client that does not say who it is: no user, token, credentials or nkey is configured"
}
