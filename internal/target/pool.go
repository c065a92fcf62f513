package target

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
	promscrape "github.com/prometheus/prometheus/scrape"
)

// The labels by which relabelling can change a target's settings; Prometheus does not export these.
const (
	convertHistogramsLabel = "__convert_classic_histograms_to_nhcb__"
	classicHistogramsLabel = "__always_scrape_classic_histograms__"
	nativeHistogramsLabel  = "__scrape_native_histograms__"
)

// pool is what one scrape config finds.
type pool struct {
	cfg     *promconfig.ScrapeConfig
	static  []*targetgroup.Group
	dynamic discovery.Configs
	clients map[string]*Client // by the path of a Unix socket, "" for none

	// found is what discovery said last. While a new configuration of it has said nothing, trusted until waits, the
	// targets of the old one (kept) go on.
	found, kept []*targetgroup.Group
	waits       time.Time

	active  []*Target
	dropped []Dropped
	count   int // of the dropped
	failed  []Failed
	// failures is how many failed, warned that too many targets were told of.
	failures int
	warned   bool
}

func newPool(cfg *promconfig.ScrapeConfig) *pool {
	p := &pool{cfg: cfg, clients: map[string]*Client{}}
	for _, c := range cfg.ServiceDiscoveryConfigs {
		if s, ok := c.(discovery.StaticConfig); ok {
			p.static = append(p.static, s...)
		} else {
			p.dynamic = append(p.dynamic, c)
		}
	}
	return p
}

// inherit goes on with what the pool of the same name found before a new configuration. What was discovered is known
// until discovery says something else; if it is configured otherwise it may take a while until it does.
func (p *pool) inherit(old *pool, now time.Time) {
	p.failed, p.warned = old.failed, old.warned
	if len(p.dynamic) == 0 {
		return
	}
	if reflect.DeepEqual(p.dynamic, old.dynamic) {
		p.found, p.kept, p.waits = old.found, old.kept, old.waits
		return
	}
	p.found = nil
	if p.kept = old.discovered(now); len(p.kept) > 0 {
		p.waits = now.Add(rediscover)
	}
}

// discovered is what counts of what discovery says.
func (p *pool) discovered(now time.Time) []*targetgroup.Group {
	if now.Before(p.waits) && !slices.ContainsFunc(p.found, func(g *targetgroup.Group) bool { return g != nil && len(g.Targets) > 0 }) {
		return p.kept
	}
	return p.found
}

// Dropped is a target that relabelling dropped.
type Dropped struct {
	pool   *pool
	origin *promscrape.Target
}

// Pool is the scrape pool that found it.
func (d Dropped) Pool() string { return d.pool.cfg.JobName }

// Discovered are its labels before relabelling.
func (d Dropped) Discovered() labels.Labels {
	return d.origin.DiscoveredLabels(labels.NewBuilder(labels.EmptyLabels()))
}

// Reason says which rule dropped it.
func (d Dropped) Reason() string {
	b := labels.NewBuilder(d.Discovered())
	for i, rule := range d.pool.cfg.RelabelConfigs {
		if !relabel.ProcessBuilder(b, rule) {
			return fmt.Sprintf("relabel_configs[%d]: action %s", i, rule.Action)
		}
	}
	return "relabel_configs left it no labels"
}

// Failed is something that was discovered and cannot be a target.
type Failed struct {
	Pool string
	// Discovered are its labels before relabelling.
	Discovered labels.Labels
	// Reason says what is wrong with it.
	Reason string
}

// maxFailed bounds how many of a pool are kept to be shown.
const maxFailed = 100

