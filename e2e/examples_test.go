package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/harness"
)

// example starts a command with one of the examples as it is, in a folder of its own.
func example(t *testing.T, mode string) *harness.Product {
	t.Helper()
	file, url := mode+".yaml", map[string]string{
		"standalone": "http://127.0.0.1:9797", "poller": "http://127.0.0.1:9798", "receiver": "http://127.0.0.1:9799"}[mode]
	if mode == "standalone" {
		file = "quickstart.yaml"
	}
	p := &harness.Product{URL: url, Process: harness.Start(t, mode,
		builds.Product(t), mode, "--config", filepath.Join(harness.Root(), "examples", file))}
	return p.Ready(t)
}

// free fails the test if a port that the examples name is in use.
func free(t *testing.T, ports ...int) {
	t.Helper()
	for _, port := range ports {
		l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatalf("the examples need port %d: %v", port, err)
		}
		l.Close()
	}
}

// "make run": the quickstart scrapes itself and shows it.
func TestQuickstart(t *testing.T) {
	t.Parallel()
	free(t, 9797)
	p := example(t, "standalone")
	harness.Wait(t, 20*time.Second, "the gateway shows the process itself", func() error {
		page, err := p.Gateway("")
		if err != nil {
			return err
		}
		self := harness.Labels{"job": "prometheus_streams", "instance": "quickstart", "publisher": "quickstart"}
		up, err := page.Up(self)
		if err != nil {
			return err
		}
		if up != 1 {
			return fmt.Errorf("up is %v", up)
		}
		if page.Count(self) < 50 {
			return fmt.Errorf("%d series", page.Count(self))
		}
		return nil
	})
	p.WaitOutput(time.Second, regexp.QuoteMeta("http://127.0.0.1:9797/gateway/metrics"))
	stopWell(t, p.Process)
}

// "On your NATS in five minutes", as the README says it, on one machine.
func TestExamplesOnOwnNATS(t *testing.T) {
	t.Parallel()
	free(t, 4222, 9798, 9799, 9100)
	harness.StartNATS(t, 4222, "")
	receiver := example(t, "receiver")
	node := targets.NewAt(t, "host1", "127.0.0.1:9100", 10)
	poller := example(t, "poller")
	node.WaitShown(t, 40*time.Second, receiver, harness.Labels{"job": "node", "instance": "host1", "publisher": "site1"}, 0)

	prom := harness.StartPrometheus(t, ports.Next(t), readmePrometheus(t))
	harness.Wait(t, 30*time.Second, "Prometheus, configured as in the README, shows the target", func() error {
		up, err := prom.One(`up{job="node",instance="host1",publisher="site1"}`)
		if err == nil && up != 1 {
			err = fmt.Errorf("up is %v", up)
		}
		return err
	})
	stopWell(t, poller.Process)
	stopWell(t, receiver.Process)
}

// readmePrometheus is the configuration of Prometheus in the README, with the receiver on this machine.
func readmePrometheus(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(harness.Root(), "README.md"))
	if err == nil && !strings.Contains(string(b), "receiver.example.net") {
		err = errors.New("no receiver.example.net in it")
	}
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```yaml prometheus\n(.*?)\n *```").FindStringSubmatch(string(b))
	if block == nil {
		t.Fatal("README.md has no block of \"yaml prometheus\"")
	}
	return "global: {scrape_interval: 5s}\n" + strings.ReplaceAll(outdent(block[1]), "receiver.example.net", "127.0.0.1")
}

// outdent takes the first line's indentation off all lines.
func outdent(text string) string {
	indent := text[:len(text)-len(strings.TrimLeft(text, " "))]
	return strings.ReplaceAll("\n"+text, "\n"+indent, "\n")
}
