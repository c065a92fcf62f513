package exposition

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// mostPerSample is what the format promises over the whole corpus, all in: bytes per sample, geometric mean of the
// targets.
const mostPerSample = 0.95

// natsMessage is what NATS and JetStream add to a message and its acknowledgement, in bytes.
const natsMessage = 110

// keyframeType is what a KEYFRAME begins with.
const keyframeType = 0x81

// size is what one target takes on the wire.
type size struct {
	samples, scrapes, changes                         int
	keyframes, frames, changed, first, bundles, other int // bytes; other is what NATS adds to changed schemas
}

// TestCorpusSize says what real targets take on the wire, as a poller makes it: keyframes, samples, changed schemas, the first
// schema (once a day), bundles of ten scrapes and what NATS adds to them. What NATS adds to changed schemas, which are
// messages of their own, is told apart. Each scrape is compared with what Prometheus makes of it, and each frame is decoded,
// with the schemas as they are stored, and compared bit for bit.
func TestCorpusSize(t *testing.T) {
	var out strings.Builder
	fmt.Fprintf(&out, "\n| target | samples | scrapes | keyframes | samples | changed schemas | schema, once a day | bundles and NATS | all in, B/sample | with NATS around the changes |\n|%s\n",
		strings.Repeat(" --- |", 10))
	product, strict, n := 1.0, 1.0, 0.0
	all := readCorpus(t, wholeCorpus)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		scrapes := all[name]
		a := measure(t, scrapes)
		per := func(n int) float64 { return float64(n) / float64(a.samples) }
		interval := time.Duration(scrapes[len(scrapes)-1].ms-scrapes[0].ms) * time.Millisecond / time.Duration(len(scrapes)-1)
		daily := float64(24*time.Hour) / float64(interval) * float64(a.samples) / float64(a.scrapes)
		schema := float64(a.first) / daily
		sum := per(a.keyframes+a.frames+a.changed+a.bundles) + schema
		fmt.Fprintf(&out, "| %s | %d | %d | %.3f | %.3f | %.3f in %d | %.3f | %.3f | %.3f | %.3f |\n", name, a.samples, a.scrapes,
			per(a.keyframes), per(a.frames), per(a.changed), a.changes, schema, per(a.bundles), sum, sum+per(a.other))
		product *= sum
		strict *= sum + per(a.other)
		n++
	}
	mean := math.Pow(product, 1/n)
	fmt.Fprintf(&out, "| geometric mean | | | | | | | | %.3f | %.3f |\n", mean, math.Pow(strict, 1/n))
	t.Log(out.String())
	if mean > mostPerSample {
		t.Errorf("geometric mean of %.3f B/sample, want %v at most", mean, mostPerSample)
	}
}

// wire is a target on its way to a receiver.
type wire struct {
	size
	t       *testing.T
	encoder *frame.Encoder
	decoder *frame.Decoder
	stored  map[frame.SchemaID][]byte
	held    map[frame.SchemaID]*frame.Schema // by the receiver
	pending []byte
	truth   []Parsed
	seq     uint64
}

func measure(t *testing.T, scrapes []exposed) size {
	t.Helper()
	w := &wire{
		t: t, decoder: frame.NewDecoder(99, frame.DefaultLimits()), stored: map[frame.SchemaID][]byte{}, held: map[frame.SchemaID]*frame.Schema{},
		encoder: frame.NewEncoder(99, &frame.Target{
			ID: 7, Labels: labels.FromStrings("instance", "web-17.example.net:9100", "job", "node", "site", "basel"),
			Interval: 15 * time.Second, Timeout: 10 * time.Second,
		}, frame.EncoderOptions{}),
	}
	l, r := NewLayout(corpusRules(), NewPackedSchemas()), newReference(corpusRules())
	for i, s := range scrapes {
		w.scrape(s.ms, check(t, l, r, s.body, textType))
		if i%10 == 9 || i == len(scrapes)-1 {
			w.flush()
		}
	}
	return w.size
}

// scrape sends one, and its schemas as far as they are not stored.
func (w *wire) scrape(ms int64, p Parsed) {
	w.t.Helper()
	for m := p.Schema.Stored(); m != nil && w.stored[m.ID] == nil; m = m.Parent {
		if len(w.stored) == 0 {
			w.first = len(m.Message)
		} else {
			w.changes++
			w.changed += len(m.Message)
			w.other += natsMessage
		}
		w.stored[m.ID] = m.Message
	}
	before := len(w.pending)
	report := frame.Report{Duration: 3217431, Scraped: p.Scraped, PostRelabel: p.PostRelabel, Added: p.Added}
	var err error
	if w.pending, err = w.encoder.AppendScrape(w.pending, ms, report, p.Schema, &p.Column); err != nil {
		w.t.Fatal(err)
	}
	w.scrapes++
	w.samples += p.PostRelabel
	if n := len(w.pending) - before; w.pending[before] == keyframeType {
		w.keyframes += n
	} else {
		w.frames += n
	}
	p.Column.Values, p.Column.Absent = slices.Clone(p.Column.Values), slices.Clone(p.Column.Absent) // the next scrape has its own
	w.truth = append(w.truth, p)
}

// flush sends a bundle of what is pending, and reads it back.
func (w *wire) flush() {
	w.t.Helper()
	w.seq++
	m := frame.AppendBundle(nil, frame.Header{Publisher: "edge-1.example.net", Lane: "live", Epoch: 99, Seq: w.seq,
		Totals: &frame.Totals{Frames: uint64(w.scrapes), Samples: uint64(w.samples)}}, w.pending)
	w.bundles += len(m) - len(w.pending) + natsMessage
	b, err := frame.ParseBundle(m, frame.DefaultLimits())
	if err != nil {
		w.t.Fatal(err)
	}
	i := 0
	for raw, err := range b.Frames() {
		if err != nil {
			w.t.Fatal(err)
		}
		f, err := w.decoder.Decode(raw, w.fetch)
		if err != nil {
			w.t.Fatal(err)
		}
		want := &w.truth[i]
		if f.Schema.ID != want.Schema.ID || len(f.Column.Values) != len(want.Column.Values) {
			w.t.Fatalf("scrape %d: another schema", i)
		}
		for row, v := range want.Column.Values {
			gone := want.Column.Absent.Has(row)
			if f.Column.Absent.Has(row) != gone || !gone && math.Float64bits(f.Column.Values[row]) != math.Float64bits(v) {
				w.t.Fatalf("scrape %d, row %d: %v, want %v", i, row, f.Column.Values[row], v)
			}
		}
		i++
	}
	if i != len(w.truth) {
		w.t.Fatalf("%d frames of %d", i, len(w.truth))
	}
	w.pending, w.truth = w.pending[:0], nil
}

// fetch gives a schema as a receiver reads it, which keeps those that it had.
func (w *wire) fetch(id frame.SchemaID) (*frame.Schema, error) {
	if s := w.held[id]; s != nil {
		return s, nil
	}
	s, err := frame.UnmarshalSchemaDelta(id, w.stored[id], func(id frame.SchemaID) (*frame.Schema, []byte, error) {
		return w.held[id], w.stored[id], nil
	}, frame.DefaultLimits())
	w.held[id] = s
	return s, err
}
