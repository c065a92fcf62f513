package main

import (
	"github.com/alecthomas/kingpin/v2"

	"github.com/choria-io/prometheus-streams/internal/config"
)

func receiverCommand(app *kingpin.Application) command {
	clause := app.Command("receiver", "Receive from a stream and deliver to the sinks.")
	return command{clause, func(c *cli) int { return c.runRole(config.ReceiverRole, runReceiver) }}
}
