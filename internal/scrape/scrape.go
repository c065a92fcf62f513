package scrape

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/prometheus/client_golang/prometheus"
	promconfig "github.com/prometheus/common/config"

	"github.com/choria-io/prometheus-streams/internal/exposition"
	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/target"
)

// DefaultBodySizeLimit bounds an uncompressed exposition unless the target says otherwise.
const DefaultBodySizeLimit = 128 << 20

// accept is what Prometheus 3 sends, but for protobuf.
const accept = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6," +
	"application/openmetrics-text;version=0.0.1;q=0.5," +
	"text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4," +
	"text/plain;version=0.0.4;q=0.3,*/*;q=0.2"

// Options are what the scrapers of a process share. The zero value works.
type Options struct {
	// Client asks the targets; nil makes one of its own for the scraper (NewClient).
	Client *http.Client
	// Schemas are shared by targets of equal shape; nil makes a store of its own.
	Schemas *exposition.Schemas
	// Buffers are shared memory for bodies; nil makes some of its own.
	Buffers *Buffers
	// Version of this program, for the User-Agent header.
	Version string
	// Self is the registry that the target of this process is read from.
	Self prometheus.Gatherer
	// Limits bound the schemas; nil takes frame.DefaultLimits.
	Limits *frame.Limits
	// TextBody asks targets for the old text format and keeps what they answer, for LastBody.
	TextBody bool
}

// NewClient makes a client as Prometheus does for a scrape config without HTTP settings. It holds idle connections and
// is meant to be shared by the scrapers of a process.
func NewClient() (*http.Client, error) {
	c, err := promconfig.NewClientFromConfig(promconfig.DefaultHTTPClientConfig, "prometheus-streams")
	if err != nil {
		return nil, fmt.Errorf("make the HTTP client of scrapes: %w", err)
	}
	return c, nil
}

// Scraper scrapes one target. It is used by one goroutine at a time.
type Scraper struct {
	target  *target.Target
	client  *http.Client
	request *http.Request
	buffers *Buffers
	layout  *exposition.Layout
	self    prometheus.Gatherer
	limit   int64

	textBody, bodyIsText bool
	body                 []byte // of the last good scrape, with textBody

	gzip  *gzip.Reader
	frame frame.Frame
	named frame.Target

	lastError error
	lastBytes int64
	skipped   exposition.Skipped
}

// New makes the scraper of a target. It fails if the target cannot be asked at all.
func New(t *target.Target, o Options) (*Scraper, error) {
	if o.Schemas == nil {
		o.Schemas = exposition.NewSchemas()
	}
	if o.Buffers == nil {
		o.Buffers = &Buffers{}
	}
	s := &Scraper{
		target: t, client: o.Client, buffers: o.Buffers, self: o.Self, limit: t.BodySizeLimit, textBody: o.TextBody,
		layout: exposition.NewLayout(exposition.Rules{
			Target: t.Labels, HonorLabels: t.HonorLabels, HonorTimestamps: t.HonorTimestamps, Relabel: t.Relabel,
			SampleLimit: t.SampleLimit, LabelLimit: t.LabelLimit,
			LabelNameLengthLimit: t.LabelNameLengthLimit, LabelValueLengthLimit: t.LabelValueLengthLimit,
			Limits: o.Limits,
		}, o.Schemas),
		named: frame.Target{Labels: t.Labels, Interval: t.Interval, Timeout: t.Timeout},
	}
	if s.limit <= 0 {
		s.limit = DefaultBodySizeLimit
	}
	if t.Self {
		if o.Self == nil {
			return nil, fmt.Errorf("job %q: there is no registry to read", t.Job())
		}
		return s, nil
	}
	if s.client == nil {
		c, err := NewClient()
		if err != nil {
			return nil, err
		}
		s.client = c
	}
	r, err := http.NewRequest(http.MethodGet, t.URL, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("job %q, instance %q: url %q cannot be asked", t.Job(), t.Instance(), t.RedactedURL())
	}
	r.Header.Set("Accept", accept)
	if o.TextBody {
		r.Header.Set("Accept", acceptText)
	}
	r.Header.Set("Accept-Encoding", "gzip")
	r.Header.Set("User-Agent", userAgent(o.Version))
	r.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", strconv.FormatFloat(t.Timeout.Seconds(), 'f', -1, 64))
	s.request = r
	return s, nil
}

func userAgent(version string) string {
	if version == "" {
		return "prometheus-streams"
	}
	return "prometheus-streams/" + version
}

// Scrape asks the target once, for as long as ctx and the target's timeout allow. The frame is Scraped or Down and
// valid until the next Scrape; its target's ID and its position are left to the caller. A target that has not answered
// when a deadline passes is Down; only a context that is cancelled ends the scrape with an error and without a frame,
// because that says nothing of the target.
func (s *Scraper) Scrape(ctx context.Context) (*frame.Frame, error) {
	start := time.Now()
	limited := ctx
	if s.target.Timeout > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, s.target.Timeout)
		defer cancel()
	}
	s.lastError, s.lastBytes, s.skipped = nil, 0, exposition.Skipped{}
	parsed, err := s.ask(limited)
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return nil, ctx.Err()
	}
	s.frame = frame.Frame{
		Kind: frame.Scraped, Target: &s.named, Time: start.UnixMilli(),
		Report: frame.Report{Scraped: parsed.Scraped, PostRelabel: parsed.PostRelabel, Added: parsed.Added},
		Schema: parsed.Schema, Column: parsed.Column,
	}
	if err != nil {
		s.lastError = s.explain(limited, err)
		s.frame.Kind, s.frame.Schema, s.frame.Column = frame.Down, nil, frame.Column{}
	}
	s.skipped = parsed.Skipped
	s.frame.Report.Duration = time.Since(start)
	return &s.frame, nil
}

// LastError is why the last scrape found the target down, or nil.
func (s *Scraper) LastError() error { return s.lastError }

// LastBytes is the size of the last exposition in bytes, uncompressed, as far as it was read.
func (s *Scraper) LastBytes() int64 { return s.lastBytes }

// LastSkipped is what the last exposition had and its frame does not carry.
func (s *Scraper) LastSkipped() exposition.Skipped { return s.skipped }

// ask gets an exposition and reads it.
func (s *Scraper) ask(ctx context.Context) (exposition.Parsed, error) {
	if s.target.Self {
		body, contentType, err := exposition.Gather(s.self)
		if err != nil {
			return exposition.Parsed{}, err
		}
		s.lastBytes = int64(len(body))
		if s.lastBytes > s.limit {
			return exposition.Parsed{}, &BodySizeError{Read: s.lastBytes, Limit: s.limit}
		}
		return s.parse(body, contentType)
	}
	b := s.buffers.get()
	defer func() { s.buffers.put(b) }()
	contentType, err := s.fetch(ctx, b)
	s.lastBytes = int64(len(b.bytes))
	if err != nil {
		return exposition.Parsed{}, err
	}
	return s.parse(b.bytes, contentType)
}

func (s *Scraper) parse(body []byte, contentType string) (exposition.Parsed, error) {
	parsed, err := s.layout.Parse(body, contentType)
	if err == nil {
		s.keepBody(body, contentType)
	}
	return parsed, err
}

// explain says in few words why a scrape failed. Errors of the HTTP client quote the URL; a password in it is masked
// there, and the URL is named in the log beside the error anyway.
func (s *Scraper) explain(ctx context.Context, err error) error {
	if e := (*url.Error)(nil); errors.As(err, &e) {
		err = e.Err
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("no complete answer within the scrape timeout of %s: %w", s.target.Timeout, context.DeadlineExceeded)
	}
	return err
}
