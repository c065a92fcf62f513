package config

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// maxName bounds names that travel in every bundle or become labels.
const maxName = 200

// Sync is a Duration for which "always" is 0.
type Sync time.Duration

// D is the time between two syncs; 0 is each write.
func (v Sync) D() time.Duration { return time.Duration(v) }

// MarshalYAML shows it as it can be read again.
func (v Sync) MarshalYAML() (any, error) {
	if v == 0 {
		return "always", nil
	}
	return Duration(v).String(), nil
}

func (v *Sync) decode(d *decoder, path string, n *yaml.Node) {
	if n.Kind == yaml.ScalarNode && strings.EqualFold(n.Value, "always") {
		*v = 0
		return
	}
	plain := Duration(*v)
	plain.decode(d, path, n)
	*v = Sync(plain)
}

// finish fills in the defaults that follow from other keys and checks what the types alone do not.
func (c *Config) finish(d *decoder) {
	c.finishIdentity(d)
	c.finishTimes(d)
	if c.MonitorPort < 0 || c.MonitorPort > 65535 {
		d.invalid("monitor_port", "not a port: %d; 0 is off, else 1 to 65535", c.MonitorPort)
	}
	d.address("web.listen_address", c.Web.ListenAddress)
	c.Web.ConfigFile = d.toRead(c.Web.ConfigFile)
	for i, f := range c.ScrapeConfigFiles {
		c.ScrapeConfigFiles[i] = d.toRead(f)
	}
	for i := range c.ScrapeConfigs {
		if !d.failed("scrape_interval") && !d.failed("scrape_timeout") {
			c.ScrapeConfigs[i].finish(d, c.global())
		}
	}
	c.Spool.finish(d)
	c.Receiver.finish(d)
	d.notNegative("poller.scrape_concurrency", c.Poller.ScrapeConcurrency)
	d.notNegative("poller.sample_limit", c.Poller.SampleLimit)
	if l := c.Poller.SeriesLimit; l != nil {
		d.notNegative("poller.series_limit", *l)
	}
	if l := c.Poller.BodyMemoryLimit; l != nil {
		d.notNegative("poller.body_memory_limit", int(*l))
	}
	d.positive("poller.flush_size", int64(c.Poller.FlushSize))
	d.positive("poller.keyframe_interval", int64(c.Poller.KeyframeInterval))

	c.TLS.finish(d, "tls")
	c.Management.finish(d)
	if c.PollerStream != nil {
		c.PollerStream.finish(d, "poller_stream", "poller", c.Identity)
	}
	for i := range c.ReceiverStreams {
		s := &c.ReceiverStreams[i]
		s.finishReceiver(d, c.receiverPath(i), c.Identity)
	}
	c.finishStreaming(d)
	c.finishSinks(d)
	if e := c.Embedded; e != nil {
		d.notBlank("embedded.directory", e.Directory)
		d.address("embedded.listen", e.Listen)
		d.positive("embedded.max_bytes", int64(e.MaxBytes))
	}
}

func (c *Config) finishIdentity(d *decoder) {
	if _, given := c.lines["identity"]; !given || c.Identity == "" {
		host, err := os.Hostname()
		if err != nil || host == "" {
			d.errorAt(0, "identity: not set, and the operating system names no host")
			return
		}
		c.Identity = host
	}
	d.legalName("identity", c.lines["identity"], "publisher", c.Identity)
}

func (c *Config) finishTimes(d *decoder) {
	if c.ScrapeInterval.D() < time.Millisecond {
		d.invalid("scrape_interval", "must be above 0, not %s", c.ScrapeInterval)
		return
	}
	if _, given := c.lines["scrape_timeout"]; !given {
		c.ScrapeTimeout = min(Duration(10*time.Second), c.ScrapeInterval)
	}
	switch {
	case c.ScrapeTimeout.D() < time.Millisecond:
		d.invalid("scrape_timeout", "must be above 0, not %s", c.ScrapeTimeout)
	case c.ScrapeTimeout > c.ScrapeInterval:
		d.invalid("scrape_timeout", "%s is longer than the scrape_interval of %s", c.ScrapeTimeout, c.ScrapeInterval)
	}
}

func (c *Config) finishSinks(d *decoder) {
	if p := c.PushGateway; p != nil {
		if p.URL == "" {
			if !d.failed("push_gateway.url") {
				d.invalid("push_gateway", "without url")
			}
		} else {
			d.httpURL("push_gateway.url", p.URL)
		}
		p.Method = strings.ToLower(p.Method)
		d.oneOf("push_gateway.method", p.Method, "put", "post")
		if p.Timeout != nil {
			d.positive("push_gateway.timeout", int64(*p.Timeout))
		}
	}
	if g := c.Gateway; g != nil && g.StaleAfter != nil {
		d.positive("gateway.stale_after", int64(*g.StaleAfter))
	}
}

