package config

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/common/model"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery"
	yamlv2 "go.yaml.in/yaml/v2"
	"go.yaml.in/yaml/v3"
)

// ScrapeConfig is one of Prometheus' scrape_configs blocks.
type ScrapeConfig struct {
	JobName string `yaml:"job_name"`
	File    string `yaml:"-"`
	Line    int    `yaml:"-"`
	// Prometheus has the whole block as it is in the file.
	Prometheus *yaml.Node `yaml:"-"`
	// Block is what Prometheus' own parser makes of it, with the global settings filled in.
	Block *promconfig.ScrapeConfig `yaml:"-"`

	path string
	from string // a comment, where it is shown beside those of another file
}

// ScrapeConfigs are the blocks of scrape_configs.
type ScrapeConfigs []ScrapeConfig

// discoveryTag is the build tag that brings in all kinds of service discovery.
const discoveryTag = "enable_all_sd"

// otherDiscoveries are the kinds of service discovery that Prometheus has and a build may lack.
func otherDiscoveries() []string {
	return []string{
		"aws", "azure", "consul", "digitalocean", "dns", "docker", "dockerswarm", "ec2", "ecs", "elasticache", "eureka", "file", "gce", "hetzner",
		"http", "ionos", "kubernetes", "kuma", "lightsail", "linode", "marathon", "msk", "nerve", "nomad", "oci", "openstack", "outscale",
		"ovhcloud", "puppetdb", "rds", "scaleway", "serverset", "stackit", "triton", "uyuni", "vultr",
	}
}

// scrapeKeys are the keys that a block may have.
func scrapeKeys() []string {
	var out []string
	for _, f := range fieldsOf(reflect.TypeFor[promconfig.ScrapeConfig]()) {
		out = append(out, f.name)
	}
	for _, name := range discovery.RegisteredConfigNames() {
		if name == "static" {
			out = append(out, "static_configs")
		} else {
			out = append(out, name+"_sd_configs")
		}
	}
	return out
}

func (v *ScrapeConfigs) decode(d *decoder, path string, n *yaml.Node) {
	seen := map[string]int{}
	known := scrapeKeys()
	d.foreignBlocks(path, n, reflect.TypeFor[ScrapeConfig](), func(at string, rest *yaml.Node, own reflect.Value) {
		name := own.Interface().(ScrapeConfig).JobName
		line, twice := seen[name]
		if twice {
			d.errorAt(rest.Line, "%s: the job_name %s is on line %d already", at, quote(name), line)
		} else {
			seen[name] = rest.Line
		}
		if !d.legalName(at, rest.Line, "job", name) {
			return
		}
		c := ScrapeConfig{JobName: name, File: d.file, Line: rest.Line, Prometheus: rest, path: at}
		if c.decodeBlock(d, known) && !twice {
			*v = append(*v, c)
		}
	})
}

// decodeBlock has Prometheus read the block.
func (v *ScrapeConfig) decodeBlock(d *decoder, known []string) bool {
	plain, ok := d.plain(v.path, v.Prometheus, 0)
	if !ok {
		return false
	}
	all := plain.Content
	plain.Content = nil
	for i := 0; i+1 < len(all); i += 2 {
		if key := all[i]; slices.Contains(known, key.Value) {
			plain.Content = append(plain.Content, key, all[i+1])
		} else {
			d.errorAt(key.Line, "%s", unknownScrapeKey(v.path, key.Value, known))
		}
	}
	block, err := readBlock(plain, nil)
	if err != nil {
		v.blame(d, plain, err, nil)
	}
	if err != nil || len(plain.Content) < len(all) {
		return false
	}
	block.SetDirectory(d.dir)
	v.Block = block
	return true
}

func unknownScrapeKey(path, key string, known []string) string {
	if name, ok := strings.CutSuffix(key, "_sd_configs"); ok && slices.Contains(otherDiscoveries(), name) {
		return fmt.Sprintf("%s.%s: this service discovery is not in this build, which has %s; the build tag %s brings in all of them",
			path, key, strings.Join(discovery.RegisteredConfigNames(), ", "), discoveryTag)
	}
	hint := ""
	if s := suggest(key, known); s != "" {
		hint = fmt.Sprintf("; did you mean %q?", s)
	}
	return fmt.Sprintf("unknown key %s in %s%s", quote(key), path, hint)
}

