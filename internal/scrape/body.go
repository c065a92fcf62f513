package scrape

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/prometheus/common/model"

	"github.com/choria-io/prometheus-streams/internal/exposition"
	"github.com/choria-io/prometheus-streams/internal/frame"
)

// acceptText asks for the old text format: what reads the body is not told its type.
const acceptText = "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"

// keepBody copies the body of a good scrape, which the next one overwrites.
func (s *Scraper) keepBody(body []byte, contentType string) {
	if !s.textBody {
		return
	}
	s.body = append(s.body[:0], body...)
	kind := strings.ToLower(contentType)
	s.bodyIsText = !strings.Contains(kind, "openmetrics") && !strings.Contains(kind, "protobuf")
}

// LastBody is the exposition of the last scrape in the text format, byte for byte if the target gave text, else written
// anew. It is there only with Options.TextBody and after a scrape that did not fail, and valid until the next one.
func (s *Scraper) LastBody() ([]byte, error) {
	if !s.textBody || s.frame.Kind != frame.Scraped {
		return nil, nil
	}
	if s.bodyIsText {
		return s.body, nil
	}
	var out bytes.Buffer
	if err := writeText(&out, &s.frame); err != nil {
		return nil, fmt.Errorf("write a scrape as text: %w", err)
	}
	return out.Bytes(), nil
}

// writeText writes the series of a frame as their target exposes them: without the target's labels, and without native
// histograms, which the text format has no place for.
func writeText(out *bytes.Buffer, f *frame.Frame) error {
	type group struct {
		family  frame.Family
		samples []exposition.Sample
	}
	var groups []*group
	histograms := f.Column.Histograms
	byName := make(map[string]*group)
	for i := range f.Schema.Series {
		var native frame.Histogram
		if len(histograms) > 0 && histograms[0].Row == i {
			native, histograms = histograms[0], histograms[1:]
		}
		if f.Column.Absent.Has(i) {
			continue
		}
		series := &f.Schema.Series[i]
		ls := series.Labels.WithoutEmpty()
		family := frame.Family{Name: ls.Get(model.MetricNameLabel), Type: model.MetricTypeUnknown}
		if series.Family >= 0 {
			family = f.Schema.Families[series.Family]
		}
		g := byName[family.Name]
		if g == nil {
			g = &group{family: family}
			byName[family.Name] = g
			groups = append(groups, g)
		}
		sample := exposition.Sample{Labels: ls, Value: f.Column.Values[i], Timestamp: frame.NoTimestamp, Int: native.Int, Float: native.Float}
		if f.Column.Timestamps != nil {
			sample.Timestamp = f.Column.Timestamps[i]
		}
		g.samples = append(g.samples, sample)
	}
	w := exposition.NewWriter(out, exposition.Format{})
	for _, g := range groups {
		if err := w.Family(g.family, g.samples); err != nil {
			return err
		}
	}
	return w.Close()
}
