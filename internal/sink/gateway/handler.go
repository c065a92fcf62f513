package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/prometheus/common/model"

	"github.com/choria-io/prometheus-streams/internal/exposition"
)

const (
	// maxAnswers bounds the answers written at a time; each may hold frames that are newer ones' elders.
	maxAnswers = 32
	// answerWait is how long a request waits for its turn.
	answerWait = 5 * time.Second
	// writeWait is how long a client may take for one buffer.
	writeWait = 30 * time.Second
	// protobufAnyName asks for protobuf with names as they are.
	protobufAnyName = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;escaping=allow-utf-8"
	// sayTwice is how often series left out are logged.
	sayTwice = time.Hour
)

// The paths under which a gateway's handlers are meant to be found.
const (
	MetricsPath = "/gateway/metrics"
	TargetsPath = "/gateway/targets"
)

// Metrics answers with the series of all targets that the parameters choose:
//
//	publisher=NAME   targets of this publisher; several are alternatives, as everywhere here
//	job=NAME         targets with this job label
//	match[]=SELECTOR series that match a Prometheus selector
func (g *Gateway) Metrics() http.Handler {
	return readOnly(func(w http.ResponseWriter, r *http.Request) {
		began := g.now()
		query, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			g.refuse(w, http.StatusBadRequest, "query: "+err.Error())
			return
		}
		want, err := parseFilter(query)
		if err != nil {
			g.refuse(w, http.StatusBadRequest, err.Error())
			return
		}
		if !g.enter(r.Context()) {
			w.Header().Set("Retry-After", "5")
			g.refuse(w, http.StatusServiceUnavailable, strconv.Itoa(maxAnswers)+" scrapes are being answered; try again")
			return
		}
		defer func() { <-g.answers }()
		g.answer(w, r, &want)
		g.metrics.duration.Observe(g.now().Sub(began).Seconds())
	})
}

func (g *Gateway) refuse(w http.ResponseWriter, code int, text string) {
	g.metrics.scrapes.WithLabelValues(strconv.Itoa(code)).Inc()
	http.Error(w, text, code)
}

// enter waits for a place among the answers.
func (g *Gateway) enter(ctx context.Context) bool {
	wait := time.NewTimer(answerWait)
	defer wait.Stop()
	select {
	case g.answers <- struct{}{}:
		return true
	case <-ctx.Done():
	case <-wait.C:
	}
	return false
}

func (g *Gateway) answer(w http.ResponseWriter, r *http.Request, want *filter) {
	negotiated := negotiate(strings.Join(r.Header.Values("Accept"), ","))
	h := w.Header()
	h.Set("Content-Type", negotiated.ContentType())
	h.Set("Vary", "Accept, Accept-Encoding")
	out := &patientWriter{w: w, control: http.NewResponseController(w)}
	var to io.Writer = out
	var zipped *gzip.Writer
	if acceptsGzip(r.Header.Values("Accept-Encoding")) {
		h.Set("Content-Encoding", "gzip")
		zipped = g.zipper(out)
		defer g.zippers.Put(zipped)
		to = zipped
	}
	p := g.page(r.Context(), to, negotiated, want)
	err := p.write()
	if err == nil && zipped != nil {
		err = zipped.Close()
	}
	g.metrics.bytes.Add(float64(out.bytes))
	if err != nil {
		g.metrics.scrapes.WithLabelValues("aborted").Inc()
		if !errors.Is(err, context.Canceled) {
			g.logger.Debug("a scrape could not be answered to its end", "address", r.RemoteAddr, "error", err)
		}
		// The client must not take what it has for the whole page.
		panic(http.ErrAbortHandler)
	}
	g.metrics.scrapes.WithLabelValues("200").Inc()
	g.metrics.omittedHistograms.Add(float64(p.omitted.Histograms))
	g.metrics.omittedExemplars.Add(float64(p.omitted.Exemplars))
	if p.twice > 0 {
		g.metrics.twice.Add(float64(p.twice))
		g.complain(p)
	}
}

// negotiate gives the format for an Accept header. Prometheus says only beside the text formats that it takes any name,
// and means protobuf too.
func negotiate(accept string) exposition.Format {
	f := exposition.Negotiate(accept)
	if f.Protobuf() && f.Escaping() != model.NoEscaping && strings.Contains(accept, model.EscapingKey+"="+model.AllowUTF8) {
		return exposition.Negotiate(protobufAnyName)
	}
	return f
}

// zipper gives a compressor that was used before, or a new one: they are large.
func (g *Gateway) zipper(w io.Writer) *gzip.Writer {
	if z, ok := g.zippers.Get().(*gzip.Writer); ok {
		z.Reset(w)
		return z
	}
	z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // the level is a valid one
	return z
}

// complain logs, once in a while, that series were left out.
func (g *Gateway) complain(p *page) {
	now := g.now()
	g.mu.Lock()
	due := now.Sub(g.complained) > sayTwice
	if due {
		g.complained = now
	}
	g.mu.Unlock()
	if due {
		g.logger.Warn("series are left out: others have the same labels", "count", p.twice, "target", p.example)
	}
}

// patientWriter gives the client a new term for each buffer, so that a page may be long and a client not
// endlessly slow.
type patientWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	bytes   int
}

func (p *patientWriter) Write(b []byte) (int, error) {
	// Not every ResponseWriter knows deadlines; the server's own still holds then.
	_ = p.control.SetWriteDeadline(time.Now().Add(writeWait))
	n, err := p.w.Write(b)
	p.bytes += n
	return n, err
}

// acceptsGzip reads an Accept-Encoding header.
func acceptsGzip(headers []string) bool {
	for part := range strings.SplitSeq(strings.Join(headers, ","), ",") {
		coding, params, _ := strings.Cut(strings.TrimSpace(part), ";")
		if !strings.EqualFold(strings.TrimSpace(coding), "gzip") {
			continue
		}
		q, ok := strings.CutPrefix(strings.TrimSpace(params), "q=")
		weight, err := strconv.ParseFloat(q, 64)
		return !ok || err == nil && weight > 0
	}
	return false
}

// targetGroup is one entry of the answer that http_sd_configs reads.
type targetGroup struct {
	Targets []string          `json:"targets"`
	Labels  map[string]string `json:"labels"`
}

// Targets answers with one scrape address for each publisher, as http_sd_configs reads it. A publisher that fell silent
// stays listed for a day.
func (g *Gateway) Targets() http.Handler {
	return readOnly(func(w http.ResponseWriter, r *http.Request) {
		scheme, host, prefix := "http", r.Host, strings.TrimSuffix(g.opts.RoutePrefix, "/")
		if r.TLS != nil {
			scheme = "https"
		}
		if u, err := url.Parse(g.opts.ExternalURL); err == nil && u.Host != "" {
			scheme, host, prefix = u.Scheme, u.Host, strings.TrimSuffix(u.Path, "/")
		}
		g.mu.RLock()
		names := slices.Sorted(maps.Keys(g.publishers))
		g.mu.RUnlock()
		groups := make([]targetGroup, 0, len(names))
		for _, name := range names {
			groups = append(groups, targetGroup{Targets: []string{host}, Labels: map[string]string{
				model.SchemeLabel:                    scheme,
				model.MetricsPathLabel:               prefix + MetricsPath,
				model.ParamLabelPrefix + "publisher": name,
			}})
		}
		body, err := json.Marshal(groups)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		// A client that went away needs no answer.
		_, _ = w.Write(append(body, '\n'))
	})
}

// readOnly lets only GET and HEAD through.
func readOnly(f http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		f(w, r)
	})
}
