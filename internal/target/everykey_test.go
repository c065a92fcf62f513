package target

import (
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	commonconfig "github.com/prometheus/common/config"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/model/relabel"
	yamlv2 "go.yaml.in/yaml/v2"
	"go.yaml.in/yaml/v3"

	"github.com/choria-io/prometheus-streams/internal/config"
)

// keysUsed notes which keys of Prometheus' types stand in files, and which there are.
type keysUsed struct {
	used  map[string]bool // by TYPE.key
	known map[reflect.Type]bool
	all   []string
}

// key is one that a struct has, itself or by one inlined, which is the owner then.
type key struct {
	of    reflect.Type
	owner string
}

// keysOf are the keys of a struct by name; open is what a mapping of any keys holds.
func keysOf(t reflect.Type) (keys map[string]key, open reflect.Type) {
	keys = map[string]key{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, rest, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case !f.IsExported() || name == "-":
		case rest == "inline" && f.Type.Kind() == reflect.Struct:
			more, _ := keysOf(f.Type)
			maps.Copy(keys, more)
		case rest == "inline" && f.Type.Kind() == reflect.Map:
			open = f.Type.Elem()
		case name != "":
			keys[name] = key{f.Type, t.String()}
		}
	}
	return keys, open
}

func settings(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	return t
}

// learn adds the keys of a type and of those inside it.
func (k *keysUsed) learn(t reflect.Type) {
	if t = settings(t); t.Kind() == reflect.Map {
		k.learn(t.Elem())
		return
	}
	if t.Kind() != reflect.Struct || k.known[t] {
		return
	}
	k.known[t] = true
	keys, open := keysOf(t)
	if open != nil {
		k.learn(open)
	}
	for name, x := range keys {
		if full := x.owner + "." + name; !slices.Contains(k.all, full) {
			k.all = append(k.all, full)
		}
		k.learn(x.of)
	}
}

// note marks the keys that a node has.
func (k *keysUsed) note(t reflect.Type, n *yaml.Node) {
	t = settings(t)
	if n.Kind == yaml.SequenceNode {
		for _, item := range n.Content {
			k.note(t, item)
		}
		return
	}
	if n.Kind != yaml.MappingNode {
		return
	}
	var keys map[string]key
	var open reflect.Type
	switch t.Kind() {
	case reflect.Map:
		open = t.Elem()
	case reflect.Struct:
		keys, open = keysOf(t)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if x, ok := keys[n.Content[i].Value]; ok {
			k.used[x.owner+"."+n.Content[i].Value] = true
			k.note(x.of, n.Content[i+1])
		} else if open != nil {
			k.note(open, n.Content[i+1])
		}
	}
}

// discoveriesOf are the kinds of discovery of a block, with the keys under which they stand.
func discoveriesOf(t *testing.T, block *yaml.Node) map[string]reflect.Type {
	t.Helper()
	text, err := yaml.Marshal(block)
	if err != nil {
		t.Fatal(err)
	}
	var c promconfig.ScrapeConfig
	if err := yamlv2.UnmarshalStrict(text, &c); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	out := map[string]reflect.Type{}
	for _, d := range c.ServiceDiscoveryConfigs {
		out[d.Name()+"_sd_configs"] = reflect.TypeOf(d)
	}
	return out
}

// The files that a real Prometheus and we are to list alike have every key that Prometheus has: of scrape configs, of HTTP
// clients, of relabelling with each of its actions, and of each discovery in the default build. Keys for secret managers
// are left out: no Prometheus takes them.
func TestEveryKeyIsThere(t *testing.T) {
	k := &keysUsed{used: map[string]bool{}, known: map[reflect.Type]bool{}}
	k.learn(reflect.TypeFor[promconfig.ScrapeConfig]())
	k.learn(reflect.TypeFor[commonconfig.HTTPClientConfig]())
	kinds, actions := map[string]bool{"static": true}, map[string]bool{}
	for _, name := range []string{"everykey.yml", "everydiscovery.yml", "scrapeconfigs.yaml"} {
		var file struct {
			ScrapeConfigs []yaml.Node `yaml:"scrape_configs"`
		}
		if err := yaml.Unmarshal([]byte(read(t, filepath.Join("testdata", name))), &file); err != nil {
			t.Fatal(err)
		}
		for i := range file.ScrapeConfigs {
			block := &file.ScrapeConfigs[i]
			k.note(reflect.TypeFor[promconfig.ScrapeConfig](), block)
			k.note(reflect.TypeFor[commonconfig.HTTPClientConfig](), block)
			found := discoveriesOf(t, block)
			for j := 0; j+1 < len(block.Content); j += 2 {
				key, value := block.Content[j].Value, block.Content[j+1]
				if of, ok := found[key]; ok {
					kinds[strings.TrimSuffix(key, "_sd_configs")] = true
					k.learn(of)
					k.note(of, value)
				}
				if strings.HasSuffix(key, "relabel_configs") {
					for _, rule := range value.Content {
						var r relabel.Config
						if err := rule.Decode(&r); err != nil {
							t.Fatal(err)
						}
						actions[string(r.Action)] = true
					}
				}
			}
		}
	}
	for _, name := range discovery.RegisteredConfigNames() {
		if !kinds[name] {
			t.Errorf("no %s_sd_configs", name)
		}
	}
	for _, a := range []relabel.Action{relabel.Replace, relabel.Keep, relabel.Drop, relabel.KeepEqual, relabel.DropEqual, relabel.HashMod,
		relabel.LabelMap, relabel.LabelDrop, relabel.LabelKeep, relabel.Lowercase, relabel.Uppercase} {
		if !actions[string(a)] {
			t.Errorf("no rule with the action %s", a)
		}
	}
	slices.Sort(k.all)
	for _, key := range k.all {
		if !k.used[key] && !strings.HasSuffix(key, "_ref") {
			t.Errorf("no block has %s", key)
		}
	}
	if len(k.all) < 100 {
		t.Errorf("only %d keys looked for", len(k.all))
	}
}

