package spool

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// MemoryOptions are the options of a Memory.
type MemoryOptions struct {
	// MaxBytes bounds what the records take, with the schemas that only they keep; 64 MiB if not positive.
	MaxBytes int64
	// Refuse lets a full spool answer ErrFull instead of dropping its oldest records.
	Refuse bool
	// MaxAge is how long a record may wait; any time if not positive.
	MaxAge     time.Duration
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Memory is a spool in memory: what it holds is lost with the process. It is safe for concurrent use.
type Memory struct {
	opts    MemoryOptions
	metrics *metrics

	mu      sync.Mutex
	entries []Entry // those from head on are held, positions without holes
	head    int
	last    Position
	bytes   int64
	schemas map[string]*held
	told    []string            // what the poller said is in use
	live    map[string]struct{} // that, with its parents
	closed  bool
	wake    chan struct{} // closed by the next Append or Close; nil if nobody waits

	voice voice
}

// held is a schema with the number of records and of schemas that need it.
type held struct {
	Schema
	refs int
}

// NewMemory makes an empty spool.
func NewMemory(o MemoryOptions) *Memory {
	if o.MaxBytes <= 0 {
		o.MaxBytes = 64 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	m := &Memory{opts: o, schemas: map[string]*held{}, live: map[string]struct{}{}}
	m.metrics = newMetrics(o.Registerer, false, m.level)
	m.voice = voice{log: o.Logger, metrics: m.metrics, refuse: o.Refuse}
	return m
}

// Append takes a record and the schemas that the spool may not have as they are given. It needs all that the record names,
// and their parents, to be given or held; of those given, the ones that it holds with the same parent are ignored, and so
// are those that nothing needs. The spool keeps the slices, which must not be changed any more. The error wraps ErrFull,
// ErrTooLarge, ErrNoSchema (a schema of the record is neither given nor held) or ErrClosed; the record is then not taken.
func (m *Memory) Append(r Record, schemas ...Schema) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return fmt.Errorf("append to the spool: %w", ErrClosed)
	}
	m.expire()
	given := newOffer(schemas)
	alone, added, err := m.cost(r, given)
	switch {
	case err != nil:
		return err
	case alone > m.opts.MaxBytes:
		return fmt.Errorf("append to the spool: %w: %d bytes, limit %d", ErrTooLarge, alone, m.opts.MaxBytes)
	case m.opts.Refuse && m.bytes+added > m.opts.MaxBytes:
		return fmt.Errorf("append to the spool: %w: %d bytes, limit %d", ErrFull, m.bytes+added, m.opts.MaxBytes)
	}

	m.take(r, given)
	for m.bytes > m.opts.MaxBytes {
		m.drop(reasonFull)
	}
	m.voice.say(m.bytes, m.opts.MaxBytes, false)
	m.wakeUp()
	return nil
}

// cost says what a record takes if it is the only one, and what it adds to what is there.
func (m *Memory) cost(r Record, given offer) (alone, added int64, err error) {
	alone, added = r.size(), r.size()
	lookUp := given.over(m.parent)
	for _, id := range lookUp.withParents(r.Schemas) {
		if !lookUp.whole(id) {
			return 0, 0, fmt.Errorf("append to the spool: record on %q: %w: %s", r.Subject, ErrNoSchema, id)
		}
		if _, live := m.live[id]; live {
			continue
		}
		s := m.schemas[id]
		if s == nil {
			s = &held{Schema: *given[id]}
		}
		alone += s.size()
		if s.refs == 0 {
			added += s.size()
		}
	}
	return alone, added, nil
}

// parent is for parentOf.
func (m *Memory) parent(id string) (string, bool) {
	if s := m.schemas[id]; s != nil {
		return s.Parent, true
	}
	return "", false
}

// take appends a record that has been checked.
func (m *Memory) take(r Record, given offer) {
	pinned := m.takeGiven(r.Schemas, given)
	for _, id := range r.Schemas {
		m.refer(m.schemas[id], 1)
	}
	for _, s := range pinned {
		m.refer(s, -1)
	}
	m.last++
	m.bytes += r.size()
	m.entries = append(m.entries, Entry{Record: r, Position: m.last, Appended: time.Now()})
	m.metrics.appended.Inc()
}

// drop gives up the oldest record.
func (m *Memory) drop(reason string) {
	e := &m.entries[m.head].Record
	m.voice.lose(reason, e.counts())
	m.remove()
}

// expire drops what waited too long.
func (m *Memory) expire() {
	if m.opts.MaxAge <= 0 {
		return
	}
	for m.head < len(m.entries) && time.Since(m.entries[m.head].Appended) > m.opts.MaxAge {
		m.drop(reasonAge)
	}
}

// remove takes the oldest record away.
func (m *Memory) remove() {
	e := m.entries[m.head]
	m.entries[m.head] = Entry{}
	m.head++
	m.bytes -= e.size()
	for _, id := range e.Schemas {
		m.refer(m.schemas[id], -1)
	}
	if m.head == len(m.entries) {
		m.entries, m.head = m.entries[:0], 0
	} else if m.head >= 1024 && m.head >= len(m.entries)/2 {
		n := copy(m.entries, m.entries[m.head:])
		clear(m.entries[n:])
		m.entries, m.head = m.entries[:n], 0
	}
}

// Read returns up to max records after a position, in order. It waits until there is one, the spool is closed
// (ErrClosed) or ctx ends; records that are there are returned even if ctx has ended. The entries share their bytes with
// the spool. A record that was dropped is missing; one that was read may be dropped while it is on its way.
func (m *Memory) Read(ctx context.Context, after Position, max int) ([]Entry, error) {
	for {
		entries, wake, err := m.read(after, max)
		if err != nil || len(entries) > 0 {
			return entries, err
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (m *Memory) read(after Position, max int) ([]Entry, <-chan struct{}, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
	if after < m.last && m.head < len(m.entries) {
		from := m.head
		if first := m.entries[m.head].Position; after >= first {
			from += int(after - first + 1)
		}
		to := min(from+max, len(m.entries))
		entries := slices.Clone(m.entries[from:to])
		for i := range entries {
			entries[i].Schemas = parentOf(m.parent).withParents(entries[i].Schemas)
		}
		return entries, nil, nil
	}
	if m.closed {
		return nil, nil, ErrClosed
	}
	if m.wake == nil {
		m.wake = make(chan struct{})
	}
	return nil, m.wake, nil
}

func (m *Memory) wakeUp() {
	if m.wake != nil {
		close(m.wake)
		m.wake = nil
	}
}

// Trim forgets all records up to and with a position: they are stored, or accounted for elsewhere. It never fails here.
func (m *Memory) Trim(upTo Position) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.head < len(m.entries) && m.entries[m.head].Position <= upTo {
		m.remove()
	}
	return nil
}

// Held says how much the spool holds: what is lost if the process ends now.
func (m *Memory) Held() (records, frames, samples int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.entries[m.head:] {
		frames += e.Frames
		samples += e.Samples
	}
	return len(m.entries) - m.head, frames, samples
}

// Close ends the appending. Reading goes on until all has been read.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	m.voice.say(m.bytes, m.opts.MaxBytes, true)
	m.wakeUp()
	return nil
}

func (m *Memory) level() level {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := level{bytes: m.bytes, limit: m.opts.MaxBytes, records: len(m.entries) - m.head, schemas: len(m.schemas)}
	if l.records > 0 {
		l.age = time.Since(m.entries[m.head].Appended).Seconds()
	}
	return l
}
