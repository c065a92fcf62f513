// Package config reads the configuration file: YAML into validated structs, with every default filled in.
//
// It is strict. A key it does not know, a value of the wrong type, a name that NATS or Prometheus would not take, an
// empty URL: each is an error that names file, line and key, several are reported together, and nothing in a file can
// make it panic or take unbounded time. Keys are known in any case of letters, as they always were; names that the user
// chooses (jobs, labels, headers) keep theirs.
//
// Load and Parse check what is true for every role. What a role needs besides (its stream, a sink, something to
// scrape), and which keys this build cannot serve yet, is said by Config.ForRole.
//
// A Config is not changed after it was made and may be shared. Shown (Show, or any field printed), its secrets are masked.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"go.yaml.in/yaml/v3"
)

// maxFileSize bounds a configuration file: 100,000 targets fit easily.
const maxFileSize = 32 << 20

// Config is one configuration file with all defaults filled in. A nil block was not in the file.
type Config struct {
	// File is the name under which the file was read, for messages.
	File string `yaml:"-"`

	// Identity names this process as publisher: the host's name unless the file says otherwise.
	Identity string `yaml:"identity"`
	Verbose  bool   `yaml:"verbose"`
	Debug    bool   `yaml:"debug"`
	Logfile  string `yaml:"logfile,omitempty"`

	ScrapeInterval Duration `yaml:"scrape_interval"`
	// ScrapeTimeout is never above ScrapeInterval.
	ScrapeTimeout Duration `yaml:"scrape_timeout"`
	// MaxAge of a frame that is still delivered to a Push Gateway or the gateway; 0 means any.
	MaxAge Age `yaml:"max_age"`
	// MonitorPort is 1.0's way to say web.listen_address ":PORT"; ListenAddress has the outcome.
	MonitorPort    int            `yaml:"monitor_port,omitempty"`
	ExternalLabels ExternalLabels `yaml:"external_labels,omitempty"`

	Jobs              Jobs          `yaml:"jobs,omitempty"`
	ScrapeConfigs     ScrapeConfigs `yaml:"scrape_configs,omitempty"`
	ScrapeConfigFiles []string      `yaml:"scrape_config_files,omitempty"`

	TLS        *TLS        `yaml:"tls,omitempty"`
	Management *Management `yaml:"management,omitempty"`

	PollerStream *Stream `yaml:"poller_stream,omitempty"`
	// ReceiverStreams are the blocks of receiver_stream, which may be one or a list.
	ReceiverStreams ReceiverStreams `yaml:"receiver_stream,omitempty"`

	Poller   Poller   `yaml:"poller"`
	Spool    Spool    `yaml:"spool"`
	Receiver Receiver `yaml:"receiver"`

	PushGateway *PushGateway `yaml:"push_gateway,omitempty"`
	RemoteWrite RemoteWrites `yaml:"remote_write,omitempty"`
	Gateway     *Gateway     `yaml:"gateway,omitempty"`

	Web      Web       `yaml:"web"`
	Embedded *Embedded `yaml:"embedded,omitempty"`

	// Ignored are the sections of a Prometheus file (AddPrometheus) that mean nothing here.
	Ignored []string `yaml:"-"`

	lines map[string]int
	// scrapeFiles are the scrape configs of ScrapeConfigFiles, prometheus those of a Prometheus file.
	scrapeFiles, prometheus ScrapeConfigs
}

func (c *Config) defaults() {
	c.ScrapeInterval = Duration(time.Minute)
	c.Poller.defaults()
	c.Spool.defaults()
	c.Receiver.defaults()
}

// ListenAddress is where this process listens for HTTP: web.listen_address, else all addresses at monitor_port, else "".
func (c *Config) ListenAddress() string {
	if c.Web.ListenAddress != "" {
		return c.Web.ListenAddress
	}
	if c.MonitorPort > 0 {
		return ":" + strconv.Itoa(c.MonitorPort)
	}
	return ""
}

// Labels are the external labels.
func (c *Config) Labels() labels.Labels { return labels.FromMap(c.ExternalLabels) }

// Load reads and parses the file at path. The error lists everything that is wrong with it; it wraps fs.PathError if
// the file cannot be read at all.
func Load(path string) (*Config, []Warning, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, nil, fmt.Errorf("read configuration: %w", err)
	}
	return Parse(path, data)
}

// Parse parses the bytes of a file. The name is used in messages, and its directory is where relative paths of files to
// read (never of those to write) start. The error is an *Errors.
func Parse(name string, data []byte) (*Config, []Warning, error) {
	d := newDecoder(name)
	c := &Config{File: name, lines: d.lines}
	c.defaults()
	if root, ok := d.document(data); ok {
		if root != nil {
			d.block("", root, reflectOf(c))
		}
		c.finish(d)
	}
	if err := d.err(); err != nil {
		return nil, d.warnings, err
	}
	return c, d.warnings, nil
}

// document parses data as one YAML document and returns its root: nil if it is empty.
func (d *decoder) document(data []byte) (*yaml.Node, bool) {
	if len(data) > maxFileSize {
		d.errorAt(0, "file of more than %d bytes", maxFileSize)
		return nil, false
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, next yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, true
	case err != nil:
		d.syntax(err)
		return nil, false
	}
	switch err := dec.Decode(&next); {
	case err == nil:
		d.errorAt(next.Line, "a second YAML document; a configuration is one")
		return nil, false
	case !errors.Is(err, io.EOF):
		d.syntax(err)
		return nil, false
	}
	root := doc.Content[0]
	if isNull(root) {
		return nil, true
	}
	if root.Kind != yaml.MappingNode {
		d.errorAt(root.Line, "a configuration is a mapping of keys to values, not %s", kindOf(root))
		return nil, false
	}
	return root, true
}

// syntax reports an error of the YAML parser at the line it names.
func (d *decoder) syntax(err error) {
	m := regexp.MustCompile(`^yaml: (?:line (\d+): )?(?:did not find .*)?`).FindStringSubmatch(err.Error())
	text, line := err.Error(), 0
	if m != nil && m[1] != "" {
		line, _ = strconv.Atoi(m[1])
		text = text[len("yaml: line : ")+len(m[1]):]
	}
	d.errorAt(line, "not YAML: %s", clip(text))
}
