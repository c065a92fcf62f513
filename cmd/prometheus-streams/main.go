// Command prometheus-streams takes Prometheus metrics through NATS streams: a poller scrapes and publishes, a receiver
// takes what was published to where a central Prometheus finds it, and standalone is both with a stream of its own.
//
// Each command has a file here; wire.go puts the rooms of internal together for the three that run.
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/alecthomas/kingpin/v2"
)

// Exit codes of the commands that run and, below, of those that check.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // the command line or the configuration is wrong

	exitProblems   = 1
	exitUnreadable = 2
	exitLint       = 3 // nothing but warnings
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// cli is what every command is handed.
type cli struct {
	flags          *Flags
	stdin          io.Reader
	stdout, stderr io.Writer
}

// command is one command of the program.
type command struct {
	clause *kingpin.CmdClause
	run    func(c *cli) int
}

// run is the program as a function: it parses args, runs one command and returns the exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	c := &cli{flags: &Flags{}, stdin: stdin, stdout: stdout, stderr: stderr}
	app, commands := application(c.flags)
	app.UsageWriter(stdout).ErrorWriter(stderr).Version(versionText())
	if len(args) == 0 {
		app.UsageWriter(stderr).Terminate(nil).Usage(nil)
		return exitUsage
	}
	name, ended, err := parse(app, args)
	if ended {
		return exitOK
	}
	if err == nil {
		c.flags.values = flagValues(app)
		err = c.flags.check()
	}
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "prometheus-streams: %s; see prometheus-streams --help\n", err)
		return exitUsage
	}
	for _, cmd := range commands {
		if cmd.clause.FullCommand() == name {
			return cmd.run(c)
		}
	}
	return exitUsage
}
