package exposition

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/model/textparse"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// reference reads expositions as Prometheus' scrape loop does, one map look-up for each sample: what a Layout has to
// equal, whatever way it takes.
type reference struct {
	rules  Rules
	iter   int
	series map[string]*refEntry
	drops  map[string]int
	// newest are the times of the newest samples so far.
	newest map[string]int64
}

type refEntry struct {
	labels labels.Labels
	iter   int
}

type refSample struct {
	value     float64
	ts        int64
	family    string
	start     int64
	h         *histogram.Histogram
	fh        *histogram.FloatHistogram
	exemplars []exemplar.Exemplar
	earlier   []frame.Earlier
	before    []exemplar.Exemplar // of the earlier ones
}

type refResult struct {
	samples                     map[string]refSample
	meta                        map[string]metadata.Metadata
	scraped, postRelabel, added int
	err                         error
}

func newReference(r Rules) *reference {
	if r.Now == nil {
		r.Now = time.Now
	}
	return &reference{rules: r, series: map[string]*refEntry{}, drops: map[string]int{}, newest: map[string]int64{}}
}

func (r *reference) parse(body []byte, contentType string) (res refResult) {
	if len(body) == 0 {
		r.iter++
		return res
	}
	res.samples, res.meta = map[string]refSample{}, map[string]metadata.Metadata{}
	kind := (&Layout{rules: r.rules}).kindOf(contentType)
	if err := checkMessages(body); err != nil && kind == kindProtobuf {
		res.err = err
		return res
	}
	p, err := textparse.New(append([]byte(nil), body...), contentType, nil, textparse.ParserOptions{
		IgnoreNativeHistograms:                  !r.rules.ScrapeNativeHistograms,
		ConvertClassicHistogramsToNHCB:          r.rules.ConvertClassicHistogramsToNHCB,
		KeepClassicOnClassicAndNativeHistograms: r.rules.AlwaysScrapeClassicHistograms,
		OpenMetricsSkipSTSeries:                 r.rules.StartTimestamps,
		FallbackContentType:                     r.rules.fallback(),
	})
	if p == nil {
		res.err = err
		return res
	}
	if r.rules.StartTimestamps && kind != kindProtobuf && kind != kindText {
		// Prometheus would not come to an end; see Layout.ends.
		if err := (&Layout{rules: r.rules}).ends(append([]byte(nil), body...), contentType); err != nil {
			res.err = err
			return res
		}
	}
	s := refScrape{reference: r, res: &res, parser: p, latest: r.rules.Now().Add(maxAhead).UnixMilli()}
	for {
		e, err := p.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = s.entry(e)
		}
		if err != nil {
			res.err = err
			r.iter++
			return res
		}
	}
	if s.limited || s.bucketed {
		res.err = errors.New("native_histogram_bucket_limit exceeded")
		if s.limited {
			res.err = errors.New("sample_limit exceeded")
		}
		r.iter++
		return res
	}
	for k, e := range r.series {
		if e.iter != r.iter {
			delete(r.series, k)
		}
	}
	for k, i := range r.drops {
		if i != r.iter {
			delete(r.drops, k)
		}
	}
	r.iter++
	return res
}

// refScrape is one scrape of the reference.
type refScrape struct {
	*reference
	res      *refResult
	parser   textparse.Parser
	latest   int64
	appended int
	limited  bool
	bucketed bool
	family   string
}

func (s *refScrape) entry(e textparse.Entry) error {
	describe := func(name []byte, set func(*metadata.Metadata)) {
		s.family = string(name)
		m := s.res.meta[s.family]
		set(&m)
		s.res.meta[s.family] = m
	}
	switch e {
	case textparse.EntryType:
		name, typ := s.parser.Type()
		describe(name, func(m *metadata.Metadata) { m.Type = typ })
	case textparse.EntryHelp:
		name, help := s.parser.Help()
		describe(name, func(m *metadata.Metadata) { m.Help = string(help) })
	case textparse.EntryUnit:
		name, unit := s.parser.Unit()
		describe(name, func(m *metadata.Metadata) { m.Unit = string(unit) })
	case textparse.EntryHistogram:
		met, stamp, h, fh := s.parser.Histogram()
		return s.sample(met, stamp, refSample{h: h, fh: fh})
	case textparse.EntrySeries:
		met, stamp, v := s.parser.Series()
		return s.sample(met, stamp, refSample{value: v})
	}
	return nil
}

