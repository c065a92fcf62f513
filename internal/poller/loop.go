package poller

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/exposition"
	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/target"
)

// Prometheus moves the time of a scrape that begins so little late to where it belongs, since regular times are cheap
// to store. So do we, or the same scrape would have two times.
const alignTolerance = 2 * time.Millisecond

// loop is one target's.
type loop struct {
	p        *Poller
	target   *target.Target
	key      string
	interval time.Duration // positive, as is the timeout
	timeout  time.Duration
	stop     func() // nil until it runs

	status *status // before it runs it may become another loop's

	scraper Scraper // the goroutine's alone

	// mu guards what follows. The encoder is gone when the target ended: what a scrape still gives then is late.
	mu      sync.Mutex
	def     *frame.Target
	encoder *frame.Encoder
	sent    bool   // any frame under this id
	losing  bool   // the last scrape could not be encoded
	losses  uint64 // of the bundler, as of the last frame
	schema  *frame.Schema
	last    int64 // time of the last frame: no two scrapes of a target have one time
}

func newLoop(p *Poller, t *target.Target, key string) *loop {
	l := &loop{p: p, target: t, key: key, interval: t.Interval, timeout: t.Timeout}
	if l.interval <= 0 {
		l.interval = time.Minute
	}
	if l.timeout <= 0 || l.timeout > l.interval {
		l.timeout = l.interval
	}
	l.status = newStatus(l.interval)
	return l
}

// alwaysOn tells that a pause does not concern the target: one wants to see the metrics of a paused poller.
func (l *loop) alwaysOn() bool { return l.target.Self || l.target.Job() == target.SelfJob }

// begin gives the target an id.
func (l *loop) begin(def *frame.Target) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.def, l.sent = def, false
	l.encoder = frame.NewEncoder(l.p.epoch, def, l.p.cfg.Encoder)
}

func (l *loop) begun() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.encoder != nil
}

// adopt goes on under the id of a loop that stops, if the target is the same one to those who read its frames: it may have another
// interval and timeout, as in Prometheus, which writes no stale markers then.
func (l *loop) adopt(old *loop) bool {
	old.mu.Lock()
	defer old.mu.Unlock()
	if old.encoder == nil || l.begun() || !labels.Equal(l.target.Labels, old.target.Labels) || l.target.TrackTimestamps != old.target.TrackTimestamps {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.def, l.encoder, l.sent, l.schema = old.def, old.encoder, old.sent, old.schema
	l.status, l.losses, l.last = old.status, old.losses, old.last
	if l.interval != old.interval || l.timeout != old.timeout {
		def := *old.def
		def.Interval, def.Timeout = l.interval, l.timeout
		l.def = &def
		l.encoder.Retarget(l.def)
	}
	old.encoder, old.schema = nil, nil
	return true
}

// end says that nothing more comes under this id.
func (l *loop) end(reason frame.EndReason) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.encoder == nil {
		return
	}
	if l.sent {
		l.p.bundler.add(l.encoder.AppendEnd(nil, time.Now().UnixMilli(), reason), 0, nil)
	}
	l.p.bundler.use(l.schema, nil)
	l.encoder, l.schema = nil, nil
}

// run scrapes at each tick until ticks ends. Of the ticks that pass while a scrape runs the last is made up for at once,
// those before it are skipped. Ticks that passed before a scrape began, since the process or the machine stood still, it
// stands for. So does Prometheus.
func (l *loop) run(ticks, scrapes context.Context) {
	at := l.target.Next(time.Now(), l.p.cfg.Seed)
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ticks.Done():
		}
		if ticks.Err() != nil {
			return
		}
		began := l.tick(ticks, scrapes, at)
		if ticks.Err() != nil {
			return
		}
		var missed time.Duration
		at, missed = next(at, began, time.Now(), l.interval)
		l.p.metrics.skipped.WithLabelValues(skipOverrun).Add(float64(missed))
		timer.Reset(time.Until(at))
	}
}

// close gives back what the scraper holds; it is the goroutine's last act.
func (l *loop) close() {
	if c, ok := l.scraper.(io.Closer); ok {
		_ = c.Close()
	}
}

// next is the tick after the one at which a scrape was due that ran from began to ended, and how many are left out.
func next(at, began, ended time.Time, interval time.Duration) (tick time.Time, missed time.Duration) {
	tick = at.Add(interval)
	if late := began.Sub(tick); late >= 0 {
		missed = late/interval + 1
		tick = tick.Add(missed * interval)
	}
	if over := ended.Sub(tick) / interval; over > 0 {
		missed += over
		tick = tick.Add(over * interval)
	}
	return tick, missed
}

