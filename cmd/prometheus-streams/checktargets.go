package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/config"
	"github.com/choria-io/prometheus-streams/internal/target"
)

// discoverFor is how long the checks let service discovery look around.
const discoverFor = "5s"

// checkTargets are the flags of check targets.
type checkTargets struct {
	wait time.Duration
	json bool
}

func checkTargetsCommand(check *kingpin.CmdClause) command {
	f := &checkTargets{}
	clause := check.Command("targets", "List what discovery and relabelling make of the configuration now.")
	clause.Flag("wait", "How long service discovery may look around.").Default(discoverFor).DurationVar(&f.wait)
	clause.Flag("json", "Print JSON.").BoolVar(&f.json)
	return command{clause, f.run}
}

// run exits with 0 if all is well, 1 if there are problems, 3 if there are only warnings, 2 if the configuration cannot be
// used.
func (f *checkTargets) run(c *cli) int {
	o, err := c.lookout()
	if err != nil {
		_, _ = fmt.Fprintln(c.stderr, err)
		return exitUnreadable
	}
	defer o.env.log.close()
	if err := o.look(f.wait); err != nil {
		_, _ = fmt.Fprintln(c.stderr, err)
		return exitProblems
	}
	out := c.stdout
	if f.json {
		out = c.stderr
	} else {
		o.print(c)
	}
	r := &report{w: out, seen: map[string]bool{}}
	for _, text := range o.problems() {
		r.problems(errors.New("problem: " + text))
	}
	for _, text := range o.doubts() {
		r.warn([]config.Warning{{File: o.cfg.File, Text: text}})
	}
	if f.json {
		if err := o.encode(c); err != nil {
			r.problems(err)
		}
	}
	return r.exit()
}

// lookout finds targets once, for a command that looks at them.
type lookout struct {
	env    *environment
	cfg    *config.Config
	wanted target.Config
	pools  []target.PoolStatus
	faults *faults
}

// lookout is one for the configuration as a poller would read it, wherever it publishes.
func (c *cli) lookout() (*lookout, error) {
	whole, _, err := c.flags.load()
	if err != nil {
		return nil, err
	}
	loose := *whole
	if loose.PollerStream == nil {
		loose.PollerStream = &config.Stream{}
	}
	const role = config.PollerRole
	cfg, _, err := loose.ForRole(role)
	if err != nil {
		return nil, err
	}
	shown := *cfg
	shown.Logfile = "" // what a person asks for is answered on the terminal
	env, err := newEnvironment(c, role, &shown)
	if err != nil {
		return nil, err
	}
	o := &lookout{env: env, cfg: cfg, faults: newFaults(env.Logger.Handler())}
	if o.wanted, err = targetsOf(cfg); err != nil {
		env.log.close()
		return nil, err
	}
	return o, nil
}

// look runs service discovery for a while, if there is any to run.
func (o *lookout) look(wait time.Duration) error {
	m := target.NewManager(target.Options{Logger: slog.New(o.faults), Registerer: o.env.Registry})
	if err := m.Apply(o.wanted); err != nil {
		return err
	}
	if m.Discovers() {
		ctx, stop := handleSignals(context.Background(), o.env, func() {})
		defer stop()
		ctx, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		if err := m.Run(ctx); err != nil {
			return err
		}
	}
	o.pools = m.Pools()
	return nil
}

// problems are what keeps something from being scraped.
func (o *lookout) problems() []string {
	out := o.faults.list()
	for _, p := range o.pools {
		for _, f := range p.Failed {
			out = append(out, fmt.Sprintf("%s: cannot be a target: %s: %s", p.Name, f.Reason, f.Discovered))
		}
		for _, t := range p.Active {
			if _, err := url.Parse(t.URL); err != nil {
				out = append(out, fmt.Sprintf("%s: cannot be asked: its URL cannot be read: %s", p.Name, t.Labels))
			}
		}
		if len(p.Active) > 0 && p.Active[0].Refused != "" {
			out = append(out, p.Name+": no target is scraped: "+p.Active[0].Refused)
		}
	}
	if err := checkClients(o.wanted); err != nil {
		out = append(out, err.Error())
	}
	return out
}

// doubts are what is hardly meant so.
func (o *lookout) doubts() (out []string) {
	type of struct {
		pool string
		url  string
	}
	seen := map[string]of{}
	for _, p := range o.pools {
		if len(p.Active)+len(p.Failed)+p.DroppedCount == 0 {
			out = append(out, p.Name+": nothing was found")
		}
		for _, t := range p.Active {
			ls := t.Labels.String()
			if other, twice := seen[ls]; twice {
				out = append(out, fmt.Sprintf("%s: %s and %s: %s have the same labels %s: their series cannot be told apart",
					other.pool, other.url, p.Name, t.RedactedURL(), ls))
				continue
			}
			seen[ls] = of{p.Name, t.RedactedURL()}
		}
	}
	return out
}

