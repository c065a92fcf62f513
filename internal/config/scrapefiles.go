package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	promconfig "github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	yamlv2 "go.yaml.in/yaml/v2"
	"go.yaml.in/yaml/v3"
)

// scrapeFile is a file of scrape_config_files.
type scrapeFile struct {
	ScrapeConfigs ScrapeConfigs `yaml:"scrape_configs"`
}

// readScrapeFiles reads the files of scrape_config_files.
func (c *Config) readScrapeFiles(e *Errors) []Warning {
	configs, warnings := c.scrapeConfigsIn(c.File, c.lines, c.ScrapeConfigFiles, c.global(), e)
	c.scrapeFiles = configs
	return warnings
}

// scrapeConfigsIn reads the files that patterns in file name.
func (c *Config) scrapeConfigsIn(file string, lines map[string]int, patterns []string, global promconfig.GlobalConfig, e *Errors) (out ScrapeConfigs, warnings []Warning) {
	for i, pattern := range patterns {
		at := "scrape_config_files[" + itoa(i) + "]"
		line := lineOf(lines, at)
		if !regexp.MustCompile(`^[^*]*(\*[^/]*)?$`).MatchString(pattern) {
			e.add(file, line, at+": a * may stand in the last part of a path alone: "+quote(pattern))
			continue
		}
		names, err := filepath.Glob(pattern)
		if err != nil {
			e.add(file, line, at+": not a pattern of file names: "+quote(pattern))
			continue
		}
		if len(names) == 0 && !strings.ContainsAny(pattern, "*?[") {
			warnings = append(warnings, Warning{File: file, Line: line, Text: at + ": there is no file " + quote(pattern)})
		}
		for _, name := range names {
			data, err := readBounded(name)
			if err != nil {
				e.add(file, line, at+": "+err.Error())
				continue
			}
			d := newDecoder(name)
			var f scrapeFile
			if root, ok := d.document(data); ok && root != nil {
				d.block("", root, reflectOf(&f))
			}
			for j := range f.ScrapeConfigs {
				f.ScrapeConfigs[j].finish(d, global)
			}
			e.addAll(&d.errors)
			warnings = append(warnings, d.warnings...)
			out = append(out, f.ScrapeConfigs...)
		}
	}
	return out, warnings
}

func newDecoder(name string) *decoder {
	return &decoder{file: name, dir: filepath.Dir(name), lines: map[string]int{}, fields: map[reflect.Type][]field{}}
}

// readBounded reads a regular file that is not larger than a configuration may be.
func readBounded(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read configuration: %s is not a file", name)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return data, nil
}

// uniqueJobs finds scrape configs of one name, wherever they are. A name is a scrape pool.
func (c *Config) uniqueJobs(e *Errors) {
	where := map[string]string{}
	for _, j := range c.Jobs {
		where[j.Name] = "jobs, " + place(c.File, j.Line)
	}
	for _, list := range []ScrapeConfigs{c.ScrapeConfigs, c.scrapeFiles, c.prometheus} {
		for _, s := range list {
			if first, twice := where[s.JobName]; twice {
				e.add(s.File, s.Line, fmt.Sprintf("%s: the job_name %s is there already: %s", s.path, quote(s.JobName), first))
				continue
			}
			where[s.JobName] = place(s.File, s.Line)
		}
	}
}

// prometheusFile has the sections of a Prometheus file.
type prometheusFile struct {
	Global            any           `yaml:"global"`
	ScrapeConfigs     ScrapeConfigs `yaml:"scrape_configs"`
	ScrapeConfigFiles []string      `yaml:"scrape_config_files"`

	Runtime     any `yaml:"runtime"`
	Alerting    any `yaml:"alerting"`
	RuleFiles   any `yaml:"rule_files"`
	Storage     any `yaml:"storage"`
	Tracing     any `yaml:"tracing"`
	RemoteWrite any `yaml:"remote_write"`
	RemoteRead  any `yaml:"remote_read"`
	OTLP        any `yaml:"otlp"`
}

