package e2e

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"

	"github.com/choria-io/prometheus-streams/e2e/harness"
	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
	"github.com/choria-io/prometheus-streams/internal/sink/remotewrite"
)

// writer is a remote-write sink of this process, which is given frames by hand.
type writer struct {
	*remotewrite.Sink
	t        *testing.T
	schema   *frame.Schema
	position uint64
}

// startWriter runs a sink for targets with the series m{x="0"}, m{x="1"} and so on.
func startWriter(t *testing.T, o remotewrite.Options, series int) (w *writer, stop func()) {
	t.Helper()
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	s, err := remotewrite.New(o)
	if err != nil {
		t.Fatal(err)
	}
	all := make([]frame.Series, series)
	for i := range all {
		all[i] = frame.Series{Labels: labels.FromStrings("__name__", "m", "x", fmt.Sprint(i)), Family: -1}
	}
	schema, err := frame.NewSchema(nil, all, frame.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	w = &writer{Sink: s, t: t, schema: schema}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return w, stop
}

// give delivers a scrape and waits for its verdict.
func (w *writer) give(at time.Time, c frame.Column) error {
	w.t.Helper()
	w.position++
	if c.Values == nil {
		c.Values = make([]float64, len(w.schema.Series))
	}
	verdict := make(chan error, 1)
	w.Deliver(context.Background(), sink.Delivery{
		Frame: &frame.Frame{
			Kind: frame.Scraped, Time: at.UnixMilli(), Schema: w.schema, Column: c, Position: w.position,
			Target: &frame.Target{ID: 1, Labels: labels.FromStrings("job", "a"), Interval: time.Second},
		},
		Publisher: "DC1", Lane: "live", Epoch: 1, Seq: w.position, Stored: time.Now(),
	}, func(err error) { verdict <- err })
	select {
	case err := <-verdict:
		return err
	case <-time.After(30 * time.Second):
		return errors.New("no verdict after 30 s")
	}
}

// Native histograms of each form, their stale markers and exemplars, as a real Prometheus has them afterwards.
func TestRemoteWriteHistogramsAndExemplars(t *testing.T) {
	eachProtocol(t, func(t *testing.T, protocol string) {
		two := strings.Contains(protocol, "2")
		central := harness.StartPrometheus(t, ports.Next(t), "global: {scrape_interval: 1m}\n",
			"--web.enable-remote-write-receiver", "--enable-feature=exemplar-storage")
		version := remotewrite.V1
		if two {
			version = remotewrite.V2
		}
		w, _ := startWriter(t, remotewrite.Options{
			Name: "central", URL: central.URL + "/api/v1/write", Protocol: version, SendExemplars: true, SendNativeHistograms: true,
		}, 4)
		spans := []histogram.Span{{Offset: -2, Length: 2}, {Offset: 3, Length: 1}}
		integer := &histogram.Histogram{Schema: 3, ZeroThreshold: 1e-128, ZeroCount: 2, Count: 12, Sum: -18.4,
			PositiveSpans: spans, PositiveBuckets: []int64{1, 1, -1}, NegativeSpans: spans, NegativeBuckets: []int64{2, 0, 0}}
		gauge := &histogram.FloatHistogram{CounterResetHint: histogram.GaugeType, Schema: -2, Count: 3.5, Sum: 0.5,
			PositiveSpans: spans, PositiveBuckets: []float64{1, 0.5, 2}}
		custom := &histogram.Histogram{Schema: histogram.CustomBucketsSchema, Count: 4, Sum: 9, CustomValues: []float64{0.1, 2},
			PositiveSpans: []histogram.Span{{Length: 3}}, PositiveBuckets: []int64{1, 0, 1}}
		now := time.Now().Truncate(time.Millisecond)
		exemplar := func(row int, trace string, ago time.Duration) frame.Exemplar {
			return frame.Exemplar{Row: row, Labels: labels.FromStrings("trace_id", trace), Value: 1.5, Timestamp: now.Add(-ago).UnixMilli()}
		}
		column := frame.Column{
			Histograms: []frame.Histogram{{Row: 1, Int: integer}, {Row: 2, Float: gauge}, {Row: 3, Int: custom}},
			Exemplars:  []frame.Exemplar{exemplar(0, "a", 3*time.Second), exemplar(1, "b", 2*time.Second), exemplar(1, "c", time.Second)},
		}
		if err := w.give(now, column); err != nil {
			t.Fatal(err)
		}
		// The exemplars stand there as before, but for a new one. Then all but one series vanish.
		column.Exemplars = append(column.Exemplars, exemplar(1, "d", 0))
		if err := w.give(now.Add(time.Second), column); err != nil {
			t.Fatal(err)
		}
		gone := frame.Column{Absent: frame.NewBitmap(4)}
		for i := 1; i < 4; i++ {
			gone.Absent.Set(i)
		}
		if err := w.give(now.Add(2*time.Second), gone); err != nil {
			t.Fatal(err)
		}
		want := map[string]prompb.Histogram{"1": prompb.FromIntHistogram(0, integer), "2": prompb.FromFloatHistogram(0, gauge)}
		if two {
			want["3"] = prompb.FromIntHistogram(0, custom)
		} else if all, err := central.Raw(harness.Labels{"__name__": "m", "x": "3"}); err != nil || len(all) != 0 {
			t.Errorf("custom buckets in 1.0: %v, %v", all, err)
		}
		for x, h := range want {
			got, err := central.Histograms(harness.Labels{"__name__": "m", "x": x})
			if err != nil || len(got) != 3 {
				t.Fatalf("%d histograms of %s: %v", len(got), x, err)
			}
			for i := range 2 {
				a, b := got[i], h
				if want := now.Add(time.Duration(i) * time.Second).UnixMilli(); a.Timestamp != want {
					t.Errorf("histogram of %s at %d, want %d", x, a.Timestamp, want)
				}
				if gauge := b.ResetHint == prompb.Histogram_GAUGE; gauge != (a.ResetHint == prompb.Histogram_GAUGE) {
					t.Errorf("histogram of %s has the hint %v", x, a.ResetHint)
				}
				a.Timestamp, a.ResetHint, b.ResetHint = 0, 0, 0
				if a.String() != b.String() {
					t.Errorf("histogram of %s: %s\nwant %s", x, a.String(), b.String())
				}
			}
			if !value.IsStaleNaN(got[2].Sum) || got[2].IsFloatHistogram() != h.IsFloatHistogram() {
				t.Errorf("the last histogram of %s is no stale marker: %s", x, got[2].String())
			}
		}
		got, err := central.Exemplars("m", "x")
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, x := range []string{"0", "1"} {
			for _, e := range got[x] {
				all = append(all, fmt.Sprint(x, e.Labels["trace_id"], e.Value, now.Sub(e.Time).Round(time.Millisecond)))
			}
		}
		if want := []string{"0a1.53s", "1b1.52s", "1c1.51s", "1d1.50s"}; !slices.Equal(all, want) {
			t.Errorf("exemplars %v, want %v", all, want)
		}
	})
}

// What Prometheus refuses for its age is in files that promtool makes blocks of, with every sample.
func TestRemoteWriteLateFiles(t *testing.T) {
	promtool := harness.Server(t, "promtool")
	eachProtocol(t, func(t *testing.T, protocol string) {
		version := remotewrite.V1
		if strings.Contains(protocol, "2") {
			version = remotewrite.V2
		}
		central, dir := startWritten(t), t.TempDir()
		w, stop := startWriter(t, remotewrite.Options{
			Name: "central", URL: central.URL + "/api/v1/write", Protocol: version, LateDirectory: dir,
		}, 50)
		now := time.Now()
		if err := w.give(now, frame.Column{}); err != nil {
			t.Fatal(err)
		}
		// The clock at the edge is set back by three hours, which is beyond a block.
		values := make([]float64, 50)
		for n := range 20 {
			for i := range values {
				values[i] = math.Sqrt(float64(n*50 + i))
			}
			at := now.Add(-3*time.Hour + time.Duration(n)*10*time.Minute)
			if n > 17 {
				at = now.Add(-time.Duration(20-n) * time.Second)
			}
			reason, rejected := sink.Rejected(w.give(at, frame.Column{Values: slices.Clone(values)}))
			if !rejected || reason != "out_of_order" && reason != "too_old" {
				t.Fatalf("scrape %d: reason %q", n, reason)
			}
		}
		stop()
		files, err := filepath.Glob(filepath.Join(dir, "central.DC1.*.om"))
		if err != nil || len(files) != 1 {
			t.Fatalf("files %v, %v", files, err)
		}
		data := t.TempDir()
		if out, err := exec.Command(promtool, "tsdb", "create-blocks-from", "openmetrics", files[0], data).CombinedOutput(); err != nil {
			text, _ := os.ReadFile(files[0])
			t.Fatalf("%v: %s\n%.2000s", err, out, text)
		}
		if err := os.MkdirAll(filepath.Join(data, "wal"), 0o755); err != nil { // without which it does not dump
			t.Fatal(err)
		}
		dump, err := exec.Command(promtool, "tsdb", "dump", data).Output()
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(dump), `{__name__="m", job="a"`); n != 20*50 {
			t.Errorf("%d samples of m in the blocks, want %d", n, 20*50)
		}
		want := fmt.Sprintf(`{__name__="m", job="a", x="7"} %v %d`, math.Sqrt(5*50+7), now.Add(-3*time.Hour+50*time.Minute).UnixMilli())
		if !strings.Contains(string(dump), want+"\n") {
			t.Errorf("not in the blocks: %s", want)
		}
		if n := strings.Count(string(dump), `{__name__="up", job="a"} 1 `); n != 20 {
			t.Errorf("%d samples of up in the blocks", n)
		}
	})
}
