// Package choria lets a Choria network manage this process: an embedded Choria server with the agents prometheus_streams,
// rpcutil, choria_util and discovery, and backplane where version 1.0 had it. All they do is ask a manage.Breaker, read
// facts, and answer.
//
// go-choria stays in this room. It is a framework that was made to be the whole process: it keeps globals (whether requests
// are signed, the version in its answers, the standard logger of logrus), so a process has one Server, and it can be made to
// panic by a request. Here is what keeps that from the rest of the process: every request passes guard before go-choria
// believes it and gate before an agent sees it, its log lines pass a bound, and Run never holds up the process' end.
package choria

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/choria-io/go-choria/build"
	"github.com/choria-io/go-choria/choria"
	"github.com/choria-io/go-choria/config"
	"github.com/sirupsen/logrus"

	"github.com/choria-io/prometheus-streams/internal/manage"
)

// How long things take at most.
const (
	factsEvery = 10 * time.Minute
	// closeAfter is when a connection that does not flush is cut at the end, stopAfter when nothing is awaited any more.
	closeAfter = time.Second
	stopAfter  = 1500 * time.Millisecond
	retryAfter = 10 * time.Second
)

// The schemes of TLS.
const (
	Puppet = "puppet"
	Manual = "manual"
)

// TLS says which certificates the server shows and whose it believes: of the directory of a Puppet agent, or of three files.
// Callers sign their requests with RSA keys; the protocol knows no other.
type TLS struct {
	Scheme string
	// Identity is the name in our certificate.
	Identity string
	// SSLDir is for Puppet.
	SSLDir string
	// CA, Cert and Key are for Manual.
	CA, Cert, Key string
}

// ca is the file with the authorities.
func (t *TLS) ca() string {
	if t.Scheme == Puppet {
		return filepath.Join(t.SSLDir, "certs", "ca.pem")
	}
	return t.CA
}

// Facts are what only the caller of New knows.
type Facts struct {
	// Config is the running configuration as JSON shows it, with secrets masked: it is shown to everybody who may read.
	Config any
	// Jobs are the names of the jobs.
	Jobs []string
}

// Config is what a Server needs.
type Config struct {
	// Identity is the name on the network, Collective the part of it to be in.
	Identity, Collective string
	// Name of version 1.0: with one, the server is also in the collective NAME_backplane, with the agent backplane.
	Name string
	// Brokers are host:port.
	Brokers []string
	// TLS may be nil: then callers are whoever they say, and a Choria broker lets nobody in.
	TLS *TLS
	// Auth may be nil: every caller may do everything.
	Auth *Auth
	// Facts is asked at each change and every ten minutes. It must not ask the breaker for a change.
	Facts func() Facts

	Logger *slog.Logger
	// ChoriaLogger is told what go-choria says from Level on: debug, info, warn or error. Without it Logger is. Without a level
	// go-choria's information is logged as ours of level debug: there is a line for each request.
	ChoriaLogger *slog.Logger
	Level        string
}

// Server is an embedded Choria server.
type Server struct {
	cfg     Config
	breaker *manage.Breaker
	access  access
	log     *slog.Logger
	logger  *logrus.Logger
	dir     string // private: the generated configuration and the facts
	choria  *config.Config
	fw      *choria.Framework

	factsMu sync.Mutex
	close   sync.Once
}

var (
	errBrokers = errors.New("no brokers")
	errAuth    = errors.New("auth names callers, and without tls anybody can claim any name: set tls, or auth: {insecure: true}")
)

// New checks the configuration and prepares a server; it connects to nothing. Run or Close must follow.
func New(c Config, b *manage.Breaker) (*Server, error) {
	s, err := newServer(c, b)
	if err != nil {
		return nil, fmt.Errorf("management: %w", err)
	}
	return s, nil
}

