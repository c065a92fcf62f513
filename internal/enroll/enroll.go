// Package enroll obtains a certificate from a Puppet CA, as `puppet agent --waitforcert` does, and leaves the directory
// that Puppet 7 would leave: the one that the scheme puppet of tlsconf reads.
//
// It goes in this order, and each part leaves the directory such that the next run goes on from there: the certificates of
// the CA, its lists of revoked certificates, our key, our request, our certificate. What is in the directory and good stays;
// nothing is written before the CA has answered over a connection that its own certificates vouch for.
package enroll

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"time"

	"github.com/choria-io/prometheus-streams/internal/tlsconf"
)

// Forever is the Wait of Options without an end.
const Forever time.Duration = -1

// keyBits is what Puppet 7 makes.
const keyBits = 4096

// Options say who is to be enrolled, where, and why the CA is to be believed.
type Options struct {
	// Identity is the name of the certificate, in lower case.
	Identity string
	// CA is the host:port of the Puppet CA; without a port, 8140 is meant.
	CA string
	// Dir is the ssl directory. It is made if it is not there.
	Dir string
	// Fingerprint is the SHA-256, in hexadecimal digits with or without colons, of the CA's certificates as the CA serves
	// them in PEM form. "" is any.
	Fingerprint string
	// Bundle is a file with the certificates of the CA, "" for none. Without Fingerprint, Bundle and a ca.pem in Dir the CA
	// that answers first is believed.
	Bundle string
	// Wait is how long to try until the certificate is there: Forever, or 0 for one round.
	Wait time.Duration
	// Poll is the time between two rounds, more than 0.
	Poll time.Duration
	// Dial opens the connections to the CA, for proxies; nil is the network's own way.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Out is told what happens, a line each.
	Out io.Writer
}

// URL is where the CA is asked.
func (o *Options) URL() (*url.URL, error) {
	host, err := address(o.CA)
	return &url.URL{Scheme: "https", Host: host}, err
}

// Check says what is wrong with the options, as far as that shows without files and network.
func (o *Options) Check() error {
	if err := checkName(o.Identity); err != nil {
		return err
	}
	if _, err := address(o.CA); err != nil {
		return err
	}
	if _, err := parseFingerprint(o.Fingerprint); err != nil {
		return err
	}
	switch {
	case o.Dir == "":
		return errors.New("the directory for key and certificate is missing")
	case o.Poll <= 0:
		return fmt.Errorf("the time between two rounds has to be more than 0, not %s", o.Poll)
	}
	return nil
}

// enroller is one run.
type enroller struct {
	Options
	dir         *directory
	ca          *authority
	fingerprint string // wanted, in small digits; "" is any
	bits        int    // of a new key

	bundle []byte // the CA's certificates in PEM form
	trust  trust
	key    crypto.Signer
	// fresh: ca.pem is not in the directory yet.
	fresh bool

	begin  time.Time
	told   string // the last reason to wait
	toldAt time.Time
	sent   bool // our request
}

// Run enrols. It returns nil once the directory has a certificate that tlsconf takes, and otherwise says why not and, if
// somebody has to do something at the CA, what. After an error or a kill another run goes on with the same key.
func Run(ctx context.Context, o Options) error { return run(ctx, o, keyBits) }

func run(ctx context.Context, o Options, bits int) error {
	e, err := newEnroller(o, bits)
	if err != nil {
		return err
	}
	return e.run(ctx)
}

func newEnroller(o Options, bits int) (*enroller, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	e := &enroller{Options: o, bits: bits, begin: time.Now()}
	e.fingerprint, _ = parseFingerprint(o.Fingerprint)
	host, _ := address(o.CA)
	e.ca = newAuthority(host, o.Dial)
	return e, nil
}

func (e *enroller) run(ctx context.Context) (err error) {
	defer e.ca.close()
	if e.dir, err = openDirectory(e.Dir, e.Identity); err != nil {
		return err
	}
	defer e.dir.close()
	if done, err := e.resume(ctx); done || err != nil {
		return err
	}
	if err := e.again(ctx, e.meet); err != nil {
		return err
	}
	if err := e.loadKey(); err != nil {
		return err
	}
	if err := e.again(ctx, e.obtain); err != nil {
		return err
	}
	return e.seal()
}

// resume takes up what the directory has. It is done if that is all.
func (e *enroller) resume(ctx context.Context) (done bool, err error) {
	if err := e.loadTrust(); err != nil || e.fresh {
		return false, err
	}
	cert, err := e.local()
	if err != nil {
		e.say("%s", err)
		return false, nil
	}
	if cert == nil {
		return false, nil
	}
	if err := e.lists(ctx); err != nil {
		e.say("%s is not renewed: %s", e.dir.full(crlFile), err)
	} else if err := e.check(cert); err != nil {
		e.say("the certificate %s is of no use: %s", e.dir.full(e.dir.certificate()), err)
		return false, nil
	}
	e.dir.forget(e.dir.request())
	e.say("%s is enrolled already: %s is valid until %s", e.Identity, e.dir.full(e.dir.certificate()), day(cert.NotAfter))
	return true, e.seal()
}

// local is the certificate in the directory if it is good, nil if there is none, and an error that says why it is of no use.
func (e *enroller) local() (*x509.Certificate, error) {
	data, err := e.dir.read(e.dir.certificate(), maxCertificate)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	cert, err := parseCertificate(data)
	if err != nil {
		return nil, fmt.Errorf("the certificate %s is of no use: %w", e.dir.full(e.dir.certificate()), err)
	}
	key, err := e.dir.read(e.dir.key(), maxKey)
	if err == nil {
		e.key, err = parseKey(key)
	}
	if err == nil {
		err = e.check(cert)
	}
	if err != nil {
		return nil, fmt.Errorf("the certificate %s is of no use: %w", e.dir.full(e.dir.certificate()), err)
	}
	return cert, nil
}

// again tries until there is an answer that waiting does not change, or the time is up.
func (e *enroller) again(ctx context.Context, try func(context.Context) error) error {
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("stopped: %s is not enrolled; the same command goes on from here", e.Identity)
		}
		var later *laterError
		if !errors.As(err, &later) {
			return err
		}
		pause := e.Poll
		if e.Wait != Forever {
			if pause = min(pause, time.Until(e.begin.Add(e.Wait))); pause <= 0 {
				return fmt.Errorf("after %s %s is not enrolled: %w; the same command goes on from here", since(e.begin), e.Identity, later.err)
			}
		}
		e.waits(later.err.Error())
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// reminder is how often we say that we wait still.
const reminder = time.Minute

// waits tells why we wait: when that changes, and now and then.
func (e *enroller) waits(reason string) {
	switch {
	case reason != e.told:
		e.say("%s; asking again every %s", reason, e.Poll)
	case time.Since(e.toldAt) >= reminder:
		e.say("still waiting after %s: %s", since(e.begin), reason)
	default:
		return
	}
	e.told, e.toldAt = reason, time.Now()
}

// seal looks at the directory as those will that use it.
func (e *enroller) seal() error {
	files, err := tlsconf.New(tlsconf.Options{Scheme: tlsconf.Puppet, Identity: e.Identity, SSLDir: e.Dir})
	if err == nil {
		_, err = files.Config()
	}
	if err != nil {
		return fmt.Errorf("the directory is complete, and yet of no use: %w", err)
	}
	return nil
}

func (e *enroller) say(format string, args ...any) { _, _ = fmt.Fprintf(e.Out, format+"\n", args...) }

func since(t time.Time) time.Duration { return time.Since(t).Round(time.Second) }

func day(t time.Time) string { return t.UTC().Format(time.RFC3339) }
