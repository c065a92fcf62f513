package config

import (
	"strings"
	"testing"
)

func TestForRole(t *testing.T) {
	const jobs = "jobs: {a: {targets: [{url: 'http://a'}]}}\n"
	const gateway = "gateway: {}\nmonitor_port: 9797\n"
	for name, c := range map[string]struct {
		role Role
		text string
		want string // "" if the role is content
	}{
		"poller":                    {PollerRole, pollerBlock + jobs, ""},
		"poller of itself alone":    {PollerRole, pollerBlock + "monitor_port: 9797", ""},
		"poller without stream":     {PollerRole, jobs, "c.yaml: poller needs poller_stream"},
		"poller without anything":   {PollerRole, pollerBlock, "poller has nothing to scrape"},
		"poller, NATS Streaming":    {PollerRole, jobs + "poller_stream:\n  urls: nats://a\n  cluster_id: a", ""},
		"poller, other's Streaming": {PollerRole, pollerBlock + jobs + "receiver_stream: {urls: nats://a, cluster_id: a}", ""},
		"poller, tls above":         {PollerRole, pollerBlock + jobs + "tls: {scheme: puppet, ssl_dir: a}", ""},
		"poller, tls in its block":  {PollerRole, jobs + "poller_stream: {urls: nats://a, stream: a, tls: {scheme: manual}}", ""},
		"poller, scrape_configs":    {PollerRole, pollerBlock + "scrape_configs: [{job_name: a}]", ""},
		"poller, remote write":      {PollerRole, pollerBlock + jobs + "remote_write: [{url: 'http://a'}]", ""},
		"receiver":                  {ReceiverRole, receiverBlock + gateway, ""},
		"receiver, push gateway":    {ReceiverRole, receiverBlock + "push_gateway: {url: 'http://a'}", ""},
		"receiver without stream":   {ReceiverRole, gateway, "receiver needs receiver_stream"},
		"receiver without sink":     {ReceiverRole, receiverBlock, "receiver has no sink: it needs push_gateway, remote_write or gateway"},
		"receiver, gateway unheard": {ReceiverRole, receiverBlock + "gateway: {}", "c.yaml:2: the gateway has no address"},
		"receiver, remote write":    {ReceiverRole, receiverBlock + "remote_write: [{url: 'http://a'}]", ""},
		"receiver, sigv4":           {ReceiverRole, receiverBlock + "remote_write: [{url: 'http://a', sigv4: {region: x}}]", ""},
		"receiver, second block":    {ReceiverRole, gateway + "receiver_stream:\n- {urls: nats://a, stream: a}\n- {urls: nats://b, cluster_id: b}\n", ""},
		"standalone":                {StandaloneRole, jobs + "monitor_port: 9797", ""},
		"standalone, tls":           {StandaloneRole, jobs + "monitor_port: 9797\ntls: {scheme: manual}", ""},
		"standalone of nothing":     {StandaloneRole, "push_gateway: {url: 'http://a'}", "standalone has nothing to scrape"},
	} {
		t.Run(name, func(t *testing.T) {
			whole := parse(t, c.text)
			_, _, err := whole.ForRole(c.role)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("error %v", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestStandaloneDefaults(t *testing.T) {
	whole := parse(t, "monitor_port: 9797")
	c, _, err := whole.ForRole(StandaloneRole)
	if err != nil {
		t.Fatal(err)
	}
	if c.Gateway == nil || c.Embedded == nil || c.Embedded.Directory == "" {
		t.Errorf("standalone without gateway or stream: %+v", c)
	}
	if whole.Gateway != nil || whole.Embedded != nil {
		t.Error("ForRole changed the configuration it was asked of")
	}
}

func TestRoleWarnings(t *testing.T) {
	_, warnings, err := parse(t, "identity: localhost.localdomain\nmanagement: {brokers: [a]}\nmonitor_port: 1\n"+pollerBlock).ForRole(PollerRole)
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 1 || warnings[0].Line != 1 {
		t.Errorf("warnings %v", warnings)
	}
	for identity, want := range map[string]int{"localhost": 1, "LocalHost6.localdomain6": 1, "raspberrypi": 1, "localhost1": 0, "dc1.localhost": 0, "DC1": 0} {
		_, warnings, err := parse(t, "identity: "+identity+"\nmonitor_port: 1\n"+pollerBlock).ForRole(PollerRole)
		if err != nil || len(warnings) != want {
			t.Errorf("identity %s: warnings %v, %v", identity, warnings, err)
		}
	}
}

func TestFrozen(t *testing.T) {
	base := "identity: a\n" + pollerBlock + "jobs: {a: {targets: [{url: 'http://a'}]}}\npush_gateway: {url: 'http://a', timeout: 5s, basic_auth: {username: a, password: b}}\n"
	for _, c := range []struct {
		role       Role
		text, want string
	}{
		{PollerRole, "\n" + strings.ReplaceAll(base, "http://a'}]", "http://b'}]") + "scrape_interval: 5s\ndebug: true\npoller: {sample_limit: 5}\ngateway: {}", ""},
		{PollerRole, "monitor_port: 1\nspool: {max_size: 5}\n" + strings.Replace(base, "METRICS", "OTHER", 1), "monitor_port poller_stream spool"},
		{PollerRole, base + "poller: {flush_size: 5}", "poller"},
		{PollerRole, base + "management: {micro: true}", "management"},
		{ReceiverRole, base + "gateway: {}\nmax_age: 5", "max_age gateway"},
		{ReceiverRole, strings.Replace(base, "password: b", "password: c", 1), "push_gateway"},
		{ReceiverRole, strings.Replace(base, "METRICS", "OTHER", 1), ""},
		{StandaloneRole, base + "embedded: {directory: x}\nreceiver: {publishers: [a]}", "embedded receiver"},
	} {
		if got := strings.Join(parse(t, base).Frozen(c.role, parse(t, c.text)), " "); got != c.want {
			t.Errorf("%s: changed %q, want %q, in\n%s", c.role, got, c.want, c.text)
		}
	}
}
