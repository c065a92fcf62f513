package web

import (
	"cmp"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

// API is what the process tells under /api/v1/, in the JSON of Prometheus' HTTP API. Its functions are called for each
// request, from several goroutines.
type API struct {
	// Pools lists what there is to scrape, by scrape pool.
	Pools func() []ScrapePool
	// Config is the configuration in effect as YAML, without secrets.
	Config func() (string, error)
	// Flags are the values of the flags by name, without secrets.
	Flags map[string]string
	// Build says which program this is.
	Build BuildInfo
}

// ScrapePool is what one scrape config found.
type ScrapePool struct {
	Name    string
	Active  []ActiveTarget
	Dropped []DroppedTarget
	// DroppedCount may be more than there are in Dropped.
	DroppedCount int
}

// ActiveTarget is a target that is scraped. The names of the JSON are those of Prometheus.
type ActiveTarget struct {
	// DiscoveredLabels are those before relabelling, Labels those after it.
	DiscoveredLabels labels.Labels `json:"discoveredLabels"`
	Labels           labels.Labels `json:"labels"`

	ScrapePool string `json:"scrapePool"`
	// ScrapeURL is what is asked, without a password. GlobalURL, where others reach the same, is filled in by the server.
	ScrapeURL string `json:"scrapeUrl"`
	GlobalURL string `json:"globalUrl"`

	LastError string `json:"lastError"`
	// LastScrape is when the last scrape began; zero if there was none. LastScrapeDuration is in seconds.
	LastScrape         time.Time `json:"lastScrape"`
	LastScrapeDuration float64   `json:"lastScrapeDuration"`
	// Health is up, down or unknown.
	Health string `json:"health"`

	// ScrapeInterval and ScrapeTimeout are durations as Prometheus writes them.
	ScrapeInterval string `json:"scrapeInterval"`
	ScrapeTimeout  string `json:"scrapeTimeout"`
}

// DroppedTarget is a target that relabelling dropped.
type DroppedTarget struct {
	DiscoveredLabels labels.Labels `json:"discoveredLabels"`
	ScrapePool       string        `json:"scrapePool"`
}

// BuildInfo says which program this is.
type BuildInfo struct {
	Version   string `json:"version"`
	Revision  string `json:"revision"`
	Branch    string `json:"branch"`
	BuildUser string `json:"buildUser"`
	BuildDate string `json:"buildDate"`
	GoVersion string `json:"goVersion"`
}

// targetDiscovery is the answer of /api/v1/targets.
type targetDiscovery struct {
	ActiveTargets       []ActiveTarget  `json:"activeTargets"`
	DroppedTargets      []DroppedTarget `json:"droppedTargets"`
	DroppedTargetCounts map[string]int  `json:"droppedTargetCounts"`
}

// apiAnswer is around all answers.
type apiAnswer struct {
	Status    string `json:"status"`
	Data      any    `json:"data,omitempty"`
	ErrorType string `json:"errorType,omitempty"`
	Error     string `json:"error,omitempty"`
}

// apiPaths are the handlers of the API.
func (s *Server) apiPaths() map[string]http.Handler {
	a := s.opts.API
	if a == nil {
		return nil
	}
	answered := func(data func(r *http.Request) (any, error)) http.Handler {
		return only(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			got, err := data(r)
			s.answerAPI(w, got, err)
		}), http.MethodGet)
	}
	return map[string]http.Handler{
		"/api/v1/targets": answered(func(r *http.Request) (any, error) {
			q := r.URL.Query()
			return s.targetDiscovery(a.Pools(), q.Get("state"), q.Get("scrapePool")), nil
		}),
		"/api/v1/scrape_pools": answered(func(*http.Request) (any, error) {
			names := []string{}
			for _, p := range a.Pools() {
				names = append(names, p.Name)
			}
			slices.Sort(names)
			return map[string][]string{"scrapePools": names}, nil
		}),
		"/api/v1/status/config": answered(func(*http.Request) (any, error) {
			text, err := a.Config()
			return map[string]string{"yaml": text}, err
		}),
		"/api/v1/status/flags":     answered(func(*http.Request) (any, error) { return a.Flags, nil }),
		"/api/v1/status/buildinfo": answered(func(*http.Request) (any, error) { return a.Build, nil }),
	}
}

// targetDiscovery tells of the targets in one state, or in all, of one pool or of all.
func (s *Server) targetDiscovery(pools []ScrapePool, state, only string) *targetDiscovery {
	state = strings.ToLower(state)
	out := &targetDiscovery{ActiveTargets: []ActiveTarget{}, DroppedTargets: []DroppedTarget{}}
	both := state == "" || state == "any"
	pools = slices.SortedFunc(slices.Values(pools), func(a, b ScrapePool) int { return cmp.Compare(a.Name, b.Name) })
	if both || state == "dropped" {
		out.DroppedTargetCounts = make(map[string]int, len(pools))
		for _, p := range pools { // of all pools, as Prometheus does
			out.DroppedTargetCounts[p.Name] = p.DroppedCount
		}
	}
	external := s.external()
	for _, p := range pools {
		if only != "" && p.Name != only {
			continue
		}
		if both || state == "active" {
			for _, t := range p.Active {
				t.GlobalURL = s.globalURL(t.ScrapeURL, external)
				out.ActiveTargets = append(out.ActiveTargets, t)
			}
		}
		if both || state == "dropped" {
			out.DroppedTargets = append(out.DroppedTargets, p.Dropped...)
		}
	}
	return out
}

// external is where this server is reached from outside, as far as that is known.
func (s *Server) external() *url.URL {
	if u, err := url.Parse(s.opts.ExternalURL); err == nil && u.Host != "" {
		return u
	}
	u := &url.URL{Scheme: "http"}
	if all := s.Addresses(); len(all) > 0 {
		host, port, err := net.SplitHostPort(all[0])
		if name := s.opts.Hostname; err == nil && name != "" {
			host = name
		}
		u.Host = net.JoinHostPort(host, port)
	}
	return u
}

// globalURL is a target's URL as others reach it: if its host is this one, by the name that this server has outside, as
// Prometheus does.
func (s *Server) globalURL(raw string, external *url.URL) string {
	u, err := url.Parse(raw)
	if err != nil || !slices.Contains([]string{"127.0.0.1", "localhost", "::1"}, u.Hostname()) {
		return raw
	}
	own := ""
	if all := s.Addresses(); len(all) > 0 {
		_, own, _ = net.SplitHostPort(all[0])
	}
	if u.Port() == own {
		u.Scheme, u.Host = external.Scheme, external.Host
		return u.String()
	}
	host := external.Hostname()
	if port := u.Port(); port != "" {
		host = net.JoinHostPort(host, port)
	}
	u.Host = host
	return u.String()
}

// answerAPI writes data, or what went wrong.
func (s *Server) answerAPI(w http.ResponseWriter, data any, err error) {
	code, answer := http.StatusOK, apiAnswer{Status: "success", Data: data}
	var body []byte
	if err == nil {
		body, err = json.Marshal(answer)
	}
	if err != nil {
		s.logger.Error("the API cannot answer", "error", err)
		code = http.StatusInternalServerError
		text, e := json.Marshal(apiAnswer{Status: "error", ErrorType: "internal", Error: err.Error()})
		body = text
		if e != nil {
			err = errors.Join(err, e)
			http.Error(w, err.Error(), code)
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	// A client that went away needs no answer.
	_, _ = w.Write(body)
}