func (o *lookout) print(c *cli) {
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(c.stdout, format+"\n", args...) }
	for _, p := range o.pools {
		line("%s: %s, %d dropped", p.Name, counted(len(p.Active), "target"), p.DroppedCount)
		for _, t := range byURL(p.Active) {
			interval, timeout := t.Spelled()
			line("  %s  every %s, at most %s  %s", t.RedactedURL(), interval, timeout, t.Labels)
		}
		for _, d := range p.Dropped {
			line("  dropped by %s  %s", d.Reason(), d.Discovered())
		}
		if n := p.DroppedCount - len(p.Dropped); n > 0 {
			line("  and %d more dropped: see keep_dropped_targets", n)
		}
	}
}

func byURL(all []*target.Target) []*target.Target {
	return slices.SortedFunc(slices.Values(all), func(a, b *target.Target) int {
		return strings.Compare(a.URL+a.Labels.String(), b.URL+b.Labels.String())
	})
}

type shownTarget struct {
	URL        string        `json:"scrapeUrl"`
	Interval   string        `json:"scrapeInterval"`
	Timeout    string        `json:"scrapeTimeout"`
	Labels     labels.Labels `json:"labels"`
	Discovered labels.Labels `json:"discoveredLabels"`
	Refused    string        `json:"refused,omitempty"`
}

type shownReason struct {
	Discovered labels.Labels `json:"discoveredLabels"`
	Reason     string        `json:"reason"`
}

type shownPool struct {
	Name    string        `json:"scrapePool"`
	Active  []shownTarget `json:"activeTargets"`
	Dropped []shownReason `json:"droppedTargets"`
	Count   int           `json:"droppedTargetCount"`
	Failed  []shownReason `json:"failedTargets"`
}

// encode prints what was found as JSON, under the names of Prometheus' API as far as it has them.
func (o *lookout) encode(c *cli) error {
	out := struct {
		Pools    []shownPool `json:"scrapePools"`
		Problems []string    `json:"problems"`
		Warnings []string    `json:"warnings"`
	}{[]shownPool{}, append([]string{}, o.problems()...), append([]string{}, o.doubts()...)}
	for _, p := range o.pools {
		shown := shownPool{Name: p.Name, Active: []shownTarget{}, Dropped: []shownReason{}, Failed: []shownReason{}, Count: p.DroppedCount}
		for _, t := range byURL(p.Active) {
			interval, timeout := t.Spelled()
			shown.Active = append(shown.Active, shownTarget{t.RedactedURL(), interval, timeout, t.Labels, t.Discovered(), t.Refused})
		}
		for _, d := range p.Dropped {
			shown.Dropped = append(shown.Dropped, shownReason{d.Discovered(), d.Reason()})
		}
		for _, f := range p.Failed {
			shown.Failed = append(shown.Failed, shownReason{f.Discovered, f.Reason})
		}
		out.Pools = append(out.Pools, shown)
	}
	e := json.NewEncoder(c.stdout)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(out); err != nil {
		return fmt.Errorf("print the targets: %w", err)
	}
	return nil
}

// faults remembers the errors that service discovery logs; what else is logged goes on to the next handler.
type faults struct {
	next   slog.Handler
	with   []slog.Attr
	shared *sharedFaults
}

type sharedFaults struct {
	mu   sync.Mutex
	list []string
}

func newFaults(next slog.Handler) *faults { return &faults{next: next, shared: &sharedFaults{}} }

// list is what was logged, each thing once.
func (f *faults) list() []string {
	f.shared.mu.Lock()
	defer f.shared.mu.Unlock()
	return slices.Clone(f.shared.list)
}

// discoverySet is the key under which Prometheus' discovery logs the scrape pool.
const discoverySet = "config"

func (f *faults) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelError || l != slog.LevelInfo && f.next.Enabled(ctx, l)
}

func (f *faults) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelError {
		return f.next.Handle(ctx, r)
	}
	pool, text := "", r.Message
	add := func(a slog.Attr) bool {
		if a.Key == discoverySet {
			pool = a.Value.String()
		} else {
			text += fmt.Sprintf(" %s=%s", a.Key, a.Value)
		}
		return true
	}
	for _, a := range f.with {
		add(a)
	}
	r.Attrs(add)
	if pool == "" { // the manager's own: it tells in what it found too
		return nil
	}
	text = pool + ": " + text
	f.shared.mu.Lock()
	defer f.shared.mu.Unlock()
	if !slices.Contains(f.shared.list, text) && len(f.shared.list) < maxFaults {
		f.shared.list = append(f.shared.list, text)
	}
	return nil
}

// maxFaults bounds what is remembered.
const maxFaults = 100

func (f *faults) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &faults{next: f.next.WithAttrs(attrs), with: append(slices.Clone(f.with), attrs...), shared: f.shared}
}

func (f *faults) WithGroup(name string) slog.Handler {
	return &faults{next: f.next.WithGroup(name), with: f.with, shared: f.shared}
}

// configured tells whether a configuration was named, or the default one is there.
func (c *cli) configured() bool {
	if c.flags.config != "" || c.flags.configFile != "" || c.flags.PrometheusConfig != "" {
		return true
	}
	_, err := os.Stat(defaultConfig)
	return !errors.Is(err, fs.ErrNotExist)
}
