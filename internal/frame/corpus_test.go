package frame

import (
	"archive/tar"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

// corpusTarget is one real target, scraped some times.
type corpusTarget struct {
	name    string
	scrapes []corpusScrape
	samples int
}

type corpusScrape struct {
	time   int64
	schema *Schema
	column Column
}

// loadCorpus reads testdata/scrapes.tar.zst, or the larger corpus that FRAME_CORPUS names.
func loadCorpus(t testing.TB) []*corpusTarget {
	t.Helper()
	name := os.Getenv("FRAME_CORPUS")
	if name == "" {
		name = "testdata/scrapes.tar.zst"
	}
	return readCorpus(t, name)
}

// readCorpus reads a tar of scrapes, in order.
func readCorpus(t testing.TB, name string) []*corpusTarget {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	var all []*corpusTarget
	layouts := map[string]*testLayout{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(h.Name, ".txt") {
			continue
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		name := path.Dir(h.Name)
		if layouts[name] == nil {
			layouts[name] = &testLayout{}
			all = append(all, &corpusTarget{name: name})
		}
		c := all[len(all)-1]
		_, at, _ := strings.Cut(strings.TrimSuffix(path.Base(h.Name), ".txt"), "-")
		ms, err := strconv.ParseInt(at, 10, 64)
		if err != nil || c.name != name {
			t.Fatalf("%s: out of order or without a time", h.Name)
		}
		s, col, err := layouts[name].scrape(string(body))
		if err != nil {
			t.Fatal(err)
		}
		c.scrapes = append(c.scrapes, corpusScrape{ms, s, col})
		c.samples += len(col.Values) - col.Absent.count(len(col.Values))
	}
	if len(all) == 0 {
		t.Fatalf("%s: no scrapes", name)
	}
	return all
}

// testLayout keeps the series of a target in order, the vanished ones for some scrapes.
type testLayout struct {
	schema *Schema
	at     map[string]int
	keys   []string
	gone   []int
}

type line struct {
	key    string
	labels labels.Labels
	value  float64
	m      int64
	e      int8
	ts     int64
	family int
}

func (l *testLayout) scrape(body string) (*Schema, Column, error) {
	families, lines, err := parseLines(body)
	if err != nil {
		return nil, Column{}, err
	}
	fresh := l.schema == nil
	seen := map[string]bool{}
	for _, x := range lines {
		seen[x.key] = true
		if _, ok := l.at[x.key]; !ok {
			fresh = true
		}
	}
	leaving := 0
	for i, k := range l.keys {
		if l.gone[i]++; seen[k] {
			l.gone[i] = 0
		}
		if l.gone[i] > 5 {
			leaving++
		}
	}
	if fresh || 4*leaving > len(l.keys) {
		if err := l.remake(families, lines, seen); err != nil {
			return nil, Column{}, err
		}
	}
	n := len(l.keys)
	c := Column{Values: make([]float64, n), Mantissas: make([]int64, n), Exponents: make([]int8, n), Absent: NewBitmap(n)}
	for i := range n {
		c.Absent.Set(i)
	}
	for _, x := range lines {
		i := l.at[x.key]
		c.Absent[i>>6] &^= 1 << (i & 63)
		c.Values[i], c.Mantissas[i], c.Exponents[i] = x.value, x.m, x.e
		if x.ts != NoTimestamp {
			if c.Timestamps == nil {
				c.Timestamps = make([]int64, n)
				for j := range c.Timestamps {
					c.Timestamps[j] = NoTimestamp
				}
			}
			c.Timestamps[i] = x.ts
		}
	}
	if c.Absent.count(n) == 0 {
		c.Absent = nil
	}
	return l.schema, c, nil
}

func (l *testLayout) remake(families []Family, lines []line, seen map[string]bool) error {
	var series []Series
	var keys []string
	var gone []int
	put := func(k string, s Series, g int) {
		keys, series, gone = append(keys, k), append(series, s), append(gone, g)
	}
	old := 0
	names := map[string]int{}
	for i, f := range families {
		names[f.Name] = i
	}
	keep := func(i int) {
		if l.gone[i] == 0 || l.gone[i] > 5 {
			return
		}
		s := l.schema.Series[i]
		if s.Family >= 0 {
			f := l.schema.Families[s.Family]
			j, ok := names[f.Name]
			if !ok {
				j = len(families)
				families, names[f.Name] = append(families, f), j
			}
			s.Family = j
		}
		put(l.keys[i], s, l.gone[i])
	}
	for _, x := range lines {
		s := Series{Labels: x.labels, Family: x.family, Base: x.value}
		if i, ok := l.at[x.key]; ok {
			s.Base = l.schema.Series[i].Base
			for ; old <= i; old++ {
				keep(old)
			}
		}
		put(x.key, s, 0)
	}
	for ; old < len(l.keys); old++ {
		keep(old)
	}
	s, err := NewSchema(families, series, DefaultLimits())
	if err != nil {
		return err
	}
	l.schema, l.keys, l.gone = s, keys, gone
	l.at = make(map[string]int, len(keys))
	for i, k := range keys {
		l.at[k] = i
	}
	return nil
}

// parseLines reads plain text exposition, as far as the corpus needs it.
func parseLines(body string) ([]Family, []line, error) {
	var families []Family
	var lines []line
	names := map[string]int{}
	family := func(name string) int {
		i, ok := names[name]
		if !ok {
			i = len(families)
			names[name] = i
			families = append(families, Family{Name: name, Type: model.MetricTypeUnknown})
		}
		return i
	}
	for text := range strings.Lines(body) {
		text = strings.TrimSpace(text)
		if kind, rest, ok := strings.Cut(strings.TrimPrefix(text, "# "), " "); ok && text[0] == '#' {
			name, rest, _ := strings.Cut(rest, " ")
			switch kind {
			case "HELP":
				families[family(name)].Help = rest
			case "TYPE":
				if rest != "untyped" {
					families[family(name)].Type = model.MetricType(rest)
				}
			}
			continue
		}
		if text == "" || text[0] == '#' {
			continue
		}
		x, err := parseLine(text)
		if err != nil {
			return nil, nil, err
		}
		x.family = -1
		name := x.labels.Get(model.MetricNameLabel)
		for _, suffix := range []string{"", "_bucket", "_sum", "_count"} {
			if i, ok := names[strings.TrimSuffix(name, suffix)]; ok && strings.HasSuffix(name, suffix) {
				x.family = i
				break
			}
		}
		lines = append(lines, x)
	}
	return families, lines, nil
}

func parseLine(text string) (x line, err error) {
	end := strings.LastIndexByte(text, '}') + 1
	if end == 0 {
		end = strings.IndexByte(text, ' ')
	}
	x.key = text[:end]
	name, rest, _ := strings.Cut(x.key, "{")
	b := labels.NewBuilder(labels.FromStrings(model.MetricNameLabel, name))
	for rest = strings.TrimSuffix(rest, "}"); rest != ""; {
		k, v, _ := strings.Cut(rest, "=")
		q, err := strconv.QuotedPrefix(v)
		if err != nil {
			return x, fmt.Errorf("%s: %w", text, err)
		}
		s, err := strconv.Unquote(q)
		if err != nil {
			return x, fmt.Errorf("%s: %w", text, err)
		}
		b.Set(k, s)
		rest = strings.TrimPrefix(v[len(q):], ",")
	}
	x.labels = b.Labels()
	value, ts, explicit := strings.Cut(strings.TrimSpace(text[end:]), " ")
	if x.value, err = strconv.ParseFloat(value, 64); err != nil {
		return x, err
	}
	x.m, x.e = decimal(value, x.value)
	x.ts = NoTimestamp
	if explicit {
		x.ts, err = strconv.ParseInt(ts, 10, 64)
	}
	return x, err
}

// decimal is what a parser of text knows of a value besides its float64.
func decimal(text string, v float64) (int64, int8) {
	mantissa, exponent, _ := strings.Cut(strings.ToLower(text), "e")
	whole, frac, _ := strings.Cut(mantissa, ".")
	m, err := strconv.ParseInt(whole+frac, 10, 64)
	e, err2 := 0, error(nil)
	if exponent != "" {
		e, err2 = strconv.Atoi(exponent)
	}
	if e -= len(frac); err != nil || err2 != nil || e < -100 || e > 100 || m == 0 && math.Signbit(v) {
		return 0, NoDecimal
	}
	return m, int8(e)
}
