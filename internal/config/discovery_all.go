//go:build enable_all_sd

package config

import (
	_ "github.com/prometheus/prometheus/discovery/install" // all that Prometheus has
)
