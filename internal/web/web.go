// Package web is the HTTP server of the process: its own metrics, health, reload, a status page, and whatever handlers it
// is given.
//
//	/                 status page, for people
//	/metrics          own metrics
//	/-/healthy        200 as long as the process runs
//	/-/ready          200 if the process does what it is there for, else 503 and the reason
//	/-/reload         POST: read the configuration again; only if enabled
//	/-/pause          POST: stop all work; only if enabled, as are /-/resume and /-/switch
//	/api/v1/          targets, configuration, flags and build in the JSON of Prometheus' API; of what scrapes
//	/debug/pprof/     profiles; only if enabled
//
// TLS and users come from a file as other Prometheus exporters have it (exporter-toolkit), read anew for each
// connection.
package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	toolkit "github.com/prometheus/exporter-toolkit/web"
	"golang.org/x/net/netutil"
)

const (
	// headerWait, readWait, writeWait and idleWait bound what a slow client can take. A handler that writes much may
	// give its client a new term for each part.
	headerWait = 10 * time.Second
	readWait   = 30 * time.Second
	writeWait  = 5 * time.Minute
	idleWait   = 2 * time.Minute
	// shutdownWait is how long requests may go on once the server is to stop.
	shutdownWait = 5 * time.Second
	// maxHeaderBytes bounds a request's line and headers.
	maxHeaderBytes = 256 << 10
	// maxConnections bounds those of each address, as in Prometheus.
	maxConnections = 512
)

// Options say what a server serves and where.
type Options struct {
	// Addresses to listen on, as host:port. At least one.
	Addresses []string
	// ConfigFile is the web configuration file with TLS and users; empty is plain HTTP for everybody.
	ConfigFile string
	// RoutePrefix is put before all paths; if empty, the path of ExternalURL is.
	RoutePrefix string
	// ExternalURL is where the server is reached from outside, behind a proxy for instance. It may be empty.
	ExternalURL string

	// Gatherer gives the own metrics, Registerer takes those of the server. Registerer may be nil.
	Gatherer   prometheus.Gatherer
	Registerer prometheus.Registerer
	// Ready tells why the process is not ready; nil means it always is.
	Ready func() error
	// Reload reads the configuration again. /-/reload is there only if EnableLifecycle is set.
	Reload          func() error
	EnableLifecycle bool
	// Control pauses, resumes or switches the process, as action says, and gives what to answer as JSON. The caller is the
	// name of the HTTP user or an address. nil, or without EnableLifecycle, /-/pause, /-/resume and /-/switch refuse.
	Control func(action, caller string) (any, error)
	// Profiling serves /debug/pprof/.
	Profiling bool
	// Handlers are served besides, by path; each is linked on the status page.
	Handlers map[string]http.Handler
	// API answers under /api/v1/; nil leaves those paths out. Hostname is the name that others reach this host by, for the
	// URLs that it tells; ExternalURL goes before it. It may be empty.
	API      *API
	Hostname string
	// Page says what the status page shows; nil shows the links alone. It is called for each request.
	Page func() Page

	Logger *slog.Logger
}

// Server serves HTTP. Listen and Run are called once each.
type Server struct {
	opts      Options
	prefix    string
	logger    *slog.Logger
	handler   http.Handler
	listeners []net.Listener
}

// New checks the options and the web configuration file.
func New(o Options) (*Server, error) {
	if len(o.Addresses) == 0 {
		return nil, errors.New("web: no address to listen on")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if err := toolkit.Validate(o.ConfigFile); err != nil {
		return nil, fmt.Errorf("web configuration file %s: %w", o.ConfigFile, err)
	}
	prefix, err := routePrefix(o.RoutePrefix, o.ExternalURL)
	if err != nil {
		return nil, err
	}
	s := &Server{opts: o, prefix: prefix, logger: o.Logger}
	s.handler = s.routes()
	return s, nil
}

// routePrefix gives the prefix of all paths: empty, or with a slash at its start and none at its end.
func routePrefix(prefix, external string) (string, error) {
	u, err := url.Parse(external)
	if err != nil {
		return "", fmt.Errorf("--web.external-url: %w", err)
	}
	if external != "" && (u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		return "", fmt.Errorf("--web.external-url %q is not an http:// or https:// URL", external)
	}
	if prefix == "" {
		prefix = u.Path
	}
	if strings.ContainsAny(prefix, "{} ?#%") {
		return "", fmt.Errorf("--web.route-prefix %q is not a plain path", prefix)
	}
	return strings.TrimSuffix(path.Clean("/"+prefix), "/"), nil
}

// Prefix is put before all paths: empty, or a path without a slash at its end.
func (s *Server) Prefix() string { return s.prefix }

// Handler serves all paths, without TLS and users.
func (s *Server) Handler() http.Handler { return s.handler }

// Listen opens all addresses, so that one that is taken is known before anything else begins.
func (s *Server) Listen() error {
	for _, a := range s.opts.Addresses {
		l, err := net.Listen("tcp", a)
		if err != nil {
			s.close()
			return fmt.Errorf("HTTP server: %w; choose another address by monitor_port or --web.listen-address", err)
		}
		s.listeners = append(s.listeners, netutil.LimitListener(l, maxConnections))
	}
	return nil
}

// Addresses are those listened on, with the port that was chosen where it was 0.
func (s *Server) Addresses() []string {
	all := make([]string, len(s.listeners))
	for i, l := range s.listeners {
		all[i] = l.Addr().String()
	}
	return all
}

func (s *Server) close() {
	for _, l := range s.listeners {
		// It is given up either way.
		_ = l.Close()
	}
	s.listeners = nil
}

// Run serves until ctx ends, then lets requests end for a few seconds. It listens first if Listen was not called. The
// error tells why it could not go on serving.
func (s *Server) Run(ctx context.Context) error {
	if s.listeners == nil {
		if err := s.Listen(); err != nil {
			return err
		}
	}
	ended := make(chan error, len(s.listeners))
	servers := make([]*http.Server, len(s.listeners))
	for i, l := range s.listeners {
		servers[i] = &http.Server{
			Handler: s.handler, ReadHeaderTimeout: headerWait, ReadTimeout: readWait, WriteTimeout: writeWait,
			IdleTimeout: idleWait, MaxHeaderBytes: maxHeaderBytes,
			ErrorLog: slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
		}
		go func() {
			ended <- toolkit.Serve(l, servers[i], &toolkit.FlagConfig{WebConfigFile: &s.opts.ConfigFile}, s.logger)
		}()
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-ended:
		err = fmt.Errorf("HTTP server: %w", err)
	}
	s.shutdown(servers)
	return err
}

// shutdown ends servers, after their requests if those end soon.
func (s *Server) shutdown(servers []*http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownWait)
	defer cancel()
	var wg sync.WaitGroup
	for _, server := range servers {
		wg.Go(func() {
			if server.Shutdown(ctx) != nil {
				// What still runs is cut off.
				_ = server.Close()
			}
		})
	}
	wg.Wait()
	// A server that had not begun to serve did not know its listener.
	s.close()
}
