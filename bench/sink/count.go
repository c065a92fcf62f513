// Package sink has the ends that count what arrives: a remote-write receiver for whoever speaks remote write, a Push Gateway, and
// our receiver's pipeline with a sink that does nothing else. All tell the same Stats, so contestants compare.
package sink

import (
	"context"
	"encoding/json"
	"flag"
	"math"
	"net/http"
	"sync"
	"time"
)

// Stats is what arrived.
type Stats struct {
	// Requests by protocol.
	Requests map[string]int64
	// BodyBytes are compressed, RawBytes are not.
	BodyBytes, RawBytes int64
	// Samples are those that targets exposed: not stale markers, not the series that the scraper adds or those about itself
	// (Auto), not those that are no newer than the last one of their series (Duplicates).
	Samples, Auto, Stale, Duplicates int64
	Histograms, Metadata             int64
	// Series are distinct ones since the start.
	Series int64
	Errors int64
	// P50, P99 and Max are milliseconds from a sample's timestamp to its arrival, since the last mark.
	P50, P99, Max float64
}

// longest latency that is told apart, in milliseconds.
const longest = 120_000

// counter gathers Stats.
type counter struct {
	mu        sync.Mutex
	stats     Stats
	latencies [longest + 1]int64
	counted   int64
	max       int64
}

func newCounter() *counter { return &counter{stats: Stats{Requests: map[string]int64{}}} }

// arrived counts n samples with one timestamp. The caller holds the lock.
func (c *counter) arrived(n int64, timestamp, now int64) {
	c.stats.Samples += n
	latency := max(now-timestamp, 0)
	c.max = max(c.max, latency)
	c.latencies[min(latency, longest)] += n
	c.counted += n
}

// quantile of the latencies. The caller holds the lock.
func (c *counter) quantile(q float64) float64 {
	want := int64(math.Ceil(q * float64(c.counted)))
	var sum int64
	for ms, n := range c.latencies {
		if sum += n; n > 0 && sum >= want {
			return float64(ms)
		}
	}
	return 0
}

// serve answers /stats, and /mark which forgets the latencies, until ctx ends.
func (c *counter) serve(ctx context.Context, address string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/mark", func(http.ResponseWriter, *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		clear(c.latencies[:])
		c.counted, c.max = 0, 0
	})
	mux.HandleFunc("/stats", func(w http.ResponseWriter, _ *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.stats.P50, c.stats.P99, c.stats.Max = c.quantile(0.5), c.quantile(0.99), float64(c.max)
		json.NewEncoder(w).Encode(c.stats)
	})
	return listen(ctx, address, mux)
}

// listen serves HTTP until ctx ends.
func listen(ctx context.Context, address string, handler http.Handler) error {
	server := &http.Server{Addr: address, Handler: handler}
	go func() {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		server.Shutdown(end)
	}()
	if err := server.ListenAndServe(); ctx.Err() == nil {
		return err
	}
	return nil
}

// controlFlag is the flag that both have.
func controlFlag(fs *flag.FlagSet) *string {
	return fs.String("control", "127.0.0.1:18998", "address of /stats and /mark")
}
