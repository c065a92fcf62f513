package frame

import (
	"fmt"
	"slices"
)

// extras are what a state keeps besides integers. The slices are never changed, so that states and decoded frames
// share what did not change from one to the next. Rows that are absent keep theirs.
type extras struct {
	starts     []int64
	histograms []Histogram
	exemplars  []Exemplar
	extraBytes int64
}

func (x *extras) empty() bool { return x.starts == nil && x.histograms == nil && x.exemplars == nil }

// measure sets how many bytes they are.
func (x *extras) measure() {
	n := 8 * int64(len(x.starts))
	for i := range x.histograms {
		n += x.histograms[i].bytes()
	}
	for i := range x.exemplars {
		n += x.exemplars[i].bytes()
	}
	x.extraBytes = n
}

// move gives those of the rows of another schema: o says which row comes from which. New ones have none.
func (x *extras) move(o origins) (m extras) {
	if x.empty() {
		return m
	}
	if x.starts != nil {
		m.starts = make([]int64, len(o))
	}
	h, e := 0, 0
	for i, j := range o {
		if j < 0 {
			continue
		}
		if x.starts != nil {
			m.starts[i] = x.starts[j]
		}
		for h < len(x.histograms) && x.histograms[h].Row < int(j) {
			h++
		}
		if h < len(x.histograms) && x.histograms[h].Row == int(j) {
			m.histograms = append(m.histograms, Histogram{Row: i, Int: x.histograms[h].Int, Float: x.histograms[h].Float})
		}
		for e < len(x.exemplars) && x.exemplars[e].Row < int(j) {
			e++
		}
		for ; e < len(x.exemplars) && x.exemplars[e].Row == int(j); e++ {
			y := x.exemplars[e]
			y.Row = i
			m.exemplars = append(m.exemplars, y)
		}
	}
	m.measure()
	return m
}

// extrasWriter is what an encoder needs for a target that has more than values.
type extrasWriter struct {
	starts     startWriter
	histograms histogramWriter
	exemplars  exemplarWriter
	hidden     Bitmap
}

// hide finds the rows of a column without a value: the absent ones and the histograms.
func (e *Encoder) hide(c *Column) {
	if len(c.Histograms) == 0 {
		if e.hidden = c.Absent; c.Absent != nil && c.Absent.count(len(c.Values)) == 0 {
			e.hidden = nil
		}
		return
	}
	n := (len(c.Values) + 63) / 64
	x := e.extras()
	if cap(x.hidden) < n {
		x.hidden = make(Bitmap, n)
	}
	x.hidden = x.hidden[:n]
	clear(x.hidden[copy(x.hidden, c.Absent):])
	for i := range c.Histograms {
		x.hidden.Set(c.Histograms[i].Row)
	}
	e.hidden = x.hidden
}

func (e *Encoder) extras() *extrasWriter {
	if e.extra == nil {
		e.extra = &extrasWriter{histograms: histogramWriter{shared: e.codes}}
	}
	return e.extra
}

// appendExtras writes the sections of what a column has besides values, and gives what the state after this frame
// keeps of it. The column's own memory is not kept.
func (e *Encoder) appendExtras(dst []byte, timeMs int64, c *Column, base *extras, keep bool) ([]byte, extras) {
	if c.Starts == nil && c.Histograms == nil && c.Exemplars == nil && base.empty() {
		return dst, extras{}
	}
	w := e.extras()
	x := *base
	if c.Starts != nil || base.starts != nil {
		dst, x.starts = w.starts.append(dst, base.starts, c.Starts, c.Absent, len(c.Values), timeMs)
	}
	if c.Histograms != nil || base.histograms != nil {
		dst, x.histograms = w.histograms.append(dst, base.histograms, c.Histograms, c.Absent, keep)
	}
	if c.Exemplars != nil || base.exemplars != nil {
		dst, x.exemplars = w.exemplars.append(dst, base.exemplars, c.Exemplars, c.Absent, timeMs, &e.div, keep)
	}
	return dst, x
}

// extras reads the sections of what a column has besides values, and gives what the state after this frame keeps.
func (p *pending) extras(sec *sections, base *extras, c *Column, n int) (x extras, err error) {
	p.hidden = c.Absent
	if sec.starts == nil && sec.histograms == nil && sec.exemplars == nil && base.empty() {
		return x, nil
	}
	if x.starts, err = parseStarts(sec.starts, base.starts, c.Absent, n, p.raw.Time); err != nil {
		return x, fmt.Errorf("start timestamps: %w", err)
	}
	if anyStart(x.starts, c.Absent) {
		c.Starts = x.starts
	}
	if x.histograms, err = p.parseHistograms(sec.histograms, base.histograms, c.Absent, n); err != nil {
		return x, fmt.Errorf("histograms: %w", err)
	}
	if c.Histograms = present(x.histograms, histogramRow, c.Absent); len(c.Histograms) > 0 {
		p.hidden = NewBitmap(n)
		copy(p.hidden, c.Absent)
		for i := range c.Histograms {
			p.hidden.Set(c.Histograms[i].Row)
		}
	}
	if x.exemplars, c.Exemplars, err = p.parseExemplars(sec.exemplars, base.exemplars, c.Absent, n); err != nil {
		return x, fmt.Errorf("exemplars: %w", err)
	}
	x.measure()
	return x, nil
}

// checkExtras checks histograms and exemplars. Limits are those that a reader has by default.
func (c *Column) checkExtras(n int) error {
	lim := DefaultLimits()
	row := -1
	for i := range c.Histograms {
		h := &c.Histograms[i]
		if h.Row <= row || h.Row >= n || c.Absent.Has(h.Row) {
			return fmt.Errorf("column with a histogram in row %d of %d, behind one in row %d or absent", h.Row, n, row)
		}
		row = h.Row
		if err := h.check(lim.Buckets); err != nil {
			return fmt.Errorf("column with a histogram in row %d: %w", row, err)
		}
	}
	row = 0
	for i := range c.Exemplars {
		x := &c.Exemplars[i]
		if x.Row < row || x.Row >= n || c.Absent.Has(x.Row) {
			return fmt.Errorf("column with an exemplar in row %d of %d, behind one in row %d or absent", x.Row, n, row)
		}
		row = x.Row
		if err := x.check(&lim); err != nil {
			return fmt.Errorf("column with an exemplar in row %d: %w", row, err)
		}
	}
	return nil
}

// present are those of rows that are not absent.
func present[T Histogram | Exemplar](all []T, row func(*T) int, absent Bitmap) []T {
	gone := func(x T) bool { return absent.Has(row(&x)) }
	if !slices.ContainsFunc(all, gone) {
		return all
	}
	left := slices.DeleteFunc(slices.Clone(all), gone)
	if len(left) == 0 {
		return nil
	}
	return left
}

func histogramRow(h *Histogram) int { return h.Row }

func exemplarRow(e *Exemplar) int { return e.Row }
