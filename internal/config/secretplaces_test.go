package config

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/exporter-toolkit/web"
	prometheus "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery"
)

// secretPlaces finds the keys of a configuration under which a secret may stand, by the types and the names of the fields.
type secretPlaces struct {
	// named are keys that hold secrets whatever their type is.
	named *regexp.Regexp
	found map[string]bool
}

func newSecretPlaces() *secretPlaces {
	return &secretPlaces{
		named: regexp.MustCompile(`(?i)(^|_)(passwords?|passwd|secrets?|tokens?|keys?|credentials|headers?|claims|params|seed|users|urls?|uri|kubeconfig|config|config_files|ssl_dir)(_file|_path)?$|(^|\.)http_headers\.\*\.(values|files)$`),
		found: map[string]bool{},
	}
}

// leaf is a key with a value of its own.
func (s *secretPlaces) leaf(path string, t reflect.Type) {
	key := path[strings.LastIndexByte(path, '.')+1:]
	if strings.Contains(path, "http_headers.") {
		key = path
	}
	if t == reflect.TypeFor[promconfig.Secret]() || t == reflect.TypeFor[Secret]() || t == reflect.TypeFor[URL]() || t == reflect.TypeFor[url.URL]() ||
		s.named.MatchString(key) && (t.Kind() == reflect.String || t.Kind() == reflect.Interface) {
		s.found[path] = true
	}
}

// walk goes through a type; * stands for any key of a map.
func (s *secretPlaces) walk(path string, t reflect.Type, depth int) {
	if depth > 16 {
		return
	}
	switch t {
	case reflect.TypeFor[promconfig.URL]():
		s.leaf(path, reflect.TypeFor[url.URL]())
		return
	case reflect.TypeFor[RemoteWrite]():
		s.walk(path, reflect.TypeFor[remoteWriteKeys](), depth+1)
	case reflect.TypeFor[Job]():
		s.walk(path+".*", reflect.TypeFor[jobKeys](), depth+1)
		return
	case reflect.TypeFor[Target]():
		s.walk(path, reflect.TypeFor[targetKeys](), depth+1)
		return
	case reflect.TypeFor[ScrapeConfig]():
		s.walk(path, scrapeConfigType(), depth+1)
		return
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array:
		s.walk(path, t.Elem(), depth+1)
	case reflect.Map:
		if inner := t.Elem(); inner.Kind() == reflect.Struct || inner.Kind() == reflect.Pointer {
			s.walk(path+".*", inner, depth+1)
		} else {
			for inner.Kind() == reflect.Slice {
				inner = inner.Elem()
			}
			s.leaf(path, inner)
		}
	case reflect.Struct:
		for f := range t.Fields() {
			name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			switch {
			case name == "-" || !f.IsExported():
			case strings.Contains(options, "inline"):
				s.walk(path, f.Type, depth+1)
			case name != "":
				s.walk(join(path, name), f.Type, depth+1)
			}
		}
	default:
		s.leaf(path, t)
	}
}

// scrapeConfigType is the type with which Prometheus reads a block, the keys of every service discovery of this build
// among it.
func scrapeConfigType() (all reflect.Type) {
	_ = discovery.UnmarshalYAMLWithInlineConfigs(&prometheus.ScrapeConfig{}, func(into any) error {
		all = reflect.TypeOf(into).Elem()
		return errors.New("the type is enough")
	})
	return all
}

// noSecrets are keys with such a type or such a name, and why nothing in them is to be hidden.
func noSecrets() map[string]string {
	return map[string]string{
		`_ref$`:                    "refused: there is no secret manager",
		`^scrape_configs\.params$`: "shown, as Prometheus shows it, and docs/security.md says so",
		`\.access_key$`:            "the name of a key, not the key",
		`^web\.config_file\.http_server_config\.headers$`: "sent with every answer",
	}
}

// The list of testdata/secrets is complete: a key that may hold a secret and is not in it fails the test. The end-to-end
// tests plant a secret at each place of the list and look for it wherever something is shown.
func TestSecretPlaces(t *testing.T) {
	s := newSecretPlaces()
	s.walk("", reflect.TypeFor[Config](), 0)
	s.walk("web.config_file", reflect.TypeFor[web.Config](), 0)
	for path := range s.found {
		for pattern := range noSecrets() {
			if regexp.MustCompile(pattern).MatchString(path) {
				delete(s.found, path)
			}
		}
	}
	data, err := os.ReadFile(filepath.Join("testdata", "secrets"))
	if err != nil {
		t.Fatal(err)
	}
	listed := strings.Fields(string(data))
	for path := range s.found {
		if !slices.Contains(listed, path) {
			t.Errorf("%s may hold a secret and is not in testdata/secrets", path)
		}
	}
	for _, path := range listed {
		if !s.found[path] {
			t.Errorf("%s is in testdata/secrets and there is no such key", path)
		}
	}
	if len(s.found) < 150 {
		t.Errorf("only %d places are found", len(s.found))
	}
}
