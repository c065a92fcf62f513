package contest

import (
	"strings"
	"testing"
)

func TestSummary(t *testing.T) {
	result := func(name string, up, edge, central, mib float64) *Result {
		return &Result{Contestant: name, Up: up, P50: up * 100, Roles: map[string]Use{Edge: {CPU: edge, Memory: mib}, Central: {CPU: central}}}
	}
	var out strings.Builder
	err := writeSummary(&out, []*Result{
		result("floor (gzip)", 0, 0.5, 0, 20), result("prometheus-streams, gateway", 1, 0.1, 0.1, 1), result("prometheus-streams, remote write", 1.4, 1.3, 0.4, 60),
		result("prometheus-streams", 2, 1.2, 0.2, 50), result("prometheus-streams", 1.5, 1.2, 0.2, 60), result("prometheus-streams", 1.6, 1.2, 0.2, 70),
		result("Prometheus agent", 16, 4, 0, 300), result("vmagent, its own protocol", 14, 2.4, 0, 64), result("vmagent, remote write", 30, 2.5, 0, 50),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| wire, edge to centre, bytes per sample | **1.60** | 14.00 (vmagent, its own protocol) | 0.11 | 14.00 | 0.11 | ≤ 1.9 | yes |\n",
		"| edge CPU, seconds per million samples | **1.20** | 2.40 (vmagent, its own protocol) | 0.50 | 2.40 | 0.50 | ≤ 1.3, ≤ 0.4 × vmagent | **no** |\n",
		"| edge memory, MiB | **60** | 50 (vmagent, remote write) | 1.20 | 50 | 1.20 | ≤ 1 × vmagent | **no** |\n",
		"| central CPU, seconds per million samples | **0.20** | - | - | - | - | ≤ 0.25 | yes |\n",
		"| scrape to arrival, 99th percentile, ms | **-** | - | - | - | - | ≤ 350 | - |\n",
		"| central CPU with remote write, seconds per million samples | **0.40** | - | - | - | - |  | - |\n",
		"| scrape to arrival by remote write, median, ms | **140** | 1400 (vmagent, its own protocol) | 0.10 | 1400 | 0.10 | ≤ 200 | yes |\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	if err := writeSummary(&out, nil); err == nil {
		t.Error("no error without results of ours")
	}
}

func TestChurn(t *testing.T) {
	still, moving := &Result{Contestant: ours, Load: Load{N: 1}, Up: 1.5}, &Result{Contestant: ours, Load: Load{N: 1, Churn: 0.01}, Up: 1.75}
	var out strings.Builder
	if err := writeChurn(&out, []*Result{still, moving}); err != nil || !strings.Contains(out.String(), "1 % of the series replaced each minute the wire takes +0.25 bytes per sample more: 1.75, not 1.50") {
		t.Errorf("%v, %s", err, out.String())
	}
	if err := writeChurn(&out, []*Result{still}); err == nil {
		t.Error("no error without churn")
	}
}
