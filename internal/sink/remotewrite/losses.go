package remotewrite

import (
	"strings"

	"github.com/choria-io/prometheus-streams/internal/redact"
)

// lose counts samples that the server does not take.
func (s *Sink) lose(p *part, reasons []reason, text string) {
	for _, r := range reasons {
		if p.Repeated {
			s.metrics.already.WithLabelValues(p.Publisher).Add(float64(r.count))
			continue
		}
		s.metrics.dropped.WithLabelValues(r.name, p.Publisher).Add(float64(r.count))
		if s.say(r.name + "\xff" + p.Publisher) {
			s.Logger.Warn("the server does not take samples: they are dropped", "url", redact.RawURL(s.URL), "reason", r.name,
				"publisher", p.Publisher, "target", p.Frame.Target.Labels.String(), "count", r.count, "error", clip(text))
		}
	}
}

// reason is why some samples are dropped.
type reason struct {
	name  string
	count int
}

// reasonsOf reads from a server's text why it dropped samples: as many as it names, if it names all of them; else the
// first reason counts for all.
func reasonsOf(text string, lost int) []reason {
	text = strings.NewReplacer("-", " ", "_", " ").Replace(strings.ToLower(text))
	text = strings.ReplaceAll(text, "out of order exemplar", "exemplar")                           // does not count among samples
	text = strings.ReplaceAll(text, "out of bounds: timestamp is too far", "timestamp is too far") // as Prometheus puts it
	var found []reason
	sum, first := 0, reason{rejected, lost}
	at := len(text) + 1
	for _, w := range []struct {
		name  string
		words []string
	}{
		{outOfOrder, []string{"out of order"}},
		{tooFar, []string{"too far in the future", "too far in future"}},
		{tooOld, []string{"too old", "out of bounds"}},
		{duplicate, []string{"duplicate sample", "duplicate timestamp"}},
	} {
		n := 0
		for _, words := range w.words {
			if i := strings.Index(text, words); i >= 0 && i < at {
				at, first.name = i, w.name
			}
			n = max(n, strings.Count(text, words))
		}
		if n > 0 {
			found = append(found, reason{w.name, n})
			sum += n
		}
	}
	if len(found) > 1 && sum == lost {
		return found
	}
	return []reason{first}
}

// countExemplars counts what became of the exemplars of a request. Which ones a server of 2.0 did not write only shows if
// it is all of them, or if they are all of one publisher; else the publisher is left empty. One of 1.0 does not tell.
func (s *Sink) countExemplars(b *batch) {
	if b.exemplars == 0 {
		return
	}
	lost := 0
	if b.protocol == 2 {
		lost = max(0, b.exemplars-b.answer.exemplars)
	}
	s.metrics.exemplars.Add(float64(b.exemplars - lost))
	if lost == 0 {
		return
	}
	why := rejected
	if strings.Contains(strings.ToLower(b.answer.text), "out of order exemplar") {
		why = outOfOrder
	}
	publisher, several := "", false
	for i := range b.pieces {
		p := &b.pieces[i]
		switch {
		case p.exemplars == 0:
		case lost == b.exemplars:
			s.loseExemplars(p.part.Publisher, why, p.exemplars, b.answer.text)
		case publisher == "":
			publisher = p.part.Publisher
		default:
			several = several || publisher != p.part.Publisher
		}
	}
	if lost < b.exemplars {
		if several {
			publisher = ""
		}
		s.loseExemplars(publisher, why, lost, b.answer.text)
	}
}

// loseExemplars counts exemplars that are not written.
func (s *Sink) loseExemplars(publisher, reason string, count int, why string) {
	if count <= 0 {
		return
	}
	s.metrics.droppedExemplars.WithLabelValues(reason, publisher).Add(float64(count))
	if s.say("exemplars\xff" + reason + "\xff" + publisher) {
		s.Logger.Info("exemplars are dropped", "url", redact.RawURL(s.URL), "reason", reason, "publisher", publisher,
			"count", count, "error", why)
	}
}
