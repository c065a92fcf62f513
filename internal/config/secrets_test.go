package config

import (
	"reflect"
	"strings"
	"testing"

	promconfig "github.com/prometheus/common/config"
	prometheus "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery/consul"
	"github.com/prometheus/prometheus/discovery/dns"
	"github.com/prometheus/prometheus/discovery/file"
	"github.com/prometheus/prometheus/discovery/http"
	"github.com/prometheus/prometheus/discovery/kubernetes"
	"github.com/prometheus/prometheus/discovery/puppetdb"
)

// secretsOf lists the keys, from the top of a block, whose values are of Prometheus' type for secrets.
func secretsOf(t reflect.Type, path []string, depth int) (out [][]string) {
	if t == reflect.TypeFor[promconfig.Secret]() {
		return [][]string{path}
	}
	if depth > 12 {
		return nil
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return secretsOf(t.Elem(), path, depth+1)
	case reflect.Map:
		return secretsOf(t.Elem(), append(path[:len(path):len(path)], "X"), depth+1)
	case reflect.Struct:
		for f := range t.Fields() {
			name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			at := path
			if name != "" && !strings.Contains(options, "inline") {
				at = append(path[:len(path):len(path)], name)
			}
			out = append(out, secretsOf(f.Type, at, depth+1)...)
		}
	}
	return out
}

// Whatever Prometheus takes for a secret in the blocks that are its own is masked by its key.
func TestMaskKnowsEverySecret(t *testing.T) {
	m := newMask()
	found := 0
	for block, x := range map[string]any{
		"scrape_configs": prometheus.ScrapeConfig{}, "remote_write": prometheus.RemoteWriteConfig{}, "push_gateway": promconfig.HTTPClientConfig{},
		"consul_sd_configs": consul.SDConfig{}, "dns_sd_configs": dns.SDConfig{}, "file_sd_configs": file.SDConfig{}, "http_sd_configs": http.SDConfig{},
		"kubernetes_sd_configs": kubernetes.SDConfig{}, "puppetdb_sd_configs": puppetdb.SDConfig{},
	} {
	secrets:
		for _, path := range secretsOf(reflect.TypeOf(x), nil, 0) {
			found++
			for _, key := range path {
				if m.secret.MatchString(key) {
					continue secrets
				}
			}
			t.Errorf("%s: %s is a secret and is not masked", block, strings.Join(path, "."))
		}
	}
	if found < 60 {
		t.Errorf("only %d secrets are known", found)
	}
}