func (s *refScrape) sample(met []byte, stamp *int64, x refSample) error {
	r, res := s.reference, s.res
	res.scraped++
	ts := int64(frame.NoTimestamp)
	if stamp != nil && r.rules.HonorTimestamps {
		ts = *stamp
	}
	if _, ok := r.drops[string(met)]; ok {
		r.drops[string(met)] = r.iter
		return nil
	}
	entry, cached := r.series[string(met)]
	already := cached && entry.iter == r.iter
	var ls labels.Labels
	if cached {
		entry.iter = r.iter
		ls = entry.labels
	} else {
		s.parser.Labels(&ls)
		if ls = r.rules.finalLabels(ls); ls.IsEmpty() {
			r.drops[string(met)] = r.iter
			return nil
		}
		if err := r.rules.check(ls); err != nil {
			return err
		}
	}
	taken, err := false, error(nil)
	if x.ts = ts; !already || ts != frame.NoTimestamp {
		if _, proto := s.parser.(*textparse.ProtobufParser); proto || r.rules.StartTimestamps {
			x.start = s.parser.StartTimestamp()
		}
		x.exemplars = s.exemplars(x.h != nil || x.fh != nil)
		if taken, err = s.take(ls, x); err != nil {
			return err
		}
	}
	if !cached && taken {
		r.series[string(met)] = &refEntry{ls, r.iter}
		if !s.limited && !s.bucketed {
			res.added++
		}
	}
	res.postRelabel++
	return nil
}

// exemplars gives those of the current sample that Prometheus' storage takes.
func (s *refScrape) exemplars(native bool) (all []exemplar.Exemplar) {
	for x := (exemplar.Exemplar{}); s.parser.Exemplar(&x); x = (exemplar.Exemplar{}) {
		length := 0
		x.Labels.Range(func(l labels.Label) { length += utf8.RuneCountInString(l.Name + l.Value) })
		if !x.HasTs && native || length > 128 {
			continue
		}
		x.Labels = x.Labels.WithoutEmpty()
		if x.Ts == frame.NoTimestamp { // a number of seconds too large for Prometheus' parser, which gives this on amd64
			x.Ts, x.HasTs = 0, false
		}
		all = append(all, x)
	}
	slices.SortFunc(all, exemplar.Compare)
	return all
}

// limit does what Prometheus' appenders for native histograms do.
func (s *refScrape) limit(x *refSample) error {
	limit, maxSchema := s.rules.NativeHistogramBucketLimit, s.rules.maxSchema()
	switch {
	case x.h != nil:
		if histogram.IsExponentialSchemaReserved(x.h.Schema) && x.h.Schema > maxSchema {
			if err := x.h.ReduceResolution(maxSchema); err != nil {
				return err
			}
		}
		for limit > 0 && len(x.h.PositiveBuckets)+len(x.h.NegativeBuckets) > limit {
			if !histogram.IsExponentialSchema(x.h.Schema) || x.h.Schema <= histogram.ExponentialSchemaMin {
				return errBucketLimit
			}
			if err := x.h.ReduceResolution(x.h.Schema - 1); err != nil {
				return err
			}
		}
	case x.fh != nil:
		if histogram.IsExponentialSchemaReserved(x.fh.Schema) && x.fh.Schema > maxSchema {
			if err := x.fh.ReduceResolution(maxSchema); err != nil {
				return err
			}
		}
		for limit > 0 && len(x.fh.PositiveBuckets)+len(x.fh.NegativeBuckets) > limit {
			if !histogram.IsExponentialSchema(x.fh.Schema) || x.fh.Schema <= histogram.ExponentialSchemaMin {
				return errBucketLimit
			}
			if err := x.fh.ReduceResolution(x.fh.Schema - 1); err != nil {
				return err
			}
		}
	}
	return nil
}

// take is what the appenders of a scrape and the storage behind them do. Of the samples of one series it keeps what
// a column can hold: the newest, and the first of those.
func (s *refScrape) take(ls labels.Labels, x refSample) (bool, error) {
	if m, ok := s.res.meta[s.family]; !ok || !partOfFamily(ls.Get("__name__"), &frame.Family{Name: s.family, Type: m.Type}) {
		s.family = "" // as in Prometheus, up to the next description
	} else {
		x.family = s.family
	}
	if err := s.limit(&x); errors.Is(err, errBucketLimit) {
		s.bucketed = true
		return false, nil
	} else if err != nil {
		return false, err
	}
	s.appended++
	if limit := s.rules.SampleLimit; limit > 0 && s.appended > limit {
		s.limited = true
		return false, nil
	}
	if x.ts != frame.NoTimestamp && x.ts > s.latest {
		return false, nil
	}
	var invalid error
	if x.h != nil {
		invalid = x.h.Validate()
	} else if x.fh != nil {
		invalid = x.fh.Validate()
	}
	if invalid != nil {
		return false, invalid
	}
	effective := func(ts int64) int64 {
		if ts == frame.NoTimestamp {
			return s.latest - maxAhead.Milliseconds()
		}
		return ts
	}
	key := ls.String()
	old, ok := s.res.samples[key]
	if ok && effective(x.ts) <= effective(old.ts) {
		return true, nil
	}
	if ok {
		x.after(old)
	}
	s.res.samples[key] = x
	return true, nil
}

// after makes the sample one that is newer than another of its series.
func (x *refSample) after(old refSample) {
	x.before = old.before
	for _, e := range old.exemplars {
		if !e.HasTs && old.ts != frame.NoTimestamp {
			e.HasTs, e.Ts = true, old.ts
		}
		x.before = append(x.before, e)
	}
	x.earlier = old.earlier
	if old.h == nil && old.fh == nil {
		x.earlier = append(x.earlier, frame.Earlier{Value: old.value, Timestamp: old.ts})
	}
}

