package sink

import (
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// Malformed is the reason for rejecting a frame that contradicts itself.
const Malformed = "malformed"

// Check refuses a frame that contradicts itself, or one with a target label that is not valid for the sink: who publishes
// a frame need not be one of ours.
func Check(f *frame.Frame, valid func(labels.Label) bool) error {
	switch f.Kind {
	case frame.Scraped, frame.Down, frame.End:
	default:
		return Reject(Malformed, "frame of kind %d", f.Kind)
	}
	if f.Target == nil || f.Target.Labels.IsEmpty() {
		return Reject(Malformed, "frame of a target without labels")
	}
	if err := f.Target.Labels.Validate(func(l labels.Label) error {
		if !valid(l) {
			return Reject(Malformed, "target label %q=%q is not valid", l.Name, l.Value)
		}
		return nil
	}); err != nil {
		return err
	}
	if f.Kind != frame.Scraped {
		return nil
	}
	switch c := &f.Column; {
	case f.Schema == nil:
		return Reject(Malformed, "scrape without a schema")
	case len(c.Values) != len(f.Schema.Series):
		return Reject(Malformed, "%d values for %d series", len(c.Values), len(f.Schema.Series))
	case c.Timestamps != nil && len(c.Timestamps) != len(c.Values):
		return Reject(Malformed, "%d timestamps for %d values", len(c.Timestamps), len(c.Values))
	case c.Starts != nil && len(c.Starts) != len(c.Values):
		return Reject(Malformed, "%d start timestamps for %d values", len(c.Starts), len(c.Values))
	}
	return checkRows(&f.Column)
}

// checkRows refuses histograms, exemplars and earlier samples that are not of a row, or not in the rows' order.
func checkRows(c *frame.Column) error {
	last := -1
	for i := range c.Histograms {
		h := &c.Histograms[i]
		if h.Row <= last || h.Row >= len(c.Values) {
			return Reject(Malformed, "histogram of row %d after one of row %d, of %d rows", h.Row, last, len(c.Values))
		}
		if (h.Int == nil) == (h.Float == nil) {
			return Reject(Malformed, "histogram of row %d is not either of integers or of floats", h.Row)
		}
		last = h.Row
	}
	last = 0
	for i := range c.Exemplars {
		if row := c.Exemplars[i].Row; row < last || row >= len(c.Values) {
			return Reject(Malformed, "exemplar of row %d after one of row %d, of %d rows", row, last, len(c.Values))
		}
		last = c.Exemplars[i].Row
	}
	last = 0
	for i := range c.Earlier {
		if row := c.Earlier[i].Row; row < last || row >= len(c.Values) {
			return Reject(Malformed, "earlier sample of row %d after one of row %d, of %d rows", row, last, len(c.Values))
		}
		last = c.Earlier[i].Row
	}
	return nil
}
