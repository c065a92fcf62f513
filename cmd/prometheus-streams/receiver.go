package main

import (
	"fmt"

	"github.com/alecthomas/kingpin/v2"

	"github.com/choria-io/prometheus-streams/internal/config"
	"github.com/choria-io/prometheus-streams/internal/receiver"
)

func receiverCommand(app *kingpin.Application) command {
	clause := app.Command("receiver", "Receive from a stream and deliver to the sinks.")
	forget := clause.Flag("forget", "Forget a publisher that is gone for good, and end; may be given several times.").
		PlaceHolder("PUBLISHER").Strings()
	return command{clause, func(c *cli) int {
		if len(*forget) > 0 {
			return c.forget(*forget)
		}
		return c.runRole(config.ReceiverRole, runReceiver)
	}}
}

// forget has the receiver of this configuration forget publishers, whether it runs or not.
func (c *cli) forget(publishers []string) int {
	cfg, _, err := c.flags.loadRole(config.ReceiverRole)
	if err != nil {
		_, _ = fmt.Fprintln(c.stderr, err)
		return exitUsage
	}
	if err := receiver.Forget(cfg.Receiver.StateDirectory, publishers); err != nil {
		_, _ = fmt.Fprintln(c.stderr, err)
		return exitFailed
	}
	return exitOK
}
