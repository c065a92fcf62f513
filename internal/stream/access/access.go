// Package access is how a carrier gets into a NATS server: where it is, who we are, TLS, proxies, and what it means when the server
// does not let us in.
//
// Everything that is in a file is read again at each connection, so that a password, a key or a certificate that was
// renewed counts without a restart.
package access

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/choria-io/prometheus-streams/internal/bounded"
)

// maxFile bounds a file with a seed or with credentials.
const maxFile = 64 << 10

// Access is one connection's way in. It is safe for concurrent use.
type Access struct {
	server  Server
	metrics *metrics
	key     string                    // the public key of NKeySeedFile at the start
	conn    atomic.Pointer[nats.Conn] // another one after nats.go gave it up

	handlers Handlers
	closing  atomic.Bool
	mu       sync.Mutex    // over replaced
	replaced chan struct{} // closed when there is another connection
}

// New checks who we are, and reads the files of credentials and seeds once, so that one that cannot be used is an error
// now.
func New(s Server) (*Access, error) {
	ways := 0
	for _, set := range []bool{s.UserInfo != nil, s.TokenSource != nil, s.CredentialsFile != "", s.NKeySeedFile != ""} {
		if set {
			ways++
		}
	}
	if ways > 1 {
		return nil, errors.New("more than one of user, token, credentials and nkey is set")
	}
	a := &Access{server: s, replaced: make(chan struct{})}
	var err error
	if s.NKeySeedFile != "" {
		a.key, err = publicKey(s.NKeySeedFile)
	}
	if s.CredentialsFile != "" {
		err = checkCredentials(s.CredentialsFile)
	}
	if err != nil {
		return nil, err
	}
	a.metrics, err = newMetrics(s.Registerer)
	return a, err
}

// nats are the settings that say who we are and how to get there, for a connection that will be in made.
func (a *Access) nats(made *atomic.Pointer[nats.Conn]) []nats.Option {
	o := &a.server
	var opts []nats.Option
	if o.UserInfo != nil {
		opts = append(opts, nats.UserInfoHandler(o.UserInfo))
	}
	if o.TokenSource != nil {
		opts = append(opts, nats.TokenHandler(o.TokenSource))
	}
	if o.CredentialsFile != "" {
		opts = append(opts, nats.UserCredentials(o.CredentialsFile))
	}
	dialer := o.Dialer
	if o.NKeySeedFile != "" {
		key := a.key
		if now, err := publicKey(o.NKeySeedFile); err == nil { // else sign says so
			key = now
		}
		opts = append(opts, nats.Nkey(key, a.sign))
		if dialer == nil {
			dialer = &net.Dialer{Timeout: o.RequestTimeout}
		}
		dialer = keyDialer{o.NKeySeedFile, made, dialer}
	}
	if dialer != nil {
		opts = append(opts, nats.SetCustomDialer(dialer))
	}
	if o.Dialer != nil {
		opts = append(opts, nats.SkipHostLookup())
	}
	if o.TLS != nil {
		opts = append(opts, nats.Secure(o.TLS))
	}
	if o.TLSRoots != nil {
		opts = append(opts, func(n *nats.Options) error {
			n.RootCAsCB = o.TLSRoots
			return nil
		})
	}
	if o.TLSFirst {
		opts = append(opts, nats.TLSHandshakeFirst())
	}
	return opts
}

// watch tells of each attempt to connect again that fails after the server was reached, for which nats.go has no handler,
// until the connection is closed.
func (a *Access) watch(nc *nats.Conn) {
	changes := nc.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	if nc.IsClosed() {
		return
	}
	go func() {
		for status := range changes {
			if status == nats.CLOSED {
				return
			}
			if err := nc.LastError(); err != nil {
				a.onFailed(err)
			}
		}
	}()
}

// keyDialer looks whether the seed has changed before each connection.
type keyDialer struct {
	file string
	made *atomic.Pointer[nats.Conn]
	Dialer
}

func (d keyDialer) Dial(network, address string) (net.Conn, error) {
	if nc := d.made.Load(); nc != nil {
		if key, err := publicKey(d.file); err == nil { // else sign says so
			nc.Opts.Nkey = key // nats.go holds its lock while it dials, and reads the key under it
		}
	}
	return d.Dialer.Dial(network, address)
}

func (a *Access) sign(nonce []byte) ([]byte, error) {
	pair, err := seed(a.server.NKeySeedFile)
	if err != nil {
		return nil, err
	}
	defer pair.Wipe()
	return pair.Sign(nonce)
}

// publicKey is the name of the user whose seed is in a file.
func publicKey(path string) (string, error) {
	pair, err := seed(path)
	if err != nil {
		return "", err
	}
	defer pair.Wipe()
	return pair.PublicKey()
}

func seed(path string) (nkeys.KeyPair, error) {
	data, err := bounded.ReadFile(path, maxFile)
	if err != nil {
		return nil, fmt.Errorf("reading nkey seed %s: %w", path, err)
	}
	defer clear(data)
	pair, err := nkeys.ParseDecoratedUserNKey(data)
	if err != nil {
		return nil, fmt.Errorf("reading nkey seed %s: no seed of a user (it begins with SU): %w", path, err)
	}
	return pair, nil
}

// checkCredentials tells whether a file holds what it should.
func checkCredentials(path string) error {
	data, err := bounded.ReadFile(path, maxFile)
	if err != nil {
		return fmt.Errorf("reading credentials %s: %w", path, err)
	}
	defer clear(data)
	if token, err := nkeys.ParseDecoratedJWT(data); err != nil || strings.Count(token, ".") != 2 {
		return fmt.Errorf("reading credentials %s: no user JWT in it", path)
	}
	pair, err := nkeys.ParseDecoratedUserNKey(data)
	if err != nil {
		return fmt.Errorf("reading credentials %s: no seed of a user in it: %w", path, err)
	}
	pair.Wipe()
	return nil
}

// expiry is when the rights of a file with credentials end; zero if they do not, or if that cannot be read.
func expiry(path string) time.Time {
	data, err := bounded.ReadFile(path, maxFile)
	if err != nil {
		return time.Time{}
	}
	defer clear(data)
	token, err := nkeys.ParseDecoratedJWT(data)
	if err != nil {
		return time.Time{}
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	var claims struct {
		Expires int64 `json:"exp"`
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(text, &claims) != nil || claims.Expires <= 0 {
		return time.Time{}
	}
	return time.Unix(claims.Expires, 0)
}
