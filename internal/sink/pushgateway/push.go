package pushgateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/redact"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// outcome is how one push ended.
type outcome uint8

const (
	// accepted: the gateway has it.
	accepted outcome = iota
	// refused: the gateway never takes it.
	refused
	// failed: the gateway may take it another time.
	failed
)

// answer is how one push ended, with the gateway's words.
type answer struct {
	outcome outcome
	// reason is a short constant for metrics, of what is not accepted.
	reason string
	err    error
	// words are what the gateway answered, bounded.
	words   string
	after   time.Duration // the gateway's wish when to come again
	timeout bool
	took    time.Duration
	encoded
}

// push is one request to be made. It is read without the lock.
type push struct {
	method, path string
	frame        *frame.Frame
	content      *content // nil deletes
	// protobuf tells that the content has native histograms.
	protobuf bool
	// classic is the content without native histograms; nil if it has none.
	classic *content
	timeout time.Duration
}

const (
	// maxWords bounds what is kept of an answer, maxDrained what is read of it to keep the connection.
	maxWords   = 400
	maxDrained = 64 << 10
	// gzipFrom is the size from which a body is worth compressing.
	gzipFrom = 1 << 10
	// adaptedFor is for how long something is left out that the gateway does not take, before it is tried again.
	adaptedFor = time.Hour
	// maxAdapted is how often a push is made smaller.
	maxAdapted = 8
	// maxRefused bounds the metrics of a group that are left out because the gateway refused them.
	maxRefused = 100
	// textType and protobufType are the Content-Type of a push. The names in it are as they are, which is not said: a
	// gateway that takes them does not ask.
	textType     = "text/plain; version=0.0.4; charset=utf-8"
	protobufType = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
	// aboutMetrics begins an answer about metrics that the gateway could read.
	aboutMetrics = "pushed metrics are invalid"
)

// ability remembers that the gateway lacks one for a while: compressed bodies, which those before 1.5.0 read as text, or
// the protobuf format, which every Push Gateway takes, but not all that speak its protocol.
type ability struct{ offUntil atomic.Int64 }

func (a *ability) on() bool { return time.Now().UnixNano() >= a.offUntil.Load() }
func (a *ability) off()     { a.offUntil.Store(time.Now().Add(adaptedFor).UnixNano()) }

// prepare makes the request for a group's work.
func (s *Sink) prepare(g *group, w *work) push {
	p := push{method: http.MethodDelete, path: g.path, timeout: s.timeout(g, w)}
	if w.part == nil {
		return p
	}
	p.method = strings.ToUpper(s.Method)
	now := time.Now()
	if now.After(g.until) {
		g.refused, g.legacy, g.part, g.until = nil, false, nil, now.Add(adaptedFor)
	}
	if g.part != w.part {
		if g.settled != nil {
			s.types.release(g.settled)
		}
		g.part, g.settled = w.part, s.types.settle(&w.part.content)
		g.write()
	}
	p.frame, p.content, p.classic, p.protobuf = w.frame, g.written, g.classic, g.classic != nil
	if p.protobuf && !s.protobuf.on() {
		p.content, p.classic, p.protobuf = p.classic, nil, false
	}
	return p
}

// write sets what is written of the settled content.
func (g *group) write() {
	g.written, g.classic = g.settled.without(g.refused, g.legacy), nil
	if g.written.native() {
		g.classic = g.written.classic()
	}
}

// timeout of a group's next push. It is the interval at best: what takes longer is better superseded. But a gateway that
// is slow must be given longer once, or nothing would ever arrive; and not twice as long, so that after one that hung
// every group has its newest scrape within two intervals.
func (s *Sink) timeout(g *group, w *work) time.Duration {
	if s.Timeout > 0 {
		return s.Timeout
	}
	t := min(max(w.target.interval, 5*time.Second), 30*time.Second)
	if g.timeouts > 0 {
		t = min(t*7/4, 30*time.Second)
	}
	return t
}

// push makes a request, and others if the gateway seems not to understand the first.
func (s *Sink) push(ctx context.Context, e *encoder, p push) answer {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	start := time.Now()
	if p.content == nil {
		a := s.send(ctx, p, nil, false)
		a.took = time.Since(start)
		return a
	}
	a := s.pushContent(ctx, e, p)
	if p.protobuf && misunderstood(&a) {
		p.content, p.protobuf = p.classic, false
		if a = s.pushContent(ctx, e, p); a.outcome == accepted {
			s.protobuf.off()
			s.Logger.Warn("the Push Gateway takes no protobuf: native histograms are left out for an hour", "url", redact.URL(s.base))
		}
	}
	a.took = time.Since(start)
	return a
}

