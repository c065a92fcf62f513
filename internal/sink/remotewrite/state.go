package remotewrite

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// The state file lets stale markers survive a restart: what vanishes while no receiver runs is marked at the first
// scrape after. It is one JSON object in each line, one for each target, and is written whole each minute and at the end,
// beside Run.
// What happened after it was written is remembered again from what the receiver reads back (Recall). Where nothing is read back,
// what a file that is lost or a minute old costs is stale markers; queries then show the series for five minutes more.
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
	Absent    []uint64      `json:"absent,omitempty"`
	Epoch     uint64        `json:"epoch,omitempty"`
	// Histograms and FloatHistograms are the rows of native histograms.
	Histograms      []int `json:"histograms,omitempty"`
	FloatHistograms []int `json:"float_histograms,omitempty"`
	// Exemplars are the newest ones: series, time, value, labels, and 1 if the time was the exemplar's own.
	Exemplars [][5]uint64   `json:"exemplars,omitempty"`
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
	if r.Epoch != 0 {
		t.shown, t.absent, t.epoch = schema, r.Absent, r.Epoch
	}
	t.forms = formsOfRecord(r)
	t.restoreExemplars(r.Exemplars)
	t.settled = t.mark()
}

// record is a mark in the form of the file.
func (m *mark) record() *record {
	r := &record{
		Labels: m.raw, Publisher: m.publisher, Live: m.live, Untracked: m.untracked, Absent: m.absent, Epoch: m.epoch, Time: m.time, Interval: m.interval, Known: true,
	}
	if m.schema != nil {
		r.Schema = m.schema.ID.String()
	}
	for _, x := range m.forms {
		if x.Float {
			r.FloatHistograms = append(r.FloatHistograms, x.Row)
		} else {
			r.Histograms = append(r.Histograms, x.Row)
		}
	}
	return r
}

// formsOfRecord puts the rows of native histograms together again.
func formsOfRecord(r *record) []form {
	out := make([]form, 0, len(r.Histograms)+len(r.FloatHistograms))
	for _, row := range r.Histograms {
		out = append(out, form{Row: row})
	}
	for _, row := range r.FloatHistograms {
		out = append(out, form{Row: row, Float: true})
	}
	slices.SortFunc(out, func(a, b form) int { return a.Row - b.Row })
	return out
}

// snapshot is what the state file will say of one target. Nothing in it changes any more.
type snapshot struct {
	saved     *record
	mark      *mark
	exemplars [][5]uint64
}

// snapshots notes what is to be written.
func (s *Sink) snapshots() []snapshot {
	out := make([]snapshot, 0, len(s.targets))
	for _, t := range s.targets {
		if t.saved != nil {
			out = append(out, snapshot{saved: t.saved})
		} else if t.settled != nil && !t.settled.ended {
			out = append(out, snapshot{mark: t.settled, exemplars: t.exemplarRecords()})
		}
	}
	return out
}

// exemplarRecords are the newest exemplars that have their verdict.
func (t *target) exemplarRecords() (out [][5]uint64) {
	for series, x := range t.exemplars {
		if !x.done {
			continue
		}
		own := uint64(0)
		if x.settled.timestamp {
			own = 1
		}
		out = append(out, [5]uint64{series, uint64(x.settled.time), x.settled.bits, x.settled.labels, own})
	}
	return out
}

// restoreExemplars is the reverse of exemplarRecords.
func (t *target) restoreExemplars(all [][5]uint64) {
	if len(all) > 0 {
		t.exemplars = make(map[uint64]*latest, len(all))
	}
	for _, r := range all {
		n := note{time: int64(r[1]), bits: r[2], labels: r[3], timestamp: r[4] != 0}
		t.exemplars[r[0]] = &latest{planned: n, settled: n, done: true}
	}
}

// save has the state file written beside Run, if it is time to and the last one is written; with always, it waits for
// that and for its own.
func (s *Sink) save(now time.Time, always bool) {
	if s.StateDirectory == "" || !always && now.Sub(s.saved) < saveEvery {
		return
	}
	if s.saving != nil && always {
		s.savedAs(<-s.saving)
	}
	if s.saving != nil {
		select {
		case err := <-s.saving:
			s.savedAs(err)
		default:
			return
		}
	}
	s.saved = now
	all, result := s.snapshots(), make(chan error, 1)
	s.saving = result
	go func() { result <- s.write(all) }()
	if always {
		s.savedAs(<-s.saving)
	}
}

// savedAs takes the result of a write.
func (s *Sink) savedAs(err error) {
	s.saving = nil
	if err == nil {
		return
	}
	s.metrics.stateErrors.Inc()
	if s.say("state") {
		s.Logger.Warn("the state file cannot be written: stale markers may be missing after a restart", "error", err)
	}
}

// write writes the state file whole and then puts it in its place. It uses nothing that belongs to Run.
func (s *Sink) write(all []snapshot) error {
	f, err := os.CreateTemp(s.StateDirectory, s.Name+".targets-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	w := bufio.NewWriterSize(f, 64<<10)
	enc := json.NewEncoder(w)
	for _, x := range all {
		r := x.saved
		if r == nil {
			r = x.mark.record()
			r.Exemplars = x.exemplars
		}
		if err := enc.Encode(r); err != nil {
			_ = f.Close()
			return err
		}
	}
	if err := errors.Join(w.Flush(), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), s.statePath())
}
