package exposition

import (
	"math"
	"unicode/utf8"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// readExemplar reads what follows a value in OpenMetrics, ` # {labels} value [timestamp]`, up to the end of the line.
// An end of -1 says that it is none, or written in a way that needs more thought.
func readExemplar(b []byte, i int, lb *labels.ScratchBuilder) (e frame.Exemplar, end int) {
	const begin = " # {"
	if len(b)-i < len(begin) || string(b[i:i+len(begin)]) != begin {
		return e, -1
	}
	lb.Reset()
	for i += len(begin); i < len(b) && b[i] != '}'; {
		name := i
		for i < len(b) && (b[i] == '_' || b[i]|0x20 >= 'a' && b[i]|0x20 <= 'z' || i > name && b[i]-'0' <= 9) {
			i++
		}
		if i == name || i+1 >= len(b) || b[i] != '=' || b[i+1] != '"' {
			return e, -1
		}
		value := i + 2
		for i = value; i < len(b) && b[i] != '"'; i++ {
			if b[i] == '\\' || b[i] == '\n' {
				return e, -1
			}
		}
		if i+1 >= len(b) || !utf8.Valid(b[value:i]) {
			return e, -1
		}
		lb.Add(string(b[name:value-2]), string(b[value:i]))
		if i++; b[i] == ',' && i+1 < len(b) && b[i+1] != '}' {
			i++
		} else if b[i] != '}' {
			return e, -1
		}
	}
	if i+1 >= len(b) || b[i+1] != ' ' {
		return e, -1
	}
	n, i := parseNumber(b, i+2)
	if i < 0 || i >= len(b) {
		return e, -1
	}
	e.Value, e.Timestamp = n.value, frame.NoTimestamp
	if b[i] == ' ' {
		if n, i = parseNumber(b, i+1); i < 0 || i >= len(b) || n.value != n.value || math.IsInf(n.value, 0) {
			return e, -1
		}
		e.Timestamp = int64(n.value * 1000)
	}
	if b[i] != '\n' {
		return e, -1
	}
	lb.Sort()
	e.Labels = lb.Labels()
	return e, i
}

// matchExemplar takes what follows a value in OpenMetrics on a line that is where it was expected.
func (l *Layout) matchExemplar(ln *line, body []byte, pos int) (next int, ok bool) {
	e, next := readExemplar(body, pos, &l.exemplarLabels)
	if next < 0 {
		return 0, false
	}
	if ln.series == dropped || ln.flags&repeated != 0 {
		return next, true
	}
	if tooLong(e.Labels) {
		l.tally.skipped.Exemplars++
		return next, true
	}
	e.Row, e.Labels = int(ln.series), e.Labels.WithoutEmpty()
	l.extras.exemplars = append(l.extras.exemplars, e)
	return next, true
}
