package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/client_golang/prometheus"
	promversion "github.com/prometheus/common/version"

	"github.com/choria-io/prometheus-streams/internal/target"
)

func versionCommand(app *kingpin.Application) command {
	clause := app.Command("version", "Print the version.")
	return command{clause, func(c *cli) int {
		_, _ = fmt.Fprintln(c.stdout, versionText())
		return exitOK
	}}
}

// buildVersion is the version that the linker put into prometheus/common/version, else that of the module.
func buildVersion() string {
	if promversion.Version != "" {
		return promversion.Version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}

func versionText() string {
	return fmt.Sprintf("prometheus-streams %s (revision %s, %s, %s/%s)\nservice discovery: %s",
		buildVersion(), promversion.GetRevision(), runtime.Version(), runtime.GOOS, runtime.GOARCH, strings.Join(target.Discoveries(), " "))
}

// buildInfo is the metric that tells which build this is; its value is always 1.
func buildInfo() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "prometheus_streams_build_info",
		Help: "Version, revision and platform of this build; always 1.",
		ConstLabels: prometheus.Labels{
			"version": buildVersion(), "revision": promversion.GetRevision(), "branch": promversion.Branch,
			"goversion": runtime.Version(), "goos": runtime.GOOS, "goarch": runtime.GOARCH,
		},
	}, func() float64 { return 1 })
}
