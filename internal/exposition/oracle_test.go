package exposition

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/promslog"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// appended is a sample that Prometheus' storage took.
type appended struct {
	labels    labels.Labels
	start, ts int64
	value     float64
	h         *histogram.Histogram
	fh        *histogram.FloatHistogram
	exemplars []exemplar.Exemplar
	earlier   []frame.Earlier
	before    []exemplar.Exemplar // of the earlier ones
	family    string
	meta      metadata.Metadata
}

// oracle is a Prometheus without a server: its scrape manager and its storage, and between them what notes every
// sample that was committed, by job and scrape.
type oracle struct {
	db *tsdb.DB

	mu      sync.Mutex
	scrapes map[string][][]appended
	accepts map[string]string
	changed chan struct{}
}

type oracleAppender struct {
	storage.AppenderV2
	o       *oracle
	pending []appended
}

func (o *oracle) AppenderV2(ctx context.Context) storage.AppenderV2 {
	return &oracleAppender{AppenderV2: o.db.AppenderV2(ctx), o: o}
}

func (a *oracleAppender) Append(ref storage.SeriesRef, ls labels.Labels, st, t int64, v float64, h *histogram.Histogram, fh *histogram.FloatHistogram, opts storage.AOptions) (storage.SeriesRef, error) {
	ref, err := a.AppenderV2.Append(ref, ls, st, t, v, h, fh, opts)
	partial := new(storage.AppendPartialError)
	if err != nil && !errors.As(err, &partial) || value.IsStaleNaN(v) {
		return ref, err
	}
	x := appended{labels: ls.Copy(), start: st, ts: t, value: v, family: strings.Clone(opts.MetricFamilyName), meta: opts.Metadata}
	if h != nil {
		x.h = h.Copy()
	}
	if fh != nil {
		x.fh = fh.Copy()
	}
	for _, e := range opts.Exemplars {
		if !tooLong(e.Labels) {
			e.Labels = e.Labels.WithoutEmpty()
			x.exemplars = append(x.exemplars, e)
		}
	}
	a.pending = append(a.pending, x)
	return ref, err
}

func (a *oracleAppender) Commit() error {
	if err := a.AppenderV2.Commit(); err != nil {
		return err
	}
	for _, x := range a.pending {
		if x.labels.Get(model.MetricNameLabel) == frame.UpName {
			a.o.mu.Lock()
			job := x.labels.Get("job")
			a.o.scrapes[job] = append(a.o.scrapes[job], a.pending)
			a.o.mu.Unlock()
			select {
			case a.o.changed <- struct{}{}:
			default:
			}
		}
	}
	return nil
}

// oracleCase is a target: its settings, as a scrape config has them, and what it exposes scrape by scrape.
type oracleCase struct {
	settings    string
	contentType string
	bodies      []string
}

// ask has Prometheus scrape all cases, as often as they have bodies.
func ask(t *testing.T, cases map[string]oracleCase, parseST bool) (*oracle, map[string]*promconfig.ScrapeConfig) {
	t.Helper()
	options := tsdb.DefaultOptions()
	options.EnableExemplarStorage, options.MaxExemplars = true, 100_000
	db, err := tsdb.Open(t.TempDir(), promslog.NewNopLogger(), nil, options, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	o := &oracle{db: db, scrapes: map[string][][]appended{}, accepts: map[string]string{}, changed: make(chan struct{}, 1)}
	server := o.serve(t, cases)
	cfg := oracleConfig(t, cases, server.Listener.Addr().String())
	m, err := scrape.NewManager(&scrape.Options{
		ParseST: parseST, AppendMetadata: true, DiscoveryReloadInterval: model.Duration(10 * time.Millisecond),
	}, promslog.NewNopLogger(), nil, nil, o, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	if err := m.ApplyConfig(cfg); err != nil {
		t.Fatal(err)
	}
	sets := make(chan map[string][]*targetgroup.Group)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = m.Run(sets)
	}()
	groups, configs := map[string][]*targetgroup.Group{}, map[string]*promconfig.ScrapeConfig{}
	for _, c := range cfg.ScrapeConfigs {
		configs[c.JobName] = c
		groups[c.JobName] = []*targetgroup.Group{{Source: c.JobName, Targets: []model.LabelSet{{model.AddressLabel: model.LabelValue(server.Listener.Addr().String())}}}}
	}
	sets <- groups
	o.wait(t, cases)
	m.Stop()
	<-done
	return o, configs
}

// timedOut tells whether a scrape took all the time that it may.
func (o *oracle) timedOut() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, scrapes := range o.scrapes {
		for _, all := range scrapes {
			if _, report, _ := split(all); report[frame.DurationName] >= oracleTimeout.Seconds() {
				return true
			}
		}
	}
	return false
}

