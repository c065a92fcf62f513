//go:build !nochoria

package main

import (
	"cmp"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"

	"github.com/choria-io/prometheus-streams/internal/config"
	"github.com/choria-io/prometheus-streams/internal/manage/choria"
)

// choria adds the embedded Choria server, if there are brokers for it. Whether they answer holds up nothing.
func (h *house) choria() error {
	m := h.cfg.Management
	if !m.Choria() {
		return nil
	}
	c := choria.Config{
		Identity: m.Identity, Collective: m.Collective, Name: m.Name, Brokers: m.Brokers, Logger: h.env.Logger, Level: m.Loglevel,
	}
	if a := m.Auth; a != nil {
		c.Auth = &choria.Auth{Insecure: a.Insecure, Full: a.Full, ReadOnly: a.ReadOnly}
	}
	t, identity, notes, err := choriaTLS(h.cfg)
	if err != nil {
		return err
	}
	if t != nil {
		c.TLS = &choria.TLS{Scheme: t.Scheme, Identity: identity, SSLDir: t.SSLDir, CA: t.CA, Cert: t.Cert, Key: t.Key}
	}
	for _, note := range notes {
		h.env.Logger.Warn("management: " + note)
	}
	if m.Logfile != "" {
		if err := h.choriaLog(&c); err != nil {
			return err
		}
	}
	var running atomic.Pointer[config.Config]
	running.Store(h.cfg)
	c.Facts = func() choria.Facts { return factsOf(running.Load()) }
	s, err := choria.New(c, h.breaker)
	if err != nil {
		return err
	}
	h.closers = append(h.closers, s.Close)
	h.env.OnReload(func(next *config.Config) error {
		running.Store(next)
		s.Refresh()
		return nil
	})
	h.actor(s.Run)
	return nil
}

// choriaLog gives go-choria a log file of its own, as version 1.0 did: JSON lines, warnings and above unless loglevel asks for
// more.
func (h *house) choriaLog(c *choria.Config) error {
	file := &logFile{}
	if err := file.open(h.cfg.Management.Logfile); err != nil {
		return fmt.Errorf("management: %w", err)
	}
	h.closers = append(h.closers, file.close)
	h.env.OnReload(func(*config.Config) error { return file.open("") }) // it may have been rotated away
	c.Level = cmp.Or(c.Level, "warn")
	c.ChoriaLogger = slog.New(slog.NewJSONHandler(file, &slog.HandlerOptions{Level: slog.LevelDebug}))
	return nil
}

// factsOf is what a configuration shows on the Choria network, secrets masked as in check config --show.
func factsOf(c *config.Config) choria.Facts {
	f := choria.Facts{}
	text, err := c.Show()
	if err != nil {
		text = "error: " + strings.ReplaceAll(err.Error(), "\n", " ")
	}
	f.Config = jsonOf(text)
	for _, j := range c.Jobs {
		f.Jobs = append(f.Jobs, j.Name)
	}
	for _, s := range c.Scrape() {
		f.Jobs = append(f.Jobs, s.JobName)
	}
	return f
}
