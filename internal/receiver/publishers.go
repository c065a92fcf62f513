package receiver

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/choria-io/prometheus-streams/internal/bounded"
	"github.com/choria-io/prometheus-streams/internal/frame"
)

const (
	// silentIntervals and silentSlack make the time after which a publisher counts as silent.
	silentIntervals = 3
	silentSlack     = 30 * time.Second
	// silentUnknown stands for an interval that is not known.
	silentUnknown = time.Minute
	// publishersKept bounds the publishers that are remembered, beside those that are expected.
	publishersKept = 20_000
	// spanOfMinimum is over what time the shortest interval and the smallest delay are looked for: one to two of these.
	spanOfMinimum = 10 * time.Minute
	// publishersSaved is how often what is remembered is written, publishersLooked how often forgetting is looked for.
	publishersSaved  = time.Minute
	publishersLooked = 5 * time.Second
	publishersFile   = "publishers.json"
	forgetFile       = "publishers.forget"
)

// Publishers knows who publishes and since when somebody does not. Its time is that of the stream, so that a receiver that
// was away or is behind takes nobody for silent; it goes on with the clock only while messages could come and none do.
// Its methods are for concurrent use; those of a nil one do nothing.
type Publishers struct {
	path, forget string // empty without a state directory
	logger       *slog.Logger

	mu      sync.Mutex
	known   map[string]*publisher
	now     time.Time // of the stream
	fed     bool      // something was received since the last tick
	ticked  time.Time
	changed bool
}

// publisher is what is known of one.
type publisher struct {
	expected bool      // by the configuration
	seen     time.Time // when the stream stored its newest message; zero if there was none
	scraped  int64     // newest time of a scrape, ms
	interval minimum   // ns
	delay    minimum   // ms from scrape to stream
	gaps     map[string]uint64
}

// minimum is the smallest value of the last one to two spans of time.
type minimum struct {
	begun         time.Time
	now, previous int64
	has, had      bool
}

func (m *minimum) add(v int64, at time.Time) {
	if at.Sub(m.begun) >= spanOfMinimum {
		m.previous, m.had, m.has, m.begun = m.now, m.has, false, at
	}
	if !m.has || v < m.now {
		m.now, m.has = v, true
	}
}

func (m *minimum) value() (int64, bool) {
	if m.has && m.had {
		return min(m.now, m.previous), true
	}
	return m.now, m.has
}

// remembered is a publisher in the file.
type remembered struct {
	Seen     time.Time     `json:"seen"`
	Interval time.Duration `json:"interval,omitempty"`
}

// NewPublishers makes the memory of publishers. The expected ones are known from the start; others from their first
// message, in directory also over restarts, until they are forgotten. An empty directory keeps nothing.
func NewPublishers(expected []string, directory string, reg prometheus.Registerer, logger *slog.Logger) (*Publishers, error) {
	p := &Publishers{logger: logger, known: make(map[string]*publisher)}
	if directory != "" {
		p.path, p.forget = filepath.Join(directory, publishersFile), filepath.Join(directory, forgetFile)
		if err := p.load(); err != nil {
			return nil, err
		}
	}
	for _, name := range expected {
		p.of(name, true).expected = true
	}
	reg.MustRegister(newPublisherCollector(p))
	return p, nil
}

// of finds or makes a publisher; nil if there are too many.
func (p *Publishers) of(name string, always bool) *publisher {
	x := p.known[name]
	if x == nil {
		if len(p.known) >= publishersKept && !always {
			return nil
		}
		x = &publisher{gaps: make(map[string]uint64)}
		p.known[name] = x
		p.changed = true
	}
	return x
}

// saw notes a message of a publisher that was received, with its frames.
func (p *Publishers) saw(name string, stored time.Time, frames []*frame.Frame) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fed = true
	if stored.After(p.now) {
		p.now = stored
	}
	x := p.of(name, false)
	if x == nil {
		return
	}
	if stored.After(x.seen) {
		x.seen, p.changed = stored, true
	}
	for _, f := range frames {
		if f.Target == nil || f.Kind == frame.End {
			continue
		}
		if f.Target.Interval > 0 {
			x.interval.add(int64(f.Target.Interval), stored)
		}
		x.delay.add(stored.UnixMilli()-f.Time, stored)
		x.scraped = max(x.scraped, f.Time)
	}
}

// gap notes bundles of a publisher that never came to a sink.
func (p *Publishers) gap(name, sink string) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if x := p.of(name, false); x != nil {
		x.gaps[sink]++
	}
}

// listening says that messages would be received now if there were any.
func (p *Publishers) listening(now time.Time) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	passed := now.Sub(p.ticked)
	if passed < tick/2 {
		return // another pipeline said so
	}
	p.ticked = now
	if p.fed || p.now.IsZero() {
		p.fed = false
		return
	}
	if next := p.now.Add(min(max(passed, 0), 2*tick)); next.Before(now) {
		p.now = next
	}
}