// plain copies a node without aliases and merge keys, and notes where a key stands twice.
func (d *decoder) plain(path string, n *yaml.Node, depth int) (*yaml.Node, bool) {
	n = resolve(n)
	if depth > 32 {
		d.errorAt(n.Line, "%s: nested too deep", path)
		return nil, false
	}
	out := &yaml.Node{Kind: n.Kind, Tag: n.Tag, Style: n.Style &^ yaml.FlowStyle, Value: n.Value, Line: n.Line, Column: n.Column}
	ok := true
	switch n.Kind {
	case yaml.MappingNode:
		pairs, fine := d.pairs(path, n)
		seen := map[string]bool{}
		for _, p := range pairs {
			if seen[p.key.Value] {
				if !p.merged {
					d.errorAt(p.key.Line, "duplicate key %s in %s", quote(p.key.Value), path)
					fine = false
				}
				continue
			}
			seen[p.key.Value] = true
			value, good := d.plain(join(path, p.key.Value), p.value, depth+1)
			if fine = fine && good; good {
				out.Content = append(out.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: p.key.Tag, Style: p.key.Style, Value: p.key.Value, Line: p.key.Line}, value)
			}
		}
		ok = fine
	case yaml.SequenceNode:
		for i, item := range d.items(n) {
			value, good := d.plain(path+"["+itoa(i)+"]", item, depth+1)
			if ok = ok && good; good {
				out.Content = append(out.Content, value)
			}
		}
		ok = ok && d.visited <= maxVisited
	}
	return out, ok
}

// readBlock decodes a block strictly and, if global settings are given, fills them in and checks it.
func readBlock(plain *yaml.Node, global *promconfig.GlobalConfig) (*promconfig.ScrapeConfig, error) {
	text, err := yaml.Marshal(plain)
	if err != nil {
		return nil, err
	}
	block := &promconfig.ScrapeConfig{}
	if err := unmarshalStrict(text, block); err != nil {
		return nil, err
	}
	if global == nil {
		return block, nil
	}
	return block, block.Validate(*global)
}

// unmarshalStrict is the parser of Prometheus, which may panic at what it never expects.
func unmarshalStrict(text []byte, out any) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("cannot be read: %v", r)
		}
	}()
	return yamlv2.UnmarshalStrict(text, out)
}

// blame reports an error of Prometheus' parser at the key that it is about, which the parser does not say: it is the one
// that alone gives the same error.
func (v *ScrapeConfig) blame(d *decoder, plain *yaml.Node, err error, global *promconfig.GlobalConfig) {
	path, line := v.path, v.Line
	said := parserError(err)
	again := func(key, value *yaml.Node) bool {
		one := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Content: []*yaml.Node{
			{Kind: yaml.ScalarNode, Tag: "!!str", Value: "job_name"}, {Kind: yaml.ScalarNode, Tag: "!!str", Value: v.JobName}}}
		if key.Value != "job_name" {
			one.Content = append(one.Content, key, value)
		}
		_, err := readBlock(one, global)
		return err != nil && parserError(err) == said
	}
	for i := 0; i+1 < len(plain.Content); i += 2 {
		key, value := plain.Content[i], plain.Content[i+1]
		if !again(key, value) {
			continue
		}
		path, line = join(path, key.Value), key.Line
		if value.Kind == yaml.SequenceNode {
			for j, item := range value.Content {
				list := *value
				list.Content = []*yaml.Node{item}
				if again(key, &list) {
					path, line = path+"["+itoa(j)+"]", item.Line
					break
				}
			}
		}
		break
	}
	if exact := lineIn(plain, err); exact > 0 {
		line = exact
	}
	d.errorAt(line, "%s: %s", path, said)
}

// lineIn is the line in the file of the one that an error names in the copy of a node, or 0.
func lineIn(plain *yaml.Node, err error) int {
	m := regexp.MustCompile(`line (\d+): `).FindStringSubmatch(err.Error())
	if m == nil {
		return 0
	}
	text, marshalErr := yaml.Marshal(plain)
	var copied yaml.Node
	if marshalErr != nil || yaml.Unmarshal(text, &copied) != nil || len(copied.Content) == 0 {
		return 0
	}
	lines := map[int]int{}
	var walk func(a, b *yaml.Node)
	walk = func(a, b *yaml.Node) {
		if _, known := lines[a.Line]; !known {
			lines[a.Line] = b.Line
		}
		for i := range min(len(a.Content), len(b.Content)) {
			walk(a.Content[i], b.Content[i])
		}
	}
	walk(copied.Content[0], plain)
	n, _ := strconv.Atoi(m[1])
	return lines[n]
}

