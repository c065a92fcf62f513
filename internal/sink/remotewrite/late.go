package remotewrite

import (
	"errors"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
	"github.com/prometheus/prometheus/model/value"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// lateWriter writes what the server does not take for its age into files of OpenMetrics text, from which
//
//	promtool tsdb create-blocks-from openmetrics FILE DATA_DIRECTORY
//
// makes blocks. It works beside Run. A frame gets its verdict once the disk has it.
type lateWriter struct {
	store   *lateStore
	labels  *sink.Labels
	relabel []*relabel.Config
	builder *labels.Builder
	natives bool // native histograms are sent, so that they can be lost
	metrics *metrics
	logger  *slog.Logger
	said    time.Time
	line    []byte

	mu      sync.Mutex
	jobs    []*lateJob
	stopped bool
	wake    chan struct{}
	done    chan struct{}
}

// lateJob is what one frame has for the files.
type lateJob struct {
	*delivery
	// rows are those of the scrape, report those of its report.
	rows, report []span
	verdict      error
}

// span is a run of rows.
type span struct{ from, to int }

// whole is the job of a frame of which the server is not asked at all.
func whole(d *delivery, verdict error) *lateJob {
	j := &lateJob{delivery: d, verdict: verdict, report: []span{{0, sink.ReportSeries}}}
	if d.Frame.Kind == frame.Scraped {
		j.rows = []span{{0, len(d.Frame.Schema.Series)}}
	}
	return j
}

// old tells whether reasons are about the age of samples.
func old(reasons []reason) bool {
	return slices.ContainsFunc(reasons, func(r reason) bool { return r.name == outOfOrder || r.name == tooOld })
}

// keepLate notes that a piece was refused for its age. Which of its samples that is nobody knows if it is not all of them;
// the server has the others, and blocks with equal samples go together.
func (s *Sink) keepLate(p *piece) {
	if s.late == nil || p.part.Repeated {
		return
	}
	j := p.part.late
	if j == nil {
		j = &lateJob{delivery: p.part.delivery}
		p.part.late = j
	}
	at := 0
	for i := range p.part.segments {
		g := &p.part.segments[i]
		n := g.text().series()
		if from, to := max(p.from-at, 0), min(p.to-at, n); from < to && g.values != nil {
			if g.report {
				j.report = append(j.report, span{from, to})
			} else {
				j.rows = append(j.rows, span{from, to})
			}
		}
		at += n
	}
}

// conclude gives a frame its verdict, once what is late of it is on disk.
func (s *Sink) conclude(p *part, err error) {
	if p.late == nil {
		p.done(err)
		return
	}
	p.late.verdict = err
	s.late.take(p.late)
}

func (s *Sink) newLate() error {
	if s.LateDirectory == "" {
		return nil
	}
	store, err := openLateStore(s.LateDirectory, s.Name, s.LateMaxSize)
	if err != nil {
		return err
	}
	s.late = &lateWriter{
		store: store, labels: s.labels, relabel: s.WriteRelabel, natives: s.SendNativeHistograms, builder: labels.NewBuilder(labels.EmptyLabels()),
		metrics: s.metrics, logger: s.Logger, wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	s.metrics.lateBytes.Set(float64(store.total))
	return nil
}

// take never blocks. What waits is bounded by the frames in flight.
func (w *lateWriter) take(j *lateJob) {
	w.mu.Lock()
	w.jobs = append(w.jobs, j)
	w.mu.Unlock()
	w.nudge()
}

func (w *lateWriter) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run writes until stop.
func (w *lateWriter) run() {
	defer close(w.done)
	ticker := time.NewTicker(lateFileAge / 4)
	defer ticker.Stop()
	for {
		w.mu.Lock()
		jobs, stopped := w.jobs, w.stopped
		w.jobs = nil
		w.mu.Unlock()
		w.write(jobs)
		if stopped && len(jobs) == 0 {
			w.complain(w.store.close(time.Time{}))
			return
		}
		if len(jobs) > 0 {
			continue
		}
		select {
		case <-w.wake:
		case now := <-ticker.C:
			w.complain(w.store.close(now.Add(-lateFileAge)))
		}
	}
}

// stop writes what waits and closes the files.
func (w *lateWriter) stop() {
	w.mu.Lock()
	w.stopped = true
	w.mu.Unlock()
	w.nudge()
	<-w.done
}

// write takes jobs to the disk and gives them their verdicts.
func (w *lateWriter) write(jobs []*lateJob) {
	if len(jobs) == 0 {
		return
	}
	counts := make(map[string]float64)
	for _, j := range jobs {
		counts[j.Publisher] += float64(w.writeJob(j))
	}
	failed := w.store.sync()
	for publisher, n := range counts {
		if err := failed[publisher]; err != nil {
			w.lose(publisher, lostDisk, n, err)
		} else if n > 0 {
			w.metrics.late.WithLabelValues(publisher).Add(n)
		}
	}
	w.metrics.lateBytes.Set(float64(w.store.total))
	for _, j := range jobs {
		j.delivery.done(j.verdict)
	}
}

// The reasons for which late samples are not in the files.
const (
	lostDisk      = "disk"
	lostFull      = "full"
	lostHistogram = "native_histogram"
	lostDuplicate = "duplicate"
)

func (w *lateWriter) lose(publisher, reason string, n float64, err error) {
	if n == 0 {
		return
	}
	w.metrics.lateLost.WithLabelValues(publisher, reason).Add(n)
	w.complain(err)
}

func (w *lateWriter) complain(err error) {
	if err == nil || time.Since(w.said) < sayEvery {
		return
	}
	w.said = time.Now()
	w.logger.Warn("late samples are not all kept", "file", w.store.directory, "error", err)
}

// writeJob writes the samples of one frame and counts them.
func (w *lateWriter) writeJob(j *lateJob) (written int) {
	f := j.Frame
	prepared := w.labels.Prepare(f.Schema, f.Target.Labels, j.Publisher)
	earlier := f.Column.Earlier
	for _, r := range j.rows {
		for len(earlier) > 0 && earlier[0].Row < r.from {
			earlier = earlier[1:]
		}
		for i := r.from; i < r.to; i++ {
			for ; len(earlier) > 0 && earlier[0].Row == i; earlier = earlier[1:] {
				written += w.sample(j.Publisher, prepared.SeriesLabels(i, w.builder), earlier[0].Value, earlier[0].Timestamp)
			}
			switch v := f.Column.Values[i]; {
			case f.Column.Absent.Has(i) || value.IsStaleNaN(v):
			case native(&f.Column, i):
				if w.natives {
					w.metrics.lateLost.WithLabelValues(j.Publisher, lostHistogram).Inc()
				}
			default:
				written += w.sample(j.Publisher, prepared.SeriesLabels(i, w.builder), v, timeOf(f, i))
			}
		}
	}
	values := sink.ReportValues(f)
	for _, r := range j.report {
		for i := r.from; i < r.to; i++ {
			written += w.sample(j.Publisher, prepared.Report[i], values[i], f.Time)
		}
	}
	return written
}

// sample writes one sample and tells whether it did: 0 or 1.
func (w *lateWriter) sample(publisher string, l labels.Labels, v float64, ms int64) int {
	if len(w.relabel) > 0 {
		w.builder.Reset(l)
		if !relabel.ProcessBuilder(w.builder, w.relabel...) {
			return 0
		}
		l = w.builder.Labels()
	}
	if l.IsEmpty() {
		return 0
	}
	w.line = appendSeriesText(w.line[:0], l)
	series := len(w.line)
	w.line = strconv.AppendFloat(append(w.line, ' '), v, 'g', -1, 64)
	w.line = append(appendSeconds(append(w.line, ' '), ms), '\n')
	switch err := w.store.add(publisher, w.line, series, ms, math.Float64bits(v)); {
	case err == nil:
		return 1
	case errors.Is(err, errLateRepeat):
	case errors.Is(err, errLateDuplicate):
		w.metrics.lateLost.WithLabelValues(publisher, lostDuplicate).Inc()
	case errors.Is(err, errLateFull):
		w.lose(publisher, lostFull, 1, err)
	default:
		w.lose(publisher, lostDisk, 1, err)
	}
	return 0
}

// appendSeriesText writes the name and the labels of a series as OpenMetrics has them.
func appendSeriesText(b []byte, l labels.Labels) []byte {
	name := l.Get(model.MetricNameLabel)
	open := !model.LegacyValidation.IsValidMetricName(name)
	if open {
		b = appendQuoted(append(b, '{'), name)
	} else {
		b = append(b, name...)
	}
	l.Range(func(l labels.Label) {
		if l.Name == model.MetricNameLabel {
			return
		}
		if open {
			b = append(b, ',')
		} else {
			b, open = append(b, '{'), true
		}
		if model.LegacyValidation.IsValidLabelName(l.Name) {
			b = append(b, l.Name...)
		} else {
			b = appendQuoted(b, l.Name)
		}
		b = appendQuoted(append(b, '='), l.Value)
	})
	if open {
		b = append(b, '}')
	}
	return b
}

func appendQuoted(b []byte, text string) []byte {
	b = append(b, '"')
	for i := range len(text) {
		switch c := text[i]; c {
		case '\n':
			b = append(b, '\\', 'n')
		case '"', '\\':
			b = append(b, '\\', c)
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

// appendSeconds writes a time so that a reader which cuts off what is below a millisecond gets the same one.
func appendSeconds(b []byte, ms int64) []byte {
	s := float64(ms) / 1000
	if int64(s*1000) != ms {
		s = math.Nextafter(s, math.Copysign(math.Inf(1), s))
	}
	return strconv.AppendFloat(b, s, 'f', -1, 64)
}
