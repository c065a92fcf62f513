package config

import (
	"bytes"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/prometheus/model/relabel"
	"go.yaml.in/yaml/v3"
)

// Show is the configuration as it is in effect, defaults, scrape configs of other files and all, as YAML that can be read
// again. Secrets are masked.
func (c *Config) Show() (string, error) {
	var buf bytes.Buffer
	enc := yaml.NewEncoder(&buf)
	enc.SetIndent(2)
	if err := enc.Encode(c.inEffect()); err != nil {
		return "", fmt.Errorf("show configuration: %w", err)
	}
	return buf.String(), nil
}

// MarshalYAML shows the block with our keys.
func (v RemoteWrite) MarshalYAML() (any, error) { return newMask().node(v.Prometheus, 0), nil }

// mask copies nodes with everything hidden that may be a secret. It stops at a depth and at a number of values:
// aliases could make both endless.
type mask struct {
	secret *regexp.Regexp
	left   int
}

func newMask() *mask {
	return &mask{
		secret: regexp.MustCompile(`(?i)(password|credentials|secret|secrets|token|key|headers|header|claims|endpoint_params)$`),
		left:   100_000,
	}
}

// node hides values under keys with such names, and the user information in URLs.
func (m *mask) node(n *yaml.Node, depth int) *yaml.Node {
	n = resolve(n)
	if m.left--; depth > 16 || m.left < 0 {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: "…"}
	}
	out := &yaml.Node{Kind: n.Kind, Tag: n.Tag, Style: n.Style, Value: redact(n.Value)}
	rule := n.Kind == yaml.MappingNode && isRelabelRule(n)
	for i, item := range n.Content {
		if m.left < 0 && i%2 == 0 {
			break
		}
		if n.Kind == yaml.MappingNode && i%2 == 1 && m.secret.MatchString(resolve(n.Content[i-1]).Value) {
			item = m.hide(item, depth+1)
		} else if n.Kind == yaml.MappingNode && i%2 == 0 && resolve(item).Kind == yaml.ScalarNode {
			item = resolve(item)
			item = &yaml.Node{Kind: item.Kind, Tag: item.Tag, Style: item.Style, Value: item.Value}
		} else if rule && resolve(item).Kind == yaml.ScalarNode { // an @ in a regex is not that of a URL
			item = resolve(item)
			m.left--
			item = &yaml.Node{Kind: item.Kind, Tag: item.Tag, Style: item.Style, Value: item.Value}
		} else {
			item = m.node(item, depth+1)
		}
		out.Content = append(out.Content, item)
	}
	return out
}

// isRelabelRule tells that a mapping has no keys but those of a rule of relabelling.
func isRelabelRule(n *yaml.Node) bool {
	known := fieldsOf(reflect.TypeFor[relabel.Config]())
	regex := false
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := resolve(n.Content[i]).Value
		if !slices.ContainsFunc(known, func(f field) bool { return f.name == key }) {
			return false
		}
		regex = regex || key == "regex"
	}
	return regex
}

// hide keeps the keys of a mapping and the length of a list, so that what is shown can be read again, and no value.
func (m *mask) hide(n *yaml.Node, depth int) *yaml.Node {
	n = resolve(n)
	m.left--
	if n.Kind == yaml.ScalarNode || depth > 16 || m.left < 0 {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: masked}
	}
	out := &yaml.Node{Kind: n.Kind, Tag: n.Tag, Style: n.Style}
	for i, item := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			item = resolve(item)
			item = &yaml.Node{Kind: yaml.ScalarNode, Tag: item.Tag, Style: item.Style, Value: item.Value}
		} else {
			item = m.hide(item, depth+1)
		}
		out.Content = append(out.Content, item)
	}
	return out
}

// Files lists the problems with files that the configuration names to be read: those of the role's streams, of the web
// server, of scrape configs and of the Push Gateway's client.
func (c *Config) Files(role Role) error {
	var e Errors
	check := func(path, file string) {
		if file == "" {
			return
		}
		if f, err := os.Open(file); err != nil {
			e.add(c.File, lineOf(c.lines, path), path+": "+err.Error())
		} else {
			_ = f.Close()
		}
	}
	stream := func(path string, s *Stream) {
		check(path+".credentials", s.Credentials)
		check(path+".nkey_seed_file", s.NKeySeedFile)
		check(path+".password_file", s.PasswordFile)
		check(path+".token_file", s.TokenFile)
	}
	if role == PollerRole && c.PollerStream != nil {
		stream("poller_stream", c.PollerStream)
	}
	if role == ReceiverRole {
		for i := range c.ReceiverStreams {
			stream(c.receiverPath(i), &c.ReceiverStreams[i].Stream)
		}
	}
	if role.Polls() {
		c.scrapeFilesMissing(&e)
	}
	check("web.config_file", c.Web.ConfigFile)
	if c.PushGateway != nil && role.Receives() {
		for path, file := range httpFiles(&c.PushGateway.HTTP) {
			check("push_gateway."+path, file)
		}
	}
	for i := range c.RemoteWrite {
		if !role.Receives() {
			break
		}
		b := &c.RemoteWrite[i].Block
		for path, file := range httpFiles(&b.HTTP) {
			check("remote_write["+itoa(i)+"]."+path, file)
		}
		if b.GoogleIAM != nil {
			check("remote_write["+itoa(i)+"].google_iam.credentials_file", b.GoogleIAM.CredentialsFile)
		}
	}
	slices.SortFunc(e.List, func(a, b *Error) int { return strings.Compare(a.Text, b.Text) })
	return e.or()
}

// httpFiles are the files that an HTTP client reads, by key.
func httpFiles(h *promconfig.HTTPClientConfig) map[string]string {
	out := map[string]string{
		"tls_config.ca_file": h.TLSConfig.CAFile, "tls_config.cert_file": h.TLSConfig.CertFile, "tls_config.key_file": h.TLSConfig.KeyFile,
	}
	if h.BasicAuth != nil {
		out["basic_auth.username_file"], out["basic_auth.password_file"] = h.BasicAuth.UsernameFile, h.BasicAuth.PasswordFile
	}
	if h.Authorization != nil {
		out["authorization.credentials_file"] = h.Authorization.CredentialsFile
	}
	if h.OAuth2 != nil {
		out["oauth2.client_secret_file"] = h.OAuth2.ClientSecretFile
	}
	return out
}

// Keys lists every key of a configuration by its path, for the documentation: jobs.NAME stands for any job,
// and Prometheus' own keys inside push_gateway, remote_write and scrape_configs are left out.
func Keys() []string {
	var out []string
	var walk func(path string, t reflect.Type)
	walk = func(path string, t reflect.Type) {
		for _, f := range fieldsOf(t) {
			at := join(path, f.name)
			kind := f.kind
			for kind.Kind() == reflect.Pointer || kind.Kind() == reflect.Slice && kind.Elem().Kind() == reflect.Struct {
				kind = kind.Elem()
			}
			out = append(out, at)
			switch kind {
			case reflect.TypeFor[Job]():
				out = append(out, at+".NAME.targets.name", at+".NAME.targets.url")
			case reflect.TypeFor[PushGateway]():
				for _, own := range pushGatewayKeys() {
					out = append(out, join(at, own.name))
				}
			default:
				if kind.Kind() == reflect.Struct {
					walk(at, kind)
				}
			}
		}
	}
	walk("", reflect.TypeFor[Config]())
	return out
}
