package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

const (
	outageLasts    = 30 * time.Second
	outageInterval = 5 * time.Second
)

// outage is one fault of a Push Gateway and what it leaves in the metrics.
type outage struct {
	fault string
	// begin and end it; reason is that of the retries meanwhile, empty if there are none.
	begin, end func(testing.TB, *outageRig)
	reason     string
	// spared: other groups than the first do not notice it. direct: without the proxy, which would answer in the
	// gateway's place.
	spared, direct bool
}

// outageRig is a Push Gateway with a receiver of its own, which has another sink beside it.
type outageRig struct {
	outage
	name     string
	gateway  *pushServer
	proxy    *proxy
	receiver *harness.Product
	// healed is when the outage ended, last what the targets had shown by then, current when all groups had newer scrapes.
	healed, current time.Time
	last            map[*harness.Target]int
}

func outages() []outage {
	kill := func(_ testing.TB, r *outageRig) { r.gateway.Kill() }
	restart := func(t testing.TB, r *outageRig) { r.gateway.Restart(t) }
	heal := func(_ testing.TB, r *outageRig) { r.proxy.heal() }
	answers := func(bad func(http.ResponseWriter, *http.Request) bool) func(testing.TB, *outageRig) {
		return func(_ testing.TB, r *outageRig) { r.proxy.do(bad) }
	}
	return []outage{
		{fault: "down, and restarted without its state", begin: kill, end: restart, reason: "network", direct: true},
		{fault: "hanging", reason: "timeout", direct: true, begin: func(_ testing.TB, r *outageRig) { r.gateway.Freeze() },
			end: func(_ testing.TB, r *outageRig) { r.gateway.Thaw() }},
		{fault: "never answering", reason: "timeout", end: heal, begin: func(_ testing.TB, r *outageRig) {
			r.proxy.do(func(_ http.ResponseWriter, req *http.Request) bool {
				select {
				case <-r.proxy.over:
				case <-req.Context().Done():
				}
				return true
			})
		}},
		{fault: "500", reason: "status_5xx", end: heal, begin: answers(func(w http.ResponseWriter, _ *http.Request) bool {
			http.Error(w, "broken", http.StatusInternalServerError)
			return true
		})},
		{fault: "connections cut in the middle of a body", reason: "network", end: heal, begin: answers(func(w http.ResponseWriter, r *http.Request) bool {
			io.CopyN(io.Discard, r.Body, 50)
			if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
				conn.Close()
			}
			return true
		})},
		{fault: "400 for one group", spared: true, end: heal, begin: answers(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/node-0") {
				return false
			}
			http.Error(w, "not this one", http.StatusBadRequest)
			return true
		})},
	}
}

// Outages of half a minute, all at the same time, each of a gateway of its own: after each, every group shows the newest
// scrape within two intervals; meanwhile the receiver's other sink goes on; and every scrape is accounted for.
func TestPushGatewayOutages(t *testing.T) {
	t.Parallel()
	server := startNATS(t, "")
	all := targets.Many(t, "node", 12, 20)
	poller := startPoller(t, pollerYAML(server, "site", outageInterval.String(), namedJob("edge", all...))).Ready(t)
	var rigs []*outageRig
	for _, o := range outages() {
		for _, name := range pushGateways {
			rigs = append(rigs, startOutageRig(t, server, o, name, fmt.Sprintf("receiver%d", len(rigs))))
		}
	}
	for _, r := range rigs {
		for _, target := range all {
			waitPushed(t, time.Minute, r.gateway, target, edge(target), 0)
		}
	}
	began := time.Now()
	for _, r := range rigs {
		r.begin(t, r)
	}
	time.Sleep(outageLasts - 3*outageInterval)
	last := lastNumbers(all)
	for _, r := range rigs {
		r.checkMeanwhile(t, all, last)
	}
	time.Sleep(time.Until(began.Add(outageLasts)))
	for _, r := range rigs {
		r.end(t, r)
		r.healed, r.last = time.Now(), lastNumbers(all)
	}
	harness.Wait(t, 4*outageInterval, "every group of every gateway shows a newer scrape", func() (err error) {
		for _, r := range rigs {
			if r.current.IsZero() {
				if e := r.checkCurrent(all); e != nil {
					err = fmt.Errorf("%s: %w", r.name, e)
				}
			}
		}
		return err
	})
	for _, r := range rigs {
		t.Logf("%s: everything is current after %v", r.name, r.current.Sub(r.healed).Round(100*time.Millisecond))
		if took := r.current.Sub(r.healed); took > 2*outageInterval+2*time.Second {
			t.Errorf("%s: that is more than two intervals, %v", r.name, 2*outageInterval)
		}
	}
	poller.Kill()
	for _, r := range rigs {
		r.checkAccount(t)
	}
}

