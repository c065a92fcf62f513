package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/model"
	"golang.org/x/net/http/httpproxy"

	"github.com/choria-io/prometheus-streams/internal/enroll"
)

// enrolment is the flags of enroll.
type enrolment struct {
	identities []string
	ca, dir    string
	print      string
	bundle     string
	wait, poll string
}

func enrollCommand(app *kingpin.Application) command {
	f := &enrolment{}
	clause := app.Command("enroll", "Get a certificate from a Puppet CA, as puppet agent --waitforcert does.")
	clause.Arg("identity", "The name of the certificate; the hostname unless given.").StringsVar(&f.identities)
	clause.Flag("ca", "The Puppet CA.").Default("puppet:8140").PlaceHolder("HOST:PORT").StringVar(&f.ca)
	clause.Flag("dir", "The directory for key and certificates, the ssl_dir of the configuration.").PlaceHolder("DIR").StringVar(&f.dir)
	clause.Flag("ca-fingerprint", "Believe only the CA whose certificates, as it serves them, have this SHA256.").PlaceHolder("SHA256").StringVar(&f.print)
	clause.Flag("ca-bundle", "Believe only the CA that the certificates in this file vouch for.").PlaceHolder("FILE").StringVar(&f.bundle)
	clause.Flag("wait", "How long to wait for the certificate: forever, or a time such as 10m; 0 asks once.").Default("forever").PlaceHolder("TIME").StringVar(&f.wait)
	clause.Flag("poll", "How often to ask the CA.").Default("10s").PlaceHolder("TIME").StringVar(&f.poll)
	return command{clause, f.run}
}

// run exits with 0 if the identity is enrolled, 1 if it is not, 2 if the command line is wrong.
func (f *enrolment) run(c *cli) int {
	o, err := f.options()
	if err == nil {
		o.Out = c.stdout
		err = o.Check()
	}
	if err != nil {
		_, _ = fmt.Fprintf(c.stderr, "prometheus-streams: enroll: %s; see prometheus-streams enroll --help\n", err)
		return exitUsage
	}
	if err := throughProxy(o); err != nil {
		_, _ = fmt.Fprintf(c.stderr, "prometheus-streams: enroll: %s\n", err)
		return exitFailed
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := enroll.Run(ctx, *o); err != nil {
		_, _ = fmt.Fprintf(c.stderr, "prometheus-streams: enroll: %s\n", err)
		return exitFailed
	}
	return exitOK
}

// throughProxy has the CA asked through the proxy that HTTPS_PROXY names, unless NO_PROXY names the CA.
func throughProxy(o *enroll.Options) error {
	ca, err := o.URL()
	if err != nil {
		return err
	}
	environment := httpproxy.FromEnvironment()
	if _, err := url.Parse(environment.HTTPSProxy); err != nil { // which httpproxy would take for none
		if _, err := url.Parse("http://" + environment.HTTPSProxy); err != nil {
			return errors.New("HTTPS_PROXY is not the URL of a proxy") // the error would show its password
		}
	}
	proxy, err := environment.ProxyFunc()(ca)
	if err != nil || proxy == nil {
		return err
	}
	d, err := newProxyDialer(proxy.String())
	if err != nil {
		return fmt.Errorf("HTTPS_PROXY: %w", err)
	}
	_, _ = fmt.Fprintf(o.Out, "the CA %s is asked through the proxy %s, as HTTPS_PROXY says\n", ca.Host, d.address)
	o.Dial = func(_ context.Context, network, address string) (net.Conn, error) { return d.Dial(network, address) }
	return nil
}

// options is what the command line says. An identity may be given twice, if it is the same.
func (f *enrolment) options() (*enroll.Options, error) {
	o := &enroll.Options{CA: f.ca, Dir: f.dir, Fingerprint: f.print, Bundle: f.bundle, Wait: enroll.Forever}
	for _, name := range f.identities {
		if name != f.identities[0] {
			return nil, fmt.Errorf("one IDENTITY at a time, not %q and %q", f.identities[0], name)
		}
	}
	var err error
	if len(f.identities) > 0 {
		o.Identity = f.identities[0]
	} else if o.Identity, err = os.Hostname(); err != nil {
		return nil, fmt.Errorf("no IDENTITY is given, and the hostname is not known: %w", err)
	}
	if o.Dir == "" {
		return nil, fmt.Errorf("--dir is missing")
	}
	if f.wait != "forever" {
		if o.Wait, err = duration(f.wait); err != nil {
			return nil, fmt.Errorf("--wait %q is neither forever nor a time such as 10m", f.wait)
		}
	}
	if o.Poll, err = duration(f.poll); err != nil || o.Poll < leastPoll {
		return nil, fmt.Errorf("--poll %q is not a time such as 10s, of %s at least", f.poll, leastPoll)
	}
	return o, nil
}

// leastPoll spares the CA.
const leastPoll = 100 * time.Millisecond

// duration takes Go's and Prometheus' forms.
func duration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		var p model.Duration
		if p, err = model.ParseDuration(s); err != nil {
			return 0, err
		}
		d = time.Duration(p)
	}
	if d < 0 {
		return 0, fmt.Errorf("negative duration %q", s)
	}
	return d, nil
}