// parserError is the text of an error of Prometheus' parser, without its lines, which are those of a copy, and without
// values, which may be secrets.
func parserError(err error) string {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	var e *yamlv2.TypeError
	if errors.As(err, &e) && len(e.Errors) > 0 {
		text = e.Errors[0]
	}
	text = regexp.MustCompile(`line \d+: `).ReplaceAllString(text, "")
	text = regexp.MustCompile(` in type (\S+)$`).ReplaceAllString(text, "")
	text = regexp.MustCompile(`^field (\S+) not found$`).ReplaceAllString(text, `unknown key "$1"`)
	text = regexp.MustCompile("`[^`]*`").ReplaceAllString(text, "…")
	return clip(redact(text))
}

// finish fills in the global settings and checks what cannot be honoured.
func (v *ScrapeConfig) finish(d *decoder, global promconfig.GlobalConfig) {
	if v.Block == nil {
		return
	}
	err, refused := v.Block.Validate(global), notHonoured(v.Block)
	if err == nil && len(refused) == 0 {
		return
	}
	plain, ok := d.plain(v.path, v.Prometheus, 0)
	if !ok {
		return
	}
	if err != nil {
		v.blame(d, plain, err, &global)
		return
	}
	for _, key := range refused {
		line, first := v.Line, key.name[:strings.IndexAny(key.name+".", ".[")]
		for i := 0; i+1 < len(plain.Content); i += 2 {
			if plain.Content[i].Value == first {
				line = plain.Content[i].Line
			}
		}
		d.errorAt(line, "%s.%s: %s", v.path, key.name, key.why)
	}
}

// refusal is a key that cannot be honoured.
type refusal struct{ name, why string }

func notHonoured(b *promconfig.ScrapeConfig) []refusal {
	var out []refusal
	if b.ExtraScrapeMetricsEnabled() {
		out = append(out, refusal{"extra_scrape_metrics", "true is not in this build: a scrape is reported by up and the four scrape_* series that Prometheus has without it"})
	}
	if slices.Contains(b.ScrapeProtocols, promconfig.OpenMetricsText2_0_0) {
		out = append(out, refusal{"scrape_protocols", string(promconfig.OpenMetricsText2_0_0) + " is not in this build"})
	}
	if b.ScrapeFallbackProtocol == promconfig.OpenMetricsText2_0_0 {
		out = append(out, refusal{"fallback_scrape_protocol", string(promconfig.OpenMetricsText2_0_0) + " is not in this build"})
	}
	out = append(out, references("", reflect.ValueOf(b.HTTPClientConfig))...)
	count := map[string]int{}
	for _, c := range b.ServiceDiscoveryConfigs {
		key := c.Name() + "_sd_configs"
		out = append(out, references(key+"["+itoa(count[key])+"]", reflect.ValueOf(c))...)
		count[key]++
	}
	return out
}

// references lists the keys in settings that name a secret of a secret manager, which nothing here is.
func references(path string, v reflect.Value) (out []refusal) {
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return nil
	}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name, rest, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case !f.IsExported():
		case rest == "inline":
			out = append(out, references(path, v.Field(i))...)
		case strings.HasSuffix(name, "_ref") && f.Type.Kind() == reflect.String && v.Field(i).String() != "":
			out = append(out, refusal{join(path, name), "there is no secret manager in this build, as there is none in Prometheus: give the secret itself or a file"})
		case name != "" && name != "-":
			out = append(out, references(join(path, name), v.Field(i))...)
		}
	}
	return out
}

// global are the global settings of scrape configs in a file of ours.
func (c *Config) global() promconfig.GlobalConfig {
	g := promconfig.DefaultGlobalConfig
	g.ScrapeInterval, g.ScrapeTimeout = model.Duration(c.ScrapeInterval), model.Duration(c.ScrapeTimeout)
	return g
}

// Scrape lists the scrape configs of this file, of the files that it names and, if one was added, of a Prometheus file.
func (c *Config) Scrape() []*promconfig.ScrapeConfig {
	out := make([]*promconfig.ScrapeConfig, 0, len(c.ScrapeConfigs)+len(c.scrapeFiles)+len(c.prometheus))
	for _, list := range []ScrapeConfigs{c.ScrapeConfigs, c.scrapeFiles, c.prometheus} {
		for i := range list {
			out = append(out, list[i].Block)
		}
	}
	return out
}

// static counts the targets that a block names itself.
func (v *ScrapeConfig) static() (n int) {
	for _, c := range v.Block.ServiceDiscoveryConfigs {
		if s, ok := c.(discovery.StaticConfig); ok {
			for _, g := range s {
				n += len(g.Targets)
			}
		}
	}
	return n
}
