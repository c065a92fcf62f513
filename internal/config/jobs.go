package config

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// SelfJob is the job under which a poller scrapes itself.
const SelfJob = "prometheus_streams"

// Jobs are the jobs of 1.0's form, in the order of the file.
type Jobs []Job

// Job is a name and what is scraped under it.
type Job struct {
	Name    string
	Line    int
	Targets []Target
}

// Target is one URL to scrape.
type Target struct {
	// Name is the instance: as configured, else host:port of the URL.
	Name string
	URL  URL
	Line int
	// named tells that the file gives the name.
	named bool
}

// jobKeys and targetKeys are the keys of the blocks, for the decoder.
type jobKeys struct {
	Targets []Target `yaml:"targets"`
}

type targetKeys struct {
	Name string `yaml:"name"`
	URL  URL    `yaml:"url"`
}

func (v *Jobs) decode(d *decoder, path string, n *yaml.Node) {
	pairs, ok := d.pairs(path, n)
	if !ok {
		return
	}
	seen := make(map[string]int, len(pairs))
	for _, p := range pairs {
		name, at := p.key.Value, join(path, p.key.Value)
		if line, twice := seen[name]; twice {
			if !p.merged {
				d.errorAt(p.key.Line, "duplicate job %s; it is on line %d already", quote(name), line)
			}
			continue
		}
		seen[name] = p.key.Line
		d.lines[at] = p.key.Line
		if !d.legalName(path, p.key.Line, "job", name) {
			continue
		}
		if name == SelfJob {
			d.warn(p.key.Line, "%s: this is the name of the process's own job, which needs no configuration", at)
		}
		job := Job{Name: name, Line: p.key.Line}
		if isNull(p.value) {
			d.errorAt(p.key.Line, "%s: a job without targets", at)
			continue
		}
		job.decode(d, at, p.value)
		*v = append(*v, job)
	}
}

func (j *Job) decode(d *decoder, path string, n *yaml.Node) {
	before := len(d.errors.List) + d.errors.Omitted
	d.keys(path, n, fieldsOf(reflectOf(&jobKeys{}).Type()), func(_ field, _, value *yaml.Node) {
		switch {
		case isNull(value):
		case value.Kind != yaml.SequenceNode:
			d.bad(path+".targets", value, "must be a list, not %s", kindOf(value))
		default:
			for i, item := range d.items(value) {
				j.target(d, fmt.Sprintf("%s.targets[%d]", path, i), resolve(item))
			}
		}
	})
	if len(j.Targets) == 0 && before == len(d.errors.List)+d.errors.Omitted {
		d.errorAt(j.Line, "%s: a job without targets", path)
	}
	j.unique(d, path)
}

// target decodes one target and adds it if it is usable.
func (j *Job) target(d *decoder, path string, n *yaml.Node) {
	var keys targetKeys
	before := len(d.errors.List) + d.errors.Omitted
	d.lines[path] = n.Line
	defer func() { // nobody asks for them later, and there may be many
		for _, key := range []string{"", ".name", ".url"} {
			delete(d.lines, path+key)
		}
	}()
	d.block(path, n, reflectOf(&keys))
	if before != len(d.errors.List)+d.errors.Omitted {
		return
	}
	if keys.URL == "" {
		d.errorAt(n.Line, "%s: a target without url", path)
		return
	}
	u, ok := d.httpURL(path+".url", keys.URL)
	if !ok {
		return
	}
	t := Target{Name: keys.Name, URL: keys.URL, Line: n.Line, named: keys.Name != ""}
	if !t.named {
		t.Name = hostPort(u)
	}
	if d.legalName(path+".name", n.Line, "target", t.Name) {
		j.Targets = append(j.Targets, t)
	}
}

// unique drops exact duplicates with a warning; one name for two URLs is an error.
func (j *Job) unique(d *decoder, path string) {
	seen := make(map[string]Target, len(j.Targets))
	kept := j.Targets[:0]
	for _, t := range j.Targets {
		first, twice := seen[t.Name]
		switch {
		case !twice:
			seen[t.Name] = t
			kept = append(kept, t)
		case first.URL == t.URL:
			d.warn(t.Line, "%s: the target %s is there twice, first on line %d; it is scraped once", path, quote(t.Name), first.Line)
		case t.named && first.named:
			d.errorAt(t.Line, "%s: two targets are named %s: %s on line %d and %s on line %d",
				path, quote(t.Name), quote(string(first.URL)), first.Line, quote(string(t.URL)), t.Line)
		default:
			d.errorAt(t.Line, "%s: two targets are named %s, the host and port of their URLs: %s on line %d and %s on line %d; give them a name each",
				path, quote(t.Name), quote(string(first.URL)), first.Line, quote(string(t.URL)), t.Line)
		}
	}
	j.Targets = kept
}

// httpURL checks a URL for an HTTP client.
func (d *decoder) httpURL(path string, raw URL) (*url.URL, bool) {
	u, err := parseURL(raw)
	switch {
	case !strings.Contains(string(raw), "://"):
		d.invalid(path, "not an http:// or https:// URL: %s", quote(string(raw)))
	case err != nil:
		d.invalid(path, "%s", err)
	case u.Scheme != "http" && u.Scheme != "https":
		d.invalid(path, "not an http:// or https:// URL: %s", quote(string(raw)))
	case u.Hostname() == "":
		d.invalid(path, "a URL without a host: %s", quote(string(raw)))
	case !validPort(u.Port()):
		d.invalid(path, "the port %s is not between 1 and 65535", quote(u.Port()))
	default:
		return u, true
	}
	return nil, false
}

func validPort(port string) bool {
	if port == "" {
		return true
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

// hostPort is the instance of a target without a name, as Prometheus makes it.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// legalName checks a name that becomes the value of a label.
func (d *decoder) legalName(path string, line int, what, name string) bool {
	if problem := nameProblem(name); problem != "" {
		d.errorAt(line, "%s: illegal name of a %s, %s: %s", path, what, problem, quote(name))
		return false
	}
	return true
}

// nameProblem says why a name is illegal, or "".
func nameProblem(name string) string {
	switch {
	case strings.TrimSpace(name) == "":
		return "it is empty"
	case len(name) > maxName:
		return fmt.Sprintf("it has %d bytes, at most %d are allowed", len(name), maxName)
	case strings.ContainsFunc(name, func(r rune) bool { return r < 0x20 || r == 0x7f || r == '\uFFFD' }):
		return "it has control characters"
	}
	return ""
}

// MarshalYAML shows jobs in the form of the file.
func (v Jobs) MarshalYAML() (any, error) {
	out := &yaml.Node{Kind: yaml.MappingNode}
	for _, j := range v {
		var targets yaml.Node
		list := make([]targetKeys, len(j.Targets))
		for i, t := range j.Targets {
			list[i] = targetKeys{Name: t.Name, URL: t.URL}
		}
		if err := targets.Encode(map[string]any{"targets": list}); err != nil {
			return nil, err
		}
		var name yaml.Node
		name.SetString(j.Name)
		out.Content = append(out.Content, &name, &targets)
	}
	return out, nil
}
