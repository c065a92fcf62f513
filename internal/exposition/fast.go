package exposition

import (
	"bytes"
	"errors"
	"hash/maphash"
	"io"
	"math"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// match compares an exposition with the skeleton, run by run, and takes its numbers into the column. A pos of -1 says
// that all of it matched. Else line at was not found at pos, where the line before it ends.
func (l *Layout) match(sk *skeleton, body []byte) (at, pos int) {
	l.grow(sk.catalog.schema.Len())
	values, mantissas, exponents := l.column.Values, l.column.Mantissas, l.column.Exponents
	seed := l.store.seed
	for i := range sk.lines {
		ln := &sk.lines[i]
		from := pos + int(ln.size)
		if from > len(body) || maphash.Bytes(seed, body[pos:from]) != ln.text {
			return i, pos
		}
		n, next := parseNumber(body, from)
		if next < 0 {
			return i, pos
		}
		if next < len(body) && body[next] != '\n' || next == len(body) && sk.kind != kindText {
			var ok bool
			if next, ok = l.matchSuffix(sk.kind, ln, body, next); !ok {
				return i, pos
			}
		}
		if s := ln.series; s >= 0 {
			if ln.flags&repeated == 0 {
				values[s], mantissas[s], exponents[s] = n.value, n.mantissa, n.exponent
			} else {
				l.tally.skipped.Duplicates++
			}
		}
		pos = next
	}
	if string(body[pos:]) != string(sk.tail) {
		return len(sk.lines), pos
	}
	return 0, -1
}

// matchSuffix reads what follows a value on its line. What needs more thought than a timestamp is not ok.
func (l *Layout) matchSuffix(kind kind, ln *line, body []byte, pos int) (next int, ok bool) {
	if kind != kindText {
		return l.matchExemplar(ln, body, pos)
	}
	ts, next := parseSuffix(body, pos)
	if next < 0 {
		return 0, false
	}
	if ts == frame.NoTimestamp || ln.series == dropped || !l.rules.HonorTimestamps {
		return next, true
	}
	if ln.flags&repeated != 0 || ts > l.latest() {
		return 0, false
	}
	l.stamp(ln.series, ts)
	return next, true
}

// resync goes on after match found a difference: lines that differ are looked up, unknown ones given to Prometheus'
// parser one by one, and comparing goes on behind the line found. It gives up on whatever is unusual.
func (l *Layout) resync(sk *skeleton, body []byte, at, pos int) bool {
	l.own(sk, at)
	p := l.pass
	for {
		if at < len(sk.lines) {
			if next := l.matchLine(sk, at, body, pos); next >= 0 {
				pos = next
				at++
				continue
			}
		}
		from := pos
		if pos > 0 {
			from++
		}
		if from >= len(body) {
			p.tail = append(p.tail, body[pos:]...)
			return true
		}
		start, ok := l.comments(body, from)
		if !ok {
			return false
		}
		if start == len(body) {
			p.tail = append(p.tail, body[pos:]...)
			return true
		}
		id, next := l.lookUp(sk, body, pos, start)
		if next < 0 {
			return false
		}
		pos = next
		if id >= 0 {
			at = int(id) + 1
		}
	}
}

// matchLine takes line at from where it is expected, or gives -1.
func (l *Layout) matchLine(sk *skeleton, at int, body []byte, pos int) int {
	p := l.pass
	ln := &sk.lines[at]
	if ln.flags&saysFamily != 0 && ln.family == lostFamily {
		return -1 // it may describe a family that this exposition described before: comments looks
	}
	from := pos + int(ln.size)
	if from > len(body) || maphash.Bytes(l.store.seed, body[pos:from]) != ln.text {
		return -1
	}
	n, next := parseNumber(body, from)
	if next < 0 {
		return -1
	}
	ts, next := parseSuffix(body, next)
	if next < 0 {
		return -1
	}
	if !l.rules.HonorTimestamps {
		ts = frame.NoTimestamp
	}
	if ln.flags&saysFamily != 0 {
		p.family = ln.family
	}
	if ln.flags&saysType != 0 {
		p.typ = ln.typ
	}
	p.says |= ln.flags & (saysFamily | saysType)
	id := int32(at)
	if ln.flags&repeated != 0 {
		id = sk.find(ln.key)
	}
	l.known(sk, id, body[pos:from], n, ts)
	return next
}

// lookUp takes the line at start, whatever its place; the line before it ended at pos. It gives the line's index in
// the old skeleton, or -1 for an unknown one, and its end, or -1 to give up.
func (l *Layout) lookUp(sk *skeleton, body []byte, pos, start int) (id int32, next int) {
	keyEnd := endOfKey(body, start)
	if keyEnd < 0 {
		return 0, -1
	}
	from := skipBlank(body, keyEnd)
	if from == keyEnd && body[keyEnd-1] != '}' {
		return 0, -1
	}
	n, next := parseNumber(body, from)
	if next < 0 {
		return 0, -1
	}
	ts, next := parseSuffix(body, next)
	if next < 0 {
		return 0, -1
	}
	key, seg := body[start:keyEnd], body[pos:from]
	hash := l.hash(key)
	if id = sk.find(hash); id < 0 {
		exposed, ok := l.parseLine(body[start:next], key, n, ts)
		if !ok || l.pass.family == lostFamily {
			return 0, -1
		}
		if !l.rules.HonorTimestamps {
			ts = frame.NoTimestamp
		}
		if l.unknown(key, hash, seg, n, ts, func(ls *labels.Labels) { *ls = exposed }) != nil {
			return 0, -1
		}
		return -1, next
	}
	if !l.rules.HonorTimestamps {
		ts = frame.NoTimestamp
	}
	l.known(sk, id, seg, n, ts)
	return id, next
}

// parseLine gives one line to Prometheus' parser, which must agree with what we read.
func (l *Layout) parseLine(text, key []byte, n number, ts int64) (labels.Labels, bool) {
	var ls labels.Labels
	if bytes.IndexByte(text, 0) >= 0 {
		return ls, false
	}
	b := append([]byte("# TYPE x "), l.pass.typ.name()...)
	b = append(b, '\n')
	b = append(b, text...)
	parser := textparse.NewPromParser(b, nil, false)
	if e, err := parser.Next(); err != nil || e != textparse.EntryType {
		return ls, false
	}
	if e, err := parser.Next(); err != nil || e != textparse.EntrySeries {
		return ls, false
	}
	got, stamp, v := parser.Series()
	if !bytes.Equal(got, key) || math.Float64bits(v) != math.Float64bits(n.value) ||
		(stamp == nil) != (ts == frame.NoTimestamp) || stamp != nil && *stamp != ts {
		return ls, false
	}
	parser.Labels(&ls)
	_, err := parser.Next()
	return ls, errors.Is(err, io.EOF)
}

// comments takes blank and comment lines and gives where the first other one begins. What would describe a family
// otherwise than before is not ok.
func (l *Layout) comments(body []byte, from int) (next int, ok bool) {
	p := l.pass
	next = from
	hash := false
	for next < len(body) && (body[next] == '#' || body[next] == '\n') {
		hash = hash || body[next] == '#'
		i := bytes.IndexByte(body[next:], '\n')
		if i < 0 {
			next = len(body)
			break
		}
		next += i + 1
	}
	if next < len(body) && (body[next] == ' ' || body[next] == '\t') {
		return 0, false
	}
	if !hash {
		return next, true
	}
	text := body[from:next:next]
	if bytes.IndexByte(text, 0) >= 0 {
		return 0, false
	}
	parser := textparse.NewPromParser(text, nil, false)
	for {
		e, err := parser.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || e == textparse.EntrySeries {
			return 0, false
		}
		p.describe(e, parser)
	}
	return next, !p.conflict && !p.redescribed()
}

// endOfKey gives where the name and labels that start at i end, or -1.
func endOfKey(b []byte, i int) int {
	start := i
	for i < len(b) && b[i] != '{' && b[i] != ' ' && b[i] != '\t' && b[i] != '\n' {
		i++
	}
	if i == len(b) || b[i] != '{' {
		if i == start {
			return -1
		}
		return i
	}
	quoted := false
	for i++; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			quoted = !quoted
		case quoted && c == '\\':
			i++
		case !quoted && c == '}':
			return i + 1
		case !quoted && c == '\n':
			return -1
		}
	}
	return -1
}
