package remotewrite

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// The state file lets stale markers survive a restart: what vanishes while no receiver runs is marked at the first
// scrape after. It is one JSON object in each line, one for each target, and is written whole each minute and at the end.
// What a file that is lost or a minute old costs is stale markers; queries then show the series for five minutes more.
const (
	saveEvery     = time.Minute
	maxRecord     = 8 << 20
	maxRecords    = sink.DefaultMaxTargets
	stateFileName = "%s.targets"
)

// record is one line of the state file.
type record struct {
	Labels    labels.Labels `json:"labels"`
	Publisher string        `json:"publisher"`
	Schema    string        `json:"schema,omitempty"`
	Live      bool          `json:"live"`
	Untracked []uint64      `json:"untracked,omitempty"`
	Time      int64         `json:"time"`
	Interval  time.Duration `json:"interval"`
	Known     bool          `json:"known"`
}

func (s *Sink) statePath() string {
	return filepath.Join(s.StateDirectory, fmt.Sprintf(stateFileName, s.Name))
}

// load reads the state file. One that is damaged is used as far as it can be read.
func (s *Sink) load() error {
	if s.StateDirectory == "" {
		return nil
	}
	f, err := os.Open(s.statePath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remote_write state: %w", err)
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, maxRecord)
	now := time.Now()
	for lines.Scan() && len(s.targets) < maxRecords {
		var r record
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			s.Logger.Warn("the state file is damaged: some series that vanished get no stale marker", "file", s.statePath(), "error", err)
			return nil
		}
		s.restore(&r, now)
	}
	if err := lines.Err(); err != nil {
		s.Logger.Warn("the state file cannot be read to its end: some series that vanished get no stale marker",
			"file", s.statePath(), "error", err)
	}
	return nil
}

// restore remembers a target. Its schema is looked for when it is needed.
func (s *Sink) restore(r *record, now time.Time) {
	probe := frame.Frame{Kind: frame.Down, Target: &frame.Target{Labels: r.Labels}}
	if sink.Check(&probe, validLabel) != nil {
		return
	}
	t := &target{
		raw: r.Labels, publisher: r.Publisher, known: r.Known, time: r.Time,
		interval: sink.Interval(&frame.Target{Interval: r.Interval}), seen: now,
	}
	key := sink.Key(s.labels.Target(r.Labels, r.Publisher, s.builder))
	t.shard = shardOf(key)
	if r.Known && (r.Live || r.Schema != "") {
		t.saved = r
	}
	s.targets[key] = t
}

// recall makes what a target had before the restart, as far as its schema is still known.
func (s *Sink) recall(t *target) {
	r := t.saved
	if r == nil {
		return
	}
	t.saved = nil
	var schema *frame.Schema
	if id, err := frame.ParseSchemaID(r.Schema); err == nil && s.Schema != nil {
		schema = s.Schema(id)
	}
	t.prepared = s.prepare(schema, t.raw, t.publisher)
	t.live = r.Live && schema != nil
	if len(r.Untracked) > 0 {
		t.untracked = r.Untracked
	}
	t.settled = t.mark()
}

// record is a mark in the form of the file.
func (m *mark) record() *record {
	r := &record{
		Labels: m.raw, Publisher: m.publisher, Live: m.live, Untracked: m.untracked, Time: m.time, Interval: m.interval, Known: true,
	}
	if m.schema != nil {
		r.Schema = m.schema.ID.String()
	}
	return r
}

// save writes the state file, if it is time to.
func (s *Sink) save(now time.Time, always bool) {
	if s.StateDirectory == "" || !always && now.Sub(s.saved) < saveEvery {
		return
	}
	s.saved = now
	if err := s.write(); err != nil {
		s.metrics.stateErrors.Inc()
		if s.say("state") {
			s.Logger.Warn("the state file cannot be written: stale markers may be missing after a restart", "error", err)
		}
	}
}

func (s *Sink) write() error {
	f, err := os.CreateTemp(s.StateDirectory, s.Name+".targets-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	w := bufio.NewWriterSize(f, 64<<10)
	enc := json.NewEncoder(w)
	for _, t := range s.targets {
		r := t.saved
		if m := t.settled; r == nil && (m == nil || m.ended) {
			continue
		} else if m != nil {
			r = m.record()
		}
		if err := enc.Encode(r); err != nil {
			_ = f.Close()
			return err
		}
	}
	if err := errors.Join(w.Flush(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), s.statePath())
}
