package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	promconfig "github.com/prometheus/prometheus/config"
)

// promKey is one key of Prometheus' remote_write block: a value for it, and whether it counts for something here. What does not
// warns.
type promKey struct {
	value   string
	ignored bool
}

// promKeys are all keys that Prometheus has in a remote_write block, as deep as its types go.
func promKeys() map[string]promKey {
	return map[string]promKey{
		"url": {value: "http://a"}, "name": {value: "n"}, "remote_timeout": {value: "5s"}, "headers": {value: "{X-A: b}"},
		"write_relabel_configs": {value: "[{action: labeldrop, regex: a}]"},
		"send_exemplars":        {value: "true"}, "send_native_histograms": {value: "true"}, "round_robin_dns": {value: "true"},
		"protobuf_message":       {value: "prometheus.WriteRequest"},
		"failed_request_logging": {value: "true", ignored: true},

		"queue_config.capacity": {value: "1", ignored: true}, "queue_config.min_shards": {value: "1", ignored: true},
		"queue_config.retry_on_http_429": {value: "true", ignored: true}, "queue_config.sample_age_limit": {value: "1h", ignored: true},
		"queue_config.max_shards": {value: "3"}, "queue_config.max_samples_per_send": {value: "3"}, "queue_config.batch_send_deadline": {value: "3s"},
		"queue_config.min_backoff": {value: "3s"}, "queue_config.max_backoff": {value: "3s"},

		"metadata_config.send": {value: "false"}, "metadata_config.send_interval": {value: "1m", ignored: true},
		"metadata_config.max_samples_per_send": {value: "3", ignored: true},

		"basic_auth": {value: "{username: a, password_file: /b}"}, "authorization": {value: "{type: Bearer, credentials_file: /b}"},
		"oauth2":       {value: "{client_id: a, client_secret: b, token_url: 'http://t', scopes: [s], endpoint_params: {a: b}, tls_config: {insecure_skip_verify: true}}"},
		"bearer_token": {value: "t"}, "bearer_token_file": {value: "/t"},
		"tls_config":       {value: "{ca_file: /ca, cert_file: /c, key_file: /k, server_name: n, insecure_skip_verify: true, min_version: TLS12}"},
		"follow_redirects": {value: "false"}, "enable_http2": {value: "false"}, "http_headers": {value: "{X-B: {values: [a]}}"},
		"proxy_url": {value: "http://p"}, "no_proxy": {value: "n"}, "proxy_from_environment": {value: "true"},
		"proxy_connect_header": {value: "{X-C: [d]}"},

		"sigv4.region": {value: "r"}, "sigv4.access_key": {value: "a"}, "sigv4.secret_key": {value: "s"}, "sigv4.profile": {value: "p"},
		"sigv4.role_arn": {value: "r"}, "sigv4.external_id": {value: "e"}, "sigv4.session_name": {value: "name"},
		"sigv4.tags": {value: "{a: b}"}, "sigv4.use_fips_sts_endpoint": {value: "true"}, "sigv4.service_name": {value: "s"},

		"azuread.managed_identity": {value: "{client_id: 00000000-0000-0000-0000-000000000000}"},
		"azuread.workload_identity": {value: "{client_id: 00000000-0000-0000-0000-000000000000, " +
			"tenant_id: 00000000-0000-0000-0000-000000000000, token_file_path: /t}"},
		"azuread.oauth": {value: "{client_id: 00000000-0000-0000-0000-000000000000, client_secret: s, tenant_id: t}"},
		"azuread.sdk":   {value: "{tenant_id: t}"},
		"azuread.certificate": {value: "{client_id: 00000000-0000-0000-0000-000000000000, tenant_id: t, certificate_path: /c, " +
			"certificate_key_path: /k, certificate_password: p, send_certificate_chain: true}"},
		"azuread.cloud": {value: "AzureChina"}, "azuread.scope": {value: "s"},

		"google_iam.credentials_file": {value: "/c"},
	}
}

// besides is what Prometheus wants to see beside a key.
func besides(key string) string {
	switch {
	case key == "sigv4.access_key":
		return ", secret_key: s"
	case key == "sigv4.secret_key":
		return ", access_key: s"
	case slices.Contains([]string{"sigv4.external_id", "sigv4.session_name", "sigv4.tags"}, key):
		return ", role_arn: r"
	case slices.Contains([]string{"azuread.cloud", "azuread.scope"}, key):
		return ", sdk: {}"
	case key == "proxy_connect_header":
		return ", proxy_url: 'http://p'"
	case key == "no_proxy":
		return ", proxy_url: 'http://p'"
	}
	return ""
}

// keysOf lists the keys of a type of Prometheus', those of blocks that it defines for remote write with their path.
func keysOf(path string, of reflect.Type) (out []string) {
	for i := range of.NumField() {
		f := of.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		kind := f.Type
		if kind.Kind() == reflect.Pointer {
			kind = kind.Elem()
		}
		switch {
		case options == "inline":
			out = append(out, keysOf(path, kind)...)
		case name == "" || name == "-":
		case slices.Contains([]string{"queue_config", "metadata_config", "sigv4", "azuread", "google_iam"}, name):
			out = append(out, keysOf(name, kind)...)
		default:
			out = append(out, join(path, name))
		}
	}
	return out
}

// Every key of Prometheus' block is either taken, and then without a word, or ignored with a warning that names it.
func TestEveryKeyOfRemoteWrite(t *testing.T) {
	known := promKeys()
	all := keysOf("", reflect.TypeFor[promconfig.RemoteWriteConfig]())
	if len(all) != len(known) {
		t.Errorf("Prometheus has %d keys, %d are listed here", len(all), len(known))
	}
	for _, key := range all {
		k, ok := known[key]
		if !ok {
			t.Errorf("Prometheus' key %s is not listed here", key)
			continue
		}
		text := key + ": " + k.value + besides(key)
		if block, inner, nested := strings.Cut(key, "."); nested {
			text = fmt.Sprintf("%s: {%s: %s%s}", block, inner, k.value, besides(key))
		}
		if key != "url" {
			text += ", url: 'http://a'"
		}
		_, warnings, err := Parse("c.yaml", []byte("remote_write: [{"+text+"}]"))
		if err != nil {
			t.Errorf("%s: %v", key, err)
		}
		if warned := len(warnings) == 1 && strings.Contains(warnings[0].String(), "remote_write[0]."+key+": means nothing here"); warned != k.ignored {
			t.Errorf("%s: warnings %v", key, warnings)
		}
	}
}
