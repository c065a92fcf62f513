package target

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/model/labels"
)

const (
	// updateEvery is how often discovery may change the targets, as in Prometheus. What it finds first counts at once.
	updateEvery = 5 * time.Second
	// rediscover is how long the targets of a discovery that is configured anew go on while it has found nothing yet.
	rediscover = 15 * time.Second
)

// Config is what a Manager makes targets of.
type Config struct {
	// ScrapeConfigs are validated, with the global settings filled in; their names differ. They are not changed.
	ScrapeConfigs []*promconfig.ScrapeConfig
	// Fixed are targets as they stand: those of jobs, and the process itself.
	Fixed []*Target
	// External labels are given to the targets of scrape configs that lack them; Fixed targets have theirs.
	External labels.Labels
	// SampleLimit bounds the sample_limit of the scrape configs; 0 does not.
	SampleLimit int
}

// Options are what a Manager needs.
type Options struct {
	// Update is told all targets whenever they changed, one call at a time.
	Update     func([]*Target)
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Manager finds targets: it runs Prometheus' service discovery and relabels what that finds. Its methods may be called
// from any goroutine.
type Manager struct {
	update  func([]*Target)
	log     *slog.Logger
	reg     prometheus.Registerer
	metrics *metrics

	mu     sync.Mutex
	cfg    Config
	pools  map[string]*pool
	run    context.Context // nil unless Run runs
	sd     *discovery.SDMetrics
	finder *finder // nil while nothing is to be discovered
	later  *time.Timer
}

// finder is one life of Prometheus' discovery manager.
type finder struct {
	manager *discovery.Manager
	stop    context.CancelFunc
	ended   chan struct{}
}

// NewManager makes a Manager that knows of nothing.
func NewManager(o Options) *Manager {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	if o.Update == nil {
		o.Update = func([]*Target) {}
	}
	return &Manager{
		update: o.Update, log: o.Logger, reg: o.Registerer, metrics: newMetrics(o.Registerer), pools: map[string]*pool{},
	}
}

// Apply takes a configuration in place of the one before. What is fixed and static is told at once, what was discovered
// under a scrape config that stays goes on. Before Run it may be called too: discovery begins with Run. An error leaves
// everything as it was.
func (m *Manager) Apply(c Config) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	pools, now := make(map[string]*pool, len(c.ScrapeConfigs)), time.Now()
	for _, s := range c.ScrapeConfigs {
		if pools[s.JobName] != nil {
			return fmt.Errorf("two scrape configs are named %q", s.JobName)
		}
		p := newPool(s)
		if old := m.pools[s.JobName]; old != nil {
			p.inherit(old, now)
		}
		pools[s.JobName] = p
	}
	if err := m.discover(pools); err != nil {
		return err
	}
	m.cfg, m.pools = c, pools
	m.sync()
	return nil
}

// Run discovers until ctx ends. It is to be called once; the error is nil.
func (m *Manager) Run(ctx context.Context) error {
	m.mu.Lock()
	m.run = ctx
	err := m.discover(m.pools)
	m.mu.Unlock()
	if err != nil {
		return err
	}
	<-ctx.Done()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.run = nil
	m.endDiscovery()
	if m.later != nil {
		m.later.Stop()
	}
	return nil
}

// Discovers tells whether there is anything to discover: more than what is static and fixed.
func (m *Manager) Discovers() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.pools {
		if len(p.dynamic) > 0 {
			return true
		}
	}
	return false
}

// discover hands the service discovery of the pools to Prometheus' manager, which runs only while there is any: it never
// rests. m.mu is held.
func (m *Manager) discover(pools map[string]*pool) error {
	if m.run == nil {
		return nil
	}
	configs := map[string]discovery.Configs{}
	for name, p := range pools {
		if len(p.dynamic) > 0 {
			configs[name] = p.dynamic
		}
	}
	if len(configs) == 0 {
		m.endDiscovery()
		return nil
	}
	if m.finder == nil {
		if err := m.beginDiscovery(); err != nil {
			return err
		}
	}
	if err := m.finder.manager.ApplyConfig(configs); err != nil {
		return fmt.Errorf("configure service discovery: %w", err)
	}
	return nil
}

