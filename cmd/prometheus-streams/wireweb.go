package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/choria-io/prometheus-streams/internal/poller"
	"github.com/choria-io/prometheus-streams/internal/sink/gateway"
	"github.com/choria-io/prometheus-streams/internal/target"
	"github.com/choria-io/prometheus-streams/internal/web"
)

// shownTargets bounds the tables of the status page.
const shownTargets = 500

// webParts are the rooms that the web server shows; they are put in while the house is built.
type webParts struct {
	server  *web.Server
	poller  *poller.Poller
	targets *target.Manager
	gateway *gateway.Gateway
	edge    link
	centre  []link
}

// listen opens the web server's address, so that one that is taken is known before anything else begins.
func (h *house) listen() error {
	address := h.cfg.ListenAddress()
	if address == "" {
		return nil
	}
	flags := h.env.Flags.Web
	o := web.Options{
		Addresses: []string{address}, ConfigFile: h.cfg.Web.ConfigFile,
		RoutePrefix: flags.RoutePrefix, ExternalURL: flags.ExternalURL,
		Gatherer: h.env.Registry, Registerer: h.env.Registry,
		Ready: h.ready, Reload: h.env.Reload, EnableLifecycle: h.cfg.Web.EnableLifecycle, Control: h.controlOverHTTP,
		Profiling: flags.EnablePprof,
		API:       h.api(),
		Page:      h.page, Logger: h.env.Logger,
	}
	o.Hostname, _ = os.Hostname()
	if h.cfg.Gateway != nil && h.env.Role.Receives() {
		o.Handlers = map[string]http.Handler{
			"/gateway/metrics": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.web.gateway.Metrics().ServeHTTP(w, r) }),
			"/gateway/targets": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.web.gateway.Targets().ServeHTTP(w, r) }),
		}
	}
	s, err := web.New(o)
	if err != nil {
		return err
	}
	if err := s.Listen(); err != nil {
		return err
	}
	h.web.server = s
	return nil
}

// serve adds the web server, once everything that it shows is there.
func (h *house) serve() {
	if h.web.server != nil {
		h.actor(h.web.server.Run)
	}
}

// ready tells whether the process can do what it is there for.
func (h *house) ready() error {
	conns := h.web.centre
	if h.web.edge != nil {
		conns = append([]link{h.web.edge}, conns...)
	}
	for _, c := range conns {
		if up, why := c.Connected(); !up {
			if why == nil {
				why = errors.New("not yet")
			}
			return fmt.Errorf("stream %s: no connection to NATS: %w", c.Stream(), why)
		}
	}
	return nil
}

func (h *house) page() web.Page {
	p := web.Page{Role: string(h.env.Role), Version: h.env.Version, Facts: []web.Fact{
		{Name: "Publisher", Value: h.cfg.Identity}, {Name: "Paused", Value: h.pausedFact()},
	}}
	if h.web.edge != nil {
		p.Facts = append(p.Facts, web.Fact{Name: "Publishes to stream", Value: h.web.edge.Stream()})
	}
	for _, c := range h.web.centre {
		p.Facts = append(p.Facts, web.Fact{Name: "Receives from stream", Value: c.Stream()})
	}
	if h.web.poller != nil {
		p.Tables = append(p.Tables, scrapedTable(h.web.poller.Targets()))
	}
	if h.web.gateway != nil {
		p.Tables = append(p.Tables, publishersTable(h.web.gateway), receivedTable(h.web.gateway))
	}
	return p
}

func scrapedTable(all []poller.TargetStatus) web.Table {
	t := web.Table{Title: "Scraped here", Columns: []string{"job", "instance", "URL", "health", "last scrape", "duration", "samples", "error"}}
	for i, s := range all {
		if i == shownTargets {
			t.Note = fmt.Sprintf("%d more", len(all)-i)
			break
		}
		last := "never"
		if !s.LastScrape.IsZero() {
			last = age(time.Since(s.LastScrape))
		}
		t.Rows = append(t.Rows, web.Row{Bad: s.Health == poller.Down, Cells: []string{
			s.Labels.Get("job"), s.Labels.Get("instance"), s.URL, string(s.Health), last,
			s.Duration.Round(time.Millisecond).String(), strconv.Itoa(s.Samples), s.LastError,
		}})
	}
	return t
}

func publishersTable(g *gateway.Gateway) web.Table {
	t := web.Table{Title: "Publishers", Columns: []string{"publisher", "targets", "series", "newest"}}
	for _, p := range g.Publishers() {
		t.Rows = append(t.Rows, web.Row{Cells: []string{p.Name, strconv.Itoa(p.Targets), strconv.Itoa(p.Series), age(p.Age)}})
	}
	return t
}

func receivedTable(g *gateway.Gateway) web.Table {
	t := web.Table{Title: "Received targets", Columns: []string{"publisher", "labels", "up", "series", "newest"}}
	shown, total := g.Shown(shownTargets)
	for _, s := range shown {
		up := "1"
		if !s.Up {
			up = "0"
		}
		t.Rows = append(t.Rows, web.Row{Bad: !s.Up || s.Stale, Cells: []string{
			s.Publisher, s.Labels.String(), up, strconv.Itoa(s.Series), age(s.Age),
		}})
	}
	if total > len(shown) {
		t.Note = fmt.Sprintf("%d more", total-len(shown))
	}
	return t
}

// age is a time past, for people.
func age(d time.Duration) string { return max(d, 0).Round(100*time.Millisecond).String() + " ago" }

// announce tells a person what runs and where to look, and when the first scrape has come through.
func (h *house) announce() {
	if h.web.server == nil || h.web.gateway == nil {
		return
	}
	base := "http://" + reachable(h.web.server.Addresses()[0]) + h.web.server.Prefix()
	h.say("prometheus-streams runs poller, JetStream and receiver in this process. Data is kept under %s.", h.cfg.Embedded.Directory)
	h.say("  %s/gateway/metrics   what was scraped, for Prometheus", base)
	h.say("  %s/metrics           its own metrics", base)
	h.say("  %s/                  status", base)
	h.actor(func(ctx context.Context) error {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-tick.C:
				if shown, total := h.web.gateway.Shown(1); total > 0 {
					h.say("First delivery: %s, %d series, through NATS and back.", shown[0].Labels, shown[0].Series)
					<-ctx.Done()
				}
			}
		}
		return nil
	})
}

func (h *house) say(format string, args ...any) {
	_, _ = fmt.Fprintf(h.env.Stdout, format+"\n", args...)
}

// reachable makes an address to listen on into one to open in a browser here.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(host); host == "" || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}