// alternatives are, for each key of a scrape config, a value that is not its default.
func alternatives() map[string]string {
	return map[string]string{
		"job_name": "other", "honor_labels": "true", "honor_timestamps": "false", "track_timestamps_staleness": "true", "params": "{a: [b]}",
		"scrape_interval": "20s", "scrape_timeout": "3s", "scrape_protocols": "[PrometheusText0.0.4]", "fallback_scrape_protocol": "PrometheusText0.0.4",
		"scrape_native_histograms": "true", "always_scrape_classic_histograms": "true", "convert_classic_histograms_to_nhcb": "true",
		"scrape_failure_log_file": "f.log", "metrics_path": "/m", "scheme": "https", "enable_compression": "false", "body_size_limit": "1MB",
		"sample_limit": "1", "target_limit": "1", "label_limit": "1", "label_name_length_limit": "1", "label_value_length_limit": "1",
		"native_histogram_bucket_limit": "1", "native_histogram_min_bucket_factor": "2", "keep_dropped_targets": "1",
		"metric_name_validation_scheme": "legacy", "metric_name_escaping_scheme": "dots", "extra_scrape_metrics": "true",
		"relabel_configs":        "[{target_label: x, replacement: y}]",
		"metric_relabel_configs": "[{target_label: x, replacement: y}]",
		"basic_auth":             "{username: u}", "authorization": "{credentials: c}", "bearer_token": "c", "bearer_token_file": "c",
		"oauth2":     "{client_id: i, client_secret: s, token_url: 'http://t'}",
		"tls_config": "{insecure_skip_verify: true}", "follow_redirects": "false", "enable_http2": "false", "proxy_url": "http://p",
		"proxy_from_environment": "true", "http_headers": "{X: {values: [v]}}",
		"no_proxy":             "h\n  proxy_url: http://p",
		"proxy_connect_header": "{X: [v]}\n  proxy_url: http://p",
	}
}

// Each key of a scrape config makes other targets, or targets that are scraped otherwise; or it is refused by its name.
func TestEveryKeyIsHonouredOrRefused(t *testing.T) {
	const base = "scrape_configs:\n- job_name: j\n  static_configs: [{targets: ['a:1', 'a:2']}]\n"
	picture := func(text string) string {
		w := newWorld(t)
		w.apply(text)
		out := ""
		for _, p := range w.m.Pools() {
			for _, g := range p.Active {
				out += g.Key() + " "
			}
			out += fmt.Sprint(p.Name, p.DroppedCount, len(p.Dropped), " ")
		}
		return out
	}
	keys, _ := keysOf(reflect.TypeFor[promconfig.ScrapeConfig]())
	for key := range keys {
		value, ok := alternatives()[key]
		if !ok {
			t.Errorf("no value for %s", key)
			continue
		}
		before := base
		switch key {
		case "keep_dropped_targets":
			before += "  relabel_configs: [{action: drop}]\n"
		case "no_proxy", "proxy_connect_header":
			before += "  proxy_url: http://p\n"
		}
		after := base + "  " + key + ": " + value + "\n"
		switch key {
		case "keep_dropped_targets":
			after += "  relabel_configs: [{action: drop}]\n"
		case "job_name":
			after = strings.Replace(base, "job_name: j", "job_name: other", 1)
		}
		if err := refused(after); err != nil {
			if key != "extra_scrape_metrics" || !strings.Contains(err.Error(), "scrape_configs[0]."+key+": ") {
				t.Errorf("%s: %v", key, err)
			}
			continue
		}
		if picture(before) == picture(after) {
			t.Errorf("%s: %s changes nothing", key, value)
		}
	}
}

func refused(text string) error {
	_, _, err := config.Parse("c.yaml", []byte(text))
	return err
}
