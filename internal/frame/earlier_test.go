package frame

import (
	"encoding/binary"
	"errors"
	"math"
	"testing"
	"time"
)

// earlierColumn has two earlier samples of row 0 and one, a float, of row 2.
func earlierColumn() *Column {
	return &Column{
		Values: []float64{233, 7, 0.1}, Timestamps: []int64{wholeTime - 5, NoTimestamp, wholeTime - 6},
		Earlier: []Earlier{{0, 231.5, wholeTime - 20}, {0, 230, wholeTime - 10}, {2, math.Pi, wholeTime - 7}},
	}
}

// TestEarlier: they arrive, in keyframes and in what builds on them, and are no state: a frame without any has none, and
// takes not one byte more than if there had never been any.
func TestEarlier(t *testing.T) {
	s, d := plainSchema(t, 3, 0), NewDecoder(1, DefaultLimits())
	e, bare := NewEncoder(1, testTarget(1, time.Second), EncoderOptions{}), NewEncoder(1, testTarget(1, time.Second), EncoderOptions{})
	e.length, bare.length = 16, 16
	for i := range int64(16) {
		c := earlierColumn()
		if i%3 == 1 {
			c.Earlier = nil
		}
		if i%5 == 2 && i%3 != 1 {
			c.Earlier[1].Timestamp = NoTimestamp
		}
		raw := encodeOne(t, e, wholeTime+i*1000, s, c)
		f, err := d.Decode(raw, known(s))
		if err != nil {
			t.Fatal(err)
		}
		if i%5 == 2 && i%3 != 1 {
			c.Earlier[1].Timestamp = wholeTime + i*1000
		}
		sameColumn(t, &f.Column, c)
		plain := encodeOne(t, bare, wholeTime+i*1000, s, &Column{Values: c.Values, Timestamps: c.Timestamps})
		if extra := len(raw.Body) - len(plain.Body); c.Earlier == nil && extra != 0 || extra > 31 {
			t.Errorf("scrape %d: %d bytes more", i, extra)
		}
	}
}

// TestEarlierRefused: columns that make no sense, and bytes that a reader must not believe.
func TestEarlierRefused(t *testing.T) {
	s := plainSchema(t, 3, 0)
	for name, change := range map[string]func(*Column){
		"not in order": func(c *Column) { c.Earlier[0].Row = 1 },
		"no such row":  func(c *Column) { c.Earlier[2].Row = 3 },
		"absent":       func(c *Column) { c.Absent = Bitmap{1} },
		"too many":     func(c *Column) { c.Earlier = make([]Earlier, DefaultLimits().Earlier+1) },
		"a histogram":  func(c *Column) { c.Histograms = wholeColumn().Histograms[:1]; c.Earlier[2].Row = 1 },
	} {
		e := NewEncoder(1, testTarget(1, time.Second), EncoderOptions{})
		c := earlierColumn()
		change(c)
		if b, err := e.AppendScrape(nil, wholeTime, Report{}, s, c); err == nil || len(b) > 0 {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
	row := func(gap, more uint64, class byte, rest ...byte) []byte {
		return append(append(binary.AppendUvarint(binary.AppendUvarint(nil, gap), more), class), rest...)
	}
	for name, b := range map[string][]byte{
		"no such row":    row(3, 0, 0, 1, 1),
		"row far away":   row(math.MaxUint64, 0, 0, 1, 1),
		"second row":     append(row(2, 0, 0, 1, 1), row(0, 0, 0, 1, 1)...),
		"absent row":     row(1, 0, 0, 1, 1),
		"truncated":      row(0, 1, 0, 1, 1, 1),
		"more than fits": row(0, 1<<40, 0, 1, 1),
		"class":          row(0, 0, 0x11, 1, 1),
		"class of none":  row(0, 0, 0x41, 1, 1),
		"out of range":   row(0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1),
	} {
		p := &pending{Decoder: NewDecoder(1, DefaultLimits()), hidden: Bitmap{1 << 1}}
		err := p.earlier(b, &Column{Values: []float64{1, 2, 3}})
		var limit *LimitError
		if !errors.Is(err, ErrMalformed) && !errors.As(err, &limit) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
