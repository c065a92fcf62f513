package main

import (
	"context"
	"fmt"

	"github.com/alecthomas/kingpin/v2"

	"github.com/choria-io/prometheus-streams/internal/config"
)

func checkStreamCommand(check *kingpin.CmdClause) command {
	var create bool
	clause := check.Command("stream", "Check the streams of the configuration: connection, rights, retention.")
	clause.Flag("create", "Make the streams and the receiver's durables that are not there.").BoolVar(&create)
	return command{clause, func(c *cli) int { return c.checkStream(create) }}
}

// checkStream exits with 0 if all is well, 1 if there are problems, 2 if there is nothing that can be checked.
func (c *cli) checkStream(create bool) int {
	env, ok := c.streams()
	if !ok {
		return exitUnreadable
	}
	defer env.log.close()
	ctx, stop := handleSignals(context.Background(), env, func() {})
	defer stop()
	switch problems, err := checkStream(ctx, env, create); {
	case err != nil:
		_, _ = fmt.Fprintln(c.stderr, err)
		return exitProblems
	case problems > 0:
		return exitProblems
	}
	return exitOK
}

// streams is the environment of a command that looks at the streams which the configuration names, whatever else it
// lacks. What is wrong with them it has printed.
func (c *cli) streams() (*environment, bool) {
	cfg, _, err := c.flags.load()
	if err == nil {
		err = usableStreams(cfg)
	}
	var env *environment
	if err == nil {
		shown := *cfg
		shown.Logfile = "" // what a person asks for is answered on the terminal
		env, err = newEnvironment(c, "", &shown)
	}
	if err != nil {
		_, _ = fmt.Fprintln(c.stderr, err)
		return nil, false
	}
	return env, true
}

func usableStreams(c *config.Config) error {
	if c.PollerStream == nil && len(c.ReceiverStreams) == 0 {
		return fmt.Errorf("%s: neither poller_stream nor receiver_stream: no stream to look at", c.File)
	}
	return nil
}
