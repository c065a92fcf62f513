package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startLimit is how long one of our processes may take to be ready.
const startLimit = 30 * time.Second

// Product is one running prometheus-streams.
type Product struct {
	*Process
	// URL of its pages.
	URL string
	// Config is its configuration file.
	Config string

	argv []string
	// before the command line, to run it otherwise
	before []string
	// spoolDirectory is a poller's, unless its configuration names one: the default is the whole machine's.
	spoolDirectory string
}

// StartProductWith is StartProduct with more variables in the environment, each NAME=VALUE.
func StartProductWith(t testing.TB, b *Builds, env []string, mode string, port int, config string, flags ...string) *Product {
	t.Helper()
	return startProduct(t, append([]string{"env"}, env...), b.Product(t), mode, port, config, flags)
}

// StartProduct writes a configuration file and starts "prometheus-streams MODE" with it, its pages on a port. It does
// not wait: see Ready.
func StartProduct(t testing.TB, b *Builds, mode string, port int, config string, flags ...string) *Product {
	t.Helper()
	return startProduct(t, nil, b.Product(t), mode, port, config, flags)
}

// StartClocked is StartProduct with a clock that can be set.
func StartClocked(t testing.TB, b *Builds, c *Clock, mode string, port int, config string, flags ...string) *Product {
	t.Helper()
	return startProduct(t, c.env(), must(t, b.clockedProduct), mode, port, config, flags)
}

// StartBefore is StartProduct by another program, whose command line goes before that of ours.
func StartBefore(t testing.TB, b *Builds, before []string, mode string, port int, config string, flags ...string) *Product {
	t.Helper()
	return startProduct(t, before, b.Product(t), mode, port, config, flags)
}

func startProduct(t testing.TB, before []string, binary, mode string, port int, config string, flags []string) *Product {
	t.Helper()
	path := filepath.Join(t.TempDir(), mode+".yaml")
	p := &Product{Config: path, before: before}
	if mode == "poller" {
		p.spoolDirectory = t.TempDir()
	}
	p.Write(t, config)
	address := fmt.Sprintf("127.0.0.1:%d", port)
	p.URL = "http://" + address
	p.argv = append([]string{binary, mode, "--config", path, "--web.listen-address", address}, flags...)
	p.Restart(t)
	return p
}

// Restart starts it again after it was ended, with its configuration file as it is now.
func (p *Product) Restart(t testing.TB) {
	t.Helper()
	p.Process = Start(t, "prometheus-streams-"+p.argv[1], append(slices.Clone(p.before), p.argv...)...)
}

// Ready waits until it says that it is ready.
func (p *Product) Ready(t testing.TB) *Product {
	t.Helper()
	WaitReady(t, startLimit, p.URL+"/-/ready")
	return p
}

// Write replaces its configuration file.
func (p *Product) Write(t testing.TB, config string) {
	t.Helper()
	if p.spoolDirectory != "" && !strings.Contains(config, "\nspool:") {
		config += fmt.Sprintf("\nspool: {directory: %s}\n", p.spoolDirectory)
	}
	if err := os.WriteFile(p.Config, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Reload replaces its configuration file and sends SIGHUP.
func (p *Product) Reload(t testing.TB, config string) {
	t.Helper()
	p.Write(t, config)
	p.Signal(syscall.SIGHUP)
}

// Metrics are its own.
func (p *Product) Metrics(t testing.TB) Page {
	t.Helper()
	return MustScrape(t, p.URL+"/metrics")
}

// Gateway is what its gateway shows; query may be empty.
func (p *Product) Gateway(query string) (Page, error) {
	url := p.URL + "/gateway/metrics"
	if query != "" {
		url += "?" + query
	}
	return Scrape(url)
}
