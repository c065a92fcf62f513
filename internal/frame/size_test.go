package frame

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

// wholeCorpus are about forty scrapes of each of four real targets, in a row.
const wholeCorpus = "../../bench/testdata/scrapes.tar.zst"

// mostPerSample is what the format promises over the whole corpus, all in: bytes per sample, geometric mean of the
// targets.
const mostPerSample = 0.95

// TestCorpusSize says what real targets take on the wire, all in: keyframes, samples, changed schemas, the first schema
// (once a day), bundles of ten scrapes and what NATS adds to them. Each frame is decoded and compared bit for bit.
func TestCorpusSize(t *testing.T) {
	var out strings.Builder
	fmt.Fprintf(&out, "\n| target | samples | scrapes | keyframes | samples | changed schemas | schema, once a day | bundles and NATS | all in, B/sample |\n|%s\n",
		strings.Repeat(" --- |", 9))
	product, n := 1.0, 0.0
	for _, c := range readCorpus(t, wholeCorpus) {
		a := measure(t, c, EncoderOptions{})
		per := func(n int) float64 { return float64(n) / float64(a.samples) }
		interval := time.Duration(c.scrapes[len(c.scrapes)-1].time-c.scrapes[0].time) * time.Millisecond / time.Duration(len(c.scrapes)-1)
		daily := float64(24*time.Hour) / float64(interval) * float64(a.samples) / float64(a.frames)
		schema := float64(a.firstSchema) / daily
		all := per(a.keyBytes+a.sampleBytes+a.changes+a.bundles) + schema
		fmt.Fprintf(&out, "| %s | %d | %d | %.3f | %.3f | %.3f | %.3f | %.3f | %.3f |\n", c.name, a.samples, a.frames,
			per(a.keyBytes), per(a.sampleBytes), per(a.changes), schema, per(a.bundles), all)
		product *= all
		n++
	}
	mean := math.Pow(product, 1/n)
	fmt.Fprintf(&out, "| geometric mean | | | | | | | | %.3f |\n", mean)
	t.Log(out.String())
	if n != 4 || mean > mostPerSample {
		t.Errorf("geometric mean of %.3f B/sample over %v targets, want %v at most", mean, n, mostPerSample)
	}
}