func (m *Manager) beginDiscovery() error {
	if m.sd == nil {
		sd, err := discovery.CreateAndRegisterSDMetrics(m.reg)
		if err != nil {
			return fmt.Errorf("start service discovery: %w", err)
		}
		m.sd = sd
	}
	ctx, cancel := context.WithCancel(m.run)
	manager := discovery.NewManager(ctx, m.log, m.reg, m.sd, discovery.Name("scrape"), discovery.Updatert(updateEvery))
	if manager == nil {
		cancel()
		return fmt.Errorf("start service discovery: its metrics are taken")
	}
	f := &finder{manager: manager, stop: cancel, ended: make(chan struct{})}
	m.finder = f
	go func() { _ = manager.Run() }()
	go func() {
		defer close(f.ended)
		for found := range manager.SyncCh() {
			m.receive(f, found)
		}
	}()
	return nil
}

// endDiscovery stops what runs; m.mu is held.
func (m *Manager) endDiscovery() {
	f := m.finder
	if f == nil {
		return
	}
	m.finder = nil
	f.stop()
	f.manager.UnregisterMetrics()
}

// receive takes what discovery found.
func (m *Manager) receive(f *finder, found map[string][]*targetgroup.Group) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.finder != f {
		return
	}
	for name, groups := range found {
		if p := m.pools[name]; p != nil && len(p.dynamic) > 0 {
			p.found = groups
		}
	}
	m.sync()
}

// sync makes the targets and tells them; m.mu is held.
func (m *Manager) sync() {
	now := time.Now()
	all := slices.Clone(m.cfg.Fixed)
	var wait time.Duration
	for _, name := range slices.Sorted(maps.Keys(m.pools)) {
		p := m.pools[name]
		before := p.failed
		m.metrics.failed.Add(float64(p.sync(m.cfg.External, m.cfg.SampleLimit, now)))
		m.complain(p, before)
		all = append(all, p.active...)
		if left := p.waits.Sub(now); left > 0 && (wait == 0 || left < wait) {
			wait = left
		}
	}
	m.metrics.pools(m.pools)
	if m.later != nil {
		m.later.Stop()
	}
	if wait > 0 {
		m.later = time.AfterFunc(wait, m.again)
	}
	m.update(all)
}

// again syncs what was found when the wait for new discovery is over.
func (m *Manager) again() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.run != nil {
		m.sync()
	}
}

// complain logs what cannot be a target and was not known before.
func (m *Manager) complain(p *pool, before []Failed) {
	known := map[string]bool{}
	for _, f := range before {
		known[f.Reason] = true
	}
	for _, f := range p.failed {
		if !known[f.Reason] {
			known[f.Reason] = true
			m.log.Error("what was discovered cannot be a target", "job", f.Pool, "reason", f.Reason)
		}
	}
	if limit := int(p.cfg.TargetLimit); limit > 0 && len(p.active) > limit && !p.warned {
		m.log.Error("target_limit exceeded: no target of the job is scraped", "job", p.cfg.JobName, "count", len(p.active), "limit", limit)
		p.warned = true
	} else if len(p.active) <= limit {
		p.warned = false
	}
}

// PoolStatus is what is known of the targets of one scrape config, or of those of the jobs of one name.
type PoolStatus struct {
	Name string
	// Active are scraped.
	Active []*Target
	// Dropped are those that relabelling dropped, as many as keep_dropped_targets says, of DroppedCount.
	Dropped      []Dropped
	DroppedCount int
	// Failed are the first of what cannot be targets.
	Failed []Failed
}

// Pools tells of all targets, by the names of their pools. What it gives is not changed later.
func (m *Manager) Pools() []PoolStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	byName := map[string]*PoolStatus{}
	for _, t := range m.cfg.Fixed {
		s := byName[t.Pool]
		if s == nil {
			s = &PoolStatus{Name: t.Pool}
			byName[t.Pool] = s
		}
		s.Active = append(s.Active, t)
	}
	for name, p := range m.pools {
		s := byName[name]
		if s == nil {
			s = &PoolStatus{Name: name}
			byName[name] = s
		}
		s.Active = append(s.Active, p.active...)
		s.Dropped, s.DroppedCount, s.Failed = p.dropped, p.count, p.failed
	}
	out := make([]PoolStatus, 0, len(byName))
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		out = append(out, *byName[name])
	}
	return out
}

// Discoveries are the kinds of service discovery in this build, static among them, by name.
func Discoveries() []string { return discovery.RegisteredConfigNames() }
