package exposition

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// For how many scrapes a series that vanished keeps its place in the schema: flapping series must not cost a schema each
// time, and where series change again and again, the old ones leave when new ones come.
const (
	// keepAbsent is after how many it leaves if the schema changes anyway, or if a quarter of the schema is as long absent.
	keepAbsent = 5
	// mostAbsent is after how many it leaves in any case.
	mostAbsent = 100
)

// maxErrorText bounds the text of an error about an exposition, which the parser quotes at any length.
const maxErrorText = 512

// Parsed is what one exposition gave. Column and Schema are valid until the next Parse of the layout.
type Parsed struct {
	Schema *frame.Schema
	Column frame.Column
	// Scraped, PostRelabel and Added are what Prometheus reports as scrape_samples_scraped,
	// scrape_samples_post_metric_relabeling and scrape_series_added. They are set also beside an error.
	Scraped, PostRelabel, Added int
	// Skipped counts what was exposed and is not in the column.
	Skipped Skipped
}

// Skipped counts what an exposition had and a column does not carry.
type Skipped struct {
	// Duplicates are samples of a series that the exposition had before and that are not newer than that one: Prometheus does
	// not store them either. Of native histograms also the older ones, for which there is no place.
	Duplicates int
	// Ahead are samples with a timestamp too far in the future.
	Ahead int
	// Histograms are native histograms that are in no column; none since columns hold them.
	Histograms int
	// Exemplars are those that Prometheus does not take either: with labels too long, or of a native histogram and
	// without a timestamp.
	Exemplars int
}

// Layout turns the expositions of one target into columns. It is not for concurrent use.
type Layout struct {
	rules  Rules
	limits frame.Limits
	store  *Schemas

	skeleton *skeleton
	catalog  *catalog
	// missed counts for each series for how many scrapes it has been absent; nil if all are there.
	missed []uint8
	// failed holds the series, by their keys, that were first seen in scrapes that then failed. Prometheus does not
	// count them as added afterwards and keeps the labels they had there, so we do.
	failed map[string]labels.Labels
	// blank says that the last exposition was empty, so the column's presence is not that of the skeleton.
	blank bool

	contentType string
	kind        kind
	kindKnown   bool

	column frame.Column
	// stamps are the timestamps of the column while there are any; stampBuf is their memory.
	stamps, stampBuf []int64
	tally            tally
	// extra is the current sample of a format that has more than numbers, else nil; extras is what the samples had.
	extra  *extra
	extras extras
	// past is what older samples of a series there are beside the newest.
	past past
	// exemplarLabels is memory to read labels of exemplars.
	exemplarLabels labels.ScratchBuilder
	// pass is what a parse finds out; nil between parses.
	pass *pass
}

// NewLayout makes the layout of one target.
func NewLayout(r Rules, s *Schemas) *Layout {
	if r.Now == nil {
		r.Now = time.Now
	}
	l := &Layout{rules: r, limits: frame.DefaultLimits(), store: s}
	if r.Limits != nil {
		l.limits = *r.Limits
	}
	return l
}

// kind is a format of expositions, as far as the parsers differ.
type kind uint8

const (
	kindText kind = iota + 1
	kindOpenMetrics
	kindProtobuf
	kindOther
)

// protobufType is what the Content-Type of the protobuf format begins with.
const protobufType = "application/vnd.google.protobuf"

func (l *Layout) newParser(body []byte, contentType string) (textparse.Parser, error) {
	r := &l.rules
	p, err := textparse.New(body, contentType, nil, textparse.ParserOptions{
		FallbackContentType:                     r.fallback(),
		IgnoreNativeHistograms:                  !r.ScrapeNativeHistograms,
		ConvertClassicHistogramsToNHCB:          r.ConvertClassicHistogramsToNHCB,
		KeepClassicOnClassicAndNativeHistograms: r.AlwaysScrapeClassicHistograms,
		OpenMetricsSkipSTSeries:                 r.StartTimestamps,
	})
	if p == nil {
		if err == nil {
			err = errors.New("no parser for it")
		}
		return nil, fmt.Errorf("content type %.100q: %w", contentType, err)
	}
	return p, nil
}

// kindOf says which parser reads a content type, which only textparse knows.
func (l *Layout) kindOf(contentType string) kind {
	if l.kindKnown && contentType == l.contentType {
		return l.kind
	}
	l.kind = kindOther
	if p, err := l.newParser(nil, contentType); err == nil {
		switch p.(type) {
		case *textparse.PromParser:
			l.kind = kindText
		case *textparse.OpenMetricsParser:
			l.kind = kindOpenMetrics
		case *textparse.ProtobufParser:
			l.kind = kindProtobuf
		}
	}
	l.contentType, l.kindKnown = contentType, true
	return l.kind
}

