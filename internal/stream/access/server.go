package access

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
)

// Dialer opens network connections, for proxies.
type Dialer interface {
	Dial(network, address string) (net.Conn, error)
}

// InProcess gives connections to a server in this process; embedded.Server is one.
type InProcess interface {
	InProcessConn() (net.Conn, error)
}

// Server says where a NATS server is, who we are there, and how long it may take. Carriers have it in their options.
type Server struct {
	// URLs of the servers, each of which may itself be a comma separated list. Not needed with InProcess.
	URLs []string
	// InProcess, if set, is used instead of the network.
	InProcess InProcess
	// Name of the client as the server shows it, and the label `connection` of the metrics.
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
	// TLSMeaning, if set, says what an error of TLS means for the configuration of TLS, or "".
	TLSMeaning func(error) string
	// Dialer, if set, opens the connections; names are then not looked up here.
	Dialer Dialer

	// InboxPrefix is where answers come to; "_INBOX" if empty.
	InboxPrefix string
	// Optional is how subjects begin that nobody relies on: that the server denies one is a line of debugging and no more.
	Optional string

	// RequestTimeout bounds each request (5 s) and PublishTimeout each publish (10 s).
	RequestTimeout, PublishTimeout time.Duration
	// PingInterval is how often a silent connection is checked (5 s); it is given up after two pings without an answer.
	PingInterval time.Duration
	// ReconnectWait is the pause between attempts to connect (1 s, and up to as much again at random).
	ReconnectWait time.Duration

	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// SetDefaults fills what is missing.
func (s *Server) SetDefaults() error {
	if s.Name == "" {
		s.Name = "prometheus-streams"
	}
	for _, v := range []struct {
		d    *time.Duration
		want time.Duration
	}{{&s.RequestTimeout, 5 * time.Second}, {&s.PublishTimeout, 10 * time.Second}, {&s.PingInterval, 5 * time.Second}, {&s.ReconnectWait, time.Second}} {
		if *v.d <= 0 {
			*v.d = v.want
		}
	}
	if s.Logger == nil {
		s.Logger = slog.New(slog.DiscardHandler)
	}
	if s.InProcess == nil && len(s.servers()) == 0 {
		return errors.New("no server URLs")
	}
	return nil
}

func (s *Server) servers() []string {
	var out []string
	for _, list := range s.URLs {
		for u := range strings.SplitSeq(list, ",") {
			if u = strings.TrimSpace(u); u != "" {
				out = append(out, u)
			}
		}
	}
	return out
}

var userInfo = regexp.MustCompile(`^([a-z]+://)?[^@/]*@`)

// inURL tells that the URLs name a user or a token.
func (s *Server) inURL() bool { return slices.ContainsFunc(s.servers(), userInfo.MatchString) }

// Shown is where the servers are, without users and passwords.
func (s *Server) Shown() string {
	if s.InProcess != nil {
		return "in process"
	}
	out := s.servers()
	for i, u := range out {
		out[i] = userInfo.ReplaceAllString(u, "$1")
	}
	return strings.Join(out, ",")
}

// Connected is the URL of the server that a connection is made to, without users, passwords and tokens.
func Connected(nc *nats.Conn) string { return userInfo.ReplaceAllString(nc.ConnectedUrl(), "$1") }

// nats are the settings of the connection: it retries for ever, keeps nothing back while it is down (the spool does),
// and notices a dead link soon.
func (s *Server) nats() []nats.Option {
	opts := []nats.Option{
		nats.Name(s.Name),
		nats.Timeout(s.RequestTimeout),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(s.ReconnectWait),
		nats.ReconnectJitter(s.ReconnectWait, s.ReconnectWait),
		nats.ReconnectBufSize(-1),
		nats.PingInterval(s.PingInterval),
		nats.MaxPingsOutstanding(2),
		nats.FlusherTimeout(s.PublishTimeout),
		nats.IgnoreAuthErrorAbort(), // rights may be mended while we try
	}
	if s.InboxPrefix != "" {
		opts = append(opts, nats.CustomInboxPrefix(s.InboxPrefix))
	}
	if s.InProcess != nil {
		opts = append(opts, nats.InProcessServer(s.InProcess))
	}
	return opts
}