// tick does one scrape, if it may, and says when that began.
func (l *loop) tick(ticks, scrapes context.Context, at time.Time) time.Time {
	switch {
	case l.p.paused.Load() && !l.alwaysOn():
		l.p.metrics.skipped.WithLabelValues(skipPaused).Inc()
		return time.Now()
	case l.p.bundler.full():
		l.p.metrics.skipped.WithLabelValues(skipSpool).Inc()
		return time.Now()
	}
	if l.p.slots != nil {
		select {
		case l.p.slots <- struct{}{}:
			defer func() { <-l.p.slots }()
		case <-ticks.Done():
			return time.Now()
		}
	}
	l.outlast()
	f, o := l.scrape(scrapes)
	if f != nil {
		l.deliver(f, o, at)
	}
	return o.start
}

// outlast waits until the clock shows another time than that of the last scrape: after a standstill two scrapes can
// follow each other within a millisecond.
func (l *loop) outlast() {
	l.mu.Lock()
	last := l.last
	l.mu.Unlock()
	for time.Now().UnixMilli() == last {
		time.Sleep(time.Millisecond)
	}
}

// outcome is what is known of a scrape besides its frame.
type outcome struct {
	start   time.Time
	bytes   int64
	skipped exposition.Skipped
	err     error // why the target is down
}

// errNoReason stands for what a scraper does not tell.
var errNoReason = errors.New("the scrape failed")

// scrape asks the target. The frame is nil if the scrape was cut short by us.
func (l *loop) scrape(ctx context.Context) (*frame.Frame, outcome) {
	o := outcome{start: time.Now()}
	down := func(err error) (*frame.Frame, outcome) {
		o.err = err
		return &frame.Frame{Kind: frame.Down, Time: o.start.UnixMilli(), Report: frame.Report{Duration: time.Since(o.start)}}, o
	}
	if l.scraper == nil {
		s, err := l.p.cfg.NewScraper(l.target)
		if err != nil {
			return down(err)
		}
		l.scraper = s
	}
	limited, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	f, err := l.scraper.Scrape(limited)
	switch {
	case ctx.Err() != nil && (err != nil || f.Kind == frame.Down):
		return nil, o
	case err != nil:
		return down(err)
	}
	if t, ok := l.scraper.(teller); ok {
		o.err, o.bytes, o.skipped = t.LastError(), t.LastBytes(), t.LastSkipped()
	}
	if f.Kind == frame.Down && o.err == nil {
		o.err = errNoReason
	}
	return f, o
}

// deliver puts a scrape into the bundle.
func (l *loop) deliver(f *frame.Frame, o outcome, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.encoder == nil {
		return
	}
	l.logChange(l.status.note(f, o), o)

	m := l.p.metrics
	m.notCarried(o.skipped)
	if l.p.cfg.Format1 != nil {
		l.deliverFormat1(f)
		return
	}
	if n := l.p.bundler.lost(); n != l.losses {
		l.losses = n
		l.encoder.Reset()
	}
	buffer := l.p.buffers.Get().(*[]byte)
	defer l.p.buffers.Put(buffer)
	begin := time.Now()
	ms := aligned(f.Time, at, l.last, l.interval)
	var err error
	samples := 0
	if f.Kind == frame.Scraped {
		samples = f.Schema.Len() - f.Column.Absent.Count()
		*buffer, err = l.encoder.AppendScrape((*buffer)[:0], ms, f.Report, f.Schema, &f.Column)
	} else {
		*buffer = l.encoder.AppendDown((*buffer)[:0], ms, f.Report)
	}
	m.compressTime.Observe(time.Since(begin).Seconds())
	if err != nil {
		m.lose(lostEncode, 1, samples)
		if !l.losing {
			l.p.log.Error("cannot encode the scrapes of a target: they are lost",
				"job", l.target.Job(), "instance", l.target.Instance(), "count", samples, "error", err)
		}
		l.losing = true
		return
	}
	l.sent, l.losing, l.last = true, false, ms
	if f.Schema != nil && f.Schema != l.schema {
		l.p.bundler.use(l.schema, f.Schema)
		l.schema = f.Schema
	}
	l.p.bundler.add(*buffer, samples, f.Schema)
}

// aligned is the time of a scrape in milliseconds: that of its tick if it began at most the tolerance later, and the
// scrape before it did not have that time.
func aligned(ms int64, at time.Time, last int64, interval time.Duration) int64 {
	late := time.Duration(ms-at.UnixMilli()) * time.Millisecond
	if late > 0 && late <= min(interval/100, alignTolerance) && at.UnixMilli() != last {
		return at.UnixMilli()
	}
	return ms
}

// logChange logs a target that goes down or comes back, once.
func (l *loop) logChange(before Health, o outcome) {
	if o.err == nil && before != Down {
		return
	}
	args := []any{"job", l.target.Job(), "instance", l.target.Instance(), "url", l.target.RedactedURL()}
	switch {
	case o.err != nil && before != Down:
		l.p.log.Warn("scrape failed, the target is down", append(args, "error", o.err)...)
	case o.err != nil:
		l.p.log.Debug("scrape failed", append(args, "error", o.err)...)
	default:
		l.p.log.Info("target is up again", args...)
	}
}