func startOutageRig(t *testing.T, server *harness.NATS, o outage, name, client string) *outageRig {
	r := &outageRig{outage: o, name: o.fault + ", " + name, gateway: startPushServer(t, name)}
	r.proxy = startProxy(t, r.gateway.URL)
	url := r.proxy.URL
	if o.direct {
		url = r.gateway.URL
	}
	config := strings.Replace(pushYAML(server, url, t.TempDir(), "", "gateway: {}"),
		"receiver_stream:", "receiver_stream:\n  client_id: "+client, 1)
	r.receiver = harness.StartProduct(t, builds, "receiver", ports.Next(t), config).Ready(t)
	return r
}

// checkMeanwhile checks that the outage harms nothing else, and that the metrics and the log tell of it.
func (r *outageRig) checkMeanwhile(t *testing.T, all []*harness.Target, last map[*harness.Target]int) {
	t.Helper()
	for i, target := range all {
		target.WaitShown(t, 3*outageInterval, r.receiver, edge(target), last[target])
		if r.spared && i > 0 {
			waitPushed(t, 3*outageInterval, r.gateway, target, edge(target), last[target])
		}
	}
	own := r.receiver.Metrics(t)
	sum := func(name string, want harness.Labels) float64 { return own.Sum("prometheus_streams_"+name, want) }
	if sum("pushgateway_oldest_unaccepted_timestamp_seconds", nil) == 0 || sum("receiver_publish_errors", harness.Labels{"receiver_job": "edge"}) == 0 {
		t.Errorf("%s: the metrics do not tell that a group is not accepted", r.name)
	}
	if r.reason != "" && sum("pushgateway_retries_total", harness.Labels{"reason": r.reason}) == 0 {
		t.Errorf("%s: no retry counted as %s: %v", r.name, r.reason, own.Values("prometheus_streams_pushgateway_retries_total", nil))
	}
	if r.spared {
		r.receiver.WaitOutput(time.Second, "refuses a group.*not this one")
		if sum("pushgateway_rejected_total", harness.Labels{"reason": "refused"}) == 0 {
			t.Errorf("%s: the refused pushes are not counted", r.name)
		}
	}
}

// checkCurrent notes when the gateway shows of each target a scrape that is newer than the end of the outage.
func (r *outageRig) checkCurrent(all []*harness.Target) error {
	page, err := harness.Scrape(r.gateway.URL + "/metrics")
	if err != nil {
		return err
	}
	for _, target := range all {
		number, err := target.Shown(page, edge(target))
		if err == nil && number <= r.last[target] {
			err = fmt.Errorf("scrape %d of %s is shown", number, target.Name)
		}
		if err != nil {
			return err
		}
	}
	r.current = time.Now()
	return nil
}

// checkAccount compares what the receiver says of its frames with what became of each push: nothing is acknowledged that
// was not accepted, superseded or counted as refused.
func (r *outageRig) checkAccount(t *testing.T) {
	t.Helper()
	harness.Wait(t, 30*time.Second, "under "+r.name+" the receiver accounts for every scrape", func() error {
		own := r.receiver.Metrics(t)
		sum := func(name string, want harness.Labels) float64 { return own.Sum("prometheus_streams_"+name, want) }
		if n := sum("pushgateway_waiting_groups", nil); n != 0 {
			return fmt.Errorf("%v groups wait", n)
		}
		delivered := sum("receiver_delivered_frames_total", harness.Labels{"sink": "push_gateway"})
		refused := sum("receiver_rejected_frames_total", harness.Labels{"sink": "push_gateway"})
		accepted := sum("pushgateway_pushes_total", harness.Labels{"method": "put", "result": "accepted"})
		superseded, rejected := sum("pushgateway_superseded_total", nil), sum("pushgateway_rejected_total", nil)
		if delivered == 0 || delivered != accepted+superseded || refused != rejected {
			return fmt.Errorf("%v frames delivered and %v refused, of which %v accepted, %v superseded, %v rejected",
				delivered, refused, accepted, superseded, rejected)
		}
		return nil
	})
}
