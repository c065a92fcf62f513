package main

import (
	"cmp"
	"fmt"
	"log/slog"

	"github.com/choria-io/prometheus-streams/internal/config"
	"github.com/choria-io/prometheus-streams/internal/stream/jetstream"
	"github.com/choria-io/prometheus-streams/internal/tlsconf"
)

// address says where the servers of a block are and what else the nats command's context says of them: the block's own
// keys go before it. The context is nil if the block names none.
func address(o *jetstream.Options, s *config.ReceiverStream) (*natsContext, error) {
	var err error
	if s.ProxyURL != "" {
		if o.Dialer, err = newProxyDialer(string(s.ProxyURL)); err != nil {
			return nil, fmt.Errorf("proxy_url: %w", err)
		}
	}
	if s.Context == "" {
		return nil, nil
	}
	c, err := readContext(s.Context)
	if err != nil {
		return nil, err
	}
	o.URLs = []string{c.URL}
	o.InboxPrefix = cmp.Or(s.InboxPrefix, c.InboxPrefix)
	o.Domain = cmp.Or(s.Domain, c.Domain)
	o.TLSFirst = s.TLSFirst || c.TLSFirst
	return c, nil
}

// identify says who we are. Secrets in files are read at each connection.
func identify(o *jetstream.Options, s *config.ReceiverStream, c *natsContext) error {
	who := func() (string, string, error) {
		password, err := s.ReadPassword()
		return s.User, password, err
	}
	token := s.ReadToken
	user, hasToken := s.User, s.Token != "" || s.TokenFile != ""
	o.CredentialsFile, o.NKeySeedFile = s.Credentials, s.NKeySeedFile
	if c != nil && user == "" && !hasToken && o.CredentialsFile == "" && o.NKeySeedFile == "" {
		user, hasToken = c.User, c.Token != ""
		o.CredentialsFile, o.NKeySeedFile = c.Creds, c.NKey
		who = func() (string, string, error) {
			now, err := readContext(s.Context)
			if err != nil {
				return user, "", err
			}
			return now.User, now.Password, nil
		}
		token = func() (string, error) {
			now, err := readContext(s.Context)
			if err != nil {
				return "", err
			}
			return now.Token, nil
		}
	}
	if user != "" {
		if _, _, err := who(); err != nil {
			return err
		}
		o.UserInfo = func() (string, string) {
			user, password, _ := who() // a file that went away shows as a refusal by the server
			return user, password
		}
	}
	if hasToken {
		if _, err := token(); err != nil {
			return err
		}
		o.TokenSource = func() string {
			secret, _ := token()
			return secret
		}
	}
	return nil
}

// secure sets up TLS: as the block says, else its context, else the top of the file.
func (h *house) secure(o *jetstream.Options, s *config.ReceiverStream, c *natsContext) error {
	var files *tlsconf.Files
	var err error
	switch {
	case s.TLS != nil:
		files, err = tlsFiles(s.TLS, h.cfg.Identity)
	case c != nil && (c.CA != "" || c.Cert != ""):
		files, err = tlsconf.New(tlsconf.Options{Scheme: tlsconf.Manual, CA: c.CA, Cert: c.Cert, Key: c.Key})
	case h.cfg.TLS != nil:
		files, err = tlsFiles(h.cfg.TLS, h.cfg.Identity)
	default:
		return nil
	}
	if err != nil {
		return err
	}
	if o.TLS, err = files.Config(); err != nil {
		return err
	}
	o.TLSRoots, o.TLSMeaning = files.Roots, files.Explain
	for _, note := range files.Notes() {
		h.env.Logger.Warn(note)
	}
	return nil
}

// offline tells what is wrong with contexts and certificates of a role's streams and of its management, as far as the files show it.
func offline(cfg *config.Config, role config.Role) error {
	h := &house{env: &environment{Logger: slog.New(slog.DiscardHandler)}, cfg: cfg}
	check := func(s *config.ReceiverStream, name string) error {
		o := jetstream.Options{}
		c, err := address(&o, s)
		if err == nil {
			err = h.secure(&o, s, c)
		}
		if err != nil {
			return fmt.Errorf("%s: %s: %w", cfg.File, name, err)
		}
		return nil
	}
	if cfg.Management.Choria() {
		if _, _, _, err := choriaTLS(cfg); err != nil {
			return fmt.Errorf("%s: %w", cfg.File, err)
		}
	}
	switch {
	case role == config.PollerRole && cfg.PollerStream != nil:
		return check(published(cfg.PollerStream), "poller_stream")
	case role == config.ReceiverRole:
		for i := range cfg.ReceiverStreams {
			if err := check(&cfg.ReceiverStreams[i], "receiver_stream"); err != nil {
				return err
			}
		}
	}
	return nil
}

// tlsFiles are the files of a block, in the name of this process unless it names another.
func tlsFiles(t *config.TLS, identity string) (*tlsconf.Files, error) {
	return tlsconf.New(tlsconf.Options{
		Scheme: t.Scheme, Identity: cmp.Or(t.Identity, identity), SSLDir: t.SSLDir, CA: t.CA, Cert: t.Cert, Key: t.Key,
	})
}
