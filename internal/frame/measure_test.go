package frame

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

var corpusLabels = labels.FromStrings("instance", "web-17.example.net:9100", "job", "node", "site", "basel")

// The framing of NATS: what JetStream adds to a message and its acknowledgement, in bytes.
const natsMessage = 110

type tally struct {
	samples, keyframes, frames    int
	keyBytes, sampleBytes         int
	bundles, firstSchema, changes int
	changed                       int
}

// measure encodes a target in bundles of ten frames and decodes them again; every difference is an error.
func measure(t testing.TB, c *corpusTarget, opts EncoderOptions) tally {
	t.Helper()
	target := &Target{ID: 7, Labels: corpusLabels, Interval: 15 * time.Second, Timeout: 10 * time.Second}
	m := measurement{t: t, c: c, d: NewDecoder(99, DefaultLimits()), known: map[SchemaID]*Schema{}}
	m.samples = c.samples
	e := NewEncoder(99, target, opts)
	for i := range c.scrapes {
		s := &c.scrapes[i]
		if m.last != s.schema {
			m.schema(s.schema)
		}
		before := len(m.pending)
		var err error
		if m.pending, err = e.AppendScrape(m.pending, s.time, Report{Duration: 3217431, Added: i & 1}, s.schema, &s.column); err != nil {
			t.Fatal(err)
		}
		m.frames++
		if n := len(m.pending) - before; m.pending[before] == typeKeyframe {
			m.keyframes++
			m.keyBytes += n
		} else {
			m.sampleBytes += n
		}
		if i%10 == 9 || i == len(c.scrapes)-1 {
			m.flush(i + 1)
		}
	}
	return m.tally
}

type measurement struct {
	tally
	t       testing.TB
	c       *corpusTarget
	d       *Decoder
	known   map[SchemaID]*Schema
	last    *Schema
	pending []byte
	seq     uint64
	first   int
}

// schema sends one, and reads it back in both forms.
func (m *measurement) schema(s *Schema) {
	m.t.Helper()
	full := s.Marshal()
	if m.last == nil {
		m.firstSchema = len(full)
	} else {
		delta := s.MarshalDelta(m.last)
		got, err := UnmarshalSchemaDelta(s.ID, delta, parents(m.known[m.last.ID]), DefaultLimits())
		if err != nil {
			m.t.Fatal(err)
		}
		sameSchema(m.t, got, s)
		m.changes += len(delta)
		m.changed++
	}
	got, err := UnmarshalSchema(s.ID, full, DefaultLimits())
	if err != nil {
		m.t.Fatal(err)
	}
	sameSchema(m.t, got, s)
	m.known[s.ID] = got
	m.last = s
}

// flush sends a bundle of what is pending, up to scrape end, and reads it back.
func (m *measurement) flush(end int) {
	m.t.Helper()
	m.seq++
	msg := AppendBundle(nil, Header{Publisher: "edge-1.example.net", Lane: "live", Epoch: 99, Seq: m.seq}, m.pending)
	m.bundles += len(msg) - len(m.pending) + natsMessage
	b, err := ParseBundle(msg, DefaultLimits())
	if err != nil {
		m.t.Fatal(err)
	}
	i := m.first
	for raw, err := range b.Frames() {
		if err != nil {
			m.t.Fatal(err)
		}
		f, err := m.d.Decode(raw, func(id SchemaID) (*Schema, error) { return m.known[id], nil })
		if err != nil {
			m.t.Fatalf("%s scrape %d: %v", m.c.name, i, err)
		}
		sameFrame(m.t, f, &m.c.scrapes[i])
		i++
	}
	if i != end {
		m.t.Fatalf("%d frames of %d", i-m.first, end-m.first)
	}
	m.pending, m.first = m.pending[:0], end
}

func sameFrame(t testing.TB, f *Frame, s *corpusScrape) {
	t.Helper()
	if f.Time != s.time || f.Schema.ID != s.schema.ID || f.Kind != Scraped || !labels.Equal(f.Target.Labels, corpusLabels) {
		t.Fatalf("frame %d is not the one encoded", f.Position)
	}
	sameColumn(t, &f.Column, &s.column)
}

func sameColumn(t testing.TB, got, want *Column) {
	t.Helper()
	if len(got.Values) != len(want.Values) {
		t.Fatalf("%d values, want %d", len(got.Values), len(want.Values))
	}
	for i := range want.Values {
		if got.Absent.Has(i) != want.Absent.Has(i) {
			t.Fatalf("row %d: absent is %t", i, got.Absent.Has(i))
		}
		if want.Absent.Has(i) {
			continue
		}
		if !hasHistogram(want, i) && math.Float64bits(got.Values[i]) != math.Float64bits(want.Values[i]) {
			t.Fatalf("row %d: %v, want %v", i, got.Values[i], want.Values[i])
		}
		g, w := int64(NoTimestamp), int64(NoTimestamp)
		if got.Timestamps != nil {
			g = got.Timestamps[i]
		}
		if want.Timestamps != nil {
			w = want.Timestamps[i]
		}
		if g != w {
			t.Fatalf("row %d: timestamp %d, want %d", i, g, w)
		}
	}
	sameExtras(t, got, want)
}

func hasHistogram(c *Column, row int) bool {
	_, ok := slices.BinarySearchFunc(c.Histograms, row, func(h Histogram, row int) int { return h.Row - row })
	return ok
}

func sameSchema(t testing.TB, got, want *Schema) {
	t.Helper()
	if got.ID != want.ID || got.Shape() != want.Shape() || len(got.Families) != len(want.Families) || len(got.Series) != len(want.Series) {
		t.Fatalf("schema %s differs from %s", got.ID, want.ID)
	}
	for i := range want.Families {
		if got.Families[i] != want.Families[i] {
			t.Fatalf("family %v, want %v", got.Families[i], want.Families[i])
		}
	}
	for i := range want.Series {
		g, w := got.Series[i], want.Series[i]
		if !labels.Equal(g.Labels, w.Labels) || g.Family != w.Family || math.Float64bits(g.Base) != math.Float64bits(w.Base) {
			t.Fatalf("series %v, want %v", g, w)
		}
	}
}

// TestCorpus round-trips real scrapes bit for bit, and holds the size that the format promises.
func TestCorpus(t *testing.T) {
	for _, opts := range []EncoderOptions{{}, {Always: true}, {KeyframeEvery: 64, KeyframeMaxAge: time.Hour}} {
		product, n := 1.0, 0.0
		for _, c := range loadCorpus(t) {
			a := measure(t, c, opts)
			per := func(n int) float64 { return float64(n) / float64(a.samples) }
			all := per(a.keyBytes + a.sampleBytes + a.bundles + a.changes)
			t.Logf("%-7s %6d samples, %2d of %2d keyframes, B/sample: keyframes %.3f, samples %.3f, %d changes %.3f, bundles and NATS %.3f, all %.3f; first schema %d bytes (%.1f per series)",
				c.name, a.samples, a.keyframes, a.frames, per(a.keyBytes), per(a.sampleBytes), a.changed, per(a.changes), per(a.bundles), all,
				a.firstSchema, float64(a.firstSchema)/float64(len(c.scrapes[0].schema.Series)))
			product *= all
			n++
		}
		mean := math.Pow(product, 1/n)
		t.Logf("%+v: geometric mean %.3f B/sample", opts, mean)
		if opts == (EncoderOptions{}) && mean > 1.2 {
			t.Errorf("geometric mean of %.3f B/sample", mean)
		}
	}
}
