package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/choria-io/prometheus-streams/internal/config"
)

// environment is what a running command has besides its own rooms.
type environment struct {
	Role config.Role
	// Config as the role uses it, the flags applied. A reload does not change it: it hands a new one to the hooks.
	Config     *config.Config
	ConfigPath string
	Flags      *Flags
	Logger     *slog.Logger
	Registry   *prometheus.Registry
	Version    string
	Stdout     io.Writer
	Stderr     io.Writer

	log     *logging
	metrics *reloadMetrics

	mu      sync.Mutex // over hooks and current; held while a reload goes on
	hooks   []func(*config.Config) error
	current *config.Config
}

// runBody is a command's own work. It returns nil when ctx ended or its work is done.
type runBody func(ctx context.Context, env *environment) error

// OnReload registers what to do with a new configuration, which was checked and whose frozen keys did not change. If a
// hook returns an error the reload failed; the hooks after it are not asked.
func (e *environment) OnReload(hook func(*config.Config) error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hooks = append(e.hooks, hook)
}

// Reload reads the configuration again and hands it to the hooks. With an error the old one goes on. The caller need not
// log it.
func (e *environment) Reload() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	err := e.reload()
	e.metrics.note(err)
	if err != nil {
		e.Logger.Error("configuration not reloaded, the old one goes on", "file", e.ConfigPath, "error", err)
		return err
	}
	e.Logger.Info("configuration reloaded", "file", e.ConfigPath)
	return nil
}

func (e *environment) reload() error {
	next, warnings, err := e.Flags.loadRole(e.Role)
	if err != nil {
		return err
	}
	if frozen := e.current.Frozen(e.Role, next); len(frozen) > 0 {
		return fmt.Errorf("reload configuration: %s changed, which needs a restart", strings.Join(frozen, ", "))
	}
	logWarnings(e.Logger, warnings)
	if err := e.log.reconfigure(next); err != nil {
		return err
	}
	for _, hook := range e.hooks {
		if err := hook(next); err != nil {
			return fmt.Errorf("reload configuration: %w", err)
		}
	}
	e.current = next
	return nil
}

// newEnvironment makes the environment of a command: its logger and its registry.
func newEnvironment(c *cli, role config.Role, cfg *config.Config) (*environment, error) {
	log, err := newLogging(c.flags, cfg, c.stderr)
	if err != nil {
		return nil, err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		buildInfo(),
	)
	return &environment{
		Role: role, Config: cfg, ConfigPath: c.flags.ConfigPath(), Flags: c.flags, Logger: log.logger, Registry: registry,
		Version: buildVersion(), Stdout: c.stdout, Stderr: c.stderr,
		log: log, metrics: newReloadMetrics(registry), current: cfg,
	}, nil
}

// runRole does what all running commands do alike: configuration, log, pid file, signals. The exit code says how it went.
func (c *cli) runRole(role config.Role, body runBody) int {
	cfg, warnings, err := c.flags.loadRole(role)
	if err != nil {
		_, _ = fmt.Fprintln(c.stderr, err)
		return exitUsage
	}
	env, err := newEnvironment(c, role, cfg)
	if err != nil {
		_, _ = fmt.Fprintln(c.stderr, err)
		return exitFailed
	}
	defer env.log.close()
	logWarnings(env.Logger, warnings)
	pid, err := writePID(c.flags.PIDFile)
	if err != nil {
		env.Logger.Error("cannot start", "error", err)
		return exitFailed
	}
	defer pid.remove()

	ctx, stop := handleSignals(context.Background(), env, pid.remove)
	defer stop()
	env.Logger.Info("starting", "mode", string(role), "publisher", cfg.Identity, "version", env.Version, "file", env.ConfigPath)
	if err := body(ctx, env); err != nil && (ctx.Err() == nil || !errors.Is(err, context.Canceled)) {
		env.Logger.Error("stopped", "mode", string(role), "error", err)
		return exitFailed
	}
	env.Logger.Info("stopped", "mode", string(role))
	return exitOK
}

func logWarnings(logger *slog.Logger, warnings []config.Warning) {
	for _, w := range warnings {
		logger.Warn("configuration: "+w.Text, "file", w.Place())
	}
}
