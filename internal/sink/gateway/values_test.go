package gateway

import (
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

func TestValuesBitForBit(t *testing.T) {
	values := []float64{
		0, math.Copysign(0, -1), 1, -1, 0.1, math.Pi, 1 << 53, 1<<53 - 1, -(1 << 53), 1<<53 + 2, 1e15, 1e16, 1e21, 1e22, 1e300,
		math.MaxFloat64, math.SmallestNonzeroFloat64, -math.SmallestNonzeroFloat64, math.Inf(1), math.Inf(-1), 123456789.125,
		math.Float64frombits(value.NormalNaN),
	}
	r := rand.New(rand.NewPCG(1, 2))
	for len(values) < 2000 {
		if v := math.Float64frombits(r.Uint64()); !math.IsNaN(v) {
			values = append(values, v, math.Trunc(v), float64(r.Int64()), float64(r.IntN(1e6))/1000)
		}
	}
	m := metric{}
	want := make(map[string]float64)
	for i, v := range values {
		n := strconv.Itoa(i)
		m.samples = append(m.samples, sample{labels.FromStrings("__name__", "m", "n", n), v})
		want[labels.FromStrings("__name__", "m", "n", n, "job", "j", "instance", "i").String()] = v
	}
	for _, timestamps := range []bool{false, true} {
		w := newWorld(t, Options{Timestamps: timestamps})
		w.take(site("A", "job", "j", "instance", "i"), scraped(t, m))
		for _, accept := range []string{acceptText, acceptOM} {
			if got := without(w.series("", accept)); !same(got, want) {
				t.Errorf("%s: values differ", accept)
			}
		}
	}
}

func TestNaNsAndAbsentSeries(t *testing.T) {
	w := newWorld(t, Options{})
	f := scraped(t, gauge("a", math.Float64frombits(value.StaleNaN)), gauge("b", math.Float64frombits(0x7ff8dead00000000)), gauge("c", 3), gauge("d", 4))
	f.Column.Absent = frame.NewBitmap(4)
	f.Column.Absent.Set(2)
	w.take(site("A", "job", "j"), f)
	want := map[string]float64{
		`{__name__="b", job="j"}`: math.Float64frombits(value.NormalNaN),
		`{__name__="d", job="j"}`: 4,
	}
	if got := without(w.series("", acceptText)); !same(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if strings.Contains(w.text("", acceptText), "# TYPE c ") {
		t.Error("a family without series has a header")
	}
}

func TestTimestamps(t *testing.T) {
	w := newWorld(t, Options{Timestamps: true})
	f := scraped(t, gauge("a", 1), gauge("b", 2))
	f.Column.Timestamps = []int64{frame.NoTimestamp, 1234}
	w.take(site("A", "job", "j"), f)
	for accept, want := range map[string][]string{
		acceptText: {"a{job=\"j\"} 1 1767323045678\n", "b{job=\"j\"} 2 1234\n", "up{job=\"j\"} 1 1767323045678\n"},
		acceptOM:   {"a{job=\"j\"} 1 1767323045.678\n", "b{job=\"j\"} 2 1.234\n"},
	} {
		got := w.text("", accept)
		for _, line := range want {
			if !strings.Contains(got, line) {
				t.Errorf("%s: no line %q in\n%s", accept, line, got)
			}
		}
	}
	for ms, want := range map[int64]string{0: "0", 1: "0.001", -1: "-0.001", -1500: "-1.500", 2000: "2", 2010: "2.010"} {
		if got := string(appendTimestamp(nil, ms, true)); got != want {
			t.Errorf("%d ms: got %s, want %s", ms, got, want)
		}
	}
}
