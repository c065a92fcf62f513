package config

import (
	"strings"
	"testing"
	"time"
)

func TestRemoteWriteBlock(t *testing.T) {
	c, warnings, err := Parse("c.yaml", []byte(`
remote_write:
- name: central
  url: http://a/api/v1/write
  remote_timeout: 7s
  headers: {X-Scope-OrgID: tenant}
  write_relabel_configs:
  - {source_labels: [job], regex: a, action: drop}
  protobuf_message: prometheus.WriteRequest
  send_exemplars: true
  send_native_histograms: true
  metadata_config: {send: false}
  basic_auth: {username: u, password_file: p}
  queue_config: {max_shards: 5, capacity: 100}
  publisher_label: true
  publisher_metrics: true
  out_of_order_window: 30m
  late_directory: /var/late
  late_max_size: 100MiB
- url: http://b
`))
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0].String(), "c.yaml:14: remote_write[0].queue_config.capacity: means nothing here") {
		t.Errorf("warnings %v", warnings)
	}
	a, b := &c.RemoteWrite[0], &c.RemoteWrite[1]
	if time.Duration(a.Block.RemoteTimeout) != 7*time.Second || a.Block.Headers["X-Scope-OrgID"] != "tenant" ||
		len(a.Block.WriteRelabel) != 1 || a.Block.WriteRelabel[0].Action != "drop" || a.Protocol != "1" ||
		*a.Block.Metadata.Send || a.Block.HTTP.BasicAuth.Username != "u" || !a.Block.HTTP.FollowRedirects ||
		a.PublisherLabel == "" || time.Duration(a.OutOfOrderWindow) != 30*time.Minute ||
		time.Duration(a.PublisherMetrics) != 15*time.Second || b.PublisherMetrics != 0 || a.Block.Queue.MaxShards != 5 ||
		a.LateDirectory != "/var/late" || a.LateMaxSize != 100*MiB || !a.Block.SendExemplars || !a.Block.SendNativeHistograms {
		t.Errorf("block %+v", a)
	}
	if b.Protocol != "" || b.Block.Metadata.Send != nil || b.Block.SendExemplars || b.Block.SendNativeHistograms || !b.Block.HTTP.EnableHTTP2 {
		t.Errorf("block %+v", b)
	}
}

func TestRemoteWriteErrors(t *testing.T) {
	for text, want := range map[string]string{
		"ulr: x":                                                        `unknown key "ulr" in remote_write[0]; did you mean "url"?`,
		"remote_timeout: x":                                             "remote_write[0]",
		"remote_timeout: [1]":                                           "remote_write[0].remote_timeout: must be one value",
		"headers: {Content-Type: x}":                                    "remote_write[0].headers: content-type is set by the protocol",
		"headers: {Authorization: x}":                                   "remote_write[0].headers: authorization is set by the keys",
		"write_relabel_configs: [null]":                                 "remote_write[0].write_relabel_configs",
		"write_relabel_configs: [{acton: x}]":                           `unknown key "acton"`,
		"write_relabel_configs: [{action: x}]":                          "remote_write[0]",
		"protobuf_message: x":                                           "remote_write[0].protobuf_message: not prometheus.WriteRequest or",
		"protocol: 2, protobuf_message: prometheus.WriteRequest":        "contradicts protocol: 2",
		"protocol: 1, protobuf_message: io.prometheus.write.v2.Request": "contradicts protocol: 1",
		"basic_auth: {username: a}, bearer_token: b":                    "remote_write[0]",
		"basic_auth: {username: a}, sigv4: {region: r}":                 "remote_write[0]: has several of basic_auth, authorization, oauth2, sigv4, azuread and google_iam: basic_auth, sigv4",
		"sigv4: {regoin: r}":                                            `unknown key "regoin" in remote_write[0].sigv4; did you mean "region"?`,
		"sigv4: {external_id: r}":                                       "external_id can only be used with role_arn",
		"azuread: {cloud: x}":                                           "must provide a cloud",
		"queue_config: {max_shard: 1}":                                  `unknown key "max_shard" in remote_write[0].queue_config; did you mean "max_shards"?`,
		"queue_config: {max_shards: -1}":                                "remote_write[0].queue_config.max_shards: must be positive",
		"queue_config: {min_backoff: 5s, max_backoff: 1s}":              "remote_write[0].queue_config.max_backoff: must not be less than min_backoff: 1s and 5s",
		"publisher_metrics: 10ms":                                       `remote_write[0].publisher_metrics: "10ms" is less than a second`,
		"publisher_metrics: often":                                      "remote_write[0].publisher_metrics: not a duration",
		"metadata_config: {sned: true}":                                 `unknown key "sned"`,
	} {
		_, _, err := Parse("c.yaml", []byte("remote_write: [{url: 'http://a', "+text+"}]"))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "c.yaml:1") {
			t.Errorf("%s: error %v, want one with %q", text, err, want)
		}
	}
	_, _, err := Parse("c.yaml", []byte("remote_write: [{url: 'http://a', name: x}, {url: 'http://b', name: x}]"))
	if err == nil || !strings.Contains(err.Error(), `remote_write[1]: the name "x" is on line 1 already`) {
		t.Errorf("two of one name: %v", err)
	}
}