// AddPrometheus takes over what a Prometheus file says of scraping: scrape_configs, scrape_config_files, the settings
// in global that they use, and external_labels, of which those of this configuration go first. What else the file has
// is in Ignored. The error is an *Errors, or wraps fs.PathError if the file cannot be read.
func (c *Config) AddPrometheus(path string) ([]Warning, error) {
	data, err := readBounded(path)
	if err != nil {
		return nil, err
	}
	d := newDecoder(path)
	var f prometheusFile
	root, ok := d.document(data)
	global := promconfig.DefaultGlobalConfig
	if ok && root != nil {
		fields := fieldsOf(reflect.TypeFor[prometheusFile]())
		d.keys("", root, fields, func(k field, _, value *yaml.Node) {
			switch k.name {
			case "global":
				global = d.global(value)
			case "scrape_configs", "scrape_config_files":
				d.value(k.name, value, reflectOf(&f).FieldByIndex(k.index))
			default:
				c.Ignored = append(c.Ignored, k.name)
			}
		})
	}
	for i := range f.ScrapeConfigs {
		f.ScrapeConfigs[i].finish(d, global)
	}
	for i, name := range f.ScrapeConfigFiles {
		f.ScrapeConfigFiles[i] = d.toRead(name)
	}
	more, w := c.scrapeConfigsIn(path, d.lines, f.ScrapeConfigFiles, global, &d.errors)
	if err := d.err(); err != nil {
		return d.warnings, err
	}
	c.prometheus = append(slices.Clone(f.ScrapeConfigs), more...)
	return append(append(d.warnings, w...), c.addExternal(path, lineOf(d.lines, "global"), global)...), nil
}

// global reads the section of a Prometheus file.
func (d *decoder) global(n *yaml.Node) promconfig.GlobalConfig {
	g := promconfig.DefaultGlobalConfig
	plain, ok := d.plain("global", n, 0)
	if !ok || isNull(plain) || plain.Kind == yaml.MappingNode && len(plain.Content) == 0 {
		return g
	}
	text, err := yaml.Marshal(plain)
	if err == nil {
		err = unmarshalStrict(text, &g)
	}
	if err != nil {
		line := n.Line
		if exact := lineIn(plain, err); exact > 0 {
			line = exact
		}
		d.errorAt(line, "global: %s", parserError(err))
	}
	g.SetDirectory(d.dir)
	return g
}

// addExternal adds external labels of a Prometheus file, with environment variables put in as Prometheus does.
func (c *Config) addExternal(file string, line int, g promconfig.GlobalConfig) (warnings []Warning) {
	all := maps.Clone(c.ExternalLabels)
	if all == nil {
		all = ExternalLabels{}
	}
	for name, value := range g.ExternalLabels.Map() {
		value = os.Expand(value, func(s string) string {
			if s == "$" {
				return "$"
			}
			return os.Getenv(s)
		})
		switch ours, twice := all[name]; {
		case !model.UTF8Validation.IsValidLabelName(name) || strings.HasPrefix(name, "__"):
			warnings = append(warnings, Warning{File: file, Line: line, Text: "global.external_labels: illegal label name " + quote(name) + "; it is left out"})
		case twice && ours != value:
			warnings = append(warnings, Warning{File: file, Line: line,
				Text: "global.external_labels: " + quote(name) + " is " + quote(ours) + " in " + c.File + ", which goes first"})
		default:
			all[name] = value
		}
	}
	slices.SortFunc(warnings, func(a, b Warning) int { return strings.Compare(a.Text, b.Text) })
	if len(all) > 0 {
		c.ExternalLabels = all
	}
	return warnings
}

