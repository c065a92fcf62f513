package main

import (
	"github.com/alecthomas/kingpin/v2"

	"github.com/choria-io/prometheus-streams/internal/config"
)

func pollerCommand(app *kingpin.Application) command {
	clause := app.Command("poller", "Scrape targets and publish what they say to a stream.")
	return command{clause, func(c *cli) int { return c.runRole(config.PollerRole, runPoller) }}
}
