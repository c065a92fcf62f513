package config

import (
	"maps"
	"reflect"
	"slices"
	"strings"

	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/relabel"
	"go.yaml.in/yaml/v3"
)

// RemoteWriteBlock has Prometheus' own keys of a remote_write block, as far as they mean something here. Prometheus' own
// type is not used because it brings the clients of three clouds along.
type RemoteWriteBlock struct {
	RemoteTimeout   model.Duration    `yaml:"remote_timeout"`
	Headers         map[string]string `yaml:"headers"`
	WriteRelabel    []*relabel.Config `yaml:"write_relabel_configs"`
	ProtobufMessage string            `yaml:"protobuf_message"`

	SendExemplars        bool `yaml:"send_exemplars"`
	SendNativeHistograms bool `yaml:"send_native_histograms"`

	Metadata struct {
		Send *bool `yaml:"send"`
		// The others are about metadata in requests of their own, which are not sent.
		SendInterval      any `yaml:"send_interval"`
		MaxSamplesPerSend any `yaml:"max_samples_per_send"`
	} `yaml:"metadata_config"`

	HTTP promconfig.HTTPClientConfig `yaml:"-"`
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

	RoundRobinDNS        bool `yaml:"round_robin_dns"`
	FailedRequestLogging bool `yaml:"failed_request_logging"`
	QueueConfig          any  `yaml:"queue_config"`
	SigV4                any  `yaml:"sigv4"`
	AzureAD              any  `yaml:"azuread"`
	GoogleIAM            any  `yaml:"google_iam"`
}

// The values of protobuf_message.
const (
	writeMessage1 = "prometheus.WriteRequest"
	writeMessage2 = "io.prometheus.write.v2.Request"
)

// remoteWriteWithout lists the keys of Prometheus' blocks that change nothing here.
func remoteWriteWithout() []string {
	return []string{"queue_config", "round_robin_dns", "failed_request_logging"}
}

// remoteWriteClouds lists the keys that this build cannot serve.
func remoteWriteClouds() []string { return []string{"sigv4", "azuread", "google_iam"} }

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
		case slices.Contains(remoteWriteWithout(), key.Value):
			d.warn(key.Line, "%s.%s: means nothing here and is ignored", at, key.Value)
		default:
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

// check looks at what the types alone do not say.
func (v *RemoteWrite) check(d *decoder, at string) {
	b := &v.Block
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

// notYet lists the keys of a block that this build cannot serve.
func (v *RemoteWrite) notYet() (keys []string) {
	if v.Prometheus != nil {
		for i := 0; i+1 < len(v.Prometheus.Content); i += 2 {
			if key := v.Prometheus.Content[i].Value; slices.Contains(remoteWriteClouds(), key) {
				keys = append(keys, key)
			}
		}
	}
	return keys
}
