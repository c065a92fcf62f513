package scrape

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/choria-io/prometheus-streams/internal/exposition"
	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/redact"
	"github.com/choria-io/prometheus-streams/internal/target"
)

// DefaultBodySizeLimit bounds an uncompressed exposition unless the target says otherwise.
const DefaultBodySizeLimit = 128 << 20

// Options are what the scrapers of a process share. The zero value works.
type Options struct {
	// Client asks all targets, whatever settings they have; nil takes a client for the settings from Shared.
	Client *http.Client
	// Shared has the clients and failure logs that scrapers share; nil makes some for this scraper alone.
	Shared *Shared
	// Guard bounds the series of all targets together; nil does not.
	Guard *Guard
	// Metrics count the scrapes that a limit made fail; nil does not.
	Metrics *Metrics
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

// Scraper scrapes one target. It is used by one goroutine at a time.
type Scraper struct {
	target  *target.Target
	client  *http.Client
	request *http.Request
	buffers *Buffers
	layout  *exposition.Layout
	self    prometheus.Gatherer
	limit   int64
	shared  *Shared
	guard   *Guard
	metrics *Metrics
	held    int          // series that the guard knows of
	log     *slog.Logger // of failures, or nil
	fresh   func() *exposition.Layout

	textBody, bodyIsText bool
	body                 []byte // of the last good scrape, with textBody

	frame frame.Frame
	named frame.Target

	lastError error
	lastBytes int64
	lastType  string // the Content-Type of the last answer
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
	if o.Shared == nil {
		o.Shared = &Shared{}
	}
	rules := rulesOf(t, o.Limits)
	s := &Scraper{
		target: t, client: o.Client, buffers: o.Buffers, self: o.Self, limit: t.BodySizeLimit, textBody: o.TextBody,
		guard: o.Guard, metrics: o.Metrics,
		fresh: func() *exposition.Layout { return exposition.NewLayout(rules, o.Schemas) },
		named: frame.Target{Labels: t.Labels, Interval: t.Interval, Timeout: t.Timeout, TrackTimestamps: t.TrackTimestamps},
	}
	s.layout = s.fresh()
	if s.limit <= 0 {
		s.limit = DefaultBodySizeLimit
	}
	if t.Self {
		if o.Self == nil {
			return nil, fmt.Errorf("job %q: there is no registry to read", t.Job())
		}
		return s, nil
	}
	r, err := request(t, o)
	if err != nil {
		return nil, err
	}
	s.request = r
	if s.client == nil {
		if s.client, err = o.Shared.client(t.Client); err != nil {
			return nil, err
		}
		s.shared = o.Shared
	}
	if t.FailureLog != "" {
		h, err := o.Shared.log(t.FailureLog)
		if err != nil {
			s.Close()
			return nil, err
		}
		s.shared = o.Shared
		s.log = slog.New(h).With("job_name", t.Pool, "target", t.RedactedURL())
	}
	return s, nil
}

// Close gives back what the scraper shares with others. It must not be used afterwards.
func (s *Scraper) Close() error {
	s.guard.give(s.held)
	s.held = 0
	if s.shared == nil {
		return nil
	}
	if s.log != nil {
		s.shared.releaseLog(s.target.FailureLog)
	}
	s.shared.release(s.target.Client)
	s.shared = nil
	return nil
}

// rulesOf are the rules by which the expositions of a target are read.
func rulesOf(t *target.Target, limits *frame.Limits) exposition.Rules {
	return exposition.Rules{
		Target: t.Own(), External: t.External, HonorLabels: t.HonorLabels, HonorTimestamps: t.HonorTimestamps, Relabel: t.Relabel,
		SampleLimit: t.SampleLimit, LabelLimit: t.LabelLimit,
		LabelNameLengthLimit: t.LabelNameLengthLimit, LabelValueLengthLimit: t.LabelValueLengthLimit,
		ScrapeNativeHistograms: t.NativeHistograms, AlwaysScrapeClassicHistograms: t.ClassicHistograms,
		ConvertClassicHistogramsToNHCB: t.ConvertHistograms,
		NativeHistogramBucketLimit:     t.BucketLimit, NativeHistogramMinBucketFactor: t.MinBucketFactor,
		FallbackProtocol: string(t.FallbackProtocol), Strict: t.Strict, Validation: t.Validation,
		Limits: limits,
	}
}

// request is what a target is asked, each time.
func request(t *target.Target, o Options) (*http.Request, error) {
	r, err := http.NewRequest(http.MethodGet, t.URL, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("job %q, instance %q: url %q cannot be asked", t.Job(), t.Instance(), t.RedactedURL())
	}
	protocols := exposition.DefaultProtocols(t.NativeHistograms)
	if len(t.Protocols) > 0 {
		protocols = protocols[:0:0]
		for _, p := range t.Protocols {
			protocols = append(protocols, string(p))
		}
	}
	r.Header.Set("Accept", exposition.Accept(protocols, t.Escaping))
	if o.TextBody {
		r.Header.Set("Accept", acceptText)
	}
	r.Header.Set("Accept-Encoding", "gzip")
	if t.Uncompressed {
		r.Header.Set("Accept-Encoding", "identity")
	}
	r.Header.Set("User-Agent", userAgent(o.Version))
	r.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", strconv.FormatFloat(t.Timeout.Seconds(), 'f', -1, 64))
	return r, nil
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
	limited, cancel := s.within(ctx)
	defer cancel()
	s.lastError, s.lastBytes, s.lastType, s.skipped = nil, 0, "", exposition.Skipped{}
	parsed, err := s.ask(limited, cancel)
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
		s.failed(s.lastError)
		s.frame.Kind, s.frame.Schema, s.frame.Column = frame.Down, nil, frame.Column{}
	}
	s.skipped = parsed.Skipped
	s.frame.Report.Duration = time.Since(start)
	return &s.frame, nil
}