// oracleTimeout is the time a scrape may take.
const oracleTimeout = time.Second

// serve exposes the cases, each at its own path.
func (o *oracle) serve(t *testing.T, cases map[string]oracleCase) *httptest.Server {
	t.Helper()
	served := map[string]int{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/")
		o.mu.Lock()
		n := served[name]
		served[name]++
		o.accepts[name] = r.Header.Get("Accept")
		o.mu.Unlock()
		if n >= len(cases[name].bodies) {
			<-r.Context().Done()
			return
		}
		w.Header()["Content-Type"] = []string{cases[name].contentType}
		_, _ = w.Write([]byte(cases[name].bodies[n]))
	}))
	t.Cleanup(server.Close)
	return server
}

// oracleConfig is the configuration by which Prometheus scrapes the cases.
func oracleConfig(t *testing.T, cases map[string]oracleCase, address string) *promconfig.Config {
	t.Helper()
	var text strings.Builder
	text.WriteString("scrape_configs:\n")
	for name, c := range cases {
		fmt.Fprintf(&text, "- job_name: %[1]s\n  metrics_path: /%[1]s\n  scrape_interval: %[2]s\n  scrape_timeout: %[2]s\n", name, oracleTimeout)
		for line := range strings.Lines(c.settings) {
			text.WriteString("  " + line)
		}
		fmt.Fprintf(&text, "\n  static_configs:\n  - targets: ['%s']\n", address)
	}
	cfg, err := promconfig.Load(text.String(), promslog.NewNopLogger())
	if err != nil {
		t.Fatalf("%v in\n%s", err, text.String())
	}
	return cfg
}

// wait returns when all cases are scraped to their end.
func (o *oracle) wait(t *testing.T, cases map[string]oracleCase) {
	t.Helper()
	late := time.After(2 * time.Minute)
	for {
		missing := ""
		o.mu.Lock()
		for name, c := range cases {
			if len(o.scrapes[name]) < len(c.bodies) {
				missing = name
			}
		}
		o.mu.Unlock()
		if missing == "" {
			return
		}
		select {
		case <-o.changed:
		case <-late:
			t.Fatalf("%s is not scraped to its end", missing)
		}
	}
}

// oracleRules are the rules of a scrape config.
func oracleRules(c *promconfig.ScrapeConfig, target labels.Labels, parseST bool) Rules {
	return Rules{
		Target: target, HonorLabels: c.HonorLabels, HonorTimestamps: c.HonorTimestamps, Relabel: c.MetricRelabelConfigs,
		SampleLimit: int(c.SampleLimit), LabelLimit: int(c.LabelLimit),
		LabelNameLengthLimit: int(c.LabelNameLengthLimit), LabelValueLengthLimit: int(c.LabelValueLengthLimit),
		ScrapeNativeHistograms:         c.ScrapeNativeHistogramsEnabled(),
		AlwaysScrapeClassicHistograms:  c.AlwaysScrapeClassicHistogramsEnabled(),
		ConvertClassicHistogramsToNHCB: c.ConvertClassicHistogramsToNHCBEnabled(),
		NativeHistogramBucketLimit:     int(c.NativeHistogramBucketLimit),
		NativeHistogramMinBucketFactor: c.NativeHistogramMinBucketFactor,
		StartTimestamps:                parseST, FallbackProtocol: string(c.ScrapeFallbackProtocol), Strict: true,
		Validation: c.MetricNameValidationScheme,
	}
}

// split parts what a scrape gave from what Prometheus says of the scrape, and finds for each series the sample that
// its storage keeps as the newest.
func split(all []appended) (samples map[string]appended, report map[string]float64, at int64) {
	samples, report = map[string]appended{}, map[string]float64{}
	for _, x := range all[max(0, len(all)-5):] {
		switch name := x.labels.Get(model.MetricNameLabel); name {
		case frame.UpName, frame.DurationName, frame.ScrapedName, frame.PostRelabelName, frame.AddedName:
			report[name], at = x.value, x.ts
		}
	}
	for _, x := range all[:len(all)-5] {
		key := x.labels.String()
		old, ok := samples[key]
		if ok && x.ts > old.ts {
			var after refSample
			after.after(refSample{value: old.value, ts: old.ts, h: old.h, fh: old.fh, exemplars: old.exemplars, earlier: old.earlier, before: old.before})
			x.earlier, x.before = after.earlier, after.before
		}
		if !ok || x.ts > old.ts {
			samples[key] = x
		}
	}
	return samples, report, at
}