// Parse reads one exposition. The byte behind body, within its capacity, may be overwritten. An error means that the
// scrape failed: the layout stays as it was and reads the next exposition as if this one had not been.
func (l *Layout) Parse(body []byte, contentType string) (Parsed, error) {
	if len(body) > math.MaxInt32 {
		return Parsed{}, fmt.Errorf("exposition: %d bytes, limit %d", len(body), math.MaxInt32)
	}
	if len(body) == 0 {
		return l.parseBlank()
	}
	kind := l.kindOf(contentType)
	l.begin()
	if sk := l.skeleton; sk != nil && sk.positional && sk.kind == kind {
		at, pos := l.match(sk, body)
		if pos < 0 {
			l.extras.starts = sk.starts
			return l.unchanged()
		}
		defer l.store.turn()()
		defer l.shut()
		if kind == kindText && l.resync(sk, body, at, pos) {
			return l.commit(kind, true)
		}
		l.begin()
		return l.readAll(body, contentType, kind)
	}
	defer l.store.turn()()
	defer l.shut()
	return l.readAll(body, contentType, kind)
}

// readAll is Parse for what cannot be compared with what was there before.
func (l *Layout) readAll(body []byte, contentType string, kind kind) (Parsed, error) {
	positional, err := l.read(body, contentType, kind)
	if err != nil {
		return l.refuse(err)
	}
	return l.commit(kind, positional)
}

// parseBlank takes an empty body: to Prometheus that is a good scrape of nothing, which forgets nothing.
func (l *Layout) parseBlank() (Parsed, error) {
	l.begin()
	if l.catalog == nil {
		s, err := frame.NewSchema(nil, nil, l.limits)
		if err != nil {
			return Parsed{}, err
		}
		l.catalog = l.store.catalog(s, nil)
	}
	n := l.catalog.schema.Len()
	l.grow(n)
	l.column.Absent = nil
	if n > 0 {
		l.column.Absent = frame.NewBitmap(n)
		for i := range n {
			l.column.Absent.Set(i)
		}
	}
	l.blank = true
	return l.parsed(), nil
}

// unchanged ends a parse in which every line was where it was expected.
func (l *Layout) unchanged() (Parsed, error) {
	sk := l.skeleton
	if l.blank || !l.older() {
		// Presence may change, or an absent one has to leave.
		defer l.shut()
		l.own(sk, len(sk.lines))
		l.pass.tail = append(l.pass.tail, sk.tail...)
		return l.commit(sk.kind, true)
	}
	l.tally.scraped, l.tally.postRelabel = len(sk.lines), sk.kept
	n := l.catalog.schema.Len()
	l.extras.sort(n)
	l.past.settle(n, nil, l.stamps)
	l.failed = nil
	return l.parsed(), nil
}

// older counts one more scrape for the series that are absent in an exposition with the lines of the last one, unless one
// of them has to leave.
func (l *Layout) older() bool {
	if leaving(l.missed, 1) {
		return false
	}
	for i, n := range l.missed {
		if n > 0 {
			l.missed[i]++
		}
	}
	return true
}

// begin forgets what the last parse found.
func (l *Layout) begin() {
	l.tally = tally{}
	l.stamps = nil
	l.extras = extras{}
	l.past.begin()
}

func (l *Layout) parsed() Parsed {
	c := l.column
	c.Timestamps, c.Starts = l.stamps, l.extras.starts
	c.Histograms, c.Exemplars = l.extras.histograms, l.extras.exemplars
	if c.Earlier = nil; len(l.past.earlier) > 0 {
		c.Earlier = l.past.earlier
	}
	return Parsed{
		Schema: l.catalog.schema, Column: c,
		Scraped: l.tally.scraped, PostRelabel: l.tally.postRelabel, Added: l.tally.added, Skipped: l.tally.skipped,
	}
}

// refuse ends a parse that failed.
func (l *Layout) refuse(err error) (Parsed, error) {
	p := l.pass
	known := 0
	if l.skeleton != nil {
		known = len(l.skeleton.lines)
	}
	if len(l.failed) > 2*known+1000 {
		clear(l.failed)
	}
	for key, i := range p.freshKeys {
		if ln := &p.lines[i]; ln.series != dropped && ln.flags&untaken == 0 {
			if l.failed == nil {
				l.failed = make(map[string]labels.Labels)
			}
			l.failed[key] = p.labelsOf(ln.series)
		}
	}
	if text := err.Error(); len(text) > maxErrorText {
		err = errors.New(text[:maxErrorText] + "…")
	}
	return Parsed{Scraped: l.tally.scraped, PostRelabel: l.tally.postRelabel, Added: l.tally.added, Skipped: l.tally.skipped},
		fmt.Errorf("exposition: %w", err)
}

// grow makes room in the column for n series.
func (l *Layout) grow(n int) {
	c := &l.column
	if n > cap(c.Values) {
		c.Values = append(make([]float64, 0, n+n/8), c.Values...)
		c.Mantissas = append(make([]int64, 0, n+n/8), c.Mantissas...)
		c.Exponents = append(make([]int8, 0, n+n/8), c.Exponents...)
	}
	c.Values, c.Mantissas, c.Exponents = c.Values[:n], c.Mantissas[:n], c.Exponents[:n]
}

// stamp notes the timestamp of a sample, or that it has none.
func (l *Layout) stamp(series int32, ts int64) {
	if ts == frame.NoTimestamp && len(l.stamps) <= int(series) {
		return
	}
	if l.stamps == nil {
		l.stamps = l.stampBuf[:0]
	}
	for n := max(len(l.column.Values), int(series)+1); len(l.stamps) < n; {
		l.stamps = append(l.stamps, frame.NoTimestamp)
	}
	l.stampBuf = l.stamps
	l.stamps[series] = ts
}
