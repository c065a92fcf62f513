package main

import (
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/prometheus/storage/remote/azuread"
	"github.com/prometheus/prometheus/storage/remote/googleiam"
	"github.com/prometheus/sigv4"

	"github.com/choria-io/prometheus-streams/internal/config"
)

// remoteWriteClient is the HTTP client of a remote_write block.
func remoteWriteClient(b *config.RemoteWriteBlock) (*http.Client, error) {
	var options []promconfig.HTTPClientOption
	if b.RoundRobinDNS {
		options = append(options, promconfig.WithDialContextFunc(roundRobin(net.DefaultResolver.LookupHost)))
	}
	client, err := promconfig.NewClientFromConfig(b.HTTP, "remote_write", options...)
	if err != nil {
		return nil, err
	}
	next := client.Transport
	switch {
	case b.SigV4 != nil:
		client.Transport = &cloud{make: func() (http.RoundTripper, error) { return sigv4.NewSigV4RoundTripper(b.SigV4, next) }}
	case b.AzureAD != nil:
		client.Transport = &cloud{make: func() (http.RoundTripper, error) { return azuread.NewAzureADRoundTripper(b.AzureAD, next) }}
	case b.GoogleIAM != nil:
		client.Transport = &cloud{make: func() (http.RoundTripper, error) { return googleiam.NewRoundTripper(b.GoogleIAM, next) }}
	}
	return client, nil
}

// cloudAgain is how long after a failure the credentials of a cloud are looked for again.
const cloudAgain = 5 * time.Second

// cloud signs requests with what a cloud gives out. Looking for that takes a server of the cloud, so that it is done at the
// first request: a receiver starts without it, and its requests fail, and are repeated, until there is an answer.
type cloud struct {
	make func() (http.RoundTripper, error)

	mu     sync.Mutex
	made   http.RoundTripper
	err    error
	failed time.Time
}

// RoundTrip implements http.RoundTripper.
func (c *cloud) RoundTrip(r *http.Request) (*http.Response, error) {
	t, err := c.transport()
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, err
	}
	return t.RoundTrip(r)
}

func (c *cloud) transport() (http.RoundTripper, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.made == nil && (c.err == nil || time.Since(c.failed) >= cloudAgain) {
		if c.made, c.err = c.make(); c.err != nil {
			c.made, c.failed = nil, time.Now()
		}
	}
	return c.made, c.err
}

// roundRobin connects to any of the addresses of a host, as Prometheus does with round_robin_dns.
func roundRobin(lookup func(ctx context.Context, host string) ([]string, error)) promconfig.DialContextFunc {
	d := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if host, port, err := net.SplitHostPort(address); err == nil {
			if all, err := lookup(ctx, host); err == nil && len(all) > 0 {
				address = net.JoinHostPort(all[rand.IntN(len(all))], port)
			}
		}
		return d.DialContext(ctx, network, address)
	}
}