// compareAppended tells how a frame differs from what Prometheus appended.
func compareAppended(r *reference, p Parsed, err error, target labels.Labels, all []appended, parseST bool) error {
	samples, report, at := split(all)
	if up := report[frame.UpName] == 1; up != (err == nil) {
		return fmt.Errorf("up is %t, the error %w", up, err)
	}
	if float64(p.Scraped) != report[frame.ScrapedName] || float64(p.PostRelabel) != report[frame.PostRelabelName] || float64(p.Added) != report[frame.AddedName] {
		return fmt.Errorf("scraped, post-relabel, added are %d %d %d, want %v", p.Scraped, p.PostRelabel, p.Added, report)
	}
	if err != nil {
		return nil
	}
	more, err := rows(p.Column)
	if err != nil {
		return err
	}
	b := labels.NewBuilder(labels.EmptyLabels())
	for i := range p.Schema.Series {
		key := p.Schema.SeriesLabels(i, target, b).String()
		want, ok := samples[key]
		if ok == p.Column.Absent.Has(i) {
			return fmt.Errorf("series %s: there is %t", key, ok)
		}
		if !ok {
			continue
		}
		delete(samples, key)
		ts := int64(frame.NoTimestamp)
		if want.ts != at {
			ts = want.ts
		}
		got := int64(frame.NoTimestamp)
		if p.Column.Timestamps != nil && p.Column.Timestamps[i] != at {
			got = p.Column.Timestamps[i]
		}
		if got != ts {
			return fmt.Errorf("series %s: timestamp %d, want %d", key, got, ts)
		}
		if want.h == nil && want.fh == nil && math.Float64bits(p.Column.Values[i]) != math.Float64bits(want.value) {
			return fmt.Errorf("series %s: value %v, want %v", key, p.Column.Values[i], want.value)
		}
		if err := r.compareEarlier(&p.Column, i, key, &refSample{ts: want.ts, h: want.h, fh: want.fh, earlier: want.earlier}); err != nil {
			return fmt.Errorf("series %s: %w", key, err)
		}
		for j := range want.exemplars {
			if e := &want.exemplars[j]; !e.HasTs && e.Ts != want.ts {
				return fmt.Errorf("series %s: exemplar at %d, the sample at %d", key, e.Ts, want.ts)
			}
		}
		if !parseST {
			more.starts = nil
		}
		if err := more.compare(i, refSample{start: want.start, h: want.h, fh: want.fh, exemplars: want.exemplars, before: want.before}); err != nil {
			return fmt.Errorf("series %s: %w", key, err)
		}
		if want.family == "" {
			continue
		}
		x := p.Schema.Series[i].Family
		if x < 0 {
			return fmt.Errorf("series %s: no family, want %s", key, want.family)
		}
		f := p.Schema.Families[x]
		if f.Name != want.family || f.Type != want.meta.Type || f.Help != want.meta.Help || f.Unit != want.meta.Unit {
			return fmt.Errorf("series %s: family %+v, want %s %+v", key, f, want.family, want.meta)
		}
	}
	for key := range samples {
		return fmt.Errorf("series %s is missing", key)
	}
	return nil
}

// TestAsPrometheusAppends compares frames with what a real Prometheus' scrape loop appends to a real storage.
func TestAsPrometheusAppends(t *testing.T) {
	for _, parseST := range []bool{false, true} {
		t.Run(fmt.Sprintf("start timestamps %t", parseST), func(t *testing.T) {
			t.Parallel() // it waits most of the time
			cases := oracleCases(t)
			o, configs := ask(t, cases, parseST)
			for range 3 {
				if !o.timedOut() {
					break
				}
				o, configs = ask(t, cases, parseST) // the machine stood still
			}
			for name, c := range cases {
				t.Run(name, func(t *testing.T) { sameAsAppended(t, c, o, configs[name], name, parseST) })
			}
		})
	}
}

// sameAsAppended compares the frames of a case with what was appended.
func sameAsAppended(t *testing.T, c oracleCase, o *oracle, cfg *promconfig.ScrapeConfig, name string, parseST bool) {
	target := labels.FromStrings("job", name, "instance", o.scrapes[name][0][0].labels.Get("instance"))
	l, r := NewLayout(oracleRules(cfg, target, parseST), NewSchemas()), newReference(Rules{})
	for i, body := range c.bodies {
		p, err := l.Parse([]byte(body), c.contentType)
		if e := compareAppended(r, p, err, target, o.scrapes[name][i], parseST); e != nil {
			t.Errorf("scrape %d: %v\nbody %.300q", i, e, body)
		}
	}
	var protocols []string
	for _, p := range cfg.ScrapeProtocols {
		protocols = append(protocols, string(p))
	}
	scheme, err := promconfig.ToEscapingScheme(cfg.MetricNameEscapingScheme, cfg.MetricNameValidationScheme)
	if err != nil {
		t.Fatal(err)
	}
	if got := Accept(protocols, scheme.String()); got != o.accepts[name] {
		t.Errorf("Accept: %s, want %s", got, o.accepts[name])
	}
}
