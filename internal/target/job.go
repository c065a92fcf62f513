package target

import (
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/redact"
)

// Schedule is how often a target is scraped and for how long at most.
type Schedule struct {
	Interval time.Duration
	// Timeout of 0 takes the interval; a longer one than the interval is cut to it.
	Timeout time.Duration
}

// FromJob makes the target that a job names by a URL: its job is the job's name, its instance is name or, without one,
// host and port of the URL with the scheme's default port. Names in external that the target lacks are added.
// The URL is asked as it stands; only http and https are taken.
func FromJob(job, name, rawURL string, s Schedule, external labels.Labels) (*Target, error) {
	if job == "" {
		return nil, fmt.Errorf("target %q: its job has no name", redact.RawURL(rawURL))
	}
	u, err := parseURL(rawURL)
	if err != nil {
		return nil, fmt.Errorf("job %q: target %q: %w", job, name, err)
	}
	if name == "" {
		name = Address(u)
	}
	return build(job, name, rawURL, s, external)
}

// FromSelf makes the target that is this process: job prometheus_streams, instance the publisher's identity. rawURL is
// where the same can be read from outside, for people to see; it is not asked and may be empty.
func FromSelf(identity, rawURL string, s Schedule, external labels.Labels) (*Target, error) {
	if identity == "" {
		return nil, fmt.Errorf("job %q: the identity is empty", SelfJob)
	}
	t, err := build(SelfJob, identity, rawURL, s, external)
	if err != nil {
		return nil, err
	}
	t.Self = true
	return t, nil
}

func build(job, instance, rawURL string, s Schedule, external labels.Labels) (*Target, error) {
	if !utf8.ValidString(job) || !utf8.ValidString(instance) {
		return nil, fmt.Errorf("job %q: target %q: the name is not valid UTF-8", job, instance)
	}
	if s.Interval <= 0 {
		return nil, fmt.Errorf("job %q: target %q: scrape interval %s is not positive", job, instance, s.Interval)
	}
	if s.Timeout < 0 {
		return nil, fmt.Errorf("job %q: target %q: scrape timeout %s is negative", job, instance, s.Timeout)
	}
	if s.Timeout == 0 || s.Timeout > s.Interval {
		s.Timeout = s.Interval
	}
	all, added := fill(labels.FromStrings("job", job, "instance", instance), external)
	return &Target{
		Labels:          all,
		External:        added,
		Pool:            job,
		URL:             rawURL,
		Interval:        s.Interval,
		Timeout:         s.Timeout,
		HonorTimestamps: true,
	}, nil
}

// fill adds those external labels whose names a target lacks, and says which these are.
func fill(own, external labels.Labels) (all, added labels.Labels) {
	if external.IsEmpty() {
		return own, external
	}
	b, extra := labels.NewBuilder(own), labels.NewScratchBuilder(external.Len())
	external.Range(func(l labels.Label) {
		if !own.Has(l.Name) && l.Value != "" {
			b.Set(l.Name, l.Value)
			extra.Add(l.Name, l.Value)
		}
	})
	return b.Labels(), extra.Labels()
}

// Address is host:port of a URL as Prometheus names an instance: without a port it has the scheme's default one.
func Address(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "80"
		if strings.EqualFold(u.Scheme, "https") {
			port = "443"
		}
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// RedactedURL is the URL without its password, for logs and pages. A user that stands alone may be a token, and is hidden
// too.
func (t *Target) RedactedURL() string { return redact.RawURL(t.URL) }

func parseURL(rawURL string) (*url.URL, error) {
	if rawURL == "" {
		return nil, fmt.Errorf("the url is empty")
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		// The error of url.Parse quotes the whole URL, which may hold a password.
		return nil, fmt.Errorf("the url cannot be read")
	}
	switch strings.ToLower(u.Scheme) {
	case "http", "https":
	case "":
		return nil, fmt.Errorf("url %q has no scheme: write http:// or https:// before it", redact.URL(u))
	default:
		return nil, fmt.Errorf("url %q: scheme %q is neither http nor https", redact.URL(u), u.Scheme)
	}
	if u.Hostname() == "" {
		return nil, fmt.Errorf("url %q has no host", redact.URL(u))
	}
	return u, nil
}
