package main

import (
	"net/url"
	"runtime"
	"time"

	"github.com/alecthomas/kingpin/v2"
	promversion "github.com/prometheus/common/version"

	"github.com/choria-io/prometheus-streams/internal/config"
	"github.com/choria-io/prometheus-streams/internal/poller"
	"github.com/choria-io/prometheus-streams/internal/redact"
	"github.com/choria-io/prometheus-streams/internal/target"
	"github.com/choria-io/prometheus-streams/internal/web"
)

// api is what a process that scrapes tells by Prometheus' API; nil if it does not scrape.
func (h *house) api() *web.API {
	if !h.env.Role.Polls() {
		return nil
	}
	return &web.API{
		Pools:  func() []web.ScrapePool { return scrapePools(h.web.targets.Pools(), h.web.poller.Targets()) },
		Config: func() (string, error) { return h.env.Current().Show() },
		Flags:  h.env.Flags.values,
		Build: web.BuildInfo{
			Version: buildVersion(), Revision: promversion.GetRevision(), Branch: promversion.Branch,
			BuildUser: promversion.BuildUser, BuildDate: promversion.BuildDate, GoVersion: runtime.Version(),
		},
	}
}

// Current is the configuration in effect.
func (e *environment) Current() *config.Config {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.current
}

// scrapePools joins what was found with what the scrapes of it said.
func scrapePools(pools []target.PoolStatus, scraped []poller.TargetStatus) []web.ScrapePool {
	known := make(map[string]*poller.TargetStatus, len(scraped))
	for i := range scraped {
		known[scraped[i].Key] = &scraped[i]
	}
	out := make([]web.ScrapePool, len(pools))
	for i, p := range pools {
		shown := web.ScrapePool{Name: p.Name, DroppedCount: p.DroppedCount}
		for _, t := range p.Active {
			interval, timeout := t.Spelled()
			a := web.ActiveTarget{
				DiscoveredLabels: t.Discovered(), Labels: t.Own(), ScrapePool: p.Name, ScrapeURL: t.RedactedURL(),
				Health: string(poller.Unknown), ScrapeInterval: interval, ScrapeTimeout: timeout,
			}
			if s := known[t.Key()]; s != nil {
				a.Health, a.LastError, a.LastScrape = string(s.Health), s.LastError, s.LastScrape
				a.LastScrapeDuration = float64(s.Duration) / float64(time.Second)
			}
			shown.Active = append(shown.Active, a)
		}
		for _, d := range p.Dropped {
			shown.Dropped = append(shown.Dropped, web.DroppedTarget{DiscoveredLabels: d.Discovered(), ScrapePool: p.Name})
		}
		out[i] = shown
	}
	return out
}

// flagValues are the values of a program's own flags, for people to see.
func flagValues(app *kingpin.Application) map[string]string {
	out := map[string]string{}
	usual := kingpin.New("", "").Version("")
	for _, f := range app.Model().Flags {
		if usual.GetFlag(f.Name) != nil {
			continue
		}
		value := f.Value.String()
		if u, err := url.Parse(value); err == nil && u.User != nil {
			value = redact.URL(u)
		}
		out[f.Name] = value
	}
	return out
}
