package exposition

import (
	"fmt"
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// rowsOf is what a column has besides numbers, by row.
type rowsOf struct {
	histograms map[int]frame.Histogram
	exemplars  map[int][]frame.Exemplar
	starts     []int64
}

func rows(c frame.Column) (r rowsOf, err error) {
	r = rowsOf{map[int]frame.Histogram{}, map[int][]frame.Exemplar{}, c.Starts}
	if c.Starts != nil && len(c.Starts) != len(c.Values) {
		return r, fmt.Errorf("%d start timestamps for %d values", len(c.Starts), len(c.Values))
	}
	for i, h := range c.Histograms {
		if i > 0 && h.Row <= c.Histograms[i-1].Row || c.Absent.Has(h.Row) || h.Row >= len(c.Values) {
			return r, fmt.Errorf("histogram %d is of row %d", i, h.Row)
		}
		r.histograms[h.Row] = h
	}
	for i, e := range c.Exemplars {
		if i > 0 && e.Row < c.Exemplars[i-1].Row || c.Absent.Has(e.Row) || e.Row >= len(c.Values) {
			return r, fmt.Errorf("exemplar %d is of row %d", i, e.Row)
		}
		r.exemplars[e.Row] = append(r.exemplars[e.Row], e)
	}
	return r, nil
}

// compare tells how a row differs from what is wanted.
func (r rowsOf) compare(i int, x refSample) error {
	h := r.histograms[i]
	if (h.Int == nil) != (x.h == nil) || (h.Float == nil) != (x.fh == nil) {
		return fmt.Errorf("histogram %+v, want %v or %v", h, x.h, x.fh)
	}
	if h.Int != nil && (!h.Int.Equals(x.h) || h.Int.CounterResetHint != x.h.CounterResetHint) ||
		h.Float != nil && (!h.Float.Equals(x.fh) || h.Float.CounterResetHint != x.fh.CounterResetHint) {
		return fmt.Errorf("histogram %+v, want %v or %v", h, x.h, x.fh)
	}
	start := int64(0)
	if r.starts != nil {
		start = r.starts[i]
	}
	if start != x.start {
		return fmt.Errorf("start timestamp %d, want %d", start, x.start)
	}
	x.exemplars = slices.Concat(x.before, x.exemplars)
	if len(r.exemplars[i]) != len(x.exemplars) {
		return fmt.Errorf("exemplars %+v, want %+v", r.exemplars[i], x.exemplars)
	}
	for j, e := range r.exemplars[i] {
		want := x.exemplars[j]
		if !labels.Equal(e.Labels, want.Labels) || math.Float64bits(e.Value) != math.Float64bits(want.Value) ||
			want.HasTs != (e.Timestamp != frame.NoTimestamp) || want.HasTs && e.Timestamp != want.Ts {
			return fmt.Errorf("exemplar %+v, want %+v", e, want)
		}
	}
	return nil
}