// within is a context of the length of one scrape, to be cancelled.
func (s *Scraper) within(ctx context.Context) (context.Context, context.CancelFunc) {
	if s.target.Timeout > 0 {
		return context.WithTimeout(ctx, s.target.Timeout)
	}
	return context.WithCancel(ctx)
}

// LastError is why the last scrape found the target down, or nil.
func (s *Scraper) LastError() error { return s.lastError }

// LastBytes is the size of the last exposition in bytes, uncompressed, as far as it was read.
func (s *Scraper) LastBytes() int64 { return s.lastBytes }

// LastContentType is the Content-Type of the last answer, as the target gave it.
func (s *Scraper) LastContentType() string { return s.lastType }

// LastSkipped is what the last exposition had and its frame does not carry.
func (s *Scraper) LastSkipped() exposition.Skipped { return s.skipped }

// failed counts a failed scrape, and logs it if there is a log for that.
func (s *Scraper) failed(err error) {
	s.metrics.failed(err)
	if s.log != nil {
		s.log.Error(err.Error())
	}
}

// ask gets an exposition and reads it; abort ends ctx.
func (s *Scraper) ask(ctx context.Context, abort func()) (exposition.Parsed, error) {
	if s.target.Refused != "" {
		return exposition.Parsed{}, errors.New(s.target.Refused)
	}
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
	b.watch(ctx.Done(), abort)
	contentType, err := s.fetch(ctx, b)
	s.lastBytes, s.lastType = int64(len(b.bytes)), contentType
	if err != nil {
		if why := b.whyEvicted(); why != nil {
			err = why
		}
		return exposition.Parsed{}, err
	}
	return s.parse(b.bytes, contentType)
}

func (s *Scraper) parse(body []byte, contentType string) (exposition.Parsed, error) {
	parsed, err := s.layout.Parse(body, contentType)
	if err == nil && parsed.Schema != nil {
		err = s.hold(parsed.Schema.Len())
	}
	if err == nil {
		s.keepBody(body, contentType)
	}
	return parsed, err
}

// hold asks the guard for the memory of so many series. If it is refused the target is forgotten, down to the series.
func (s *Scraper) hold(series int) error {
	err := s.guard.hold(s.held, series)
	if err != nil {
		s.guard.give(s.held)
		s.layout, series = s.fresh(), 0
	}
	s.held = series
	return err
}

// explain says in few words why a scrape failed. The URL is named in the log beside the error.
func (s *Scraper) explain(ctx context.Context, err error) error {
	err = redact.Error(err)
	if e := (*BodyMemoryError)(nil); errors.As(err, &e) {
		return e
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("no complete answer within the scrape timeout of %s: %w", s.target.Timeout, context.DeadlineExceeded)
	}
	return err
}
