package config

import (
	"strings"
	"testing"
)

func TestClientsOfNATSStreaming(t *testing.T) {
	const old = "{urls: nats://a, cluster_id: c"
	for name, c := range map[string]struct{ text, err, warning string }{
		"defaults":            {"poller_stream: " + old + "}\nreceiver_stream: " + old + "}\n", "", ""},
		"roles share one":     {"poller_stream: " + old + ", client_id: x}\nreceiver_stream: " + old + ", client_id: x}\n", "", "only one of the two roles can run at a time"},
		"blocks share one":    {"receiver_stream:\n- " + old + ", topic: a}\n- " + old + ", topic: b}\n", "c.yaml:4: receiver_stream[1]: the client id", ""},
		"blocks of their own": {"receiver_stream:\n- " + old + ", topic: a, client_id: x}\n- " + old + ", topic: b, client_id: y}\n", "", ""},
		"other cluster":       {"receiver_stream:\n- " + old + ", client_id: x}\n- {urls: nats://a, cluster_id: d, client_id: x}\n", "", ""},
		"on JetStream":        {"receiver_stream:\n- {urls: nats://a, stream: A, client_id: x}\n- {urls: nats://a, stream: B, client_id: x}\n", "", ""},
	} {
		_, warnings, err := Parse("c.yaml", []byte("identity: i\n"+c.text))
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: error %v", name, err)
		}
		var said []string
		for _, w := range warnings {
			said = append(said, w.String())
		}
		if all := strings.Join(said, "\n"); c.warning == "" && all != "" || !strings.Contains(all, c.warning) {
			t.Errorf("%s: warnings %q", name, all)
		}
	}
}
