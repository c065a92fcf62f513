package pushgateway

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"strings"
	"testing"
)

var names = []string{"web/1", "a b", "ü", "dot/../x", "x?y#z", "c:9100", "%2F", "", ".", "..", "=", "@base64", "a@base64",
	"host.example.net:9100", "a\nb", "+", "~", ";a=b", "\xff", strings.Repeat("ü/", 500), "//", " "}

func TestPath(t *testing.T) {
	for _, tc := range []struct {
		key  key
		want string
	}{
		{key{job: "node", instance: "host.example.net:9100"}, "/metrics/job/node/instance/host.example.net:9100"},
		{key{job: "node", instance: "web/1"}, "/metrics/job/node/instance@base64/d2ViLzE"},
		{key{job: "a b", instance: "", label: "publisher", publisher: "DC1"}, "/metrics/job@base64/YSBi/instance@base64/=/publisher/DC1"},
		{key{job: "..", instance: ".", label: "site", publisher: ""}, "/metrics/job@base64/Li4/instance@base64/Lg/site@base64/="},
	} {
		if got := tc.key.path(); got != tc.want {
			t.Errorf("path of %q is %s, want %s", tc.key, got, tc.want)
		}
	}
}

// checkPath sends a path through a real HTTP server, whose mux cleans paths, and decodes it as the gateway does.
func checkPath(t *testing.T, k key) {
	t.Helper()
	p := k.path()
	if again := (key{k.job, k.instance, k.label, k.publisher}); again.path() != p {
		t.Errorf("%q has two paths", k)
	}
	back, err := parsePath(p)
	if err != nil || back != k {
		t.Errorf("parsePath(%s) = %q, %v, want %q", p, back, err, k)
	}
	if path.Clean(p) != p {
		t.Errorf("path %s is not clean: a server would redirect it", p)
	}
	u, err := url.Parse("http://gateway:9091/prefix" + p)
	if err != nil || u.Path != "/prefix"+p || u.EscapedPath() != "/prefix"+p || u.RawQuery != "" || u.Fragment != "" {
		t.Fatalf("as a URL %s becomes %+v, %v", p, u, err)
	}
	if k.job == "" {
		return // the gateway refuses it; so does the sink
	}
	got, err := groupOf(p)
	want := "job=" + k.job + ",instance=" + k.instance
	if k.label != "" {
		want += "," + k.label + "=" + k.publisher
	}
	if err != nil || got != want {
		t.Errorf("the gateway reads %s as %q, %v, want %q", p, got, err, want)
	}
}

func TestPathsArriveAsTheyAre(t *testing.T) {
	seen := map[string]key{}
	for _, job := range names {
		for _, instance := range names {
			for _, k := range []key{{job: job, instance: instance}, {job, instance, "publisher", job}} {
				checkPath(t, k)
				if other, ok := seen[k.path()]; ok {
					t.Errorf("%q and %q have one path", k, other)
				}
				seen[k.path()] = k
			}
		}
	}
}

func TestPathsOverHTTP(t *testing.T) {
	var got string
	mux := http.NewServeMux()
	mux.HandleFunc("/metrics/", func(_ http.ResponseWriter, r *http.Request) { got, _ = groupOf(r.URL.Path) })
	srv := httptest.NewServer(mux)
	defer srv.Close()
	s, err := New(Options{URL: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		got = ""
		k := key{job: "a", instance: n}
		a := s.send(t.Context(), push{method: http.MethodPut, path: k.path(), content: &content{}}, nil, false)
		if a.outcome != accepted || got != "job=a,instance="+n {
			t.Errorf("instance %q arrives as %q, %v", n, got, a.err)
		}
	}
}

func FuzzPath(f *testing.F) {
	for _, n := range names {
		f.Add(n, n, true)
		f.Add("job", n, false)
	}
	f.Fuzz(func(t *testing.T, job, instance string, labelled bool) {
		k := key{job: job, instance: instance}
		if labelled {
			k.label, k.publisher = "publisher", instance+job
		}
		checkPath(t, k)
	})
}

func FuzzParsePath(f *testing.F) {
	f.Add("/metrics/job/a/instance/b")
	f.Add("/metrics/job@base64/YSBi/instance@base64/=/publisher/DC1")
	f.Add("/metrics/job@base64/YQ/instance/b")
	f.Fuzz(func(t *testing.T, p string) {
		if k, err := parsePath(p); err == nil && k.path() != p {
			t.Errorf("%q is read as %q, whose path is %q", p, k, k.path())
		}
	})
}

func TestParsePathRefuses(t *testing.T) {
	for _, p := range []string{"", "/", "/metrics", "/metrics/job/a", "/metrics/instance/a/job/b", "/metrics/job/a/instance/b/c",
		"/metrics/job@base64/YQ/instance/b", "/metrics/job/a%20b/instance/b", "/metrics/job/a/instance/b/c/d/e/f", "/metrics/job@base64/!/instance/b"} {
		if k, err := parsePath(p); err == nil {
			t.Errorf("parsePath(%q) = %q, want an error", p, k)
		}
	}
}
