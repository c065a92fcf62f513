package scrape

import (
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync"

	"github.com/choria-io/prometheus-streams/internal/target"
)

// Shared are the HTTP clients and failure logs of a process's scrapers: one client for the targets of one configuration,
// one open file for each failure log, for as long as a scraper uses it. The zero value is ready; it is safe for
// concurrent use.
type Shared struct {
	mu      sync.Mutex
	clients map[string]*sharedClient
	logs    map[string]*failureLog
}

type sharedClient struct {
	client *http.Client
	users  int
}

// failureLog is a file to which failed scrapes are logged as JSON lines.
type failureLog struct {
	handler slog.Handler
	file    *logFile
	users   int
}

// logFile can be opened again while it is written to.
type logFile struct {
	mu sync.Mutex
	f  *os.File
}

func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Write(p)
}

func openLog(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open scrape_failure_log_file: %w", err)
	}
	return f, nil
}

// defaultClient stands for the ID of targets without HTTP settings.
const defaultClient = ""

// client gives the client of a target, to be released.
func (s *Shared) client(c *target.Client) (*http.Client, error) {
	id := defaultClient
	if c != nil {
		id = c.ID
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.clients[id]; known != nil {
		known.users++
		return known.client, nil
	}
	made, err := makeClient(c)
	if err != nil {
		return nil, err
	}
	if s.clients == nil {
		s.clients = map[string]*sharedClient{}
	}
	s.clients[id] = &sharedClient{client: made, users: 1}
	return made, nil
}

// release gives a client back; the last one to do so closes its connections.
func (s *Shared) release(c *target.Client) {
	id := defaultClient
	if c != nil {
		id = c.ID
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.clients[id]
	if known == nil {
		return
	}
	if known.users--; known.users == 0 {
		delete(s.clients, id)
		known.client.CloseIdleConnections()
	}
}

// log gives the failure log at path, to be released.
func (s *Shared) log(path string) (slog.Handler, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.logs[path]; known != nil {
		known.users++
		return known.handler, nil
	}
	f, err := openLog(path)
	if err != nil {
		return nil, err
	}
	if s.logs == nil {
		s.logs = map[string]*failureLog{}
	}
	out := &logFile{f: f}
	s.logs[path] = &failureLog{handler: slog.NewJSONHandler(out, nil), file: out, users: 1}
	return s.logs[path].handler, nil
}

func (s *Shared) releaseLog(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.logs[path]
	if known == nil {
		return
	}
	if known.users--; known.users == 0 {
		delete(s.logs, path)
		known.file.mu.Lock()
		defer known.file.mu.Unlock()
		_ = known.file.f.Close()
	}
}

// Reopen opens the failure logs again under their names, after they were rotated away. One that cannot be opened goes on
// as it is.
func (s *Shared) Reopen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for path, l := range s.logs {
		f, err := openLog(path)
		if err != nil {
			return err
		}
		l.file.mu.Lock()
		_ = l.file.f.Close()
		l.file.f = f
		l.file.mu.Unlock()
	}
	return nil
}