func (s *Spool) finish(d *decoder) {
	s.DirectorySet = s.Directory != defaultSpool
	d.notBlank("spool.directory", s.Directory)
	d.positive("spool.max_size", int64(s.MaxSize))
	d.oneOf("spool.when_full", s.WhenFull, "drop_oldest", "stop_scraping")
	d.oneOf("spool.order", s.Order, "oldest_first", "fresh_first")
}

func (r *Receiver) finish(d *decoder) {
	r.StateDirectorySet = r.StateDirectory != defaultState
	d.notBlank("receiver.state_directory", r.StateDirectory)
	for i, p := range r.Publishers {
		at := "receiver.publishers[" + itoa(i) + "]"
		if d.legalName(at, lineOf(d.lines, at), "publisher", p) && slices.Index(r.Publishers, p) < i {
			d.warn(lineOf(d.lines, at), "%s: the publisher %s is there twice", at, quote(p))
		}
	}
	d.positive("receiver.limits.hole_age", int64(r.Limits.HoleAge))
	d.positive("receiver.limits.hole_bundles", int64(r.Limits.HoleBundles))
	d.positive("receiver.limits.schema_age", int64(r.Limits.SchemaAge))
	d.positive("receiver.limits.held_bytes", int64(r.Limits.HeldBytes))
	d.positive("receiver.limits.lanes", int64(r.Limits.Lanes))
	d.notNegative("receiver.limits.state_bytes", int(r.Limits.StateBytes))
	d.notNegative("receiver.limits.publisher_state_bytes", int(r.Limits.PublisherStateBytes))
	d.notNegative("receiver.limits.targets", r.Limits.Targets)
	d.notNegative("receiver.limits.series", r.Limits.Series)
	d.notNegative("receiver.limits.publisher_series", r.Limits.PublisherSeries)
}

func (t *TLS) finish(d *decoder, path string) {
	if t == nil || d.failed(path) {
		return
	}
	t.Scheme = strings.ToLower(t.Scheme)
	if t.Scheme == "file" {
		t.Scheme = "manual"
	}
	switch t.Scheme {
	case "puppet":
		if t.SSLDir == "" {
			d.invalid(path, "the scheme puppet needs ssl_dir")
		}
	case "manual":
		if (t.Cert == "") != (t.Key == "") {
			d.invalid(path, "cert and key go together")
		}
	case "":
		d.invalid(path, "without scheme: puppet or manual")
	default:
		d.invalid(path+".scheme", "not puppet or manual: %s", quote(t.Scheme))
	}
	for _, file := range []*string{&t.SSLDir, &t.CA, &t.Cert, &t.Key} {
		*file = d.toRead(*file)
	}
}

// toRead makes the path of a file that is read start at the directory of the configuration.
func (d *decoder) toRead(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(d.dir, path)
}

func (d *decoder) address(path, address string) {
	if address == "" {
		return
	}
	if _, port, err := net.SplitHostPort(address); err != nil || strings.ContainsAny(address, " \t\n") {
		d.invalid(path, "not an address like 127.0.0.1:9797 or :9797: %s", quote(address))
	} else if _, err := strconv.ParseUint(port, 10, 16); err != nil { // 0 lets the system choose
		d.invalid(path, "the port %s is not between 0 and 65535", quote(port))
	}
}

func (d *decoder) oneOf(path, value string, allowed ...string) {
	if slices.Contains(allowed, value) {
		return
	}
	names := slices.DeleteFunc(slices.Clone(allowed), func(s string) bool { return s == "" })
	d.invalid(path, "not %s: %s", strings.Join(names, " or "), quote(value))
}

func (d *decoder) positive(path string, n int64) {
	if n <= 0 && !d.failed(path) {
		d.invalid(path, "must be above 0")
	}
}

func (d *decoder) notNegative(path string, n int) {
	if n < 0 {
		d.invalid(path, "must not be negative: %d", n)
	}
}

func (d *decoder) notBlank(path, text string) {
	if strings.TrimSpace(text) == "" && !d.failed(path) {
		d.invalid(path, "must not be empty")
	}
}

// failed tells that the walk found an error at a key already, or anywhere inside a block.
func (d *decoder) failed(path string) bool {
	return d.errors.Omitted > 0 || slices.ContainsFunc(d.errors.List, func(e *Error) bool {
		rest, ok := strings.CutPrefix(e.Text, path)
		return ok && (rest == "" || strings.ContainsRune(":.[", rune(rest[0]))) || strings.Contains(e.Text, " in "+path)
	})
}

func itoa(i int) string { return strconv.Itoa(i) }