// compareEarlier compares the earlier samples of a row. Those that an earlier scrape had may be there or not.
func (r *reference) compareEarlier(c *frame.Column, row int, key string, x *refSample) error {
	want := x.earlier
	if x.h != nil || x.fh != nil {
		want = nil
	}
	newest, known := r.newest[key]
	for _, e := range c.Earlier {
		if e.Row != row {
			continue
		}
		for len(want) > 0 && (want[0].Timestamp != e.Timestamp || math.Float64bits(want[0].Value) != math.Float64bits(e.Value)) &&
			known && want[0].Timestamp <= newest {
			want = want[1:]
		}
		if len(want) == 0 || want[0].Timestamp != e.Timestamp || math.Float64bits(want[0].Value) != math.Float64bits(e.Value) {
			return fmt.Errorf("earlier sample %+v, want one of %v", e, x.earlier)
		}
		want = want[1:]
	}
	for _, e := range want {
		if !known || e.Timestamp > newest || e.Timestamp == frame.NoTimestamp {
			return fmt.Errorf("earlier samples are %v, want %v", c.Earlier, x.earlier)
		}
	}
	if !known || x.ts > newest {
		r.newest[key] = x.ts
	}
	return nil
}

// compare tells how a parse differs from the reference.
func (r *reference) compare(want refResult, got Parsed, err error) error {
	if (want.err == nil) != (err == nil) {
		return fmt.Errorf("error is %v, want %v", err, want.err)
	}
	if err != nil && !strings.Contains(err.Error(), want.err.Error()[:min(len(want.err.Error()), maxErrorText/2)]) {
		return fmt.Errorf("refused with %w, want %w", err, want.err)
	}
	if got.Scraped != want.scraped || got.PostRelabel != want.postRelabel || got.Added != want.added {
		return fmt.Errorf("scraped, post-relabel, added are %d %d %d, want %d %d %d",
			got.Scraped, got.PostRelabel, got.Added, want.scraped, want.postRelabel, want.added)
	}
	if err != nil {
		return nil
	}
	if got.Skipped.Histograms != 0 {
		return fmt.Errorf("skipped %+v", got.Skipped)
	}
	c, b, seen := got.Column, labels.NewBuilder(labels.EmptyLabels()), 0
	more, err := rows(c)
	if err != nil {
		return err
	}
	got.Schema = got.Schema.Open()
	if len(c.Values) != len(got.Schema.Series) {
		return fmt.Errorf("%d values for %d series", len(c.Values), len(got.Schema.Series))
	}
	for i, s := range got.Schema.Series {
		key := got.Schema.SeriesLabels(i, r.rules.Target, b).String()
		x, ok := want.samples[key]
		if ok == c.Absent.Has(i) {
			return fmt.Errorf("series %s: absent is %t", key, ok)
		}
		if !ok {
			continue
		}
		seen++
		ts := int64(frame.NoTimestamp)
		if c.Timestamps != nil {
			ts = c.Timestamps[i]
		}
		if err := more.compare(i, x); err != nil {
			return fmt.Errorf("series %s: %w", key, err)
		}
		if math.Float64bits(c.Values[i]) != math.Float64bits(x.value) || ts != x.ts {
			return fmt.Errorf("series %s: value %v at %d, want %v at %d", key, c.Values[i], ts, x.value, x.ts)
		}
		if err := r.compareEarlier(&c, i, key, &x); err != nil {
			return fmt.Errorf("series %s: %w", key, err)
		}
		if e := c.Exponents[i]; e != frame.NoDecimal {
			if n, ok := scaled(c.Mantissas[i], int(e)); !ok || math.Float64bits(n) != math.Float64bits(x.value) {
				return fmt.Errorf("series %s: %d·10^%d for %v", key, c.Mantissas[i], e, x.value)
			}
		}
		if x.family != "" && s.Family < 0 {
			return fmt.Errorf("series %s: is not of family %q", key, x.family)
		}
		if s.Family >= 0 {
			f := got.Schema.Families[s.Family]
			// What this exposition does not say may be known from an earlier one.
			m := want.meta[f.Name]
			if m.Help != "" && f.Help != m.Help || m.Unit != "" && f.Unit != m.Unit || m.Type != "" && f.Type != m.Type {
				return fmt.Errorf("series %s: family %+v, want %+v", key, f, m)
			}
		}
	}
	if seen != len(want.samples) {
		return fmt.Errorf("%d samples, want %d", seen, len(want.samples))
	}
	return nil
}

func scaled(m int64, e int) (float64, bool) {
	if e > 22 || e < -22 || m > maxExact || m < -maxExact {
		return 0, false
	}
	if e < 0 {
		return float64(m) / pow10(-e), true
	}
	return float64(m) * pow10(e), true
}

// check parses a body both ways.
func check(t testing.TB, l *Layout, r *reference, body []byte, contentType string) Parsed {
	t.Helper()
	want := r.parse(body, contentType)
	got, err := l.Parse(append([]byte(nil), body...), contentType)
	if e := r.compare(want, got, err); e != nil {
		t.Fatalf("%v\nbody %q\nerror %v", e, body, err)
	}
	return got
}
