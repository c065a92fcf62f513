package config

import (
	"reflect"
	"strings"
)

// Role is what a process does.
type Role string

// The roles.
const (
	PollerRole     Role = "poller"
	ReceiverRole   Role = "receiver"
	StandaloneRole Role = "standalone"
)

// Polls tells whether a role scrapes.
func (r Role) Polls() bool { return r != ReceiverRole }

// Receives tells whether a role delivers; standalone does both.
func (r Role) Receives() bool { return r != PollerRole }

// Roles that the file is meant for: those whose stream block it has, or standalone.
func (c *Config) Roles() []Role {
	var out []Role
	if c.PollerStream != nil {
		out = append(out, PollerRole)
	}
	if c.ReceiverStreams != nil {
		out = append(out, ReceiverRole)
	}
	if out == nil || c.Embedded != nil {
		out = append(out, StandaloneRole)
	}
	return out
}

// ForRole gives the configuration as one role uses it: with the defaults of that role, or an *Errors that lists what the
// role lacks and what this build cannot do for it yet. The Config itself is not changed.
func (c *Config) ForRole(role Role) (*Config, []Warning, error) {
	out := *c
	if role == StandaloneRole {
		if out.Embedded == nil {
			out.Embedded = &Embedded{}
			out.Embedded.defaults()
		}
		if out.PushGateway == nil && out.Gateway == nil && len(out.RemoteWrite) == 0 {
			out.Gateway = &Gateway{}
		}
	}
	var e Errors
	warnings := out.warningsOf(role)
	if role.Polls() {
		out.needsOfPoller(role, &e)
		warnings = append(warnings, out.readScrapeFiles(&e)...)
		out.uniqueJobs(&e)
	}
	if role.Receives() {
		out.needsOfReceiver(role, &e)
	}
	for _, missing := range out.NotYet(role) {
		e.add(missing.File, missing.Line, missing.Text)
	}
	return &out, warnings, e.or()
}

func (c *Config) needsOfPoller(role Role, e *Errors) {
	if role == PollerRole && c.PollerStream == nil {
		e.add(c.File, 0, "poller needs poller_stream: the stream to publish to (urls, topic, stream)")
	}
	if len(c.Jobs) == 0 && len(c.ScrapeConfigs) == 0 && len(c.ScrapeConfigFiles) == 0 && len(c.prometheus) == 0 && c.ListenAddress() == "" {
		e.add(c.File, 0, string(role)+" has nothing to scrape: no jobs, no scrape_configs, and without monitor_port or web.listen_address not even itself")
	}
}

func (c *Config) needsOfReceiver(role Role, e *Errors) {
	if role == ReceiverRole && len(c.ReceiverStreams) == 0 {
		e.add(c.File, 0, "receiver needs receiver_stream: the stream to receive from (urls, topic, stream)")
	}
	if c.PushGateway == nil && c.Gateway == nil && len(c.RemoteWrite) == 0 {
		e.add(c.File, 0, "receiver has no sink: it needs push_gateway, remote_write or gateway")
	}
	if c.Gateway != nil && c.ListenAddress() == "" {
		e.add(c.File, c.lines["gateway"], "the gateway has no address to be scraped at: set monitor_port, web.listen_address or --web.listen-address")
	}
}

// receiverPath is the path of the i-th block of receiver_stream, which may be one block or a list.
func (c *Config) receiverPath(i int) string {
	if _, list := c.lines["receiver_stream[0]"]; list {
		return "receiver_stream[" + itoa(i) + "]"
	}
	return "receiver_stream"
}

// NotYet lists the keys that the role would use and this build cannot serve.
func (c *Config) NotYet(role Role) []*Error {
	var out []*Error
	add := func(path, what string) { out = append(out, c.notYet(path, what)) }
	if role.Polls() && c.Spool.Order == "fresh_first" {
		add("spool.order", "sending the newest first")
	}
	return out
}

func (c *Config) notYet(path, what string) *Error {
	return &Error{File: c.File, Line: lineOf(c.lines, path), Text: path + ": " + what + " is not in this build yet"}
}

// warningsOf lists what a role does otherwise than its user may think.
func (c *Config) warningsOf(role Role) []Warning {
	var out []Warning
	add := func(path, text string) {
		out = append(out, Warning{File: c.File, Line: lineOf(c.lines, path), Text: path + ": " + text})
	}
	if role == StandaloneRole && c.PollerStream != nil {
		add("poller_stream", "standalone has a stream of its own; the block is ignored")
	}
	if role == StandaloneRole && c.ReceiverStreams != nil {
		add("receiver_stream", "standalone has a stream of its own; the block is ignored")
	}
	if role == PollerRole && commonName(c.Identity) {
		add("identity", "many hosts are called "+c.Identity+"; two publishers of one name are taken for one")
	}
	return out
}

// commonName tells whether an identity is the name that a system has before anybody gives it one.
func commonName(identity string) bool {
	name, _, _ := strings.Cut(strings.ToLower(identity), ".")
	switch name {
	case "", "localhost", "localhost4", "localhost6", "ip6-localhost", "(none)", "raspberrypi", "debian", "ubuntu":
		return true
	}
	return false
}

// Frozen lists the keys that the role uses, that differ in next and that cannot change while a process runs.
func (c *Config) Frozen(role Role, next *Config) []string {
	var out []string
	differ := func(used bool, key string, a, b any) {
		if used && !reflect.DeepEqual(a, b) {
			out = append(out, key)
		}
	}
	differ(true, "identity", c.Identity, next.Identity)
	differ(true, "monitor_port", c.MonitorPort, next.MonitorPort)
	differ(true, "web", c.Web, next.Web)
	differ(true, "tls", c.TLS, next.TLS)
	differ(true, "management", c.Management, next.Management)
	differ(role == PollerRole, "poller_stream", c.PollerStream, next.PollerStream)
	differ(role == ReceiverRole, "receiver_stream", c.ReceiverStreams, next.ReceiverStreams)
	differ(role == StandaloneRole, "embedded", c.Embedded, next.Embedded)
	before, after := c.Poller, next.Poller
	before.SampleLimit, after.SampleLimit = 0, 0 // goes with the targets
	differ(role.Polls(), "poller", before, after)
	differ(role.Polls(), "spool", c.Spool, next.Spool)
	differ(role.Receives(), "max_age", c.MaxAge, next.MaxAge)
	differ(role.Receives(), "receiver", c.Receiver, next.Receiver)
	differ(role.Receives(), "push_gateway", c.PushGateway, next.PushGateway)
	differ(role.Receives(), "gateway", c.Gateway, next.Gateway)
	return out
}
