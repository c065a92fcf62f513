package choria

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// factsFile is where go-choria reads the facts, at each request that needs them.
func (s *Server) factsFile() string { return filepath.Join(s.dir, "facts.json") }

// Refresh writes the facts anew: call it when the configuration changed.
func (s *Server) Refresh() {
	if err := s.writeFacts(); err != nil && !errors.Is(err, fs.ErrNotExist) { // gone at the end
		s.log.Warn("the facts on the Choria network are not up to date", "error", err)
	}
}

func (s *Server) keepFacts(ctx context.Context) {
	tick := time.NewTicker(factsEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.Refresh()
		case <-ctx.Done():
			return
		}
	}
}

// facts are those of version 1.0.
func (s *Server) facts() map[string]any {
	status := s.breaker.Status()
	f := map[string]any{
		"identity": s.cfg.Identity, "mode": status.Mode, "paused": status.Paused, "version": status.Version,
		status.Mode + "_mode": true, "time": time.Now().Unix(), "jobs": "",
	}
	if s.cfg.Facts == nil {
		return f
	}
	own := s.cfg.Facts()
	f["config"] = own.Config
	jobs := slices.Sorted(slices.Values(own.Jobs))
	f["jobs"] = strings.Join(jobs, ",")
	for _, job := range jobs {
		f[job+"_job"] = true
	}
	return f
}

// writeFacts replaces the file: a request finds the old facts or the new ones.
func (s *Server) writeFacts() error {
	s.factsMu.Lock()
	defer s.factsMu.Unlock()
	data, err := json.Marshal(s.facts())
	if err != nil {
		return fmt.Errorf("write facts: %w", err)
	}
	next := s.factsFile() + ".new"
	if err := os.WriteFile(next, data, 0o600); err != nil {
		return fmt.Errorf("write facts: %w", err)
	}
	if err := os.Rename(next, s.factsFile()); err != nil {
		return fmt.Errorf("write facts: %w", err)
	}
	return nil
}

// shown are the facts as the agent backplane answers them.
func (s *Server) shown() map[string]any {
	f := s.facts()
	maps.DeleteFunc(f, func(name string, _ any) bool { return name == "time" })
	return f
}
