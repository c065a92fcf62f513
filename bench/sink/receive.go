package sink

import (
	"context"
	"flag"
	"log/slog"
	"os"
	"time"

	"github.com/choria-io/prometheus-streams/e2e/receive"
	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// ReceiveMain runs our receiver until ctx ends, with a sink that counts and does nothing else: what it uses is what
// receiving, ordering, decoding and acknowledging cost before anything is delivered anywhere.
func ReceiveMain(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("receive", flag.ContinueOnError)
	options := receive.Options{Name: "counter", Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	options.Flags(fs)
	control := controlFlag(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	c := &frames{counter: newCounter(), newest: map[key]int64{}}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 2)
	go func() { ended <- c.serve(ctx, *control) }()
	go func() { ended <- receive.Run(ctx, options, c) }()
	err := <-ended
	cancel()
	<-ended
	return err
}

// selfJob is the job under which a poller scrapes itself: no target of the load.
const selfJob = "prometheus_streams"

// frames counts deliveries.
type frames struct {
	*counter
	// newest is the time of the last frame of each target.
	newest map[key]int64
}

// key names a target within an epoch.
type key struct {
	publisher     string
	epoch, target uint64
}

// Deliver implements receiver.Sink.
func (c *frames) Deliver(_ context.Context, d sink.Delivery, done func(error)) {
	c.count(d)
	done(nil)
}

func (c *frames) count(d sink.Delivery) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := d.Frame
	c.stats.Requests["frames"]++
	if f.Kind != frame.Scraped {
		return
	}
	if f.Target.Labels.Get("job") == selfJob {
		c.stats.Auto += int64(len(f.Column.Values))
		return
	}
	n := int64(len(f.Column.Values))
	for i := range f.Column.Values {
		if f.Column.Absent.Has(i) {
			n--
		}
	}
	k := key{d.Publisher, d.Epoch, f.Target.ID}
	last, known := c.newest[k]
	if known && f.Time <= last {
		c.stats.Duplicates += n
		return
	}
	if !known {
		c.stats.Series += n
	}
	c.newest[k] = f.Time
	c.arrived(n, f.Time, time.Now().UnixMilli())
}
