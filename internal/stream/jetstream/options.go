package jetstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/choria-io/prometheus-streams/internal/stream/access"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
)

// InProcess gives connections to a server in this process; embedded.Server is one.
type InProcess interface {
	InProcessConn() (net.Conn, error)
}

// Dialer opens network connections, for proxies.
type Dialer interface {
	Dial(network, address string) (net.Conn, error)
}

// Options say where NATS is, who we are, and which streams are meant.
type Options struct {
	// URLs of the servers, each of which may itself be a comma separated list. Not needed with InProcess.
	URLs []string
	// InProcess, if set, is used instead of the network.
	InProcess InProcess
	// Name of the client as the server shows it, and the label `connection` of the metrics.
	Name string

	// At most one way of saying who we are. Files are read again on every connect.
	User, Password  string
	Token           string
	CredentialsFile string
	NKeySeedFile    string
	// UserInfo and TokenSource, if set, are asked on every connect instead of User, Password and Token.
	UserInfo    func() (user, password string)
	TokenSource func() string

	// TLS, if set, makes TLS mandatory.
	TLS *tls.Config
	// TLSFirst starts TLS before the server speaks.
	TLSFirst bool
	// TLSRoots, if set, is asked on every connect for the authorities, instead of those of TLS; with an error there is no connection.
	TLSRoots func() (*x509.CertPool, error)
	// Dialer, if set, opens the connections; names are then not looked up here.
	Dialer Dialer

	// InboxPrefix is where answers come to; "_INBOX" if empty.
	InboxPrefix string
	// Optional is how subjects begin that nobody relies on: that the server denies one is a line of debugging and no more.
	Optional string
	// Domain is the JetStream domain; empty for the account's own.
	Domain string

	// Topic is the start of all subjects.
	Topic string
	// Stream is the name of the frames' stream; StreamName(Topic) if empty.
	Stream string
	// SchemasStream is the registry's; SchemasName(Stream) if empty.
	SchemasStream string
	// Filter for subjects of frames that a Consumer, Follower or Read uses unless told otherwise; all of the topic's if empty.
	Filter string

	// RequestTimeout bounds each request (5 s) and PublishTimeout each publish (10 s).
	RequestTimeout, PublishTimeout time.Duration
	// PingInterval is how often a silent connection is checked (5 s); it is given up after two pings without an answer.
	PingInterval time.Duration
	// ReconnectWait is the pause between attempts to connect (1 s, and up to as much again at random).
	ReconnectWait time.Duration

	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// StreamName is the name of the frames' stream of a topic if none is configured: the topic in capitals, with all but
// letters, digits and - made _.
func StreamName(topic string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-', r == '_':
			return r
		}
		return '_'
	}, topic)
}

// SchemasName is the name of the registry's stream beside a frames' stream.
func SchemasName(frames string) string { return frames + "_SCHEMAS" }

func (o *Options) setDefaults() error {
	if o.Topic == "" && (o.Stream == "" || o.Filter == "") {
		return errors.New("topic is empty")
	}
	if o.Stream == "" {
		o.Stream = StreamName(o.Topic)
	}
	if o.SchemasStream == "" {
		o.SchemasStream = SchemasName(o.Stream)
	}
	for _, name := range []string{o.Stream, o.SchemasStream} {
		if err := checkName("stream", name); err != nil {
			return err
		}
	}
	if o.Filter == "" {
		o.Filter = stream.Subjects{Topic: o.Topic}.AllFrames()
	}
	if o.Name == "" {
		o.Name = "prometheus-streams"
	}
	defaults := []struct {
		d    *time.Duration
		want time.Duration
	}{{&o.RequestTimeout, 5 * time.Second}, {&o.PublishTimeout, 10 * time.Second}, {&o.PingInterval, 5 * time.Second}, {&o.ReconnectWait, time.Second}}
	for _, v := range defaults {
		if *v.d <= 0 {
			*v.d = v.want
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.InProcess == nil && len(o.servers()) == 0 {
		return errors.New("no server URLs")
	}
	return nil
}

// checkName refuses what cannot be a name of a stream or consumer, before it becomes part of a subject.
func checkName(kind, name string) error {
	if name == "" {
		return fmt.Errorf("%s name is empty", kind)
	}
	if i := strings.IndexFunc(name, func(r rune) bool { return r <= ' ' || strings.ContainsRune(".*>/\\\x7f", r) }); i >= 0 {
		return fmt.Errorf("%s name %q has a character that is not allowed at byte %d", kind, name, i)
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

// natsOptions are the connection's settings: it retries for ever, keeps nothing back while it is down (the spool does),
// and notices a dead link soon.
func (o *Options) natsOptions(way *access.Access) []nats.Option {
	opts := []nats.Option{
		nats.Name(o.Name),
		nats.Timeout(o.RequestTimeout),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(o.ReconnectWait),
		nats.ReconnectJitter(o.ReconnectWait, o.ReconnectWait),
		nats.ReconnectBufSize(-1),
		nats.PingInterval(o.PingInterval),
		nats.MaxPingsOutstanding(2),
		nats.FlusherTimeout(o.PublishTimeout),
		nats.IgnoreAuthErrorAbort(), // rights may be mended while we try
	}
	if o.InboxPrefix != "" {
		opts = append(opts, nats.CustomInboxPrefix(o.InboxPrefix))
	}
	if o.InProcess != nil {
		opts = append(opts, nats.InProcessServer(o.InProcess))
	}
	return append(opts, way.NATS()...)
}

// access is the way into the server.
func (o *Options) access() (*access.Access, error) {
	a := access.Options{
		UserInfo: o.UserInfo, TokenSource: o.TokenSource, CredentialsFile: o.CredentialsFile, NKeySeedFile: o.NKeySeedFile,
		InURL: slices.ContainsFunc(o.servers(), userInfo.MatchString),
		TLS:   o.TLS, TLSFirst: o.TLSFirst, TLSRoots: o.TLSRoots, Timeout: o.RequestTimeout,
	}
	if o.Dialer != nil {
		a.Dialer = o.Dialer
	}
	if o.UserInfo == nil && o.User != "" {
		a.UserInfo = func() (string, string) { return o.User, o.Password }
	}
	if o.TokenSource == nil && o.Token != "" {
		a.TokenSource = func() string { return o.Token }
	}
	return access.New(a)
}
