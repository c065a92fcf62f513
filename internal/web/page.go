package web

import (
	"bytes"
	"embed"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strings"
)

//go:embed assets
var assets embed.FS

// Page is what the status page shows.
type Page struct {
	// Role is the command that runs: poller, receiver, standalone.
	Role    string
	Version string
	// Facts are shown one a line, in order.
	Facts []Fact
	// Tables follow, in order.
	Tables []Table
}

// Fact is one thing to know.
type Fact struct{ Name, Value string }

// Table is one list of things.
type Table struct {
	Title   string
	Columns []string
	Rows    []Row
	// Note is shown below: how much is left out, for instance.
	Note string
}

// Row is one line of a table.
type Row struct {
	// Cells are shown as they are, whatever they hold.
	Cells []string
	// Bad marks what needs a look.
	Bad bool
}

// view is what the template sees.
type view struct {
	Page
	Prefix    string
	Addresses string
	Links     []string
	Ready     string
}

func (s *Server) page(w http.ResponseWriter, _ *http.Request) {
	v := view{Prefix: s.prefix, Addresses: strings.Join(s.Addresses(), ", "), Ready: "yes"}
	v.Links = append([]string{"/metrics"}, slices.Sorted(maps.Keys(s.opts.Handlers))...)
	if s.opts.API != nil {
		v.Links = append(v.Links, "/api/v1/targets")
	}
	v.Links = append(v.Links, "/-/healthy", "/-/ready")
	if s.opts.Profiling {
		v.Links = append(v.Links, "/debug/pprof/")
	}
	if s.opts.Page != nil {
		v.Page = s.opts.Page()
	}
	if s.opts.Ready != nil {
		if err := s.opts.Ready(); err != nil {
			v.Ready = "no: " + err.Error()
		}
	}
	t, err := template.ParseFS(assets, "assets/page.html")
	var body bytes.Buffer
	if err == nil {
		err = t.Execute(&body, v)
	}
	if err != nil {
		s.logger.Error("the status page could not be made", "error", err)
		http.Error(w, "the status page could not be made", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	// A client that went away needs no answer.
	_, _ = w.Write(body.Bytes())
}

func style(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "max-age=3600")
	http.ServeFileFS(w, r, assets, "assets/style.css")
}
