package config

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// publisherToken stands in a subject where the publisher's name does.
const publisherToken = "{publisher}"

// maxBlocks bounds the blocks of receiver_stream.
const maxBlocks = 64

func (v *ReceiverStreams) decode(d *decoder, path string, n *yaml.Node) {
	if n.Kind == yaml.MappingNode {
		*v = make(ReceiverStreams, 1)
		(*v)[0].defaults()
		d.value(path, n, reflectOf(&(*v)[0]))
		return
	}
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		d.bad(path, n, "must be a block or a list of blocks, not %s", kindOf(n))
		return
	}
	if len(n.Content) > maxBlocks {
		d.bad(path, n, "%d blocks, at most %d are allowed", len(n.Content), maxBlocks)
		return
	}
	var plain []ReceiverStream
	d.list(path, n, reflectOf(&plain))
	*v = plain
}

// MarshalYAML shows one block as a block.
func (v ReceiverStreams) MarshalYAML() (any, error) {
	if len(v) == 1 {
		return v[0], nil
	}
	return []ReceiverStream(v), nil
}

// finish checks a stream block and fills in what follows from it.
func (s *Stream) finish(d *decoder, path, role, identity string) {
	s.finishAddress(d, path)
	s.finishNames(d, path, role, identity)
	s.finishCredentials(d, path)
	s.TLS.finish(d, path+".tls")
	d.positive(path+".stream_config.max_age", int64(s.StreamConfig.MaxAge))
	if r := s.StreamConfig.Replicas; r < 1 || r > 5 {
		d.invalid(path+".stream_config.replicas", "must be 1 to 5, not %d", r)
	}
}

func (s *Stream) finishAddress(d *decoder, path string) {
	switch {
	case d.failed(path + ".urls"):
	case len(s.URLs) > 0 && s.Context != "":
		d.invalid(path, "urls and context exclude each other")
	case len(s.URLs) == 0 && s.Context == "":
		d.invalid(path, "without urls: where NATS is, like nats://127.0.0.1:4222")
	}
	for _, u := range s.URLs {
		d.natsURL(path+".urls", u)
	}
	if s.ProxyURL != "" {
		d.httpURL(path+".proxy_url", s.ProxyURL)
	}
}

// natsURL checks the URL of a NATS server; one without a scheme is host:port.
func (d *decoder) natsURL(path string, raw URL) {
	text := raw
	if !strings.Contains(string(raw), "://") {
		text = "nats://" + raw
	}
	u, err := parseURL(text)
	switch {
	case err != nil:
		d.invalid(path, "%s", err)
	case !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme):
		d.invalid(path, "not a nats://, tls://, ws:// or wss:// URL: %s", quote(string(raw)))
	case u.Hostname() == "" || strings.ContainsAny(u.Host, " \t"):
		d.invalid(path, "a URL without a host: %s", quote(string(raw)))
	case !validPort(u.Port()):
		d.invalid(path, "the port %s is not between 1 and 65535", quote(u.Port()))
	}
}

func (s *Stream) finishNames(d *decoder, path, role, identity string) {
	if problem := subjectProblem(s.Topic); problem != "" {
		d.invalid(path+".topic", "illegal topic %s: %s", quote(s.Topic), problem)
	}
	switch {
	case d.failed(path+".stream") || d.failed(path+".cluster_id"):
	case s.Name != "" && s.ClusterID != "":
		d.invalid(path, "stream (JetStream) and cluster_id (NATS Streaming) exclude each other")
	case s.Name == "" && s.ClusterID == "":
		s.Name = defaultStream(s.Topic)
	}
	if problem := tokenProblem(s.Name); s.Name != "" && problem != "" {
		d.invalid(path+".stream", "illegal name of a stream %s: %s", quote(s.Name), problem)
	}
	if s.ClusterID != "" && !wordOnly(s.ClusterID) {
		d.invalid(path+".cluster_id", "illegal cluster id %s: only letters, digits, - and _ are allowed", quote(s.ClusterID))
	}
	switch {
	case s.ClientID == "" && !d.failed(path+".client_id"):
		s.ClientID = defaultClientID(role, identity)
	case s.ClusterID != "" && !wordOnly(s.ClientID):
		d.invalid(path+".client_id", "illegal client id %s: only letters, digits, - and _ are allowed", quote(s.ClientID))
	default:
		if problem := tokenProblem(s.ClientID); problem != "" {
			d.invalid(path+".client_id", "illegal client id %s: %s", quote(s.ClientID), problem)
		}
	}
	if problem := tokenProblem(s.Domain); s.Domain != "" && problem != "" {
		d.invalid(path+".domain", "illegal domain %s: %s", quote(s.Domain), problem)
	}
	if problem := subjectProblem(s.InboxPrefix); s.InboxPrefix != "" && problem != "" {
		d.invalid(path+".inbox_prefix", "illegal prefix %s: %s", quote(s.InboxPrefix), problem)
	}
}

