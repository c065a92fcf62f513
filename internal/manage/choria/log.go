package choria

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// linesPerMinute bounds what go-choria may log, and a line has its first 300 characters: who sends bad requests decides how
// much there would be.
const linesPerMinute = 60

// sink takes what go-choria logs to our log. Its fields, go-choria's own names of its parts, are left out.
type sink struct {
	log *slog.Logger
	// shift: without a level of its own go-choria's information is debugging to us.
	shift bool

	mu     sync.Mutex
	minute time.Time
	lines  int
	tried  bool
}

// newLogger is the logger to give to go-choria.
func newLogger(log *slog.Logger, level string) (*logrus.Logger, error) {
	l := logrus.New()
	l.SetOutput(io.Discard)
	l.ExitFunc = func(int) {} // the process is not go-choria's to end
	if level == "" {
		l.SetLevel(logrus.DebugLevel)
	} else {
		to, err := logrus.ParseLevel(level)
		if err != nil {
			return nil, fmt.Errorf("loglevel %q is not debug, info, warn or error", level)
		}
		l.SetLevel(to)
	}
	l.AddHook(&sink{log: log, shift: level == ""})
	return l, nil
}

// takeStandardLogger has the standard logger of logrus log where ours does: go-choria tells it of requests that it refuses.
func takeStandardLogger(l *logrus.Logger) {
	logrus.SetOutput(io.Discard)
	logrus.SetLevel(l.Level)
	logrus.StandardLogger().ExitFunc = l.ExitFunc
	logrus.StandardLogger().ReplaceHooks(l.Hooks)
}

// Levels implements logrus.Hook.
func (*sink) Levels() []logrus.Level { return logrus.AllLevels }

// Fire implements logrus.Hook.
func (s *sink) Fire(e *logrus.Entry) error {
	level := s.level(e)
	if !s.log.Enabled(context.Background(), level) {
		return nil
	}
	switch s.room() {
	case 0:
	case 1:
		s.log.Warn("choria: it says more than fits here; the rest of this minute is left out", "limit", linesPerMinute)
		return nil
	default:
		return nil
	}
	s.log.Log(context.Background(), level, fmt.Sprintf("choria: %.300s", strings.TrimSpace(e.Message)))
	return nil
}

// level is ours for an entry. What go-choria calls an error is a bad request or a broker that is away: nothing that this
// process did wrong.
func (s *sink) level(e *logrus.Entry) slog.Level {
	again := strings.HasPrefix(e.Message, "Initial connection to the Broker failed")
	if again {
		s.mu.Lock()
		again, s.tried = s.tried, true
		s.mu.Unlock()
	}
	switch {
	case again, e.Level >= logrus.DebugLevel, e.Level == logrus.InfoLevel && s.shift:
		return slog.LevelDebug
	case e.Level == logrus.InfoLevel:
		return slog.LevelInfo
	}
	return slog.LevelWarn
}

// room is 0 if there is room for another line, 1 for the first one too many and more after it.
func (s *sink) room() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.Sub(s.minute) >= time.Minute {
		s.minute, s.lines = now, 0
	}
	s.lines++
	return max(0, s.lines-linesPerMinute)
}