// silentAfter is how long a publisher may say nothing.
func (x *publisher) silentAfter() time.Duration {
	interval := silentUnknown
	if d, ok := x.interval.value(); ok {
		interval = time.Duration(d)
	}
	return silentIntervals*interval + silentSlack
}

// up tells whether something of the publisher was received lately.
func (p *Publishers) up(x *publisher) bool {
	return !x.seen.IsZero() && p.now.Sub(x.seen) <= x.silentAfter()
}

// Run keeps what is remembered on disk, and forgets whom it is told to, until ctx ends.
func (p *Publishers) Run(ctx context.Context) error {
	if p.path == "" {
		<-ctx.Done()
		return nil
	}
	look := time.NewTicker(publishersLooked)
	defer look.Stop()
	saved := time.Now()
	failed := false
	for {
		p.forgetThose()
		if now := time.Now(); now.Sub(saved) >= publishersSaved || ctx.Err() != nil {
			saved = now
			err := p.save()
			if err != nil && !failed {
				p.logger.Warn("which publishers there are cannot be remembered", "file", p.path, "error", err)
			}
			failed = err != nil
		}
		if ctx.Err() != nil {
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
		}
	}
}

// maxPublishers bounds the files with publishers: those known, and those to forget.
const maxPublishers = 64 << 20

// load reads the file. One that is damaged is as good as none.
func (p *Publishers) load() error {
	data, err := bounded.ReadFile(p.path, maxPublishers)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var all map[string]remembered
	if err == nil {
		err = json.Unmarshal(data, &all)
	} else if !errors.As(err, new(*bounded.TooLargeError)) {
		return fmt.Errorf("publishers: %w", err)
	}
	if err != nil {
		p.logger.Warn("which publishers there are is not known: the file is damaged", "file", p.path, "error", err)
		return nil
	}
	for name, r := range all {
		x := p.of(name, false)
		if x == nil {
			break
		}
		x.seen = r.Seen
		if r.Interval > 0 {
			x.interval.add(int64(r.Interval), r.Seen)
		}
		if r.Seen.After(p.now) && !r.Seen.After(time.Now()) {
			p.now = r.Seen
		}
	}
	p.changed = false
	p.forgetThose()
	return nil
}

func (p *Publishers) save() error {
	p.mu.Lock()
	if !p.changed {
		p.mu.Unlock()
		return nil
	}
	all := make(map[string]remembered, len(p.known))
	for name, x := range p.known {
		if x.seen.IsZero() {
			continue // expected; nothing is to be remembered
		}
		d, _ := x.interval.value()
		all[name] = remembered{x.seen.UTC(), time.Duration(d)}
	}
	p.changed = false
	p.mu.Unlock()
	data, err := json.Marshal(all)
	if err == nil {
		err = replaceFile(p.path, append(data, '\n'))
	}
	if err != nil {
		p.mu.Lock()
		p.changed = true
		p.mu.Unlock()
	}
	return err
}

// replaceFile writes a file whole, then puts it in its place.
func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// forgetThose forgets the publishers that Forget named.
func (p *Publishers) forgetThose() {
	mine := p.forget + ".read"
	if err := os.Rename(p.forget, mine); err != nil {
		return
	}
	data, err := bounded.ReadFile(mine, maxPublishers)
	if err != nil {
		p.logger.Warn("which publishers to forget cannot be read", "file", mine, "error", err)
		return
	}
	_ = os.Remove(mine)
	p.mu.Lock()
	defer p.mu.Unlock()
	lines := bufio.NewScanner(strings.NewReader(string(data)))
	for lines.Scan() {
		name := lines.Text()
		x := p.known[name]
		if x == nil {
			continue
		}
		p.changed = true
		if x.expected {
			p.known[name] = &publisher{expected: true, gaps: make(map[string]uint64)}
			p.logger.Info("publisher forgotten, but the configuration expects it", "publisher", name)
			continue
		}
		delete(p.known, name)
		p.logger.Info("publisher forgotten", "publisher", name)
	}
}

// Forget has the receiver that uses directory forget publishers: one that runs within seconds, else the next one.
func Forget(directory string, publishers []string) error {
	for _, name := range publishers {
		if name == "" || strings.ContainsAny(name, "\r\n") {
			return fmt.Errorf("forget publisher %q: no name of a publisher", name)
		}
	}
	f, err := os.OpenFile(filepath.Join(directory, forgetFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("forget publishers: %w", err)
	}
	_, err = f.WriteString(strings.Join(publishers, "\n") + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("forget publishers: %w", err)
	}
	return nil
}