// pushContent makes one request, and a second one if the gateway seems not to understand compression.
func (s *Sink) pushContent(ctx context.Context, e *encoder, p push) answer {
	enc, err := e.encode(p.content, p.frame, p.protobuf)
	if err != nil {
		return answer{outcome: refused, reason: rejectRefused, err: fmt.Errorf("writing the group: %w", err)}
	}
	packed := e.plain.Len() >= gzipFrom && s.gzip.on()
	a := s.send(ctx, p, e.body(packed), packed)
	if packed && misunderstood(&a) {
		packed = false
		if a = s.send(ctx, p, e.body(false), false); a.outcome == accepted {
			s.gzip.off()
			s.Logger.Info("the Push Gateway takes no compressed bodies", "url", redact.URL(s.base))
		}
	}
	a.encoded = enc
	a.bytes = e.plain.Len()
	if packed {
		a.bytes = e.packed.Len()
	}
	return a
}

// misunderstood tells whether a push was refused for another reason than the metrics in it.
func misunderstood(a *answer) bool {
	return a.outcome == refused && a.reason == rejectRefused && !strings.HasPrefix(a.words, aboutMetrics)
}

// send makes one request. The body must not be used again afterwards: the client may still be reading it.
func (s *Sink) send(ctx context.Context, p push, body []byte, packed bool) answer {
	u := *s.base
	u.Path += p.path
	if u.RawPath != "" {
		u.RawPath += p.path
	}
	req, err := http.NewRequestWithContext(ctx, p.method, u.String(), bytes.NewReader(body))
	if err != nil {
		return answer{outcome: failed, reason: "request", err: err}
	}
	req.Header.Set("User-Agent", "prometheus-streams")
	switch {
	case p.content == nil:
	case p.protobuf:
		req.Header.Set("Content-Type", protobufType)
	default:
		req.Header.Set("Content-Type", textType)
	}
	if packed {
		req.Header.Set("Content-Encoding", "gzip")
	}
	resp, err := s.HTTPClient.Do(req)
	if err != nil {
		a := answer{outcome: failed, reason: "network", err: redact.Error(err)}
		if errors.Is(err, context.DeadlineExceeded) {
			a.reason, a.timeout = "timeout", true
			a.err = fmt.Errorf("no answer within %s", p.timeout)
		}
		return a
	}
	defer resp.Body.Close()
	words, err := io.ReadAll(io.LimitReader(resp.Body, maxWords))
	if err == nil {
		_, _ = io.CopyN(io.Discard, resp.Body, maxDrained)
	}
	return judge(p.method, resp, strings.TrimSpace(redact.Answer(resp, string(words))))
}

// judge reads an answer.
func judge(method string, resp *http.Response, words string) answer {
	a := answer{words: words, err: fmt.Errorf("%s: %s", resp.Status, words)}
	switch code := resp.StatusCode; {
	case resp.Request.Method != method:
		// A redirection that makes a GET of it: whatever was answered, nothing was pushed.
		a.outcome, a.reason = failed, "redirected"
		a.err = fmt.Errorf("redirected to %s, which takes no %s", redact.URL(resp.Request.URL), method)
	case code == http.StatusOK || code == http.StatusAccepted || code == http.StatusNoContent:
		return answer{outcome: accepted}
	case method == http.MethodDelete && (code == http.StatusNotFound || code == http.StatusGone):
		return answer{outcome: accepted}
	case code == http.StatusBadRequest || code == http.StatusUnsupportedMediaType || code == http.StatusUnprocessableEntity:
		a.outcome, a.reason = refused, rejectRefused
	case code == http.StatusRequestEntityTooLarge:
		a.outcome, a.reason = refused, rejectTooLarge
	case code == http.StatusTooManyRequests:
		a.outcome, a.reason = failed, "status_429"
	default:
		a.outcome, a.reason = failed, "status_"+strconv.Itoa(code/100)+"xx"
	}
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
		a.after = time.Duration(min(n, 60)) * time.Second
	}
	return a
}

