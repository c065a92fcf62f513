package sink

import (
	"cmp"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// The reasons for which Owners rejects a frame.
const (
	// Conflict: somebody else speaks for the target.
	Conflict = "conflict"
	// Late: a newer frame of the target was taken before.
	Late = "late"
	// Future: the frame's time is too far ahead of the stream's.
	Future = "future"
	// TooMany: a limit on what a sink keeps is reached.
	TooMany = "too_many"
)

const (
	// futureLimit is how far a frame's time may be ahead of when the stream stored it.
	futureLimit = 10 * time.Minute
	// silentIntervals is after how many of its intervals without a frame an owner loses a target to another publisher.
	silentIntervals = 3
	// unknownInterval stands for that of a target that does not tell its own.
	unknownInterval = time.Minute
	// longestInterval bounds what a target may claim as its interval.
	longestInterval = 24 * time.Hour
	// forgetAfter and forgetIntervals are how long a silent target is remembered; the longer one counts.
	forgetAfter     = time.Hour
	forgetIntervals = 10
	// sweepEvery is how often targets are looked through for silent ones.
	sweepEvery = 5 * time.Minute
	// DefaultMaxTargets bounds what Owners remembers, at about 400 bytes each.
	DefaultMaxTargets = 500_000
)

// Interval gives the interval of a target as far as it can be believed: bounded, and a minute if it is not known.
func Interval(t *frame.Target) time.Duration {
	if t == nil || t.Interval <= 0 {
		return unknownInterval
	}
	return min(t.Interval, longestInterval)
}

// Verdict says what an admitted frame is to its target.
type Verdict uint8

const (
	// Newest: the frame is newer than all before.
	Newest Verdict = iota + 1
	// Repeat: the frame is the newest one once more.
	Repeat
)

// Claim is what a frame speaks for.
type Claim struct {
	// Key names what is owned: Key of the target's final labels, or the name of a Push Gateway group.
	Key string
	// Within tells apart those of one publisher and lane that may claim the same key: two targets of one group.
	// It is empty where the key names one target.
	Within string
}

// Key makes the key of a target from its final labels.
func Key(final labels.Labels) string { return string(final.Bytes(nil)) }

// Owners knows, for each target of a sink, which publisher and lane speaks for it and how new its newest frame is.
// It is for concurrent use. It has no clock: its time is that at which the stream stored the frames.
//
//	same publisher, lane, epoch   in the order of the lane (sequence, position), whatever the edge's clock did
//	same publisher                with a newer time; DOWN from another lane only after the owner's END or silence
//	another publisher             with a newer time, after the owner's END or three intervals of silence
//	END                           only from the owner
//
// So the newest frame of a target is never replaced by an older one, and values of two publishers do not interleave.
type Owners struct {
	logger *slog.Logger
	max    int

	mu        sync.Mutex
	targets   map[string]*owned
	now       int64 // ms: the newest time stored that was seen
	sweptAt   int64
	conflicts map[pair]*quarrel
}

// owned is what is known of one target.
type owned struct {
	publisher, lane, within string
	kind                    frame.Kind
	epoch, seq              uint64
	target, position        uint64
	time, stored            int64 // ms
	interval                int64 // ms
	ended                   bool
}

// NewOwners makes an empty one for at most maxTargets targets (0 means DefaultMaxTargets). Conflicts are
// logged to logger, which may be nil.
func NewOwners(maxTargets int, logger *slog.Logger) *Owners {
	if maxTargets <= 0 {
		maxTargets = DefaultMaxTargets
	}
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Owners{
		logger: logger, max: maxTargets,
		targets: make(map[string]*owned), conflicts: make(map[pair]*quarrel),
	}
}

// Admit decides whether a frame may speak for what it claims, and if so notes it as the newest. The error is a
// Rejection with one of the reasons Conflict, Late, Future and TooMany. Frames without a target have no claim and must
// not be asked for. A frame that was admitted and is then tried again is a Repeat.
func (o *Owners) Admit(c Claim, d *Delivery) (Verdict, error) {
	f, stored := d.Frame, d.Stored.UnixMilli()
	if f.Time > stored+futureLimit.Milliseconds() {
		return 0, Reject(Future, "scraped at %s, stored at %s: more than %s ahead",
			formatTime(f.Time), formatTime(stored), futureLimit)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.advance(stored)

	e := o.targets[c.Key]
	if e == nil {
		if len(o.targets) >= o.max {
			return 0, Reject(TooMany, "%d targets are known, the limit is %d", len(o.targets), o.max)
		}
		e = &owned{}
		o.targets[c.Key] = e
		e.take(c, d)
		return Newest, nil
	}
	v, err := o.judge(e, c, d)
	if err != nil {
		return 0, err
	}
	if v == Repeat {
		e.stored = max(e.stored, d.Stored.UnixMilli())
		return v, nil
	}
	if e.publisher != d.Publisher {
		o.logger.Info("another publisher takes over a target", "target", f.Target.Labels.String(),
			"from", e.publisher, "to", d.Publisher)
	}
	e.take(c, d)
	return v, nil
}

// judge compares a frame with the newest one of its target.
func (o *Owners) judge(e *owned, c Claim, d *Delivery) (Verdict, error) {
	f := d.Frame
	same := e.publisher == d.Publisher && e.within == c.Within
	if same && e.lane == d.Lane {
		switch order := e.compare(d); {
		case order > 0:
			return Newest, nil
		case order == 0:
			return Repeat, nil
		}
		return 0, late(e, f)
	}
	if same && f.Time == e.time && f.Kind == e.kind {
		return Repeat, nil // the same scrape over another carrier
	}
	mayTake := e.ended || f.Kind != frame.End && (e.silent(d.Stored.UnixMilli()) || same && f.Kind == frame.Scraped)
	if !mayTake {
		if !same {
			o.quarrel(e, d)
		}
		return 0, Reject(Conflict, "publisher %q, lane %q speaks for the target", e.publisher, e.lane)
	}
	if f.Time <= e.time {
		return 0, late(e, f)
	}
	return Newest, nil
}

// compare orders a frame of the owner against the newest: above 0 is newer, 0 the same.
func (e *owned) compare(d *Delivery) int {
	f := d.Frame
	if d.Epoch != e.epoch || d.Epoch == 0 {
		return cmp.Compare(f.Time, e.time)
	}
	if c := cmp.Compare(d.Seq, e.seq); c != 0 {
		return c
	}
	if f.Target.ID == e.target {
		return cmp.Compare(f.Position, e.position)
	}
	if f.Time >= e.time {
		return 1 // removed and found again within one bundle
	}
	return -1
}

// silent tells whether the owner has not been heard of for so long that another publisher may take the target over.
func (e *owned) silent(stored int64) bool { return stored-e.stored >= silentIntervals*e.interval }

func (e *owned) take(c Claim, d *Delivery) {
	f := d.Frame
	*e = owned{
		publisher: d.Publisher, lane: d.Lane, within: c.Within, kind: f.Kind,
		epoch: d.Epoch, seq: d.Seq, target: f.Target.ID, position: f.Position,
		time: f.Time, stored: max(e.stored, d.Stored.UnixMilli()), interval: Interval(f.Target).Milliseconds(),
		ended: f.Kind == frame.End && f.Reason != frame.Paused,
	}
}

func late(e *owned, f *frame.Frame) error {
	return Reject(Late, "scraped at %s, the newest is of %s", formatTime(f.Time), formatTime(e.time))
}

func formatTime(ms int64) string {
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z07:00")
}

// Owner tells who speaks for a key, for status pages. ok is false if nobody does.
func (o *Owners) Owner(key string) (publisher, lane string, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	e := o.targets[key]
	if e == nil || e.ended {
		return "", "", false
	}
	return e.publisher, e.lane, true
}

// Len is the number of targets that are remembered, ended ones among them.
func (o *Owners) Len() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.targets)
}

// advance takes note of the stream's time and forgets what has been silent for long.
func (o *Owners) advance(stored int64) {
	o.now = max(o.now, stored)
	if o.now-o.sweptAt < sweepEvery.Milliseconds() {
		return
	}
	o.sweptAt = o.now
	for k, e := range o.targets {
		if o.now-e.stored > max(forgetAfter.Milliseconds(), forgetIntervals*e.interval) {
			delete(o.targets, k)
		}
	}
	for p, q := range o.conflicts {
		if o.now-q.last > 2*quarrelLongest.Milliseconds() {
			delete(o.conflicts, p)
		}
	}
}
