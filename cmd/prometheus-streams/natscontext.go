package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/choria-io/prometheus-streams/internal/bounded"
)

// maxContext bounds the file of a context.
const maxContext = 1 << 20

// natsContext is what a context of the nats command says, as far as it has a meaning here.
type natsContext struct {
	URL         string `json:"url"`
	User        string `json:"user"`
	Password    string `json:"password"`
	Token       string `json:"token"`
	Creds       string `json:"creds"`
	NKey        string `json:"nkey"`
	Cert        string `json:"cert"`
	Key         string `json:"key"`
	CA          string `json:"ca"`
	InboxPrefix string `json:"inbox_prefix"`
	Domain      string `json:"jetstream_domain"`
	TLSFirst    bool   `json:"tls_first"`

	// What would have to be heeded and cannot be.
	NSC       string `json:"nsc"`
	Socks     string `json:"socks_proxy"`
	APIPrefix string `json:"jetstream_api_prefix"`
	UserJWT   string `json:"user_jwt"`
	UserSeed  string `json:"user_seed"`
}

// readContext reads a context of the nats command.
func readContext(name string) (*natsContext, error) {
	path, err := contextPath(name)
	if err != nil {
		return nil, fmt.Errorf("context %q: %w", name, err)
	}
	data, err := bounded.ReadFile(path, maxContext)
	if err != nil {
		return nil, fmt.Errorf("context %q: %w", name, err)
	}
	c, err := parseContext(data)
	if err != nil {
		return nil, fmt.Errorf("context %q: %s: %w", name, path, err)
	}
	return c, nil
}

// contextPath is where the nats command keeps a context.
func contextPath(name string) (string, error) {
	if name == "" || strings.HasPrefix(name, ".") || strings.ContainsAny(name, "/\\\x00") {
		return "", errors.New("not the name of a context")
	}
	dir := os.Getenv("XDG_CONFIG_HOME")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("neither XDG_CONFIG_HOME nor a home directory is known: %w", err)
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "nats", "context", name+".json"), nil
}

// parseContext parses the file of a context. Keys that it does not know are left to the nats command.
func parseContext(data []byte) (*natsContext, error) {
	c := &natsContext{}
	if err := json.Unmarshal(data, c); err != nil {
		return nil, err
	}
	return c, c.check()
}

func (c *natsContext) check() error {
	for key, value := range map[string]string{
		"nsc": c.NSC, "socks_proxy": c.Socks, "jetstream_api_prefix": c.APIPrefix, "user_jwt": c.UserJWT, "user_seed": c.UserSeed,
	} {
		if value != "" {
			return fmt.Errorf("%s is not supported", key)
		}
	}
	ways := 0
	for _, value := range []string{c.User, c.Token, c.Creds, c.NKey} {
		if value != "" {
			ways++
		}
	}
	switch {
	case c.URL == "":
		return errors.New("no url")
	case ways > 1:
		return errors.New("more than one of user, token, creds and nkey")
	case (c.Cert == "") != (c.Key == ""):
		return errors.New("cert and key go together")
	}
	for _, path := range []*string{&c.Creds, &c.NKey, &c.Cert, &c.Key, &c.CA} {
		if rest, ok := strings.CutPrefix(*path, "~/"); ok {
			home, err := os.UserHomeDir()
			if err != nil {
				return err
			}
			*path = filepath.Join(home, rest)
		}
	}
	return nil
}
