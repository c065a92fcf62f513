package config

import (
	"maps"
	"reflect"
	"slices"
	"strings"

	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/relabel"
	"github.com/prometheus/prometheus/storage/remote/azuread"
	"github.com/prometheus/prometheus/storage/remote/googleiam"
	"github.com/prometheus/sigv4"
	"go.yaml.in/yaml/v3"
)

// RemoteWriteBlock has Prometheus' own keys of a remote_write block, as far as they mean something here. Prometheus' own
// type does not tell what was set from what is a default.
type RemoteWriteBlock struct {
	RemoteTimeout   model.Duration    `yaml:"remote_timeout"`
	Headers         map[string]string `yaml:"headers"`
	WriteRelabel    []*relabel.Config `yaml:"write_relabel_configs"`
	ProtobufMessage string            `yaml:"protobuf_message"`

	SendExemplars        bool `yaml:"send_exemplars"`
	SendNativeHistograms bool `yaml:"send_native_histograms"`
	RoundRobinDNS        bool `yaml:"round_robin_dns"`

	// At most one of these, and none beside those of HTTP, says who we are.
	SigV4     *sigv4.SigV4Config     `yaml:"sigv4"`
	AzureAD   *azuread.AzureADConfig `yaml:"azuread"`
	GoogleIAM *googleiam.Config      `yaml:"google_iam"`

	Queue RemoteWriteQueue `yaml:"queue_config"`

	Metadata struct {
		Send *bool `yaml:"send"`
		// The others are about metadata in requests of their own, which are not sent.
		SendInterval      any `yaml:"send_interval"`
		MaxSamplesPerSend any `yaml:"max_samples_per_send"`
	} `yaml:"metadata_config"`

	HTTP promconfig.HTTPClientConfig `yaml:"-"`
}

// RemoteWriteQueue has what of queue_config means something here; 0 is not set.
type RemoteWriteQueue struct {
	MaxShards         int            `yaml:"max_shards"`
	MaxSamplesPerSend int            `yaml:"max_samples_per_send"`
	BatchSendDeadline model.Duration `yaml:"batch_send_deadline"`
	MinBackoff        model.Duration `yaml:"min_backoff"`
	MaxBackoff        model.Duration `yaml:"max_backoff"`

	// The others are about a queue in memory, which there is not: the stream is the queue. Requests that are answered with
	// 429 are always repeated, and nothing is dropped for its age.
	Capacity         any `yaml:"capacity"`
	MinShards        any `yaml:"min_shards"`
	RetryOnRateLimit any `yaml:"retry_on_http_429"`
	SampleAgeLimit   any `yaml:"sample_age_limit"`
}

// remoteWriteKeys are all keys that a block may have.
type remoteWriteKeys struct {
	RemoteWriteBlock            `yaml:",inline"`
	promconfig.HTTPClientConfig `yaml:",inline"`

	Name             any `yaml:"name"`
	URL              any `yaml:"url"`
	Protocol         any `yaml:"protocol"`
	PublisherLabel   any `yaml:"publisher_label"`
	OutOfOrderWindow any `yaml:"out_of_order_window"`
	LateDirectory    any `yaml:"late_directory"`
	LateMaxSize      any `yaml:"late_max_size"`
	PublisherMetrics any `yaml:"publisher_metrics"`

	FailedRequestLogging bool `yaml:"failed_request_logging"`
}

// The values of protobuf_message.
const (
	writeMessage1 = "prometheus.WriteRequest"
	writeMessage2 = "io.prometheus.write.v2.Request"
)

// remoteWriteWithout lists the keys of Prometheus' blocks, and of blocks in them, that change nothing here, with what is
// done instead.
func remoteWriteWithout() map[string]string {
	return map[string]string{
		"failed_request_logging":               "requests that do not succeed are logged, at most once a minute",
		"metadata_config.send_interval":        "metadata goes along with each series",
		"metadata_config.max_samples_per_send": "metadata goes along with each series",
		"queue_config.capacity":                "the stream is the queue",
		"queue_config.min_shards":              "there are always 64",
		"queue_config.retry_on_http_429":       "what is answered with 429 is always sent again",
		"queue_config.sample_age_limit":        "nothing is dropped for its age",
	}
}

