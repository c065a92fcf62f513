package streaming

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"strings"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream/access"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
)

// Dialer opens network connections, for proxies.
type Dialer interface {
	Dial(network, address string) (net.Conn, error)
}

// Options say where the NATS Streaming server is, and who we are.
type Options struct {
	// URLs of the servers, each of which may itself be a comma separated list.
	URLs []string
	// ClusterID of the server and our ClientID there: letters, digits, - and _. Nobody else may use the client id at the
	// same time.
	ClusterID, ClientID string
	// Topic is the one subject of all messages.
	Topic string
	// Name of the client as NATS shows it, and the label `connection` of the metrics.
	Name string

	// At most one way of saying who we are. Files are read, and functions are asked, at each connection.
	UserInfo        func() (user, password string)
	TokenSource     func() string
	CredentialsFile string
	NKeySeedFile    string

	// TLS, if set, makes TLS mandatory; TLSFirst starts it before the server speaks.
	TLS      *tls.Config
	TLSFirst bool
	// TLSRoots, if set, is asked on every connect for the authorities, instead of those of TLS; with an error there is no connection.
	TLSRoots func() (*x509.CertPool, error)
	// Dialer, if set, opens the connections; names are then not looked up here.
	Dialer Dialer

	// Optional is how subjects begin that nobody relies on: that the server denies one is a line of debugging and no more.
	Optional string

	// RequestTimeout bounds each request (5 s) and PublishTimeout each publish (10 s).
	RequestTimeout, PublishTimeout time.Duration
	// PingInterval is how often a silent connection is checked (3 s, whole seconds); it is given up after three pings
	// without an answer.
	PingInterval time.Duration
	// ReconnectWait is the pause between attempts to connect (1 s, growing to ten times that).
	ReconnectWait time.Duration

	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

func (o *Options) setDefaults() error {
	legal := regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	switch {
	case len(o.servers()) == 0:
		return errors.New("no server URLs")
	case !legal.MatchString(o.ClusterID):
		return fmt.Errorf("illegal cluster id %q: only letters, digits, - and _ are allowed", o.ClusterID)
	case !legal.MatchString(o.ClientID):
		return fmt.Errorf("illegal client id %q: only letters, digits, - and _ are allowed", o.ClientID)
	case o.Topic == "" || strings.ContainsAny(o.Topic, "*> \t\r\n"):
		return fmt.Errorf("illegal topic %q", o.Topic)
	}
	if o.Name == "" {
		o.Name = o.ClientID
	}
	for _, v := range []struct {
		d    *time.Duration
		want time.Duration
	}{{&o.RequestTimeout, 5 * time.Second}, {&o.PublishTimeout, 10 * time.Second}, {&o.PingInterval, 3 * time.Second}, {&o.ReconnectWait, time.Second}} {
		if *v.d <= 0 {
			*v.d = v.want
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

func (o *Options) servers() []string {
	var out []string
	for _, list := range o.URLs {
		for u := range strings.SplitSeq(list, ",") {
			if u = strings.TrimSpace(u); u != "" {
				out = append(out, u)
			}
		}
	}
	return out
}

// pings is PingInterval as stan.go wants it.
func (o *Options) pings() int { return max(1, int(o.PingInterval/time.Second)) }

// natsOptions are the settings of the connection below: it retries for ever, keeps nothing back while it is down (the
// spool does), and notices a dead link soon.
func (o *Options) natsOptions(way *access.Access) []nats.Option {
	opts := []nats.Option{
		nats.Name(o.Name),
		nats.Timeout(o.RequestTimeout),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(o.ReconnectWait),
		nats.ReconnectJitter(o.ReconnectWait, o.ReconnectWait),
		nats.ReconnectBufSize(-1),
		nats.PingInterval(5 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.FlusherTimeout(o.PublishTimeout),
		nats.IgnoreAuthErrorAbort(), // rights may be mended while we try
	}
	return append(opts, way.NATS()...)
}

// access is the way into the server.
func (o *Options) access() (*access.Access, error) {
	a := access.Options{
		UserInfo: o.UserInfo, TokenSource: o.TokenSource, CredentialsFile: o.CredentialsFile, NKeySeedFile: o.NKeySeedFile,
		InURL: strings.Contains(strings.Join(o.servers(), ""), "@"),
		TLS:   o.TLS, TLSFirst: o.TLSFirst, TLSRoots: o.TLSRoots, Timeout: o.RequestTimeout,
	}
	if o.Dialer != nil {
		a.Dialer = o.Dialer
	}
	return access.New(a)
}
