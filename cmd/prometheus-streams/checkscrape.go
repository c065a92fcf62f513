package main

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/config"
	"github.com/choria-io/prometheus-streams/internal/exposition"
	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/scrape"
	"github.com/choria-io/prometheus-streams/internal/target"
)

// checkScrape are the flags of check scrape.
type checkScrape struct {
	what string
	job  string
	wait time.Duration
}

// What a URL that is no target of the configuration is scraped with.
const (
	looseJob      = "check"
	looseInterval = time.Minute
	looseTimeout  = 10 * time.Second
	// scrapesApart is the time between the two scrapes of a check.
	scrapesApart = time.Second
)

func checkScrapeCommand(check *kingpin.CmdClause) command {
	f := &checkScrape{}
	clause := check.Command("scrape", "Scrape a target and tell what it gives and costs.")
	clause.Arg("target", "URL, or of a target of the configuration its instance, JOB/INSTANCE or URL.").Required().StringVar(&f.what)
	clause.Flag("job", "Take only a target of this job.").PlaceHolder("JOB").StringVar(&f.job)
	clause.Flag("wait", "How long service discovery may look around.").Default(discoverFor).DurationVar(&f.wait)
	return command{clause, f.run}
}

// run exits with 0 if all is well, 1 if the scrape fails, 3 if there is only lint, 2 if there is no such target or no usable
// configuration.
func (f *checkScrape) run(c *cli) int {
	t, cfg, err := f.find(c)
	if err != nil {
		_, _ = fmt.Fprintln(c.stderr, err)
		return exitUnreadable
	}
	if t.Self { // this process is not the one that it means
		outside := *t
		outside.Self = false
		t = &outside
	}
	m, err := f.measure(t)
	if err != nil {
		_, _ = fmt.Fprintln(c.stderr, err)
		return exitProblems
	}
	m.print(c, cfg)
	switch {
	case m.down != nil:
		return exitProblems
	case len(m.lint) > 0:
		return exitLint
	}
	return exitOK
}

// find is the target that is meant. cfg is nil without a configuration.
func (f *checkScrape) find(c *cli) (t *target.Target, cfg *config.Config, err error) {
	u, err := url.Parse(f.what)
	isURL := err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
	schedule := target.Schedule{Interval: looseInterval, Timeout: looseTimeout}
	external := labels.EmptyLabels()
	if c.configured() || !isURL {
		o, err := c.lookout()
		if err != nil {
			return nil, nil, err
		}
		defer o.env.log.close()
		if err := o.look(f.wait); err != nil {
			return nil, nil, err
		}
		cfg = o.cfg
		t, err := f.among(o)
		if t != nil || err != nil {
			return t, cfg, err
		}
		schedule = target.Schedule{Interval: time.Duration(cfg.ScrapeInterval), Timeout: time.Duration(cfg.ScrapeTimeout)}
		external = cfg.Labels()
	}
	if !isURL || f.job != "" {
		return nil, nil, fmt.Errorf("there is no target %q: see check targets", f.what)
	}
	t, err = target.FromJob(looseJob, "", f.what, schedule, external)
	return t, cfg, err
}

// among finds the target in what was found; nil if none is meant.
func (f *checkScrape) among(o *lookout) (*target.Target, error) {
	var found []*target.Target
	for _, p := range o.pools {
		if f.job != "" && p.Name != f.job {
			continue
		}
		for _, t := range p.Active {
			switch f.what {
			case t.URL, t.RedactedURL(), t.Instance(), t.Job() + "/" + t.Instance():
				found = append(found, t)
			}
		}
		for _, d := range p.Dropped {
			if len(found) == 0 && d.Discovered().Get("__address__") == f.what {
				return nil, fmt.Errorf("%s: %s was dropped by %s", p.Name, f.what, d.Reason())
			}
		}
	}
	if len(found) > 1 {
		names := make([]string, len(found))
		for i, t := range found {
			names[i] = fmt.Sprintf("%s/%s %s", t.Job(), t.Instance(), t.RedactedURL())
		}
		return nil, fmt.Errorf("%d targets are %q, choose by URL, JOB/INSTANCE or --job:\n  %s", len(found), f.what, strings.Join(names, "\n  "))
	}
	if len(found) == 0 {
		return nil, nil
	}
	return found[0], nil
}

// measured is what two scrapes of a target told.
type measured struct {
	target  *target.Target
	down    error
	took    time.Duration
	report  frame.Report
	format  string
	body    int64
	skipped exposition.Skipped

	series, families         int
	schema, keyframe, sample int // bytes
	again                    bool
	format1                  int
	lint                     []string
}

