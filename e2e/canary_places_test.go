package e2e

import (
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// planted lists the keys of a configuration under which a secret stands, or a file or a directory with one.
func (c *canaries) planted(t *testing.T, text string) map[string]bool {
	t.Helper()
	keys := map[string]bool{}
	var walk func(at string, v any)
	walk = func(at string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for key, value := range v {
				walk(strings.TrimPrefix(at+"/"+key, "/"), value)
			}
		case []any:
			for _, value := range v {
				walk(at, value)
			}
		case string:
			if len(c.found(v)) > 0 || filepath.IsAbs(v) && c.holds(v) {
				keys[at] = true
			}
			if strings.HasSuffix(at, "_file") && filepath.Ext(v) == ".yaml" { // the keys in that file are keys too
				inner := map[string]any{}
				if data, err := os.ReadFile(v); err == nil && yaml.Unmarshal(data, &inner) == nil {
					walk(at, inner)
				}
			}
		}
	}
	top := map[string]any{}
	if err := yaml.Unmarshal([]byte(text), &top); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	walk("", top)
	return keys
}

// holds tells whether a secret is in a file, or in one of a directory.
func (c *canaries) holds(name string) (secret bool) {
	_ = filepath.WalkDir(name, func(file string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			data, _ := os.ReadFile(file)
			secret = secret || len(c.found(string(data))) > 0
		}
		return nil
	})
	return secret
}

// Wherever a configuration may hold a secret, the tests have planted one: the list of these places, which a test of the
// configuration keeps complete, has no place without one.
func TestCanariesAreEverywhere(t *testing.T) {
	t.Parallel()
	keys := map[string]bool{}
	for _, files := range []bool{false, true} {
		for way := range clientWays {
			c := newCanaries(t)
			maps.Copy(keys, c.planted(t, c.config(t, "127.0.0.1:1", files, way)))
		}
	}
	c := newCanaries(t)
	for _, block := range c.pollerStreams(t, "127.0.0.1:1") {
		maps.Copy(keys, c.planted(t, "poller_stream: {"+block+"}"))
	}
	for _, text := range c.everyTLS(t, "127.0.0.1:1") {
		maps.Copy(keys, c.planted(t, text))
	}
	data, err := os.ReadFile(filepath.Join(harness.Root(), "internal", "config", "testdata", "secrets"))
	if err != nil {
		t.Fatal(err)
	}
	places := strings.Fields(string(data))
	for _, place := range places {
		pattern := strings.ReplaceAll(place, ".", "/")
		if !slices.ContainsFunc(slices.Collect(maps.Keys(keys)), func(key string) bool {
			for ; key != "."; key = path.Dir(key) { // what is listed may be a map whose values are secrets
				if fits, _ := path.Match(pattern, key); fits {
					return true
				}
			}
			return false
		}) {
			t.Errorf("no secret is planted at %s", place)
		}
	}
	if len(places) < 100 {
		t.Errorf("only %d places are listed", len(places))
	}
}

// The same of the contexts of the nats command.
func TestCanariesAreInContexts(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile(filepath.Join(harness.Root(), "cmd", "prometheus-streams", "natscontext.go"))
	if err != nil {
		t.Fatal(err)
	}
	c := newCanaries(t)
	keys := map[string]bool{}
	for name, text := range c.contexts(t, "127.0.0.1:1") {
		if name == "broken" {
			continue
		}
		maps.Copy(keys, c.planted(t, text)) // JSON is YAML
	}
	found := regexp.MustCompile("`json:\"(\\w*(?:url|password|token|creds|nkey|key|jwt|seed|nsc|proxy))\"`").FindAllSubmatch(source, -1)
	for _, m := range found {
		if key := string(m[1]); !keys[key] {
			t.Errorf("no secret is planted at %s of a context", key)
		}
	}
	if len(found) < 10 {
		t.Errorf("only %d keys are found", len(found))
	}
}
