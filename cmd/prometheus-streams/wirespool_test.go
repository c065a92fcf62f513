package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/choria-io/prometheus-streams/internal/config"
	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/poller"
	"github.com/choria-io/prometheus-streams/internal/spool"
	"github.com/choria-io/prometheus-streams/internal/stream"
)

func spoolHouse(directory string, named bool) (*house, *bytes.Buffer) {
	var log bytes.Buffer
	cfg := &config.Config{Identity: "edge.example"}
	cfg.Spool.Directory, cfg.Spool.DirectorySet = directory, named
	cfg.Spool.MaxSize = config.MiB
	env := &environment{Role: config.PollerRole, Logger: slog.New(slog.NewTextHandler(&log, nil)), Registry: prometheus.NewRegistry()}
	return &house{cfg: cfg, env: env}, &log
}

// A default directory that cannot be had means memory and a warning, a named one an error.
func TestSpoolWithoutDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h, log := spoolHouse(filepath.Join(file, "spool"), false)
	w, err := h.spool()
	if _, ok := w.(*spool.Memory); err != nil || !ok || !strings.Contains(log.String(), "level=WARN") {
		t.Errorf("%T, %v, %s", w, err, log)
	}
	h, _ = spoolHouse(filepath.Join(file, "spool"), true)
	if _, err := h.spool(); err == nil || !strings.Contains(err.Error(), "spool.directory: ") {
		t.Errorf("named: %v", err)
	}
}

// A restart finds the schemas of the last process and says where its epoch ended.
func TestSpoolLeftovers(t *testing.T) {
	dir := t.TempDir()
	schema, err := frame.NewSchema([]frame.Family{{Name: "a"}}, nil, frame.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	for _, clean := range []bool{false, true} {
		h, _ := spoolHouse(dir, true)
		w, err := h.spool()
		if err != nil {
			t.Fatal(err)
		}
		header := frame.Header{Publisher: "edge.example", Lane: lane, Epoch: 5, Seq: 7, Totals: &frame.Totals{Frames: 2, Samples: 3}}
		var frames []byte
		if clean {
			frames = frame.AppendEpochEnd(nil, 5, 1)
		}
		s := &bundleSpool{spool: w, subject: "t.frames.x.live", subjects: stream.Subjects{Topic: "t"}, publisher: "edge.example"}
		s.live([]frame.SchemaID{schema.ID})
		if err := s.Append(poller.Bundle{Message: frame.AppendBundle(nil, header, frames), Schemas: []*frame.Schema{schema}}); err != nil {
			t.Fatal(err)
		}
		h.close()

		h, _ = spoolHouse(dir, true)
		if w, err = h.spool(); err != nil {
			t.Fatal(err)
		}
		known, before := h.leftovers(w)
		if len(known) != 1 || known[0].ID != schema.ID {
			t.Errorf("known %v", known)
		}
		want := frame.Predecessor{Epoch: 5, Seq: 7, Totals: frame.Totals{Frames: 2, Samples: 3}, Clean: clean}
		if before == nil || *before != want {
			t.Errorf("predecessor %+v, want %+v", before, want)
		}
		h.close()
	}
}