// block decodes Prometheus' keys of a block.
func (v *RemoteWrite) block(d *decoder, at string, n *yaml.Node) {
	before := len(d.errors.List) + d.errors.Omitted
	n = d.foreign(at, n, reflect.TypeFor[remoteWriteKeys]())
	if before != len(d.errors.List)+d.errors.Omitted {
		return
	}
	clients := fieldsOf(reflect.TypeFor[promconfig.HTTPClientConfig]())
	http := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: n.Line, Column: n.Column}
	own := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: n.Line, Column: n.Column}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch {
		case slices.ContainsFunc(clients, func(f field) bool { return f.name == key.Value }):
			http.Content = append(http.Content, key, value)
		default:
			d.without(at, "", key, value)
			own.Content = append(own.Content, key, value)
		}
	}
	b := &v.Block
	b.HTTP = promconfig.DefaultHTTPClientConfig
	if err := http.Decode(&b.HTTP); err != nil {
		d.bad(at, n, "%s", foreignError(err))
		return
	}
	b.HTTP.SetDirectory(d.dir)
	if err := own.Decode(b); err != nil {
		d.bad(at, n, "%s", foreignError(err))
		return
	}
	v.check(d, at)
}

// without warns of keys that change nothing.
func (d *decoder) without(at, within string, key, value *yaml.Node) {
	if instead, ok := remoteWriteWithout()[within+key.Value]; ok {
		d.warn(key.Line, "%s.%s%s: means nothing here and is ignored: %s", at, within, key.Value, instead)
		return
	}
	if within != "" || value.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(value.Content); i += 2 {
		d.without(at, key.Value+".", value.Content[i], value.Content[i+1])
	}
}

// check looks at what the types alone do not say.
func (v *RemoteWrite) check(d *decoder, at string) {
	b := &v.Block
	v.checkQueue(d, at+".queue_config")
	if ways := v.waysIn(); len(ways) > 1 {
		d.invalid(at, "has several of basic_auth, authorization, oauth2, sigv4, azuread and google_iam: %s", strings.Join(ways, ", "))
	}
	if b.GoogleIAM != nil && b.GoogleIAM.CredentialsFile != "" {
		b.GoogleIAM.CredentialsFile = promconfig.JoinDir(d.dir, b.GoogleIAM.CredentialsFile)
	}
	if b.RemoteTimeout < 0 {
		d.invalid(at+".remote_timeout", "must not be negative")
	}
	if v.LateMaxSize < 0 {
		d.invalid(at+".late_max_size", "must not be negative")
	}
	for _, r := range b.WriteRelabel {
		if r == nil {
			d.invalid(at+".write_relabel_configs", "has an empty rule")
		} else if err := r.Validate(model.UTF8Validation); err != nil {
			d.invalid(at+".write_relabel_configs", "%s", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.Headers)) {
		switch low := strings.ToLower(name); low {
		case "host", "content-encoding", "content-length", "content-type", "user-agent", "connection", "keep-alive",
			"proxy-authenticate", "proxy-authorization", "www-authenticate", "accept-encoding",
			"x-prometheus-remote-write-version", "x-prometheus-remote-read-version":
			d.invalid(at+".headers", "%s is set by the protocol", low)
		case "authorization":
			d.invalid(at+".headers", "authorization is set by the keys basic_auth, authorization and oauth2")
		}
	}
	switch b.ProtobufMessage {
	case "":
	case writeMessage1:
		if v.Protocol == "2" {
			d.invalid(at+".protobuf_message", "contradicts protocol: 2")
		} else if v.Protocol == "" {
			v.Protocol = "1"
		}
	case writeMessage2:
		if v.Protocol == "1" {
			d.invalid(at+".protobuf_message", "contradicts protocol: 1")
		}
	default:
		d.invalid(at+".protobuf_message", "not %s or %s: %s", writeMessage1, writeMessage2, quote(b.ProtobufMessage))
	}
}

func (v *RemoteWrite) checkQueue(d *decoder, at string) {
	q := &v.Block.Queue
	for _, x := range []struct {
		key   string
		value int64
	}{
		{"max_shards", int64(q.MaxShards)}, {"max_samples_per_send", int64(q.MaxSamplesPerSend)},
		{"batch_send_deadline", int64(q.BatchSendDeadline)}, {"min_backoff", int64(q.MinBackoff)}, {"max_backoff", int64(q.MaxBackoff)},
	} {
		if x.value < 0 {
			d.invalid(at+"."+x.key, "must be positive")
		}
	}
	if q.MaxBackoff > 0 && q.MaxBackoff < q.MinBackoff {
		d.invalid(at+".max_backoff", "must not be less than min_backoff: %s and %s", q.MaxBackoff, q.MinBackoff)
	}
}

// waysIn lists the keys that say who we are, of which Prometheus allows one.
func (v *RemoteWrite) waysIn() (keys []string) {
	b := &v.Block
	for _, x := range []struct {
		key string
		set bool
	}{
		{"basic_auth", b.HTTP.BasicAuth != nil}, {"authorization", b.HTTP.Authorization != nil}, {"oauth2", b.HTTP.OAuth2 != nil},
		{"sigv4", b.SigV4 != nil}, {"azuread", b.AzureAD != nil}, {"google_iam", b.GoogleIAM != nil},
	} {
		if x.set {
			keys = append(keys, x.key)
		}
	}
	return keys
}
