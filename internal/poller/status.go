package poller

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// Health is what the last scrape said of a target.
type Health string

// The healths, as Prometheus names them.
const (
	Unknown Health = "unknown" // not scraped yet
	Up      Health = "up"
	Down    Health = "down"
)

// TargetStatus is what is known of a target.
type TargetStatus struct {
	// Key and Pool are those of the target.
	Key, Pool string
	Labels    labels.Labels
	// URL without credentials.
	URL               string
	Interval, Timeout time.Duration
	Health            Health
	// LastScrape is when the last scrape began; zero if there was none.
	LastScrape time.Time
	// LastError is why the target is down; empty if it is not.
	LastError string
	// Duration and Samples are those of the last scrape.
	Duration time.Duration
	Samples  int
}

// Targets tells of all targets, ordered by job, instance and URL.
func (p *Poller) Targets() []TargetStatus {
	p.mu.Lock()
	loops := make([]*loop, 0, len(p.loops))
	for _, l := range p.loops {
		loops = append(loops, l)
	}
	p.mu.Unlock()

	all := make([]TargetStatus, 0, len(loops))
	for _, l := range loops {
		s := l.status.latest()
		s.Key, s.Pool = l.key, l.target.Pool
		s.Labels, s.URL, s.Interval, s.Timeout = l.target.Labels, l.target.RedactedURL(), l.target.Interval, l.target.Timeout
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b TargetStatus) int {
		return cmp.Or(cmp.Compare(a.Labels.Get("job"), b.Labels.Get("job")),
			cmp.Compare(a.Labels.Get("instance"), b.Labels.Get("instance")), cmp.Compare(a.URL, b.URL))
	})
	return all
}

// status is what a loop remembers of its scrapes. It has a lock of its own, so that looking at it never waits for the
// spool.
type status struct {
	mu   sync.Mutex
	last TargetStatus

	errors, scrapes uint64
	bytes           int64
	seconds         float64   // of all scrapes
	recent          []float64 // seconds of the latest ones, a ring
}

const (
	window    = 10 * time.Minute // of the quantiles of scrape times
	maxRecent = 128
)

func newStatus(interval time.Duration) *status {
	n := int(min(maxRecent, max(1, window/interval)))
	return &status{last: TargetStatus{Health: Unknown}, recent: make([]float64, 0, n)}
}

// note takes the last scrape in, and says what the health was before.
func (s *status) note(f *frame.Frame, o outcome) (before Health) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before = s.last.Health
	s.last = TargetStatus{Health: Up, LastScrape: o.start, Duration: f.Report.Duration, Samples: f.Report.Scraped}
	if f.Kind == frame.Down {
		s.errors++
		s.last.Health = Down
		if o.err != nil {
			s.last.LastError = o.err.Error()
		}
	}
	seconds := f.Report.Duration.Seconds()
	if len(s.recent) < cap(s.recent) {
		s.recent = append(s.recent, seconds)
	} else {
		s.recent[s.scrapes%uint64(cap(s.recent))] = seconds
	}
	s.scrapes++
	s.seconds += seconds
	s.bytes += o.bytes
	return before
}

func (s *status) latest() TargetStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// addTo adds what was measured.
func (s *status) addTo(m measure) measure {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.errors += s.errors
	m.scrapes += s.scrapes
	m.bytes += s.bytes
	m.seconds += s.seconds
	m.recent = append(m.recent, s.recent...)
	return m
}
