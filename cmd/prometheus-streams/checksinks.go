package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kingpin/v2"
	promconfig "github.com/prometheus/common/config"

	"github.com/choria-io/prometheus-streams/internal/config"
	"github.com/choria-io/prometheus-streams/internal/redact"
)

const (
	// sinkWait bounds one request of the check.
	sinkWait = 10 * time.Second
	// shownAnswer is how much of an answer is shown, readAnswer how much is read.
	shownAnswer, readAnswer = 200, 64 << 10
)

func checkSinksCommand(check *kingpin.CmdClause) command {
	clause := check.Command("sinks", "Check that the sinks of the configuration can be reached, without writing anything.")
	return command{clause, checkSinks}
}

// checkSinks exits with 0 if all is well, 1 if there are problems, 3 if there are only warnings, 2 if there is nothing that
// can be checked.
func checkSinks(c *cli) int {
	cfg, err := c.sinks()
	if err != nil {
		_, _ = fmt.Fprintln(c.stderr, err)
		return exitUnreadable
	}
	s := &sinkCheck{cfg: cfg, out: c.stdout}
	if cfg.PushGateway != nil {
		s.pushGateway()
	}
	for i := range cfg.RemoteWrite {
		s.remoteWrite(i)
	}
	if cfg.Gateway != nil {
		s.gateway(c.flags.Web.RoutePrefix)
	}
	switch {
	case s.problems > 0:
		return exitProblems
	case s.warnings > 0:
		return exitLint
	}
	return exitOK
}

// sinks is the configuration as its receiver, or standalone, uses it.
func (c *cli) sinks() (*config.Config, error) {
	whole, _, err := c.flags.load()
	if err != nil {
		return nil, err
	}
	role := config.StandaloneRole
	for _, r := range whole.Roles() {
		if r.Receives() {
			role = r
			break
		}
		if whole.PushGateway == nil && whole.Gateway == nil && len(whole.RemoteWrite) == 0 {
			return nil, fmt.Errorf("%s: neither push_gateway nor remote_write nor gateway: no sink to look at", whole.File)
		}
	}
	if role == config.ReceiverRole {
		cfg, _, err := whole.ForRole(role)
		return cfg, err
	}
	// What a poller's part of the file lacks does not matter to its sinks.
	cfg, _, _ := whole.ForRole(role)
	return cfg, nil
}

// sinkCheck asks sinks, and prints and counts what it finds.
type sinkCheck struct {
	cfg                *config.Config
	out                io.Writer
	problems, warnings int
}

func (s *sinkCheck) good(sink, format string, args ...any) {
	_, _ = fmt.Fprintf(s.out, "%s: good: %s\n", sink, fmt.Sprintf(format, args...))
}

func (s *sinkCheck) warn(sink, format string, args ...any) {
	s.warnings++
	_, _ = fmt.Fprintf(s.out, "%s: warning: %s\n", sink, fmt.Sprintf(format, args...))
}

func (s *sinkCheck) problem(sink, format string, args ...any) {
	s.problems++
	_, _ = fmt.Fprintf(s.out, "%s: problem: %s\n", sink, fmt.Sprintf(format, args...))
}

// sinkAnswer is what a sink sinkAnswer.
type sinkAnswer struct {
	status int
	body   string
	header http.Header
}

func (a sinkAnswer) String() string {
	text := fmt.Sprintf("%d %s", a.status, http.StatusText(a.status))
	if body := strings.Join(strings.Fields(a.body), " "); body != "" {
		text += fmt.Sprintf(": %.*s", shownAnswer, body)
	}
	return text
}

func askSink(client *http.Client, method, url string, header map[string]string, body []byte) (sinkAnswer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), sinkWait)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return sinkAnswer{}, err
	}
	for name, value := range header {
		r.Header.Set(name, value)
	}
	if r.Header.Get("User-Agent") == "" {
		r.Header.Set("User-Agent", "prometheus-streams/"+buildVersion())
	}
	res, err := client.Do(r)
	if err != nil {
		return sinkAnswer{}, redact.Error(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(res.Body, readAnswer))
	return sinkAnswer{res.StatusCode, redact.Answer(res, string(text)), res.Header}, err
}

