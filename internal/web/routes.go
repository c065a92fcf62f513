package web

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metricsAtATime bounds how many requests gather the own metrics at a time.
const metricsAtATime = 8

// routes puts all paths together.
func (s *Server) routes() http.Handler {
	m := newMetrics(s.opts.Registerer)
	mux := http.NewServeMux()
	handle := func(path string, h http.Handler) {
		mux.Handle(s.prefix+path, m.count(path, http.StripPrefix(s.prefix, h)))
	}
	own := promhttp.HandlerFor(s.opts.Gatherer, promhttp.HandlerOpts{
		EnableOpenMetrics: true, ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: metricsAtATime,
		ErrorLog: slog.NewLogLogger(s.logger.Handler(), slog.LevelWarn), Registry: s.opts.Registerer,
	})
	if s.opts.Registerer != nil {
		own = promhttp.InstrumentMetricHandler(s.opts.Registerer, own)
	}
	handle("/metrics", only(own, http.MethodGet, http.MethodHead))
	handle("/-/healthy", only(http.HandlerFunc(healthy), http.MethodGet, http.MethodHead))
	handle("/-/ready", only(http.HandlerFunc(s.ready), http.MethodGet, http.MethodHead))
	handle("/-/reload", only(protect(http.HandlerFunc(s.reload)), http.MethodPost, http.MethodPut))
	for _, action := range []string{"pause", "resume", "switch"} {
		handle("/-/"+action, only(protect(s.control(action)), http.MethodPost, http.MethodPut))
	}
	for path, h := range s.opts.Handlers {
		handle(path, h)
	}
	for path, h := range s.apiPaths() {
		handle(path, h)
	}
	if s.opts.Profiling {
		handle("/debug/pprof/", http.HandlerFunc(pprof.Index))
		handle("/debug/pprof/cmdline", http.HandlerFunc(pprof.Cmdline))
		handle("/debug/pprof/profile", http.HandlerFunc(pprof.Profile))
		handle("/debug/pprof/symbol", http.HandlerFunc(pprof.Symbol))
		handle("/debug/pprof/trace", http.HandlerFunc(pprof.Trace))
	}
	handle("/style.css", only(http.HandlerFunc(style), http.MethodGet, http.MethodHead))
	mux.Handle(s.prefix+"/{$}", m.count("/", only(http.HandlerFunc(s.page), http.MethodGet, http.MethodHead)))
	if s.prefix != "" {
		mux.Handle("/{$}", http.RedirectHandler(s.prefix+"/", http.StatusFound))
		mux.Handle(s.prefix, http.RedirectHandler(s.prefix+"/", http.StatusFound))
	}
	return harden(mux)
}

// harden keeps browsers from making more of an answer than it is.
func harden(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("X-Frame-Options", "DENY")
		w.Header().Set("Referrer-Policy", "no-referrer")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; frame-ancestors 'none'")
		h.ServeHTTP(w, r)
	})
}

// protect refuses requests that a browser makes for another site.
func protect(h http.Handler) http.Handler { return http.NewCrossOriginProtection().Handler(h) }

// only lets requests of some methods through.
func only(h http.Handler, methods ...string) http.Handler {
	allow := ""
	for i, m := range methods {
		if i > 0 {
			allow += ", "
		}
		allow += m
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, m := range methods {
			if r.Method == m {
				h.ServeHTTP(w, r)
				return
			}
		}
		w.Header().Set("Allow", allow)
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	})
}

func say(w http.ResponseWriter, code int, format string, args ...any) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	// A client that went away needs no answer.
	_, _ = fmt.Fprintf(w, format+"\n", args...)
}

func healthy(w http.ResponseWriter, _ *http.Request) {
	say(w, http.StatusOK, "prometheus-streams is healthy.")
}

func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	if s.opts.Ready != nil {
		if err := s.opts.Ready(); err != nil {
			say(w, http.StatusServiceUnavailable, "prometheus-streams is not ready: %s.", err)
			return
		}
	}
	say(w, http.StatusOK, "prometheus-streams is ready.")
}

func (s *Server) reload(w http.ResponseWriter, _ *http.Request) {
	if !s.opts.EnableLifecycle || s.opts.Reload == nil {
		say(w, http.StatusForbidden, "Reload over HTTP is not enabled: see --web.enable-lifecycle.")
		return
	}
	if err := s.opts.Reload(); err != nil {
		say(w, http.StatusInternalServerError, "reload: %s", err)
		return
	}
	say(w, http.StatusOK, "The configuration was read again.")
}
