package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

// pidFile is the file with our process id, or none.
type pidFile struct{ path string }

func writePID(path string) (pidFile, error) {
	if path == "" {
		return pidFile{}, nil
	}
	if err := os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil { //nolint:gosec // others are to read it
		return pidFile{}, fmt.Errorf("write pid file: %w", err)
	}
	return pidFile{path}, nil
}

// remove takes the file away if it is still ours: another process may have written its own since.
func (p pidFile) remove() {
	if p.path == "" {
		return
	}
	if data, err := os.ReadFile(p.path); err == nil && string(bytes.TrimSpace(data)) == strconv.Itoa(os.Getpid()) {
		_ = os.Remove(p.path)
	}
}

// handleSignals ends the returned context at the first SIGTERM or SIGINT and the process at the second, after atOnce. A
// SIGHUP opens the log file again and reloads the configuration.
func handleSignals(parent context.Context, env *environment, atOnce func()) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s := range signals {
			switch {
			case s == syscall.SIGHUP:
				if err := env.log.reopen(); err != nil {
					env.Logger.Error("log file not opened again, the old one goes on", "error", err)
				}
				_ = env.Reload()
			case ctx.Err() == nil:
				env.Logger.Info("stopping; a second signal ends at once", "reason", s.String())
				cancel()
			default:
				env.Logger.Warn("ending at once", "reason", s.String())
				atOnce()
				os.Exit(exitFailed)
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(signals)
		<-done
		cancel()
	}
}
