//go:build !remove_all_sd

package config

// Prometheus' service discovery registers its keys of scrape_configs by being imported.
import (
	_ "github.com/prometheus/prometheus/discovery/consul"     // consul_sd_configs
	_ "github.com/prometheus/prometheus/discovery/dns"        // dns_sd_configs
	_ "github.com/prometheus/prometheus/discovery/file"       // file_sd_configs
	_ "github.com/prometheus/prometheus/discovery/http"       // http_sd_configs
	_ "github.com/prometheus/prometheus/discovery/kubernetes" // kubernetes_sd_configs
	_ "github.com/prometheus/prometheus/discovery/puppetdb"   // puppetdb_sd_configs
)