func (s *Stream) finishCredentials(d *decoder, path string) {
	var ways []string
	for key, set := range map[string]bool{
		"credentials": s.Credentials != "", "nkey_seed_file": s.NKeySeedFile != "",
		"user": s.User != "", "token": s.Token != "" || s.TokenFile != "",
	} {
		if set {
			ways = append(ways, key)
		}
	}
	if slices.Sort(ways); len(ways) > 1 {
		d.invalid(path, "%s exclude each other", strings.Join(ways, " and "))
	}
	password := s.Password != "" || s.PasswordFile != ""
	if s.Password != "" && s.PasswordFile != "" {
		d.invalid(path, "password and password_file exclude each other")
	}
	if s.Token != "" && s.TokenFile != "" {
		d.invalid(path, "token and token_file exclude each other")
	}
	if password && s.User == "" && !d.failed(path+".user") {
		d.invalid(path, "password without user")
	}
	for _, file := range []*string{&s.Credentials, &s.NKeySeedFile, &s.PasswordFile, &s.TokenFile} {
		*file = d.toRead(*file)
	}
}

func (s *ReceiverStream) finishReceiver(d *decoder, path, identity string) {
	s.finish(d, path, "receiver", identity)
	if s.Subject == "" {
		s.Subject = s.Topic + ".frames." + publisherToken + ".*"
	}
	if s.SchemasStream == "" && s.Name != "" {
		s.SchemasStream = s.Name + "_SCHEMAS"
	}
	if s.SchemasSubject == "" {
		s.SchemasSubject = s.Topic + ".schemas." + publisherToken + ".*"
	}
	if problem := tokenProblem(s.SchemasStream); s.SchemasStream != "" && problem != "" {
		d.invalid(path+".schemas_stream", "illegal name of a stream %s: %s", quote(s.SchemasStream), problem)
	}
	d.template(path+".subject", s.Subject)
	d.template(path+".schemas_subject", s.SchemasSubject)
	if !strings.HasSuffix(s.SchemasSubject, ".*") {
		d.invalid(path+".schemas_subject", "must end in .*, where the id of the schema stands: %s", quote(s.SchemasSubject))
	}
}

// template checks a subject that has {publisher} as one of its tokens.
func (d *decoder) template(path, subject string) {
	if _, given := d.lines[path]; !given {
		return // made of the topic, which was checked
	}
	tokens := strings.Split(subject, ".")
	publishers := 0
	for i, token := range tokens {
		switch token {
		case publisherToken:
			publishers++
			tokens[i] = "p"
		case "*":
			tokens[i] = "w"
		}
	}
	if last := len(tokens) - 1; tokens[last] == ">" {
		tokens[last] = "w"
	}
	if problem := subjectProblem(strings.Join(tokens, ".")); problem != "" {
		d.invalid(path, "illegal subject %s: %s", quote(subject), problem)
	} else if publishers != 1 {
		d.invalid(path, "must have {publisher} as exactly one of its tokens: %s", quote(subject))
	}
}

// subjectProblem says why NATS would not take a subject without wildcards, or "".
func subjectProblem(subject string) string {
	switch {
	case subject == "":
		return "it is empty"
	case len(subject) > maxName:
		return "it has more than " + itoa(maxName) + " bytes"
	case strings.HasPrefix(subject, "$"):
		return "subjects with $ belong to the server"
	}
	for token := range strings.SplitSeq(subject, ".") {
		if token == "" {
			return "it has an empty token (a dot too many)"
		}
		if problem := tokenProblem(token); problem != "" && !strings.ContainsAny(token, `/\`) {
			return problem
		}
	}
	return ""
}

// tokenProblem says why NATS would not take the name of a stream or a durable, or "".
func tokenProblem(name string) string {
	switch {
	case name == "":
		return "it is empty"
	case len(name) > maxName:
		return "it has more than " + itoa(maxName) + " bytes"
	case strings.ContainsAny(name, "*>"):
		return "wildcards (* and >) are not allowed"
	case strings.ContainsFunc(name, func(r rune) bool { return r <= 0x20 || r == 0x7f || r == '\u00a0' || r == '\uFFFD' }):
		return "blanks and control characters are not allowed"
	case strings.ContainsAny(name, `./\`):
		return `none of . / \ is allowed`
	}
	return ""
}

// defaultStream is the name of a topic's stream: the topic in capitals, with all but letters, digits and - made _.
func defaultStream(topic string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-':
			return r
		}
		return '_'
	}, topic)
}

// Filter is the subject to consume: Subject with * for the publisher.
func (s *ReceiverStream) Filter() string {
	return strings.ReplaceAll(s.Subject, publisherToken, "*")
}

// PublisherIndex tells which token of a message's subject names the publisher, counted from 0.
func (s *ReceiverStream) PublisherIndex() int {
	return slices.Index(strings.Split(s.Subject, "."), publisherToken)
}

// SchemaSubject is where the schema of that id is stored; publisher and id are one token each.
func (s *ReceiverStream) SchemaSubject(publisher, id string) string {
	return strings.TrimSuffix(strings.ReplaceAll(s.SchemasSubject, publisherToken, publisher), "*") + id
}

func wordOnly(s string) bool {
	return len(s) <= maxName && regexp.MustCompile(`^[A-Za-z0-9_-]+$`).MatchString(s)
}

// defaultClientID is prometheus_streams_<role>_<identity> in letters, digits, - and _; an identity that had to be changed
// for that gets six digits of its hash, so that two identities never become one.
func defaultClientID(role, identity string) string {
	plain := regexp.MustCompile(`[^A-Za-z0-9_-]`).ReplaceAllString(identity, "_")
	if plain != identity || len(plain) > 100 {
		sum := sha256.Sum256([]byte(identity))
		plain = plain[:min(len(plain), 100)] + "_" + hex.EncodeToString(sum[:3])
	}
	return "prometheus_streams_" + role + "_" + plain
}
