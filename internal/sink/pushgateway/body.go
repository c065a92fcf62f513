package pushgateway

import (
	"bytes"
	"slices"

	"github.com/klauspost/compress/gzip"

	"github.com/choria-io/prometheus-streams/internal/exposition"
	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

// encoder writes bodies. It keeps its buffers from one to the next and is for one push at a time.
type encoder struct {
	text, protobuf exposition.Format
	plain, packed  bytes.Buffer
	gzip           *gzip.Writer
	samples        []exposition.Sample
}

// encoded is what a body holds.
type encoded struct {
	samples, bytes int
	left           []leftCount
	// exemplars that the format has no place for.
	exemplars int
}

type leftCount struct {
	reason  string
	samples int
}

func newEncoder() *encoder {
	e := &encoder{
		text:     exposition.Negotiate("text/plain;version=0.0.4;escaping=allow-utf-8"),
		protobuf: exposition.Negotiate("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;escaping=allow-utf-8"),
	}
	e.gzip, _ = gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level is a valid one
	return e
}

// encode writes what a group takes of a frame into plain: in the text format or in the protobuf format, which
// native histograms need; without timestamps, which the gateway refuses.
func (e *encoder) encode(c *content, f *frame.Frame, protobuf bool) (encoded, error) {
	var n encoded
	report := sink.ReportValues(f)
	rich := len(f.Column.Histograms) > 0 || len(f.Column.Exemplars) > 0 || f.Column.Starts != nil
	format := e.text
	if protobuf {
		format = e.protobuf
	}
	e.plain.Reset()
	w := exposition.NewWriter(&e.plain, format)
	for i := range c.families {
		fam := &c.families[i]
		e.samples = e.samples[:0]
		for j := range fam.series {
			s := &fam.series[j]
			v := 0.0
			switch {
			case s.index < 0:
				v = report[-1-s.index]
			case f.Column.Absent.Has(s.index):
				continue
			default:
				v = f.Column.Values[s.index]
			}
			e.samples = append(e.samples, exposition.Sample{Labels: s.labels, Value: v, Timestamp: frame.NoTimestamp})
			if rich {
				enrich(&e.samples[len(e.samples)-1], s, &f.Column)
			}
		}
		if len(e.samples) == 0 {
			continue
		}
		n.samples += len(e.samples)
		if err := w.Family(frame.Family{Name: fam.name, Type: fam.typ, Help: fam.help}, e.samples); err != nil {
			return n, err
		}
	}
	for _, l := range c.left {
		k := leftCount{reason: l.reason}
		for _, s := range l.series {
			if s.index < 0 || !f.Column.Absent.Has(s.index) {
				k.samples++
			}
		}
		n.left = append(n.left, k)
	}
	n.exemplars = w.Omitted().Exemplars
	return n, w.Close()
}

// body gives what encode wrote, in memory that the encoder does not use again.
func (e *encoder) body(packed bool) []byte {
	if !packed {
		return slices.Clone(e.plain.Bytes())
	}
	e.packed.Reset()
	e.gzip.Reset(&e.packed)
	_, _ = e.gzip.Write(e.plain.Bytes()) // a bytes.Buffer takes everything
	_ = e.gzip.Close()
	return slices.Clone(e.packed.Bytes())
}
