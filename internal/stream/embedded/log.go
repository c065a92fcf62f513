package embedded

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
)

// serverLog brings the server's log into ours. A fatal error, for which the server would end the process, is kept for
// Start instead. What the server thinks worth a notice is for debugging here.
type serverLog struct {
	log *slog.Logger
	mu  sync.Mutex
	err error
}

func (l *serverLog) Noticef(f string, v ...any) { l.log.Debug("NATS server: " + fmt.Sprintf(f, v...)) }
func (l *serverLog) Warnf(f string, v ...any)   { l.log.Warn("NATS server: " + fmt.Sprintf(f, v...)) }
func (l *serverLog) Errorf(f string, v ...any)  { l.log.Error("NATS server: " + fmt.Sprintf(f, v...)) }
func (l *serverLog) Debugf(string, ...any)      {}
func (l *serverLog) Tracef(string, ...any)      {}

func (l *serverLog) Fatalf(f string, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = errors.Join(l.err, fmt.Errorf(f, v...))
}

func (l *serverLog) fatal() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}
