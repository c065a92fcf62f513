package exporter

import (
	"bytes"
	"fmt"
	"math/rand"
	"strconv"
)

// kind says how the value of a series moves from scrape to scrape.
type kind uint8

const (
	constant        kind = iota // never changes
	integerCounter              // an integer that grows at every scrape
	secondsCounter              // two decimals, grows at every scrape
	gauge                       // a random walk with a full mantissa
	histogramBucket             // grows by the same step as its histogram, or never
	histogramSum                // as above, by a random part of it
)

// label is one name and value, in the order in which the target writes them.
type label struct{ name, value string }

// series is one line of an exposition.
type series struct {
	name   string
	labels []label
	prefix []byte // all of the line before its value
	kind   kind
	value  float64
	step   float64
	// churns: its pod is among those that are replaced.
	churns bool
}

// render makes the prefix after labels have changed.
func (s *series) render() {
	var b bytes.Buffer
	b.WriteString(s.name)
	if len(s.labels) > 0 {
		b.WriteByte('{')
		for i, l := range s.labels {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, "%s=%q", l.name, l.value)
		}
		b.WriteByte('}')
	}
	b.WriteByte(' ')
	s.prefix = b.Bytes()
}

// move changes the value as its kind says.
func (s *series) move(rnd *rand.Rand) {
	switch s.kind {
	case integerCounter:
		s.value += s.step + float64(rnd.Intn(1+int(s.step)))
	case secondsCounter:
		s.value = float64(int64((s.value+s.step)*100+0.5)) / 100
	case gauge:
		s.value += (rnd.Float64() - 0.5) * s.step
	case histogramBucket:
		s.value += s.step
	case histogramSum:
		if s.step > 0 {
			s.value += s.step * (0.5 + rnd.Float64())
		}
	}
}

// replacePod gives the series another pod name: in Prometheus' terms, another series.
func (s *series) replacePod(rnd *rand.Rand) {
	for i, l := range s.labels {
		if l.name == "pod" {
			s.labels[i].value = l.value[:len(l.value)-5] + hexString(rnd, 5)
		}
	}
	s.render()
}

// appendLine writes the series with its value as client_golang does.
func (s *series) appendLine(b *bytes.Buffer) {
	var number [32]byte
	b.Write(s.prefix)
	b.Write(strconv.AppendFloat(number[:0], s.value, 'g', -1, 64))
	b.WriteByte('\n')
}

func hexString(rnd *rand.Rand, n int) string {
	const digits = "0123456789abcdef"
	b := make([]byte, n)
	for i := range b {
		b[i] = digits[rnd.Intn(16)]
	}
	return string(b)
}