// sync makes the targets of what was found. It says how many failed.
func (p *pool) sync(external labels.Labels, sampleLimit int, now time.Time) (failed int) {
	p.active, p.dropped, p.count, p.failed = nil, nil, 0, nil
	defer func() { p.failures = failed }()
	groups := slices.Clone(p.discovered(now))
	slices.SortFunc(groups, func(a, b *targetgroup.Group) int { return cmp.Compare(a.Source, b.Source) })
	groups = append(slices.Clone(p.static), groups...)
	b := labels.NewBuilder(labels.EmptyLabels())
	seen := map[uint64]bool{}
	for _, g := range groups {
		for i, found := range g.Targets {
			ls, err := promscrape.PopulateLabels(b, p.cfg, found, g.Labels)
			origin := promscrape.NewTarget(ls, p.cfg, found, g.Labels)
			switch {
			case err != nil:
				if failed++; len(p.failed) < maxFailed {
					p.failed = append(p.failed, Failed{Pool: p.cfg.JobName, Discovered: origin.DiscoveredLabels(b),
						Reason: fmt.Sprintf("instance %d in group %s: %s", i, g, err)})
				}
				continue
			case public(ls).IsEmpty():
				if p.cfg.KeepDroppedTargets == 0 || len(p.dropped) < int(p.cfg.KeepDroppedTargets) {
					p.dropped = append(p.dropped, Dropped{pool: p, origin: origin})
				}
				p.count++
				continue
			}
			if t := p.target(ls, origin, external, sampleLimit); !seen[t.place] {
				seen[t.place] = true
				p.active = append(p.active, t)
			}
		}
	}
	if limit := int(p.cfg.TargetLimit); limit > 0 && len(p.active) > limit {
		for _, t := range p.active {
			t.Refused = fmt.Sprintf("target_limit exceeded: %d targets, limit %d", len(p.active), limit)
		}
	}
	for _, t := range p.active {
		t.key = t.Key()
	}
	return failed
}

// public are the labels that are not reserved.
func public(ls labels.Labels) labels.Labels {
	b := labels.NewBuilder(ls)
	ls.Range(func(l labels.Label) {
		if strings.HasPrefix(l.Name, model.ReservedLabelPrefix) {
			b.Del(l.Name)
		}
	})
	return b.Labels()
}

// target makes the target of the labels that relabelling left.
func (p *pool) target(ls labels.Labels, origin *promscrape.Target, external labels.Labels, sampleLimit int) *Target {
	c := p.cfg
	all, added := fill(public(ls), external)
	url := origin.URL().String()
	return &Target{
		Labels: all, External: added, Pool: c.JobName, URL: url,
		Interval: duration(ls, model.ScrapeIntervalLabel, c.ScrapeInterval),
		Timeout:  duration(ls, model.ScrapeTimeoutLabel, c.ScrapeTimeout),

		HonorLabels: c.HonorLabels, HonorTimestamps: c.HonorTimestamps, TrackTimestamps: c.TrackTimestampsStaleness, Relabel: c.MetricRelabelConfigs,
		BodySizeLimit: int64(c.BodySizeLimit), SampleLimit: least(int(c.SampleLimit), sampleLimit),
		LabelLimit: int(c.LabelLimit), LabelNameLengthLimit: int(c.LabelNameLengthLimit), LabelValueLengthLimit: int(c.LabelValueLengthLimit),

		Client: p.client(ls.Get(promscrape.UnixSocketLabel)), Uncompressed: !c.EnableCompression,
		Protocols: c.ScrapeProtocols, FallbackProtocol: c.ScrapeFallbackProtocol, Strict: true,
		Escaping: c.MetricNameEscapingScheme, Validation: c.MetricNameValidationScheme,
		NativeHistograms:  boolean(ls, nativeHistogramsLabel, c.ScrapeNativeHistogramsEnabled()),
		ClassicHistograms: boolean(ls, classicHistogramsLabel, c.AlwaysScrapeClassicHistogramsEnabled()),
		ConvertHistograms: boolean(ls, convertHistogramsLabel, c.ConvertClassicHistogramsToNHCBEnabled()),
		BucketLimit:       int(c.NativeHistogramBucketLimit), MinBucketFactor: c.NativeHistogramMinBucketFactor,
		FailureLog: c.ScrapeFailureLogFile,

		origin: origin, place: placeOf(ls, url),
	}
}

// client is shared by the targets of the pool that connect alike.
func (p *pool) client(socket string) *Client {
	c := p.clients[socket]
	if c == nil {
		c = NewClient(p.cfg.JobName, p.cfg.HTTPClientConfig, socket)
		p.clients[socket] = c
	}
	return c
}

// least is the smaller of two limits, of which 0 is none.
func least(a, b int) int {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// duration is what relabelling left of a setting; PopulateLabels checked that it is one.
func duration(ls labels.Labels, name string, otherwise model.Duration) time.Duration {
	if d, err := model.ParseDuration(ls.Get(name)); err == nil {
		return time.Duration(d)
	}
	return time.Duration(otherwise)
}

func boolean(ls labels.Labels, name string, otherwise bool) bool {
	switch strings.ToLower(ls.Get(name)) {
	case "1", "t", "true":
		return true
	case "0", "f", "false":
		return false
	}
	return otherwise
}