// scrapeFilesMissing lists files that scrape configs name for their clients and that cannot be read.
func (c *Config) scrapeFilesMissing(e *Errors) {
	for _, list := range []ScrapeConfigs{c.ScrapeConfigs, c.scrapeFiles, c.prometheus} {
		for i := range list {
			s := &list[i]
			for key, file := range httpFiles(&s.Block.HTTPClientConfig) {
				if file == "" {
					continue
				}
				if f, err := os.Open(file); err != nil {
					e.add(s.File, s.Line, s.path+"."+key+": "+err.Error())
				} else {
					_ = f.Close()
				}
			}
		}
	}
}

// DiscoveryFiles looks at the files of file_sd_configs as they are now: one that cannot be read is an error, as it is
// ignored when it is looked at, and a pattern without files a warning, since they may come later.
func (c *Config) DiscoveryFiles() ([]Warning, error) {
	var e Errors
	var warnings []Warning
	for _, list := range []ScrapeConfigs{c.ScrapeConfigs, c.scrapeFiles, c.prometheus} {
		for i := range list {
			s := &list[i]
			for _, pattern := range s.discoveryFiles() {
				names, err := filepath.Glob(pattern)
				if err == nil && len(names) == 0 {
					warnings = append(warnings, Warning{File: s.File, Line: s.Line, Text: s.path + ".file_sd_configs: there is no file " + quote(pattern)})
				}
				for _, name := range names {
					if err := readTargets(name); err != nil {
						e.add(s.File, s.Line, s.path+".file_sd_configs: "+name+": "+err.Error())
					}
				}
			}
		}
	}
	return warnings, e.or()
}

// discoveryFiles are the patterns of file_sd_configs. Its type is not in every build.
func (v *ScrapeConfig) discoveryFiles() (out []string) {
	for _, c := range v.Block.ServiceDiscoveryConfigs {
		if c.Name() != "file" {
			continue
		}
		if files, ok := reflect.Indirect(reflect.ValueOf(c)).FieldByName("Files").Interface().([]string); ok {
			out = append(out, files...)
		}
	}
	return out
}

// readTargets reads a file of target groups as file discovery does.
func readTargets(name string) error {
	data, err := readBounded(name)
	if err != nil {
		return err
	}
	var groups []*targetgroup.Group
	if strings.EqualFold(filepath.Ext(name), ".json") {
		err = json.Unmarshal(data, &groups)
	} else {
		err = unmarshalStrict(data, &groups)
	}
	if err == nil && slices.Contains(groups, nil) {
		err = errors.New("a group of targets is null")
	}
	return err
}

// ScrapeTargets counts the scrape configs and the targets that they name themselves, without discovery.
func (c *Config) ScrapeTargets() (configs, targets int) {
	for _, list := range []ScrapeConfigs{c.ScrapeConfigs, c.scrapeFiles, c.prometheus} {
		for i := range list {
			configs++
			targets += list[i].static()
		}
	}
	return configs, targets
}

// MarshalYAML shows the block as it is in effect, with the global settings filled in.
func (v ScrapeConfig) MarshalYAML() (any, error) {
	if v.Block == nil {
		return newMask().node(v.Prometheus, 0), nil
	}
	text, err := yamlv2.Marshal(v.Block)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", v.path, err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil || len(doc.Content) != 1 {
		return nil, fmt.Errorf("%s: %w", v.path, err)
	}
	shown := newMask().node(doc.Content[0], 0)
	shown.HeadComment = v.from
	return shown, nil
}

// inEffect is the configuration with all scrape configs in one place, those of other files marked with where they are from.
func (c *Config) inEffect() *Config {
	out := *c
	out.ScrapeConfigs = nil
	if len(c.scrapeFiles) > 0 {
		out.ScrapeConfigFiles = nil
	}
	for _, list := range []ScrapeConfigs{c.ScrapeConfigs, c.scrapeFiles, c.prometheus} {
		for _, s := range list {
			if s.File != c.File {
				s.from = "from " + s.File
			}
			out.ScrapeConfigs = append(out.ScrapeConfigs, s)
		}
	}
	return &out
}