// measure scrapes a target twice for the frames, and once more as text for the lint.
func (f *checkScrape) measure(t *target.Target) (*measured, error) {
	ctx := context.Background()
	s, err := scrape.New(t, scrape.Options{Version: buildVersion()})
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }()
	m := &measured{target: t}
	first, err := s.Scrape(ctx)
	if err != nil {
		return nil, err
	}
	m.took, m.report, m.format, m.body, m.skipped = first.Report.Duration, first.Report, s.LastContentType(), s.LastBytes(), s.LastSkipped()
	if first.Kind == frame.Down {
		m.down = s.LastError()
		return m, nil
	}
	if first.Report.Scraped == 0 {
		m.lint = append(m.lint, "the target gave no samples")
	}
	m.series, m.families = len(first.Schema.Series), len(first.Schema.Families)
	m.schema = len(first.Schema.Marshal())
	// An encoder begins with a keyframe, and another at once by chance: after the second the frames are as they will be.
	encoder := frame.NewEncoder(1, first.Target, frame.EncoderOptions{})
	for range 2 {
		encoder.Reset()
		if _, err := encoder.AppendScrape(nil, first.Time, first.Report, first.Schema, &first.Column); err != nil {
			return nil, err
		}
	}
	time.Sleep(scrapesApart)
	second, err := s.Scrape(ctx)
	if err != nil {
		return nil, err
	}
	if second.Kind == frame.Down {
		m.down = fmt.Errorf("the second scrape: %w", s.LastError())
		return m, nil
	}
	m.again = second.Schema.ID == first.Schema.ID
	next, err := encoder.AppendScrape(nil, second.Time, second.Report, second.Schema, &second.Column)
	if err != nil {
		return nil, err
	}
	m.sample = len(next)
	encoder.Reset()
	keyframe, err := encoder.AppendScrape(nil, second.Time, second.Report, second.Schema, &second.Column)
	if err != nil {
		return nil, err
	}
	m.keyframe = len(keyframe)
	return m, m.asText(ctx)
}

// asText scrapes the target in the text format, for promlint and for what NATS Streaming would carry.
func (m *measured) asText(ctx context.Context) error {
	s, err := scrape.New(m.target, scrape.Options{Version: buildVersion(), TextBody: true})
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	if _, err := s.Scrape(ctx); err != nil {
		return err
	}
	if s.LastError() != nil {
		m.lint = append(m.lint, "asked for the text format: "+s.LastError().Error())
		return nil
	}
	body, err := s.LastBody()
	if err != nil {
		return err
	}
	message, err := frame.AppendFormat1(nil, &frame.Format1{
		Job: m.target.Job(), Instance: m.target.Instance(), Time: time.Now().Unix(), Body: body,
	})
	if err != nil {
		return err
	}
	m.format1 = len(message)
	problems, err := promlint.New(bytes.NewReader(body)).Lint()
	if err != nil {
		problems = append(problems, promlint.Problem{Metric: "text format", Text: err.Error()})
	}
	for _, p := range problems {
		m.lint = append(m.lint, p.Metric+": "+p.Text)
	}
	return nil
}

func (m *measured) print(c *cli, cfg *config.Config) {
	line := func(name, format string, args ...any) {
		_, _ = fmt.Fprintf(c.stdout, "%-14s %s\n", name, fmt.Sprintf(format, args...))
	}
	line("target", "%s", m.target.Labels)
	line("url", "%s", m.target.RedactedURL())
	if m.down != nil {
		line("up", "0")
		line("time", "%s", m.took.Round(time.Microsecond))
		line("error", "%s", m.down)
		return
	}
	line("up", "1")
	line("time", "%s", m.took.Round(time.Microsecond))
	line("format", "%s", m.format)
	line("size", "%d bytes, uncompressed", m.body)
	line("samples", "%d, %d after metric_relabel_configs", m.report.Scraped, m.report.PostRelabel)
	line("series", "%d of %d metrics", m.series, m.families)
	if m.skipped != (exposition.Skipped{}) {
		line("passed over", "%d duplicates, %d in the future, %d exemplars", m.skipped.Duplicates, m.skipped.Ahead, m.skipped.Exemplars)
	}
	line("schema", "%d bytes, sent once for all targets of this shape", m.schema)
	line("frame", "%d bytes, %.2f a sample", m.sample, float64(m.sample)/float64(max(m.series, 1)))
	line("keyframe", "%d bytes, instead of a frame every %s", m.keyframe, m.keyframes())
	if !m.again {
		line("", "the second scrape had other series: that frame and another schema say so")
	}
	if cfg != nil && cfg.PollerStream != nil && cfg.PollerStream.ClusterID != "" {
		line("format 1", "%d bytes each scrape, as NATS Streaming carries it", m.format1)
	}
	for _, l := range m.lint {
		line("lint", "%s", l)
	}
}

// keyframes says how often a frame stands alone.
func (m *measured) keyframes() string {
	apart := min(frame.DefaultKeyframeMaxAge, time.Duration(frame.DefaultKeyframeEvery)*m.target.Interval)
	return max(apart, m.target.Interval).String()
}
