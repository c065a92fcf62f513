package web

import (
	"errors"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// Pause, resume and switch are changed by POST alone, if lifecycle is enabled, and never for another site's page.
func TestControl(t *testing.T) {
	var asked []string
	control := func(action, caller string) (any, error) {
		asked = append(asked, action+" "+caller)
		return map[string]bool{"paused": action == "pause"}, nil
	}
	enabled := func(o *Options) { o.EnableLifecycle, o.Control = true, control }
	for name, c := range map[string]struct {
		change       func(*Options)
		method, path string
		site, user   string
		status       int
		want, asked  string
	}{
		"pause":                {enabled, "POST", "/-/pause", "", "", 200, `{"paused":true}`, "pause 192.0.2.1"},
		"resume by a user":     {enabled, "POST", "/-/resume", "", "ops", 200, `{"paused":false}`, "resume ops@192.0.2.1"},
		"switch by PUT":        {enabled, "PUT", "/-/switch", "", "", 200, `{"paused":false}`, "switch 192.0.2.1"},
		"by GET":               {enabled, "GET", "/-/pause", "", "", 405, "method not allowed", ""},
		"by HEAD":              {enabled, "HEAD", "/-/switch", "", "", 405, "", ""},
		"by another site":      {enabled, "POST", "/-/pause", "cross-site", "", 403, "cross-origin", ""},
		"without lifecycle":    {func(o *Options) { o.Control = control }, "POST", "/-/pause", "", "", 403, "--web.enable-lifecycle", ""},
		"without a breaker":    {func(o *Options) { o.EnableLifecycle = true }, "POST", "/-/resume", "", "", 403, "not enabled", ""},
		"in effect, forgotten": {func(o *Options) { enabled(o); o.Control = failing(control) }, "POST", "/-/pause", "", "", 500, "pause: disk full", "pause 192.0.2.1"},
	} {
		t.Run(name, func(t *testing.T) {
			asked = nil
			o := options()
			c.change(&o)
			r := httptest.NewRequest(c.method, c.path, nil)
			if c.site != "" {
				r.Header.Set("Sec-Fetch-Site", c.site)
			}
			if c.user != "" {
				r.SetBasicAuth(c.user, "secret")
			}
			rec := httptest.NewRecorder()
			server(t, o).Handler().ServeHTTP(rec, r)
			if rec.Code != c.status || !strings.Contains(rec.Body.String(), c.want) {
				t.Errorf("status %d, want %d; body %q, want %q", rec.Code, c.status, rec.Body, c.want)
			}
			var want []string
			if c.asked != "" {
				want = []string{c.asked}
			}
			if !slices.Equal(asked, want) {
				t.Errorf("asked %q, want %q", asked, want)
			}
		})
	}
}

func failing(control func(string, string) (any, error)) func(string, string) (any, error) {
	return func(action, caller string) (any, error) {
		_, _ = control(action, caller)
		return nil, errors.New("disk full")
	}
}