func newServer(c Config, b *manage.Breaker) (*Server, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	a, err := newAccess(c.Auth)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: c, breaker: b, access: a, log: c.Logger}
	if s.logger, err = newLogger(cmp.Or(c.ChoriaLogger, c.Logger), c.Level); err != nil {
		return nil, err
	}
	if s.dir, err = os.MkdirTemp("", "prometheus-streams-management-"); err != nil { // 0700
		return nil, fmt.Errorf("make a private directory: %w", err)
	}
	if err := s.prepare(); err != nil {
		s.Close()
		return nil, err
	}
	b.OnChange(func(manage.Status) { s.Refresh() })
	return s, nil
}

// check finds what would break go-choria's own configuration, its subjects, or the promise of who may do what.
func (c *Config) check() error {
	word := regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	if !word.MatchString(c.Identity) {
		return fmt.Errorf("identity %q: letters, digits, dots, dashes and underscores only", c.Identity)
	}
	if !word.MatchString(c.Collective) {
		return fmt.Errorf("collective %q: letters, digits, dots, dashes and underscores only", c.Collective)
	}
	if c.Name != "" && !word.MatchString(c.Name) {
		return fmt.Errorf("name %q: letters, digits, dots, dashes and underscores only", c.Name)
	}
	if len(c.Brokers) == 0 {
		return errBrokers
	}
	if c.TLS == nil {
		if c.Auth != nil && !c.Auth.Insecure && len(c.Auth.Full)+len(c.Auth.ReadOnly) > 0 {
			return errAuth
		}
		return nil
	}
	if !word.MatchString(c.TLS.Identity) {
		return fmt.Errorf("tls: identity %q: letters, digits, dots, dashes and underscores only", c.TLS.Identity)
	}
	if c.TLS.Scheme == Manual && (c.TLS.CA == "" || c.TLS.Cert == "" || c.TLS.Key == "") {
		return errors.New("tls: ca, cert and key are all needed for management")
	}
	return nil
}

// collectives are those that the server is in, the main one first.
func (c *Config) collectives() []string {
	all := []string{c.Collective}
	if c.Name != "" {
		all = append(all, c.Name+"_backplane")
	}
	return slices.Compact(all)
}

// prepare makes go-choria's configuration and framework, and the first facts.
func (s *Server) prepare() error {
	c, err := s.choriaConfig()
	if err != nil {
		return err
	}
	build.Version = s.breaker.Status().Version // in events and in the answers of rpcutil
	takeStandardLogger(s.logger)
	s.choria = c
	if s.fw, err = choria.NewWithConfig(c); err != nil {
		return err
	}
	servers, err := s.fw.MiddlewareServers()
	if err != nil {
		return fmt.Errorf("brokers: %w", err)
	}
	if s.cfg.TLS == nil {
		s.log.Warn("management without tls: callers are not authenticated, anybody on that network may pause this process", "url", servers.HostPorts())
	}
	return s.writeFacts()
}

// Close removes what New made. Run does it at its end.
func (s *Server) Close() { s.close.Do(func() { _ = os.RemoveAll(s.dir) }) }

// Run serves until ctx ends, connecting again whenever it has to. A broker that is away is no error and holds up nothing:
// at the end it takes less than two seconds, whatever the broker does.
func (s *Server) Run(ctx context.Context) error {
	defer s.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.serve(ctx)
	}()
	go s.keepFacts(ctx)
	<-ctx.Done()
	select {
	case <-done:
	case <-time.After(stopAfter):
		s.log.Debug("the Choria network was left without a word: no answer from the broker")
	}
	return nil
}

// serve is connected whenever it can be.
func (s *Server) serve(ctx context.Context) {
	for ctx.Err() == nil {
		err := s.session(ctx)
		if ctx.Err() != nil {
			return
		}
		s.log.Warn("management interrupted, trying again", "error", err, "duration", retryAfter)
		select {
		case <-ctx.Done():
		case <-time.After(retryAfter):
		}
	}
}
