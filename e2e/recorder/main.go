// Recorder is a receiver whose sink writes every sample that it is given to a log (package record), for exact accounting.
// It may be killed at any moment: what it acknowledged is in the log.
package main

import (
	"context"
	"flag"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/receive"
	"github.com/choria-io/prometheus-streams/e2e/record"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

func main() {
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(logger); err != nil {
		logger.Error("recorder", "error", err)
		os.Exit(1)
	}
}

func run(logger *slog.Logger) error {
	options := receive.Options{Name: "recorder", Logger: logger}
	options.Flags(flag.CommandLine)
	path := flag.String("log", "", "the log, which is appended to")
	delay := flag.Duration("delay", 0, "verdicts come up to this much after the frame was written, in any order of frames")
	flag.Parse()
	log, err := record.Open(*path)
	if err != nil {
		return err
	}
	defer log.Close()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return receive.Run(ctx, options, &recorder{log: log, delay: *delay})
}

// recorder is the sink.
type recorder struct {
	log   *record.Writer
	delay time.Duration
}

// Deliver writes the frame before it is done with it.
func (r *recorder) Deliver(_ context.Context, d sink.Delivery, done func(error)) {
	err := r.log.Deliver(d)
	if r.delay == 0 {
		done(err)
		return
	}
	time.AfterFunc(rand.N(r.delay), func() { done(err) })
}
