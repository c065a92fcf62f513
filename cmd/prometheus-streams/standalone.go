package main

import (
	"github.com/alecthomas/kingpin/v2"

	"github.com/choria-io/prometheus-streams/internal/config"
)

func standaloneCommand(app *kingpin.Application) command {
	clause := app.Command("standalone", "Poller, stream and receiver in one process.")
	return command{clause, func(c *cli) int { return c.runRole(config.StandaloneRole, runStandalone) }}
}
