package e2e

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// nameServer is a small DNS server with records that change.
type nameServer struct {
	mu      sync.Mutex
	records map[string][]string // by "NAME TYPE", as in a zone file
	fails   bool
	tcp     int // answers that were too long for UDP
}

func (s *nameServer) set(records map[string][]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records = records
}

func (s *nameServer) fail(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails = on
}

// ServeDNS answers one question.
func (s *nameServer) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := new(dns.Msg)
	m.SetReply(r)
	q := r.Question[0]
	name := strings.ToLower(q.Name)
	switch {
	case s.fails:
		m.Rcode = dns.RcodeServerFailure
	case !strings.HasSuffix(name, ".test."):
		m.Rcode = dns.RcodeNameError
	default:
		for _, text := range s.records[name+" "+dns.TypeToString[q.Qtype]] {
			rr, err := dns.NewRR(fmt.Sprintf("%s 1 IN %s %s", q.Name, dns.TypeToString[q.Qtype], text))
			if err == nil {
				m.Answer = append(m.Answer, rr)
			}
		}
	}
	if w.RemoteAddr().Network() == "udp" {
		size := dns.MinMsgSize
		if o := r.IsEdns0(); o != nil {
			size = int(o.UDPSize())
		}
		m.Truncate(size)
	} else {
		s.tcp++
	}
	_ = w.WriteMsg(m)
}

// startNameServer serves on port 53 of an address, over UDP and TCP.
func startNameServer(t *testing.T, address string) *nameServer {
	t.Helper()
	s := &nameServer{}
	packets, err := net.ListenPacket("udp4", address+":53")
	if err != nil {
		t.Fatal(err)
	}
	streams, err := net.Listen("tcp4", address+":53")
	if err != nil {
		t.Fatal(err)
	}
	for _, server := range []*dns.Server{{PacketConn: packets, Handler: s}, {Listener: streams, Handler: s}} {
		ended := make(chan error, 1)
		go func() { ended <- server.ActivateAndServe() }()
		t.Cleanup(func() {
			_ = server.Shutdown()
			<-ended
		})
	}
	return s
}

// dns_sd_configs against a DNS server: A, AAAA, SRV and MX, of a search domain and with answers too long for UDP; what is
// added and removed is scraped and ends, and a server that fails takes nothing away.
func TestDNSDiscovery(t *testing.T) {
	t.Parallel()
	island := harness.NewIsland(t, 1)
	here := island.Here(0)
	server := startNameServer(t, here)
	one, two := targets.NewAt(t, "one", here+":0", 5), targets.NewAt(t, "two", here+":0", 5)
	port := func(g *harness.Target) string { _, p, _ := net.SplitHostPort(g.Host()); return p }
	many := []string{}
	for i := range 400 {
		many = append(many, fmt.Sprintf("10.200.%d.%d", i/200, i%200+1))
	}
	records := func(srv ...string) map[string][]string {
		return map[string][]string{
			"a.test. A": {here}, "one.test. A": {here}, "two.test. A": {here}, "many.test. A": many,
			"aaaa.test. AAAA": {"fd00::1", "fd00::2"}, "mx.test. MX": {"10 one.test.", "20 two.test."}, "_m._tcp.test. SRV": srv,
		}
	}
	srv := func(g *harness.Target, host string) string { return fmt.Sprintf("0 0 %s %s.test.", port(g), host) }
	server.set(records(srv(one, "one")))
	webPort := ports.Next(t)
	p := harness.StartProductOn(t, builds, island, "nameserver "+here+"\nsearch nothing.example test\noptions timeout:1 attempts:1\n", webPort,
		standaloneYAML(t, "edge", "1s", fmt.Sprintf(`
scrape_timeout: 500ms
scrape_configs:
- {job_name: a, dns_sd_configs: [{names: [a], type: A, port: %s, refresh_interval: 500ms}]}
- {job_name: many, scrape_interval: 1h, dns_sd_configs: [{names: [many.test], type: A, port: 1, refresh_interval: 5s}]}
- {job_name: aaaa, dns_sd_configs: [{names: [aaaa.test], type: AAAA, port: 9100, refresh_interval: 500ms}]}
- {job_name: mx, dns_sd_configs: [{names: [mx.test], type: MX, port: %s, refresh_interval: 500ms}]}
- job_name: srv
  dns_sd_configs: [{names: [_m._tcp.test], refresh_interval: 500ms}]
  relabel_configs:
  - {source_labels: [__meta_dns_srv_record_target], regex: '(.*)\.test\.', target_label: instance}
  - {source_labels: [__meta_dns_name], target_label: name}
`, port(one), port(one)))).Ready(t)
	found := func(pool string, want ...string) {
		t.Helper()
		harness.Wait(t, 60*time.Second, pool+" is found", func() error {
			all, err := listed(p.URL, "?state=active&scrapePool="+pool)
			if err != nil {
				return err
			}
			var got []string
			for _, g := range all.ActiveTargets {
				got = append(got, g.ScrapeURL)
			}
			if strings.Join(got, " ") != strings.Join(want, " ") {
				return fmt.Errorf("%q", got)
			}
			return nil
		})
	}
	found("a", "http://"+one.Host()+"/metrics")
	found("aaaa", "http://[fd00::1]:9100/metrics", "http://[fd00::2]:9100/metrics")
	found("mx", "http://one.test:"+port(one)+"/metrics", "http://two.test:"+port(one)+"/metrics")
	harness.Wait(t, 60*time.Second, "an answer too long for UDP is found", func() error {
		all, err := listed(p.URL, "?state=active&scrapePool=many")
		if err != nil || len(all.ActiveTargets) != len(many) {
			return fmt.Errorf("%d targets, %v", len(all.ActiveTargets), err)
		}
		return nil
	})
	server.mu.Lock()
	if server.tcp == 0 {
		t.Error("no question over TCP")
	}
	server.mu.Unlock()
	shown := func(name string) harness.Labels {
		return harness.Labels{"job": "srv", "instance": name, "name": "_m._tcp.test"}
	}
	one.WaitShown(t, 60*time.Second, p, shown("one"), 0)
	server.set(records(srv(one, "one"), srv(two, "two")))
	two.WaitShown(t, 60*time.Second, p, shown("two"), 0)
	server.fail(true)
	harness.Holds(t, 12*time.Second, "targets stay while the server fails", func() error {
		all, err := listed(p.URL, "?state=active&scrapePool=srv")
		if err == nil && len(all.ActiveTargets) != 2 {
			err = fmt.Errorf("%d targets", len(all.ActiveTargets))
		}
		return err
	})
	server.fail(false)
	server.set(records(srv(two, "two")))
	gone(t, p, shown("one"))
	two.WaitShown(t, 30*time.Second, p, shown("two"), two.Numbers())
}
