package spool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/choria-io/prometheus-streams/internal/bounded"
)

// DiskOptions are the options of a Disk.
type DiskOptions struct {
	// Directory of the spool, which belongs to one publisher and one process at a time. It is made if it is missing.
	Directory string
	// MaxBytes bounds what the records take on disk, with the schemas that only they keep; 1 GiB if not positive.
	MaxBytes int64
	// MemoryBytes bounds what waits in memory while the disk takes nothing; 16 MiB if not positive.
	MemoryBytes int64
	// MaxAge is how long a record may wait while a poller runs; any time if not positive. What is older is dropped in
	// pieces, so a record may stay an eighth longer.
	MaxAge time.Duration
	// Refuse lets a full spool answer ErrFull instead of dropping its oldest records.
	Refuse bool
	// SyncEvery is how often the disk is told to keep what it got; at each Append if not positive.
	SyncEvery time.Duration
	// Retain is how long records stay readable after they were trimmed, for Rewind; they go earlier if room is wanted.
	Retain     time.Duration
	Logger     *slog.Logger
	Registerer prometheus.Registerer

	openLog func(dir string, segmentSize int) (segmentLog, error) // for tests; nil is wlog
}

// Disk is a spool on disk: what it holds outlives the process. It is safe for concurrent use.
//
// Records lie in Prometheus' write-ahead log, in segments that are removed as a whole. When the disk takes nothing, what is
// appended waits in memory and is written when the disk is well again. What cannot be read back is counted and passed over.
type Disk struct {
	opts        DiskOptions
	segmentSize int64
	log         *slog.Logger
	metrics     *metrics
	lock        *os.File
	opened      time.Time
	clockBase   time.Duration // what earlier processes ran
	previous    *Record       // the newest record at start
	stop        chan struct{}
	background  sync.WaitGroup

	mu       sync.Mutex
	wal      segmentLog
	failing  error      // why the disk takes nothing
	full     bool       // and that it has no room
	segments []*segment // in order; the last one is written to
	tail     []stamped  // the newest records, in memory: those that are not on disk, and some that are
	tailSize int64
	saved    Position // the newest one on disk
	buffer   []byte   // of a record to be written
	dirty    bool     // the disk got something that it was not told to keep
	last     Position
	floor    Position // up to here all are trimmed or dropped
	given    map[Position]counts
	trimmed  []trimMark
	schemas  *schemaStore
	// collected is when it was looked last for schemas that nothing needs.
	collected time.Time
	closed    bool
	released  bool
	wake      chan struct{} // closed by the next Append or Close; nil if nobody waits
	voice     voice

	// As the position was written down last.
	writtenFloor Position
	writtenClock time.Duration

	readMu sync.Mutex // taken before mu
	cursor *cursor
	gap    [2]Position // between these, nothing can be read; guarded by mu
}

const (
	maxSegment = 8 << 20
	minSegment = 64 << 10
	pageSize   = 32 << 10
	// maxTail bounds the records that are kept in memory though they are on disk, so that the disk need not be read
	// while the stream takes what comes.
	maxTail = 1 << 20
	// maxRead bounds the bytes that one Read returns, but for its first record.
	maxRead = 8 << 20
)

const formatText = "prometheus-streams spool 1\n"

// ErrLocked: another process uses the directory.
var ErrLocked = errors.New("another process uses it")

