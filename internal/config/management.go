package config

import (
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// What a paused receiver does with messages.
const (
	// Discard receives and decodes them, and delivers none.
	Discard = "discard"
	// Hold leaves them in the stream.
	Hold = "hold"
)

const (
	defaultCollective = "prometheus"
	defaultBrokerPort = "4222"
)

// Choria tells whether the block asks for the embedded Choria server.
func (m *Management) Choria() bool { return m != nil && len(m.Brokers) > 0 }

// Holds tells whether a paused receiver leaves messages in the stream.
func (m *Management) Holds() bool { return m != nil && m.WhenPaused == Hold }

// Announces tells whether startup and shutdown are to be published on the connection of the stream: on by default, and off
// where the embedded Choria server publishes them.
func (m *Management) Announces() bool {
	return m == nil || !m.Choria() && (m.LifecycleEvents == nil || *m.LifecycleEvents)
}

// finish fills in the defaults and checks the block.
func (m *Management) finish(d *decoder) {
	if m == nil {
		return
	}
	if m.Identity == "" {
		// Without a name, the configuration has failed over its own identity already or does not need one here.
		m.Identity, _ = os.Hostname()
	}
	if m.Collective == "" {
		m.Collective = defaultCollective
	}
	if m.WhenPaused == "" {
		m.WhenPaused = Discard
	}
	m.Loglevel = strings.ToLower(m.Loglevel)
	token := regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	for _, name := range []struct{ key, value string }{{"collective", m.Collective}, {"name", m.Name}} {
		if name.value != "" && !token.MatchString(name.value) {
			d.invalid("management."+name.key, "only letters, digits, - and _ are allowed: %s", quote(name.value))
		}
	}
	if strings.ContainsAny(m.Identity, " \t\r\n*>") {
		d.invalid("management.identity", "not a name of a host: %s", quote(m.Identity))
	}
	d.oneOf("management.when_paused", m.WhenPaused, Discard, Hold)
	d.oneOf("management.loglevel", m.Loglevel, "", "debug", "info", "warn", "error")
	for i, b := range m.Brokers {
		m.Brokers[i] = d.broker("management.brokers["+itoa(i)+"]", b)
	}
	m.TLS.finish(d, "management.tls")
	if a := m.Auth; a != nil {
		for key, list := range map[string][]string{"full": a.Full, "read_only": a.ReadOnly} {
			for i, caller := range list {
				d.notBlank("management.auth."+key+"["+itoa(i)+"]", caller)
			}
		}
		if a.Insecure && len(a.Full)+len(a.ReadOnly) > 0 {
			d.warn(d.lines["management.auth.insecure"], "management.auth.insecure: anybody may do anything; full and read_only mean nothing")
		}
	}
}

// broker makes a broker host:port.
func (d *decoder) broker(path, text string) string {
	address := text
	if scheme, rest, ok := strings.Cut(text, "://"); ok {
		switch strings.ToLower(scheme) {
		case "nats", "tls", "choria":
			address = rest
		default:
			address = ""
		}
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		host, port = strings.Trim(address, "[]"), defaultBrokerPort
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if host == "" || err != nil || n == 0 || strings.ContainsAny(host, "/@, \t\r\n") || strings.Contains(host, ":") && net.ParseIP(host) == nil {
		d.invalid(path, "not a broker like choria.example.net:4222: %s", quote(text))
		return text
	}
	return net.JoinHostPort(host, port)
}
