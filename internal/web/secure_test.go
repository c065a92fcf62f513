package web

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// With client_auth_type only those who have a certificate of ours get in.
func TestClientCertificates(t *testing.T) {
	dir, foreign := t.TempDir(), t.TempDir()
	pool := certificate(t, dir)
	certificate(t, foreign)
	file := filepath.Join(dir, "web.yaml")
	text := "tls_server_config: {cert_file: cert.pem, key_file: key.pem, client_auth_type: RequireAndVerifyClientCert, client_ca_file: cert.pem}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o := options()
	o.ConfigFile = file
	s := server(t, o)
	stop := start(t, s)
	for from, want := range map[string]bool{dir: true, foreign: false, "": false} {
		c := &tls.Config{RootCAs: pool}
		if from != "" {
			pair, err := tls.LoadX509KeyPair(filepath.Join(from, "cert.pem"), filepath.Join(from, "key.pem"))
			if err != nil {
				t.Fatal(err)
			}
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: c}}
		resp, err := client.Get("https://" + s.Addresses()[0] + "/metrics")
		if err == nil {
			resp.Body.Close()
		}
		if (err == nil && resp.StatusCode == http.StatusOK) != want {
			t.Errorf("with the certificate in %q: %v", from, err)
		}
		client.CloseIdleConnections()
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// Nothing but POST and PUT changes anything, and only where it is enabled; every answer has the headers that bind browsers.
func TestNothingChangesByItself(t *testing.T) {
	methods := []string{"GET", "HEAD", "OPTIONS", "DELETE", "PATCH", "TRACE", "CONNECT", "POST", "PUT"}
	for _, enabled := range []bool{false, true} {
		changed := ""
		o := options()
		o.EnableLifecycle = enabled
		o.Reload = func() error { changed = "reload"; return nil }
		o.Control = func(action, _ string) (any, error) { changed = action; return "", nil }
		o.Handlers = map[string]http.Handler{"/extra": hello("extra")}
		h := server(t, o).Handler()
		for _, path := range []string{"/", "/metrics", "/extra", "/style.css", "/nothing", "/-/healthy", "/-/ready", "/-/reload", "/-/pause", "/-/resume", "/-/switch", "/-/quit"} {
			for _, method := range methods {
				changed = ""
				rec := httptest.NewRecorder()
				h.ServeHTTP(rec, httptest.NewRequest(method, path, nil))
				may := enabled && (method == "POST" || method == "PUT") && slices.Contains([]string{"/-/reload", "/-/pause", "/-/resume", "/-/switch"}, path)
				if (changed != "") != may || may && "/-/"+changed != path {
					t.Errorf("enabled %v, %s %s: changed %q, status %d", enabled, method, path, changed, rec.Code)
				}
				for name, want := range map[string]string{
					"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
					"Content-Security-Policy": "default-src 'none'; style-src 'self'; frame-ancestors 'none'",
				} {
					if got := rec.Header().Get(name); got != want {
						t.Errorf("%s %s: %s is %q, want %q", method, path, name, got, want)
					}
				}
			}
			for header, value := range map[string]string{"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site", "sec-fetch-site": "same-site"} {
				for _, method := range []string{"POST", "PUT"} {
					changed = ""
					r := httptest.NewRequest(method, path, nil)
					r.Header.Set(header, value)
					h.ServeHTTP(httptest.NewRecorder(), r)
					if changed != "" {
						t.Errorf("enabled %v: a page of another site may %s %s (%s: %s)", enabled, method, path, header, value)
					}
				}
			}
		}
	}
	for _, path := range []string{"", "cmdline", "profile", "symbol", "trace", "heap", "goroutine"} {
		rec := httptest.NewRecorder()
		server(t, options()).Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/debug/pprof/"+path, nil))
		if rec.Code != http.StatusNotFound {
			t.Errorf("/debug/pprof/%s without the flag: %d", path, rec.Code)
		}
	}
}
