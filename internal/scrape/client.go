package scrape

import (
	"context"
	"fmt"
	"net"
	"net/http"

	promconfig "github.com/prometheus/common/config"

	"github.com/choria-io/prometheus-streams/internal/target"
)

// NewClient makes a client that does as that of Prometheus for a scrape config without HTTP settings. It holds idle
// connections and is meant to be shared by the scrapers of a process.
func NewClient() (*http.Client, error) {
	c, err := clientFor(promconfig.DefaultHTTPClientConfig, "prometheus-streams")
	if err != nil {
		return nil, fmt.Errorf("make the HTTP client of scrapes: %w", err)
	}
	return c, nil
}

// CheckClient tells whether a client can be made: whether its files are there and fit together.
func CheckClient(c *target.Client) error {
	made, err := makeClient(c)
	if err != nil {
		return err
	}
	made.CloseIdleConnections()
	return nil
}

// makeClient makes a client that does as Prometheus'. Files with certificates and secrets are read again when they
// change.
func makeClient(c *target.Client) (*http.Client, error) {
	if c == nil {
		return NewClient()
	}
	construct := clientFor
	if c.Socket != "" {
		construct = func(settings promconfig.HTTPClientConfig, name string) (*http.Client, error) {
			return promconfig.NewClientFromConfig(settings, name, promconfig.WithDialContextFunc(
				func(ctx context.Context, _, _ string) (net.Conn, error) {
					return (&net.Dialer{}).DialContext(ctx, "unix", c.Socket)
				}))
		}
	}
	made, err := construct(c.HTTP, c.Name)
	if err != nil {
		return nil, fmt.Errorf("job %q: make the HTTP client of its scrapes: %w", c.Name, err)
	}
	return made, nil
}

// clientFor makes Prometheus' client for some settings, with direct below it if that suits them.
func clientFor(settings promconfig.HTTPClientConfig, name string) (*http.Client, error) {
	if !suitsDirect(settings) {
		return promconfig.NewClientFromConfig(settings, name)
	}
	auth, basic := settings.Authorization, settings.BasicAuth
	settings.Authorization, settings.BasicAuth = nil, nil
	c, err := promconfig.NewClientFromConfig(settings, name)
	if err != nil {
		return nil, err
	}
	c.Transport = newDirect(c.Transport)
	if auth != nil {
		c.Transport = promconfig.NewAuthorizationCredentialsRoundTripper(auth.Type, secret(auth.Credentials, auth.CredentialsFile), c.Transport)
	}
	if basic != nil {
		c.Transport = promconfig.NewBasicAuthRoundTripper(secret(promconfig.Secret(basic.Username), basic.UsernameFile),
			secret(basic.Password, basic.PasswordFile), c.Transport)
	}
	return c, nil
}

// suitsDirect tells whether settings ask for nothing that direct does not do, and for no credentials but those that can
// be put on top of it.
func suitsDirect(s promconfig.HTTPClientConfig) bool {
	auth, basic := s.Authorization, s.BasicAuth
	switch {
	case !canLook, s.ProxyFromEnvironment, s.ProxyURL.URL != nil, s.OAuth2 != nil, s.HTTPHeaders != nil,
		s.BearerToken != "", s.BearerTokenFile != "":
		return false
	case auth != nil && auth.CredentialsRef != "", basic != nil && (basic.UsernameRef != "" || basic.PasswordRef != ""):
		return false
	}
	return true
}

// secret is the reader of a secret that is given or in a file, or nil.
func secret(text promconfig.Secret, file string) promconfig.SecretReader {
	switch {
	case text != "":
		return promconfig.NewInlineSecret(string(text))
	case file != "":
		return promconfig.NewFileSecret(file)
	}
	return nil
}
