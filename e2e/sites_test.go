package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// Two sites call a target the same: with publisher_label both are there, without it one is, whole, and the other is
// counted and logged.
func TestTwoSitesWithTheSameInstance(t *testing.T) {
	t.Parallel()
	server := startNATS(t, "")
	apart := startReceiver(t, receiverYAML(t, server, "  publisher_label: site"))
	mixed := startReceiver(t, receiverYAML(t, server, "  publisher_label: false"))
	sites := map[string]*harness.Target{"north": targets.New(t, "node", 10), "south": targets.New(t, "node", 10)}
	for site, g := range sites {
		startPoller(t, pollerYAML(server, site, "1s", harness.JobsYAML("edge", g)))
	}
	for site, g := range sites {
		g.WaitShown(t, 15*time.Second, apart, harness.Labels{"job": "edge", "instance": "node", "site": site}, 2)
	}
	owner := 0
	harness.Wait(t, 15*time.Second, "one of the sites is shown without publisher_label", func() error {
		var err error
		owner, _, err = oneSite(mixed)
		return err
	})
	last := 0
	harness.Holds(t, 6*time.Second, "one site alone is shown, and goes on", func() error {
		id, number, err := oneSite(mixed)
		if err != nil {
			return err
		}
		if id != owner {
			return fmt.Errorf("values of target %d after those of target %d", id, owner)
		}
		if number < last {
			return fmt.Errorf("scrape %d after scrape %d", number, last)
		}
		last = number
		return nil
	})
	if last < 4 {
		t.Errorf("the shown site stands still at scrape %d", last)
	}
	conflicts := mixed.Metrics(t).Sum("prometheus_streams_receiver_rejected_frames_total", harness.Labels{"reason": "conflict"})
	if conflicts < 3 {
		t.Errorf("%v frames counted as conflicts", conflicts)
	}
	if got := apart.Metrics(t).Sum("prometheus_streams_receiver_rejected_frames_total", nil); got != 0 {
		t.Errorf("%v frames rejected with publisher_label", got)
	}
	mixed.WaitOutput(time.Second, `level=WARN.*(north.*south|south.*north)`)
}

// oneSite checks that a page has the values of one scrape of one target, and tells which.
func oneSite(p *harness.Product) (id, number int, err error) {
	page, err := p.Gateway("")
	if err != nil {
		return 0, 0, err
	}
	values := page.Values(harness.ValueMetric, harness.Labels{"job": "edge", "instance": "node"})
	if len(values) != 10 {
		return 0, 0, fmt.Errorf("%d values, want 10", len(values))
	}
	for series, v := range values {
		i, n := harness.Of(v)
		if id != 0 && (i != id || n != number) {
			return 0, 0, fmt.Errorf("%s is from scrape %d of target %d, others from scrape %d of target %d", series, n, i, number, id)
		}
		id, number = i, n
	}
	return id, number, nil
}