// pushGateway asks whether it is ready and, if it does not know that question, for its state.
func (s *sinkCheck) pushGateway() {
	base := string(s.cfg.PushGateway.URL)
	sink := pushGatewaySink + " " + redact.RawURL(base)
	client, err := promconfig.NewClientFromConfig(s.cfg.PushGateway.HTTP, "push_gateway")
	if err != nil {
		s.problem(sink, "%s", err)
		return
	}
	defer client.CloseIdleConnections()
	base = strings.TrimRight(base, "/")
	a, err := askSink(client, http.MethodGet, base+"/-/ready", nil, nil)
	switch {
	case err != nil:
		s.problem(sink, "%s", err)
		return
	case a.status == http.StatusOK:
		s.good(sink, "it is ready")
		return
	case a.status != http.StatusNotFound:
		s.problem(sink, "/-/ready: %s", a)
		return
	}
	a, err = askSink(client, http.MethodGet, base+"/api/v1/status", nil, nil)
	switch {
	case err != nil:
		s.problem(sink, "%s", err)
	case a.status == http.StatusOK:
		s.good(sink, "it answers")
	default:
		s.problem(sink, "this is no Push Gateway: /-/ready and /api/v1/status: %s", a)
	}
}

// remoteWrite sends a request without a single series: a server takes it and has nothing to store.
func (s *sinkCheck) remoteWrite(i int) {
	c := &s.cfg.RemoteWrite[i]
	sink := fmt.Sprintf("remote_write[%d] %s", i, redact.RawURL(string(c.URL)))
	client, err := remoteWriteClient(&c.Block)
	if err != nil {
		s.problem(sink, "%s", err)
		return
	}
	defer client.CloseIdleConnections()
	a, version, err := emptyWrite(client, c)
	switch {
	case err != nil:
		s.problem(sink, "%s", err)
	case a.status/100 == 2:
		s.good(sink, "it takes remote write %s", version)
	case a.status == http.StatusBadRequest:
		s.warn(sink, "it is there, and does not take a request without series: %s", a)
	case a.status == http.StatusUnauthorized || a.status == http.StatusForbidden:
		s.problem(sink, "it refuses our credentials: %s", a)
	case a.status/100 == 5 || a.status == http.StatusTooManyRequests:
		s.problem(sink, "it takes nothing at present: %s", a)
	default:
		s.problem(sink, "this is no address for remote write: %s", a)
	}
}

// emptyWrite tries the versions of the protocol that the block allows, the newer one first.
func emptyWrite(client *http.Client, c *config.RemoteWrite) (a sinkAnswer, version string, err error) {
	versions := []string{"2.0", "1.0"}
	switch c.Protocol {
	case "2":
		versions = versions[:1]
	case "1":
		versions = versions[1:]
	}
	for _, version = range versions {
		header := map[string]string{
			"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf", "X-Prometheus-Remote-Write-Version": "0.1.0",
		}
		if version == "2.0" {
			header["Content-Type"] = "application/x-protobuf;proto=io.prometheus.write.v2.Request"
			header["X-Prometheus-Remote-Write-Version"] = "2.0.0"
		}
		for name, value := range c.Block.Headers {
			header[name] = value
		}
		// snappy of nothing, which is a message of protobuf without a field.
		a, err = askSink(client, http.MethodPost, string(c.URL), header, []byte{0})
		if err != nil || a.status != http.StatusUnsupportedMediaType {
			break
		}
	}
	return a, version, err
}

// gateway looks whether its address is free, or whether this program has it already.
func (s *sinkCheck) gateway(prefix string) {
	address := s.cfg.ListenAddress()
	sink := gatewaySink + " " + address
	if address == "" {
		s.problem(sink, "there is no address to be scraped at: set monitor_port, web.listen_address or --web.listen-address")
		return
	}
	l, err := net.Listen("tcp", address)
	if err == nil {
		_ = l.Close()
		s.good(sink, "the address is free")
		return
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		s.problem(sink, "%s", err)
		return
	}
	client := &http.Client{}
	defer client.CloseIdleConnections()
	a, err := askSink(client, http.MethodGet, "http://"+reachable(address)+prefix+"/-/healthy", nil, nil)
	if err == nil && strings.HasPrefix(a.body, "prometheus-streams ") {
		s.good(sink, "prometheus-streams runs there")
		return
	}
	if err == nil && a.status == http.StatusBadRequest && strings.Contains(a.body, "HTTPS server") && s.cfg.Web.ConfigFile != "" {
		s.warn(sink, "a server with TLS runs there, this program perhaps")
		return
	}
	s.problem(sink, "another process listens on the address")
}
