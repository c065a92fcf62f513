package remotewrite

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// counting takes everything and looks at nothing.
type counting struct{}

func (counting) RoundTrip(r *http.Request) (*http.Response, error) {
	_, _ = io.Copy(io.Discard, r.Body)
	return reply(http.StatusNoContent, "", 1<<30), nil
}

// BenchmarkCentre is from a decoded frame to a compressed body that was handed to the HTTP client, with 100 targets of
// 1000 series each. cpu-ns/sample is what matters, the rest is waiting; decoding is in the package frame.
func BenchmarkCentre(b *testing.B) {
	for _, protocol := range []string{V1, V2} {
		b.Run("protocol "+protocol, func(b *testing.B) { benchmark(b, protocol, 1) })
	}
}

// BenchmarkBacklog is the same with ten scrapes of each target at a time.
func BenchmarkBacklog(b *testing.B) {
	for _, protocol := range []string{V1, V2} {
		b.Run("protocol "+protocol, func(b *testing.B) { benchmark(b, protocol, 10) })
	}
}

func benchmark(b *testing.B, protocol string, together int) {
	s, err := New(Options{URL: "http://centre/", Protocol: protocol, HTTPClient: &http.Client{Transport: counting{}}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	var all []labels.Labels
	for i := range 1000 {
		all = append(all, labels.FromStrings("__name__", fmt.Sprintf("some_subsystem_metric_%d_total", i/10), "code", fmt.Sprint(200+i%10), "handler", "/api/v1/query"))
	}
	schema := schemaOf(b, all...)
	var targets []*frame.Target
	for i := range 100 {
		targets = append(targets, site("instance", fmt.Sprintf("10.0.0.%d:9100", i), "job", "node", "region", "eu-central-1"))
	}
	values := make([]float64, len(all))
	start := time.Now().UnixMilli()
	cpu := cpuTime(b)
	b.ResetTimer()
	b.ReportAllocs()
	for n := range b.N {
		var wait sync.WaitGroup
		for i := range values {
			values[i] = float64(i*n) * 1.25
		}
		for k := range together {
			for _, g := range targets {
				wait.Add(1)
				position := n*together + k + 1
				f := scraped(schema, start+int64(position), values...)
				f.Target, f.Position = g, uint64(position)
				s.Deliver(ctx, sink.Delivery{Frame: f, Publisher: "DC1", Lane: "live", Epoch: 1, Seq: uint64(position), Stored: time.UnixMilli(start)}, func(err error) {
					if err != nil {
						b.Error(err)
					}
					wait.Done()
				})
			}
		}
		wait.Wait()
	}
	b.StopTimer()
	samples := float64(b.N*together) * float64(len(targets)*(len(all)+sink.ReportSeries))
	b.ReportMetric(float64((cpuTime(b)-cpu).Nanoseconds())/samples, "cpu-ns/sample")
	cancel()
	if err := <-ran; err != nil {
		b.Fatal(err)
	}
}

// cpuTime is what the process has used so far.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
