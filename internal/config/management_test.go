package config

import (
	"os"
	"slices"
	"strings"
	"testing"
)

func TestManagement(t *testing.T) {
	m := parse(t, "identity: a\n").Management
	if m != nil {
		t.Errorf("a block of nothing: %+v", m)
	}
	if m.Choria() || m.Holds() {
		t.Error("no block, and yet Choria or hold")
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	m = parse(t, "management: {micro: true}").Management
	if m.Identity != host || m.Collective != "prometheus" || m.WhenPaused != "discard" || !m.Micro || m.Choria() || m.Holds() || m.Remember {
		t.Errorf("defaults: %+v", m)
	}
	m = parse(t, `
management:
  identity: prom.example.net
  name: dc1
  brokers: ["choria.example.net:4222", other, "nats://third:4333", "tls://[::1]:4222", "[::2]"]
  auth: {full: [me.mcollective], RO: [you.mcollective]}
  logfile: /var/log/management.log
  LogLevel: WARN
  when_paused: hold
  remember: true
`).Management
	want := []string{"choria.example.net:4222", "other:4222", "third:4333", "[::1]:4222", "[::2]:4222"}
	if !slices.Equal(m.Brokers, want) || !m.Choria() || !m.Holds() || !m.Remember || m.Loglevel != "warn" || m.Name != "dc1" ||
		!slices.Equal(m.Auth.Full, []string{"me.mcollective"}) || !slices.Equal(m.Auth.ReadOnly, []string{"you.mcollective"}) {
		t.Errorf("%+v, auth %+v", m, m.Auth)
	}
}

func TestManagementErrors(t *testing.T) {
	for text, want := range map[string]string{
		"when_paused: forget":           `management.when_paused: not discard or hold: "forget"`,
		"loglevel: loud":                `management.loglevel: not debug or info or warn or error: "loud"`,
		"collective: a.b":               `management.collective: only letters, digits, - and _ are allowed: "a.b"`,
		"name: 'a b'":                   `management.name: only letters`,
		"identity: 'a b'":               `management.identity: not a name of a host: "a b"`,
		"brokers: ['']":                 `management.brokers[0]: not a broker like choria.example.net:4222: ""`,
		"brokers: [a, 'http://b']":      `management.brokers[1]: not a broker`,
		"brokers: ['a:0']":              `management.brokers[0]: not a broker`,
		"brokers: ['a:x']":              `management.brokers[0]: not a broker`,
		"brokers: ['me:secret@a:4222']": `management.brokers[0]: not a broker`,
		"auth: {full: ['']}":            `management.auth.full[0]: must not be empty`,
		"auth: {read_only: [a, ' ']}":   `management.auth.read_only[1]: must not be empty`,
		"tls: {scheme: puppet}":         `management.tls: the scheme puppet needs ssl_dir`,
		"micro: maybe":                  `management.micro`,
		"brockers: [a]":                 `unknown key "brockers" in management; did you mean "brokers"?`,
	} {
		_, _, err := Parse("c.yaml", []byte("management:\n  "+text+"\n"))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: error %v, want %s", text, err, want)
		}
	}
	_, warnings, err := Parse("c.yaml", []byte("management:\n  auth:\n    insecure: true\n    full: [a]\n"))
	if err != nil || len(warnings) != 1 || warnings[0].Line != 3 {
		t.Errorf("warnings %v, %v", warnings, err)
	}
}
