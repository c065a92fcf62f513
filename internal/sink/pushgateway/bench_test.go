package pushgateway

import (
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"sync"
	"testing"

	"github.com/prometheus/common/model"

	"github.com/choria-io/prometheus-streams/internal/sink"
)

// exporter is a scrape of about 1000 series in families of ten.
func exporter(f *feed) sink.Delivery {
	var fams []fam
	r := rand.New(rand.NewSource(1))
	for i := range 100 {
		fm := fam{name: fmt.Sprintf("node_something_total_%d", i), typ: model.MetricTypeCounter}
		for j := range 10 {
			fm.series = append(fm.series, ser{fm.name, r.Float64() * 1e6, []string{"device", fmt.Sprint("eth", j), "mode", "receive"}})
		}
		fams = append(fams, fm)
	}
	return f.scrape(fams...)
}

func BenchmarkEncode(b *testing.B) {
	for _, packed := range []bool{false, true} {
		b.Run(fmt.Sprintf("gzip=%v", packed), func(b *testing.B) {
			f := newFeed(b, "job", "a", "instance", "b:1")
			d := exporter(f)
			t := &target{}
			t.use(newLayouts(sink.Labelling{}), &d)
			c := newTypes().settle(&t.layout.parts[0].content)
			e := newEncoder()
			b.ReportAllocs()
			size := 0
			for b.Loop() {
				if _, err := e.encode(c, d.Frame, false); err != nil {
					b.Fatal(err)
				}
				size = len(e.body(packed))
			}
			b.ReportMetric(float64(size), "bytes")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1005, "ns/sample")
		})
	}
}

// BenchmarkDeliver takes a scrape from Deliver to a gateway that takes everything at once.
func BenchmarkDeliver(b *testing.B) {
	client := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		_, _ = io.Copy(io.Discard, r.Body)
		return &http.Response{StatusCode: 200, Body: http.NoBody, Request: r}, nil
	})}
	s, err := New(Options{URL: "http://g", HTTPClient: client})
	if err != nil {
		b.Fatal(err)
	}
	go s.Run(b.Context())
	f := newFeed(b, "job", "a", "instance", "b:1")
	d := exporter(f)
	b.ReportAllocs()
	for b.Loop() {
		f.seq++
		d.Seq = f.seq
		fr := *d.Frame
		fr.Time++
		d.Frame = &fr
		var wg sync.WaitGroup
		wg.Add(1)
		s.Deliver(b.Context(), d, func(err error) {
			if err != nil {
				b.Error(err)
			}
			wg.Done()
		})
		wg.Wait()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1005, "ns/sample")
}
