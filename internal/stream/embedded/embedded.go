// Package embedded runs a NATS server with JetStream inside the process, its store in a directory, for `standalone` and
// for tests. Others may connect to it if it is given an address to listen on; it asks nobody who they are, so that
// address should be a local one.
package embedded

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// readyWithin is how long a server may take to recover its store before Start gives up.
const readyWithin = 2 * time.Minute

// Errors of Start.
var (
	ErrDirectory = errors.New("directory cannot be used")
	ErrInUse     = errors.New("directory is in use by another process")
	ErrListen    = errors.New("cannot listen")
)

// Options of the server.
type Options struct {
	// Directory keeps the streams. It is created, and locked while the server runs.
	Directory string
	// Listen is an address (host:port) to listen on; port 0 takes any. Empty: only connections inside the process.
	Listen string
	// MaxBytes bounds what the streams may take on disk; 0 leaves it to the server (three quarters of what is free).
	MaxBytes int64
	// SyncInterval is how often streams are synced to disk, what is younger may be lost with the machine's power;
	// 10 s if 0. SyncAlways syncs every message.
	SyncInterval time.Duration
	SyncAlways   bool
	// MaxPayload is the largest message; 1 MiB if 0.
	MaxPayload int32
	Logger     *slog.Logger
	// ConfigFile, if set, is a nats-server configuration to start from, for accounts and permissions; what else is set
	// here goes before it.
	ConfigFile string
}

// Server is a running server. It is safe for concurrent use.
type Server struct {
	s     *server.Server
	lock  *os.File
	every time.Duration
}

// SyncInterval is how often streams are synced to disk; 0 is before each acknowledgement.
func (s *Server) SyncInterval() time.Duration { return s.every }

// Start starts a server and returns when it takes connections and its streams are recovered. The error wraps
// ErrDirectory, ErrInUse or ErrListen if it is one of those.
func Start(o Options) (*Server, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	opts, err := o.server()
	if err != nil {
		return nil, fmt.Errorf("embedded NATS server: %w", err)
	}
	lock, err := prepare(o.Directory)
	if err != nil {
		return nil, fmt.Errorf("embedded NATS server: %w", err)
	}
	s, err := start(opts, o.Logger)
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("embedded NATS server: %w", err)
	}
	o.Logger.Info("embedded NATS server runs", "version", server.VERSION, "file", o.Directory, "address", o.Listen)
	every := opts.SyncInterval
	if opts.SyncAlways {
		every = 0
	}
	return &Server{s: s, lock: lock, every: every}, nil
}

func (o *Options) server() (*server.Options, error) {
	if o.Directory == "" {
		return nil, fmt.Errorf("%w: no directory given", ErrDirectory)
	}
	opts := &server.Options{ServerName: "prometheus-streams"}
	if o.ConfigFile != "" {
		var err error
		if opts, err = server.ProcessConfigFile(o.ConfigFile); err != nil {
			return nil, fmt.Errorf("reading %s: %w", o.ConfigFile, err)
		}
	}
	opts.DontListen, opts.NoSigs = true, true
	opts.JetStream, opts.StoreDir, opts.JetStreamMaxStore = true, o.Directory, o.MaxBytes
	opts.SyncInterval, opts.SyncAlways, opts.MaxPayload = o.SyncInterval, o.SyncAlways, o.MaxPayload
	if opts.SyncInterval <= 0 {
		opts.SyncInterval = 10 * time.Second
	}
	if o.Listen != "" {
		host, port, err := net.SplitHostPort(o.Listen)
		if err != nil {
			return nil, fmt.Errorf("%w on %q: %w", ErrListen, o.Listen, err)
		}
		opts.DontListen, opts.Host = false, host
		if opts.Port, err = strconv.Atoi(port); err != nil || opts.Port > 65535 || opts.Port < -1 {
			return nil, fmt.Errorf("%w on %q: bad port", ErrListen, o.Listen)
		}
		if opts.Port <= 0 {
			opts.Port = server.RANDOM_PORT
		} else if err := free(o.Listen); err != nil {
			return nil, err
		}
	}
	return opts, nil
}

// free tells before the store is opened whether an address can be listened on.
func free(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("%w on %s: %w", ErrListen, address, err)
	}
	return l.Close()
}

// prepare makes the directory, tries to write to it, and locks it.
func prepare(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDirectory, err)
	}
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDirectory, err)
	}
	if err := lockFile(f); err != nil {
		holder := make([]byte, 20)
		n, _ := f.ReadAt(holder, 0)
		f.Close()
		return nil, fmt.Errorf("%w: %s (process %s)", ErrInUse, dir, holder[:n])
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%w: %w", ErrDirectory, err)
	}
	return f, nil
}

func start(opts *server.Options, logger *slog.Logger) (*server.Server, error) {
	s, err := server.NewServer(opts)
	if err != nil {
		return nil, err
	}
	log := &serverLog{log: logger}
	s.SetLoggerV2(log, false, false, false)
	s.Start()
	ready := s.ReadyForConnections(readyWithin)
	if fatal := log.fatal(); fatal != nil || !ready {
		s.Shutdown()
		s.WaitForShutdown()
		if fatal == nil {
			fatal = fmt.Errorf("not ready within %s", readyWithin)
		}
		return nil, fatal
	}
	return s, nil
}

// Close stops the server and waits until its store is written out.
func (s *Server) Close() error {
	s.s.Shutdown()
	s.s.WaitForShutdown()
	return s.lock.Close() // which unlocks it
}

// URL is where the server listens; empty if it does not.
func (s *Server) URL() string {
	if s.s.Addr() == nil {
		return ""
	}
	return s.s.ClientURL()
}

// InProcessConn opens a connection inside the process, so a Server is what jetstream.Options.InProcess takes.
func (s *Server) InProcessConn() (net.Conn, error) { return s.s.InProcessConn() }

// ClientOptions are what nats.Connect needs for a connection inside the process.
func (s *Server) ClientOptions() []nats.Option { return []nats.Option{nats.InProcessServer(s)} }
