package gateway

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// fleet fills a gateway with 200 targets of 1000 series; whole numbers, small and long fractions.
func fleet(b *testing.B, own func(target int) []string) (*Gateway, []sink.Delivery) {
	g := New(Options{PublisherLabel: "publisher"})
	r := rand.New(rand.NewPCG(1, 2))
	var metrics []metric
	for f := range 100 {
		m := metric{Family: gauge(fmt.Sprintf("bench_metric_%d_bytes", f), 0).Family}
		for i := range 10 {
			m.samples = append(m.samples, sample{named(m.Name, "path", "/some/path/"+strconv.Itoa(i), "code", "200"), 0})
		}
		metrics = append(metrics, m)
	}
	var all []sink.Delivery
	for t := range 200 {
		f := scraped(b, metrics...)
		for i := range f.Column.Values {
			switch i % 4 {
			case 0:
				f.Column.Values[i] = r.Float64()
			case 1:
				f.Column.Values[i] = float64(r.IntN(1e5)) / 100
			default:
				f.Column.Values[i] = float64(r.IntN(1e9))
			}
		}
		pairs := append([]string{"job", "bench", "instance", "host-" + strconv.Itoa(t) + ".example.net:9100"}, own(t)...)
		f.Target = &frame.Target{ID: uint64(t), Labels: labels.FromStrings(pairs...), Interval: 15 * time.Second}
		f.Time = time.Now().UnixMilli()
		d := sink.Delivery{Frame: f, Publisher: "DC" + strconv.Itoa(t%10), Lane: "live", Stored: time.Now()}
		g.Deliver(context.Background(), d, func(err error) {
			if err != nil {
				b.Fatal(err)
			}
		})
		all = append(all, d)
	}
	return g, all
}

type devNull struct {
	header http.Header
	bytes  int
}

func (d *devNull) Header() http.Header { return d.header }
func (d *devNull) WriteHeader(int)     {}
func (d *devNull) Write(b []byte) (int, error) {
	d.bytes += len(b)
	return io.Discard.Write(b)
}

func BenchmarkScrape(b *testing.B) {
	plain := func(int) []string { return nil }
	for name, c := range map[string]struct {
		own           func(int) []string
		query, accept string
		zip           bool
	}{
		"text":        {plain, "", acceptText, false},
		"openmetrics": {plain, "", acceptOM, false},
		"gzip":        {plain, "", acceptText, true},
		"one site":    {plain, "?publisher=DC3", acceptText, false},
		"match":       {plain, "?match[]={code=\"200\",instance=~\"host-1.*\"}", acceptText, false},
		"checked": {func(t int) []string { // every series has a label that some target has: all are looked up
			if t == 0 {
				return []string{"code", "x"}
			}
			return nil
		}, "", acceptText, false},
	} {
		b.Run(name, func(b *testing.B) {
			g, _ := fleet(b, c.own)
			r := httptest.NewRequest(http.MethodGet, MetricsPath+c.query, nil)
			r.Header.Set("Accept", c.accept)
			if c.zip {
				r.Header.Set("Accept-Encoding", "gzip")
			}
			w := &devNull{header: http.Header{}}
			h := g.Metrics()
			h.ServeHTTP(w, r)
			b.SetBytes(int64(w.bytes))
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(w, r)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/200_000, "ns/series")
		})
	}
}

func BenchmarkDeliver(b *testing.B) {
	g, all := fleet(b, func(int) []string { return nil })
	b.ReportAllocs()
	seq := int64(0)
	for b.Loop() {
		seq++
		d := all[seq%200]
		f := *d.Frame
		f.Time += seq / 1000
		d.Frame = &f
		g.Deliver(context.Background(), d, func(err error) {
			if err != nil {
				b.Fatal(err)
			}
		})
	}
}
