// Bench measures what it costs to take the metrics of N targets at the edge to a central place: CPU seconds per million
// samples and peak memory of each process, bytes on the wire per sample, latency and loss, for this product and for what
// people use instead, under the same load.
//
// Its parts are commands of one binary, because each has to be a process of its own: what is measured must not be the
// measuring.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/choria-io/prometheus-streams/bench/contest"
	"github.com/choria-io/prometheus-streams/bench/exporter"
	"github.com/choria-io/prometheus-streams/bench/floor"
	"github.com/choria-io/prometheus-streams/bench/relay"
	"github.com/choria-io/prometheus-streams/bench/sink"
)

const usage = `usage: bench COMMAND [FLAGS]

  targets   N exporters with M series each
  relay     a TCP relay that counts bytes: it stands where the WAN is
  floor     gets all targets and drops the bytes: nothing can be cheaper
  write     a remote-write receiver that counts
  push      a Push Gateway that counts
  receive   our receiver with a sink that counts
  run       all of them with a contestant, and the measuring
  report    a markdown table of results

Each command has -h.
`

func main() {
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	commands := map[string]func(context.Context, []string) error{
		"targets": exporter.Main,
		"relay":   relay.Main,
		"floor":   floor.Main,
		"write":   sink.WriteMain,
		"push":    sink.PushMain,
		"receive": sink.ReceiveMain,
		"run":     contest.RunMain,
		"report":  contest.ReportMain,
	}
	command, ok := commands[os.Args[1]]
	if !ok {
		fmt.Fprintf(os.Stderr, "unknown command %q\n\n%s", os.Args[1], usage)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := command(ctx, os.Args[2:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench "+os.Args[1]+":", err)
		os.Exit(1)
	}
}