// OpenDisk opens the spool in a directory, or makes one. It reads the newest segment alone; the others are looked through in
// the background. The error wraps ErrLocked if another process has it, and *os.PathError if it cannot be written to.
func OpenDisk(o DiskOptions) (*Disk, error) {
	if o.MaxBytes <= 0 {
		o.MaxBytes = 1 << 30
	}
	if o.MemoryBytes <= 0 {
		o.MemoryBytes = 16 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.openLog == nil {
		o.openLog = openWAL
	}
	d := &Disk{
		opts: o, log: o.Logger, opened: time.Now(), stop: make(chan struct{}), given: map[Position]counts{},
		segmentSize: min(maxSegment, max(minSegment, o.MaxBytes/8/pageSize*pageSize)),
	}
	if err := d.open(); err != nil {
		if d.wal != nil {
			_ = d.wal.Close()
		}
		if d.lock != nil {
			_ = d.lock.Close()
		}
		return nil, fmt.Errorf("spool in %s: %w", o.Directory, err)
	}
	d.metrics = newMetrics(o.Registerer, true, d.level)
	d.voice = voice{log: o.Logger, metrics: d.metrics, refuse: o.Refuse}
	d.background.Go(d.look)
	d.background.Go(d.maintain)
	return d, nil
}

func (d *Disk) open() (err error) {
	if err = os.MkdirAll(d.walDir(), 0o750); err != nil {
		return err
	}
	if err := d.takeLock(); err != nil {
		return err
	}
	if err := d.checkFormat(); err != nil {
		return err
	}
	if d.schemas, err = openSchemas(filepath.Join(d.opts.Directory, "schemas")); err != nil {
		return err
	}
	acked, clock, err := readPosition(d.positionFile())
	if err != nil {
		d.log.Warn("where the spool was read to is not known: what is there is sent again", "file", d.positionFile(), "error", err)
	}
	d.floor, d.clockBase = acked, clock
	return d.openSegments()
}

// takeLock keeps other processes off the directory, also if it was made anew.
func (d *Disk) takeLock() error {
	path := filepath.Join(d.opts.Directory, "lock")
	if d.lock != nil {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o640)
	if err != nil {
		return err
	}
	if err := lockFile(f); err != nil {
		_ = f.Close()
		return fmt.Errorf("%w: %w", ErrLocked, err)
	}
	if d.lock != nil {
		_ = d.lock.Close()
	}
	d.lock = f
	return nil
}

func (d *Disk) walDir() string       { return filepath.Join(d.opts.Directory, "log") }
func (d *Disk) positionFile() string { return filepath.Join(d.opts.Directory, "position") }

// maxNote bounds the files with the format and with the position.
const maxNote = 4 << 10

// checkFormat refuses a directory of a later version, and one that holds something else.
func (d *Disk) checkFormat() error {
	file := filepath.Join(d.opts.Directory, "format")
	b, err := bounded.ReadFile(file, maxNote)
	switch {
	case errors.Is(err, os.ErrNotExist), err == nil && len(b) == 0: // a crash may leave it empty
		return writeFile(file, []byte(formatText))
	case err != nil:
		return err
	case string(b) != formatText:
		return fmt.Errorf("%s says %.40q, this version reads %q", file, b, formatText)
	}
	return nil
}

// clock is how long the spool's processes have run, all of them together.
func (d *Disk) clock() time.Duration { return d.clockBase + time.Since(d.opened) }

// Previous is the newest record that was there when the spool was opened, trimmed or not; nil if there was none.
func (d *Disk) Previous() *Record { return d.previous }

// Held says how much the spool holds.
func (d *Disk) Held() (records, frames, samples int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.held()
	return c.records, c.frames, c.samples
}

func (d *Disk) held() counts {
	var c counts
	for _, s := range d.segments {
		c.add(s.held)
	}
	for i := len(d.tail) - 1; i >= 0 && d.tail[i].Position > max(d.saved, d.floor); i-- {
		c.add(d.tail[i].counts())
	}
	return c
}

func (d *Disk) level() level {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := level{bytes: d.used(), limit: d.opts.MaxBytes, records: d.held().records, schemas: len(d.schemas.all)}
	if l.records > 0 {
		l.age = max(0, (d.clock() - d.oldest()).Seconds())
	}
	return l
}

// oldest is the clock of about the oldest record that is held; mu is held.
func (d *Disk) oldest() time.Duration {
	for _, s := range d.segments {
		if s.held.records > 0 && (len(d.tail) == 0 || d.tail[0].Position > d.floor+1) {
			return s.oldest
		}
	}
	if i := d.tailIndex(d.floor + 1); i < len(d.tail) {
		return d.tail[i].clock
	}
	return d.clock()
}

// Close ends the appending. Reading goes on until all has been read.
func (d *Disk) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	d.voice.say(d.used(), d.opts.MaxBytes, true)
	d.wakeUp()
	return nil
}

// Release closes the spool, ends all reading, and lets another process have the directory. What is held stays there.
func (d *Disk) Release() error {
	_ = d.Close()
	d.mu.Lock()
	if d.released {
		d.mu.Unlock()
		return nil
	}
	d.released = true
	d.wakeUp()
	d.mu.Unlock()
	close(d.stop)
	d.background.Wait()

	d.readMu.Lock()
	defer d.readMu.Unlock()
	d.closeCursor()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failing != nil {
		d.retry()
	}
	d.removeDone(false)
	var lost counts
	for i := range d.tail {
		if d.tail[i].Position > max(d.saved, d.floor) {
			lost.add(d.tail[i].counts())
		}
	}
	d.voice.lose(reasonDisk, lost)
	d.voice.say(d.used(), d.opts.MaxBytes, true)
	err := errors.Join(d.wal.Close(), d.savePosition(), syncSchemas(d.schemas.takeDirty()))
	if err != nil {
		err = fmt.Errorf("close the spool in %s: %w", d.opts.Directory, err)
	}
	return errors.Join(err, d.lock.Close())
}

func (d *Disk) wakeUp() {
	if d.wake != nil {
		close(d.wake)
		d.wake = nil
	}
}

// Read returns up to max records after a position, in order, as Memory does. A record that cannot be read from the disk is
// counted and left out; an error that is neither of ctx nor ErrClosed may pass.
func (d *Disk) Read(ctx context.Context, after Position, max int) ([]Entry, error) {
	for {
		entries, wake, err := d.read(after, max)
		if err != nil || len(entries) > 0 {
			return entries, err
		}
		if wake == nil {
			continue
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
