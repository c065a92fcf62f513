// Package manage is the circuit breaker of a process: pause, resume and switch, what they changed, and who asked.
//
// The breaker knows nothing of how people reach it: manage/micro and manage/choria speak for it on a network, web over
// HTTP. It knows nothing of what it stops either: a Managed is told to pause and to resume. A process has one breaker.
package manage

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// ErrNotRemembered is wrapped when a change is in effect and will not survive a restart, although it was to.
var ErrNotRemembered = errors.New("not remembered over a restart")

// ErrLevel is wrapped when a log level is not known or cannot be set here.
var ErrLevel = errors.New("no such log level")

// Managed is what a pause stops. Both methods may be called again without effect, and return soon.
type Managed interface {
	Pause()
	Resume()
}

// Status is what every action answers.
type Status struct {
	// Identity is the name of the process, as publisher.
	Identity string `json:"identity"`
	// Mode is poller, receiver or standalone.
	Mode    string `json:"mode"`
	Version string `json:"version"`
	Paused  bool   `json:"paused"`
}

// Health is a Status with what else a person asks first.
type Health struct {
	Status
	// Ready tells that the process does what it is there for, paused or not; if it does not, Reason says why.
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitempty"`
	// Started is when the process did, Since when it was last paused or resumed; zero if it never was.
	Started time.Time `json:"started"`
	Since   time.Time `json:"since,omitzero"`
}

// Request says who asks for a change.
type Request struct {
	// Caller is the name of the person or program, as far as it is known.
	Caller string
	// Via is the way the request came: choria, micro, http. There are few: it is the label of a metric.
	Via string
}

// maxCaller bounds how much of a caller's name is kept, in characters.
const maxCaller = 200

// from is the request as log and file name it.
func (r Request) from() string {
	caller := fmt.Sprintf("%.*s", maxCaller, r.Caller)
	if caller == "" {
		caller = "unknown"
	}
	if r.Via == "" {
		return caller
	}
	return caller + " (" + r.Via + ")"
}

// Config is what a Breaker needs.
type Config struct {
	Identity, Mode, Version string
	// File is where a pause is remembered over a restart; empty forgets it.
	File string
	// Ready tells why the process is not ready; nil means it always is.
	Ready func() error
	// SetLevel sets the log level: debug, info, warn or error. nil refuses.
	SetLevel func(level string) error

	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Breaker is the circuit breaker of a process. Its methods may be called from any goroutine.
type Breaker struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	started time.Time

	// change is held for the whole of a change, so that what is managed and who listens see all of them in order.
	change    sync.Mutex
	managed   []Managed
	listeners []func(Status)

	mu     sync.RWMutex // over what follows
	paused bool
	since  time.Time
}

// New makes a breaker, paused if it is to remember and the last process was. The error is that of a file which cannot be
// read or does not say what it should.
func New(c Config) (*Breaker, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	b := &Breaker{cfg: c, log: c.Logger, started: time.Now(), metrics: newMetrics(c.Registerer)}
	if c.File == "" {
		return b, nil
	}
	past, err := recall(c.File)
	if err != nil {
		return nil, fmt.Errorf("management: %w", err)
	}
	if past.Paused {
		b.paused, b.since = true, past.Since
		b.log.Warn("paused, as before the restart; resume to go on", "mode", c.Mode, "paused", true, "from", past.From, "file", c.File)
	}
	return b, nil
}

// Manage adds something to be stopped; it is paused at once if the breaker is.
func (b *Breaker) Manage(m Managed) {
	b.change.Lock()
	defer b.change.Unlock()
	b.managed = append(b.managed, m)
	if b.Paused() {
		m.Pause()
	}
}

// OnChange adds what is told of every change from now on, one after the other. It must not ask for a change itself, and
// holds up the answer to who did.
func (b *Breaker) OnChange(tell func(Status)) {
	b.change.Lock()
	defer b.change.Unlock()
	b.listeners = append(b.listeners, tell)
}

// Status is the present state.
func (b *Breaker) Status() Status {
	return Status{Identity: b.cfg.Identity, Mode: b.cfg.Mode, Version: b.cfg.Version, Paused: b.Paused()}
}

// Paused tells whether the process is paused.
func (b *Breaker) Paused() bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.paused
}

// Health is the present state and whether the process can do its work.
func (b *Breaker) Health() Health {
	h := Health{Status: b.Status(), Ready: true, Started: b.started}
	b.mu.RLock()
	h.Since = b.since
	b.mu.RUnlock()
	if b.cfg.Ready == nil {
		return h
	}
	if err := b.cfg.Ready(); err != nil {
		h.Ready, h.Reason = false, err.Error()
	}
	return h
}

// Pause stops what is managed. The error wraps ErrNotRemembered: the pause is in effect, as Status says.
func (b *Breaker) Pause(r Request) (Status, error) { return b.set(r, func(bool) bool { return true }) }

// Resume lets what is managed go on. The error is as that of Pause.
func (b *Breaker) Resume(r Request) (Status, error) {
	return b.set(r, func(bool) bool { return false })
}

// Switch pauses if the process is not paused and resumes if it is. The error is as that of Pause.
func (b *Breaker) Switch(r Request) (Status, error) {
	return b.set(r, func(paused bool) bool { return !paused })
}

// set brings about the state that wanted makes of the present one.
func (b *Breaker) set(r Request, wanted func(paused bool) bool) (Status, error) {
	b.change.Lock()
	defer b.change.Unlock()
	before := b.Paused()
	pause := wanted(before)
	if pause == before {
		return b.Status(), nil
	}
	now := time.Now()
	b.mu.Lock()
	b.paused, b.since = pause, now
	b.mu.Unlock()
	for _, m := range b.managed {
		if pause {
			m.Pause()
		} else {
			m.Resume()
		}
	}
	action := "resume"
	if pause {
		action = "pause"
	}
	b.metrics.change(action, r.Via)
	b.log.Warn(action+" asked for", "mode", b.cfg.Mode, "paused", pause, "from", r.from())
	status := b.Status()
	for _, tell := range b.listeners {
		tell(status)
	}
	if b.cfg.File == "" {
		return status, nil
	}
	if err := remember(b.cfg.File, memory{Paused: pause, From: r.from(), Since: now}); err != nil {
		b.log.Error("the change is in effect and not remembered over a restart", "paused", pause, "error", err)
		return status, fmt.Errorf("%w: %w", ErrNotRemembered, err)
	}
	return status, nil
}

// SetLevel sets the log level to debug, info, warn or error, until a restart or a reload of the configuration.
func (b *Breaker) SetLevel(r Request, level string) (Status, error) {
	b.change.Lock()
	defer b.change.Unlock()
	level = strings.ToLower(level)
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, level) {
		return b.Status(), fmt.Errorf("%w: %.20q is not debug, info, warn or error", ErrLevel, level)
	}
	if b.cfg.SetLevel == nil {
		return b.Status(), fmt.Errorf("%w: it cannot be changed in this process", ErrLevel)
	}
	if err := b.cfg.SetLevel(level); err != nil {
		return b.Status(), fmt.Errorf("%w: %w", ErrLevel, err)
	}
	b.metrics.change("loglevel", r.Via)
	b.log.Warn("log level changed", "mode", b.cfg.Mode, "from", r.from(), "to", level)
	return b.Status(), nil
}