// finish takes the end of a push.
func (s *Sink) finish(g *group, w *work, a answer) {
	s.lock()
	defer s.unlock()
	defer s.wakeUp()
	g.pushing = nil
	s.pushes--
	s.metrics.pushed(s.Method, w, &a)
	again := false
	switch {
	case a.outcome == accepted:
		s.accept(g, w, &a)
	case a.outcome == refused && w.part != nil && s.adapt(g, w, &a):
		s.metrics.retries.WithLabelValues("adapted").Inc()
		again = true
	case a.outcome == refused:
		s.reject(g, w, &a)
	default:
		s.fail(g, w, &a)
		again = true
	}
	switch {
	case !again:
	case s.stopped:
		s.settle(w, errStopped)
	case g.next != nil:
		s.supersede(w)
	default:
		g.next = w
	}
	switch {
	case g.next != nil:
		s.due.add(g)
	case w.part == nil && !again:
		s.forget(g)
	}
}

func (s *Sink) accept(g *group, w *work, a *answer) {
	if s.answered(g) && s.failing == 0 {
		s.Logger.Info("the Push Gateway accepts all groups again", "url", redact.URL(s.base))
		s.said.forget("failing")
	}
	s.settle(w, nil)
	g.since = time.Time{}
	if g.next != nil && g.next.part != nil {
		g.since = g.next.arrived
	}
	if w.part == nil {
		g.accepted = 0
		s.metrics.deleted.WithLabelValues(w.reason).Inc()
		return
	}
	g.filled, g.accepted = w.arrived, w.frame.Time
	s.metrics.accepted(a)
}

// answered notes that a push of the group came through, and tells whether the last one had not.
func (s *Sink) answered(g *group) bool {
	if g.failures == 0 {
		return false
	}
	s.failing--
	g.failures, g.timeouts, g.due = 0, 0, time.Time{}
	return true
}

func (s *Sink) reject(g *group, w *work, a *answer) {
	s.answered(g)
	s.metrics.rejected.WithLabelValues(a.reason).Inc()
	if now := time.Now(); now.After(g.quiet) {
		g.quiet = now.Add(adaptedFor)
		s.Logger.Warn("the Push Gateway refuses a group; said once an hour for each group",
			"group", g.path, "reason", a.reason, "error", a.err)
	}
	s.settle(w, sink.Reject(a.reason, "%v", a.err))
}

// fail plans the next try: never later than half an interval, so that a gateway that comes back has
// everything soon.
func (s *Sink) fail(g *group, w *work, a *answer) {
	if g.failures == 0 {
		s.failing++
	}
	g.failures++
	if a.timeout {
		g.timeouts++
	}
	failures := g.failures
	if a.timeout && s.Timeout == 0 {
		failures = 1 // it has waited long enough
	}
	wait := 500 * time.Millisecond << min(failures-1, 10)
	wait = min(wait, max(w.target.interval/2, time.Second), 15*time.Second)
	wait = max(wait*3/4+rand.N(wait/2), a.after)
	g.due = time.Now().Add(wait)
	s.metrics.retries.WithLabelValues(a.reason).Inc()
	if !s.stopped {
		s.said.warn(s.Logger, "failing", "a push failed and is tried again", "group", g.path, "reason", a.reason, "error", a.err)
	}
}

// adapt makes the group's content smaller by what the gateway says it does not take. false means that nothing in its
// answer helps.
func (s *Sink) adapt(g *group, w *work, a *answer) bool {
	if a.reason != rejectRefused || a.words == "" || w.adapted >= maxAdapted || g.part != w.part {
		return false
	}
	w.adapted++
	if in, ok := insists(a.words); ok && g.written.differs(in) && len(s.types.helps) < maxRefused {
		if in.typ != "" {
			s.types.fix(in.name, in.typ)
		} else {
			s.types.helps[in.name] = in.help
		}
		g.part = nil // settled anew
		return true
	}
	name, ok := g.written.named(a.words)
	switch {
	case !g.legacy && g.written.hasUTF8Names() && (!ok || aboutNames(a.words)):
		g.legacy = true
	case ok && len(g.refused) < maxRefused:
		if g.refused == nil {
			g.refused = make(map[string]bool)
		}
		g.refused[name] = true
	default:
		return false
	}
	s.Logger.Warn("the Push Gateway refuses some of a group; it is left out for an hour", "group", g.path, "error", a.err)
	g.write()
	return true
}
