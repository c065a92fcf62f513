package exposition

import (
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// ends tells whether the parser comes to the end of an exposition. Asked for a start timestamp it looks ahead, and there it never
// comes out of an exemplar that is malformed, which it otherwise refuses (Prometheus 3.15, OpenMetricsParser.parseComment).
func (l *Layout) ends(body []byte, contentType string) error {
	parser, err := l.newParser(body, contentType)
	for err == nil {
		_, err = parser.Next()
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// read takes a whole exposition through Prometheus' parser. It tells whether the lines read can be compared with the
// next exposition by position.
func (l *Layout) read(body []byte, contentType string, kind kind) (positional bool, err error) {
	if kind != kindText && kind != kindOpenMetrics {
		// What a target sends must not end the process, whatever its parser makes of it.
		defer func() {
			if p := recover(); p != nil {
				positional, err = false, fmt.Errorf("the parser failed: %v", p)
			}
		}()
	}
	if kind == kindText && cap(body) == len(body) {
		// The parser appends a line break; made here, the keys it returns stay in the body.
		body = append(body, '\n')[:len(body)]
	}
	l.own(l.skeleton, 0)
	if kind == kindProtobuf {
		if err := checkMessages(body); err != nil {
			return false, err
		}
	}
	parser, err := l.newParser(body, contentType)
	if err != nil {
		return false, err
	}
	if l.rules.StartTimestamps && kind != kindText && kind != kindProtobuf {
		if err := l.ends(body, contentType); err != nil {
			return false, err
		}
	}
	if kind != kindText {
		l.extra = &extra{parser: parser, starts: kind == kindProtobuf || l.rules.StartTimestamps}
		defer func() { l.extra = nil }()
	}
	r := reader{l: l, parser: parser, body: body, kind: kind, positional: kind == kindText || kind == kindOpenMetrics}
	for {
		e, err := parser.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return false, err
		}
		switch e {
		case textparse.EntryType, textparse.EntryHelp, textparse.EntryUnit:
			l.pass.describe(e, parser)
		case textparse.EntryHistogram:
			if err := r.histogram(); err != nil {
				return false, err
			}
		case textparse.EntrySeries:
			if err := r.sample(); err != nil {
				return false, err
			}
		}
	}
	if r.positional {
		l.pass.tail = append(l.pass.tail, body[r.done:]...)
	}
	return r.positional, nil
}

// reader is the state of one read.
type reader struct {
	l          *Layout
	parser     textparse.Parser
	body       []byte
	kind       kind
	positional bool
	// next is the line of the old skeleton that is expected next; done is where in the body the last sample ended.
	next, done int
}

func (r *reader) sample() error {
	l := r.l
	key, stamp, v := r.parser.Series()
	n, ts := number{v, 0, frame.NoDecimal}, int64(frame.NoTimestamp)
	if stamp != nil && l.rules.HonorTimestamps {
		ts = *stamp
	}
	seg := key
	if r.positional {
		if start, exact, end := r.locate(key, stamp, v); end >= 0 {
			seg, n, r.done = r.body[r.done:start], exact, end
		} else {
			r.positional = false
		}
	}
	if x := l.extra; x != nil {
		x.int, x.float = nil, nil
	}
	return r.take(key, seg, n, ts)
}

// histogram takes a native histogram. It never stands in a format that is compared by position.
func (r *reader) histogram() error {
	l := r.l
	key, stamp, h, fh := r.parser.Histogram()
	if h == nil && fh == nil {
		return fmt.Errorf("no histogram in series %.100q", key)
	}
	l.extra.int, l.extra.float = h, fh
	ts := int64(frame.NoTimestamp)
	if stamp != nil && l.rules.HonorTimestamps {
		ts = *stamp
	}
	return r.take(key, key, number{}, ts)
}

// take gives a sample to the layout.
func (r *reader) take(key, seg []byte, n number, ts int64) error {
	l := r.l
	sk, hash := l.skeleton, l.hash(key)
	if id := r.find(sk, hash); id >= 0 {
		l.known(sk, id, seg, n, ts)
	} else if err := l.unknown(key, hash, seg, n, ts, func(ls *labels.Labels) { r.parser.Labels(ls) }); err != nil {
		return err
	}
	return l.tally.fatal
}

// find gives the first line of the old skeleton with this key, or -1.
func (r *reader) find(sk *skeleton, key uint64) int32 {
	if sk == nil {
		return -1
	}
	id := int32(r.next)
	if r.next >= len(sk.lines) || sk.lines[r.next].flags&(repeated|untaken) != 0 || sk.lines[id].key != key {
		if id = sk.find(key); id < 0 {
			return -1
		}
	}
	r.next = int(id) + 1
	return id
}

// locate finds the sample in the body: where its value starts and where its line ends. An end of -1 says
// that the line is none for the fast path: it does not look as if our own reading of it were the parser's.
func (r *reader) locate(key []byte, stamp *int64, v float64) (start int, n number, end int) {
	b := r.body
	at := cap(b) - cap(key)
	keyEnd := at + len(key)
	if at < r.done || keyEnd > len(b) {
		return 0, n, -1
	}
	if r.kind == kindText {
		start = skipBlank(b, keyEnd)
	} else if start = keyEnd + 1; start > len(b) || b[keyEnd] != ' ' {
		return 0, n, -1
	}
	if start == 0 || start == keyEnd && b[start-1] != '}' {
		return 0, n, -1
	}
	n, end = parseNumber(b, start)
	if end < 0 || math.Float64bits(n.value) != math.Float64bits(v) {
		return 0, n, -1
	}
	if r.kind == kindOpenMetrics {
		if end == len(b) || stamp != nil {
			return 0, n, -1
		}
		if b[end] != '\n' {
			_, end = readExemplar(b, end, &r.l.exemplarLabels)
		}
		return start, n, end
	}
	ts, end := parseSuffix(b, end)
	if end < 0 || (stamp == nil) != (ts == frame.NoTimestamp) || stamp != nil && *stamp != ts {
		return 0, n, -1
	}
	return start, n, end
}
