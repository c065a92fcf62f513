package poller

import (
	"errors"
	"time"

	"github.com/prometheus/common/model"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// Format1 says that the poller makes messages of format 1 instead of bundles: one for each scrape, for a carrier that is
// read by programs which know nothing else. Scrapers must have the body that they were given (Bodied). There are no lanes
// and epochs then; a target that is removed or paused just falls silent.
type Format1 struct {
	// Report puts up and scrape_* behind each body, and sends a message for a failed scrape.
	Report bool
}

// Bodied is a Scraper that keeps the text of its last successful scrape.
type Bodied interface {
	// LastBody is an exposition in text format. It is valid until the next scrape.
	LastBody() ([]byte, error)
}

// deliverFormat1 makes a message of a scrape and gives it to the spool; l.mu is held.
func (l *loop) deliverFormat1(f *frame.Frame) {
	report := l.p.cfg.Format1.Report
	if f.Kind == frame.Down && !report {
		return
	}
	begin := time.Now()
	message, samples, err := l.format1(f, report)
	l.p.metrics.compressTime.Observe(time.Since(begin).Seconds())
	if err != nil {
		l.p.metrics.lose(lostEncode, 1, samples)
		if !l.losing {
			l.p.log.Error("cannot encode the scrapes of a target: they are lost",
				"job", l.target.Job(), "instance", l.target.Instance(), "count", samples, "error", err)
		}
		l.losing = true
		return
	}
	l.losing = false
	l.p.bundler.addMessage(message, samples)
}

func (l *loop) format1(f *frame.Frame, report bool) (message []byte, samples int, err error) {
	var body []byte
	if f.Kind == frame.Scraped {
		samples = f.Schema.Len() - f.Column.Absent.Count()
		bodied, ok := l.scraper.(Bodied)
		if !ok {
			return nil, samples, errors.New("its scraper keeps no body")
		}
		if body, err = bodied.LastBody(); err != nil {
			return nil, samples, err
		}
		report = report && !hasReport(f.Schema)
	}
	if report {
		body = frame.AppendReport(body[:len(body):len(body)], f.Kind == frame.Scraped, f.Report)
	}
	message, err = frame.AppendFormat1(nil, &frame.Format1{
		Job: l.target.Job(), Instance: l.target.Instance(), Time: time.Now().Unix(), Publisher: l.p.cfg.Publisher, Body: body,
	})
	return message, samples, err
}

// hasReport tells whether a target itself exposes one of the series that a report adds: twice in one body, they would make
// a Push Gateway refuse all of it.
func hasReport(s *frame.Schema) bool {
	for i := range s.Series {
		ls := s.Series[i].Labels
		if ls.Len() != 1 {
			continue
		}
		switch ls.Get(model.MetricNameLabel) {
		case frame.UpName, frame.DurationName, frame.ScrapedName, frame.PostRelabelName, frame.AddedName:
			return true
		}
	}
	return false
}

// addMessage hands the spool a message that is finished. After close it is too late: the frame counts as lost.
func (b *bundler) addMessage(message []byte, samples int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		b.metrics.lose(lostStopped, 1, samples)
		return
	}
	done := Bundle{Message: message, Frames: 1, Samples: samples}
	b.metrics.bundle(done, 0)
	b.waiting = append(b.waiting, done)
	b.offer()
}
