package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/choria-io/prometheus-streams/internal/config"
	"github.com/choria-io/prometheus-streams/internal/redact"
)

// logging is where and how this process logs: text on stderr, or JSON lines in the configured file.
type logging struct {
	logger *slog.Logger
	level  *slog.LevelVar
	flags  *Flags
	file   *logFile // nil for stderr
}

func newLogging(f *Flags, c *config.Config, stderr io.Writer) (*logging, error) {
	l := &logging{level: &slog.LevelVar{}, flags: f}
	l.level.Set(logLevel(f, c))
	options := &slog.HandlerOptions{Level: l.level, ReplaceAttr: withoutSecrets}
	out := stderr
	if c.Logfile != "" {
		l.file = &logFile{}
		if err := l.file.open(c.Logfile); err != nil {
			return nil, err
		}
		out = l.file
	}
	if f.LogFormat == "json" || f.LogFormat == "" && l.file != nil {
		l.logger = slog.New(slog.NewJSONHandler(out, options))
	} else {
		l.logger = slog.New(slog.NewTextHandler(out, options))
	}
	return l, nil
}

// withoutSecrets hides passwords and tokens in URLs, whoever logs them: libraries of others do it too.
func withoutSecrets(_ []string, a slog.Attr) slog.Attr {
	text := ""
	switch a.Value.Kind() {
	case slog.KindString:
		text = a.Value.String()
	case slog.KindAny:
		switch v := a.Value.Any().(type) {
		case error, fmt.Stringer:
			text = fmt.Sprint(v) // which bears a nil in them
		}
	}
	if shown := redact.Text(text); shown != text {
		a.Value = slog.StringValue(shown)
	}
	return a
}

// logLevel is the level by --log.level, else --debug, else the file. verbose asks for what is logged anyway.
func logLevel(f *Flags, c *config.Config) slog.Level {
	switch f.LogLevel {
	case "debug":
		return slog.LevelDebug
	case "warn":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	case "":
		if f.Debug || c.Debug {
			return slog.LevelDebug
		}
	}
	return slog.LevelInfo
}

// reconfigure takes over the level and the file of a new configuration.
func (l *logging) reconfigure(c *config.Config) error {
	if (c.Logfile == "") != (l.file == nil) {
		return fmt.Errorf("reload configuration: logfile was added or removed, which needs a restart")
	}
	if l.file != nil {
		if err := l.file.open(c.Logfile); err != nil {
			return err
		}
	}
	l.level.Set(logLevel(l.flags, c))
	return nil
}

// reopen opens the file again under its name, after it was rotated away.
func (l *logging) reopen() error {
	if l.file == nil {
		return nil
	}
	return l.file.open("")
}

func (l *logging) close() {
	if l.file != nil {
		l.file.close()
	}
}

// logFile is a file that can be opened again while others write to it.
type logFile struct {
	mu   sync.Mutex
	path string
	f    *os.File
}

// open opens the file at path, or the same again if path is empty. If that fails the old one stays.
func (l *logFile) open(path string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if path == "" {
		path = l.path
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("open logfile: %w", err)
	}
	if l.f != nil {
		_ = l.f.Close()
	}
	l.path, l.f = path, f
	return nil
}

func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Write(p)
}

func (l *logFile) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.f.Close()
}
