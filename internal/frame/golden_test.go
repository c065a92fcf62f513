package frame

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
)

// TestGolden reads messages written once, in the order of their names, and compares what they say with the text
// beside them. The files are never written again: a message that some poller has stored stays readable. To add one,
// name it in goldenMessages and run the test with GOLDEN=1, which writes files that are missing.
func TestGolden(t *testing.T) {
	if os.Getenv("GOLDEN") != "" {
		for name, msg := range goldenMessages(t) {
			file := filepath.Join("testdata", "golden", name+".bin")
			if _, err := os.Stat(file); err != nil {
				if err := os.WriteFile(file, msg, 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	files, err := filepath.Glob("testdata/golden/*.bin")
	if err != nil || len(files) < 12 {
		t.Fatalf("%d golden files, %v", len(files), err)
	}
	var out strings.Builder
	d := NewDumper(&out, DefaultLimits(), nil)
	d.Values = true
	for _, file := range files {
		msg, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		out.Reset()
		if err := d.Message(msg); err != nil {
			out.WriteString("error: " + err.Error() + "\n")
		}
		text := strings.TrimSuffix(file, ".bin") + ".txt"
		want, err := os.ReadFile(text)
		if err != nil && os.Getenv("GOLDEN") != "" {
			want = []byte(out.String())
			if err := os.WriteFile(text, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if out.String() != string(want) {
			t.Errorf("%s says\n%s\nwant\n%s", file, out.String(), want)
		}
	}
}

// TestGoldenFilesStay: to SHA256SUMS, which sha256sum writes, lines are added; none that is there changes.
func TestGoldenFilesStay(t *testing.T) {
	sums, err := os.ReadFile("testdata/golden/SHA256SUMS")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{"SHA256SUMS": true}
	for line := range strings.Lines(string(sums)) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		listed[name] = true
		b, err := os.ReadFile(filepath.Join("testdata", "golden", name))
		if err != nil {
			t.Error(err)
		} else if got := sha256.Sum256(b); hex.EncodeToString(got[:]) != sum {
			t.Errorf("%s was changed: it is to be read for ever", name)
		}
	}
	files, err := os.ReadDir("testdata/golden")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !listed[f.Name()] {
			t.Errorf("%s is not in SHA256SUMS", f.Name())
		}
	}
}

// goldenMessages are those that the files were made of, by name.
func goldenMessages(t *testing.T) map[string][]byte {
	families := []Family{
		{Name: "http_requests", Type: model.MetricTypeCounter, Help: "Requests, \"all\" of them."},
		{Name: "latency", Type: model.MetricTypeHistogram, Help: "Two\nlines.", Unit: "seconds"},
		{Name: "temp", Type: model.MetricTypeGauge},
	}
	ls := labels.FromStrings
	series := []Series{
		{Labels: ls("__name__", "http_requests_total", "code", "200"), Family: 0, Base: 1000},
		{Labels: ls("__name__", "http_requests_total", "code", "500", "job", ""), Family: 0, Base: 0},
		{Labels: ls("__name__", "latency_bucket", "le", "0.1"), Family: 1, Base: 10},
		{Labels: ls("__name__", "latency_bucket", "le", "+Inf"), Family: 1, Base: 12},
		{Labels: ls("__name__", "latency_sum"), Family: 1, Base: 0.30000000000000004},
		{Labels: ls("__name__", "latency_count"), Family: 1, Base: 12},
		{Labels: ls("__name__", "temp", "room", "café"), Family: 2, Base: 21.5},
		{Labels: ls("__name__", "memory_bytes"), Family: -1, Base: 4096 * 1000},
	}
	one := mustSchema(t, families, series)
	two := mustSchema(t, append(families[:2:2], Family{Name: "up_since", Type: model.MetricTypeInfo}), append(append(series[1:6:6],
		Series{Labels: ls("__name__", "up_since_info", "version", "1.2"), Family: 2, Base: 1}), series[7]))
	m := map[string][]byte{
		"00-schema-full":  one.Marshal(),
		"01-schema-delta": two.MarshalDelta(one),
		"02-schema-plain": append([]byte("PSS\x02\x00"), appendString(nil, string(mustSchema(t, nil, series[7:]).content()))...),
	}
	more := mustSchema(t, families, append(append(series[:2:2], Series{Labels: ls("__name__", "http_requests_total", "code", "503"), Family: 0, Base: 7.5}), series[2:]...))
	m["03-schema-delta-inserted"] = more.MarshalDelta(one)
	goldenFrames(t, m, one, more, two)
	return m
}

// goldenFrames adds the bundles of a target that comes to have other series, twice.
func goldenFrames(t *testing.T, m map[string][]byte, one, more, two *Schema) {
	ls := labels.FromStrings
	bundle := func(seq uint64, frames []byte) []byte {
		return AppendBundle(nil, Header{Publisher: "edge-1.example.net", Lane: "live", Epoch: 0x1122334455667788, Seq: seq}, frames)
	}
	m["10-header"] = AppendBundle(nil, Header{Publisher: "edge-1.example.net", Lane: "live", Epoch: 0x1122334455667788, Seq: 1,
		Totals: &Totals{Frames: 3, Samples: 1 << 33}, Predecessor: &Predecessor{Epoch: 0xffeeddccbbaa9988, Seq: 300, Totals: Totals{7, 8}, Clean: true}}, nil)
	const start = 1_790_000_000_000
	e := NewEncoder(0x1122334455667788, &Target{ID: 300, Labels: ls("instance", "web:9100", "job", "node"), Interval: 15 * time.Second, Timeout: 10 * time.Second}, EncoderOptions{})
	e.length = 16
	scrape := func(s *Schema, i int64, rep Report, c Column) []byte {
		b, err := e.AppendScrape(nil, start+15000*i, rep, s, &c)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	plain := Report{Duration: 3217431, Scraped: 8, PostRelabel: 8}
	m["20-keyframe"] = bundle(2, scrape(one, 0, plain, Column{Values: []float64{1007, 3, 10, 12, 0.30000000000000004, 12, 21.75, 4096 * 1001}}))
	m["21-samples"] = bundle(3, scrape(one, 1, plain, Column{Values: []float64{1010, 3, 13, 15, 0.9, 15, 21.5, 4096 * 900}}))
	m["22-samples-escaped"] = bundle(4, scrape(one, 2, Report{Duration: 1, Scraped: 9, PostRelabel: 8, Added: 2},
		Column{Values: []float64{math.Inf(1), math.Copysign(0, -1), math.Float64frombits(0x7ff0000000000002), 1e300, math.NaN(), 0.1, 21.123456789012345, 4097}}))
	absent := NewBitmap(8)
	absent.Set(1)
	absent.Set(6)
	m["23-samples-absent"] = bundle(5, scrape(one, 3, Report{Scraped: 6, PostRelabel: 6},
		Column{Values: []float64{1011, 0, 13, 16, 1, 16, 0, 4096}, Absent: absent}))
	stamps := []int64{NoTimestamp, start, start, start + 5, NoTimestamp, -1, start, NoTimestamp}
	m["24-samples-timestamps"] = bundle(6, scrape(one, 4, plain, Column{Values: []float64{1, 2, 3, 4, 5, 6, 7, 8}, Timestamps: stamps}))
	stamps = append([]int64{start + 9}, stamps[1:]...)
	m["25-samples-regrouped"] = bundle(7, scrape(one, 5, plain, Column{Values: []float64{1, 2, 3, 4, 5, 6, 7, 8}, Timestamps: stamps}))
	m["26-samples-change"] = bundle(8, scrape(more, 6, Report{Scraped: 9, PostRelabel: 9, Added: 1}, Column{Values: []float64{4, 5, 8, 13, 17, 1.5, 17, 21.5, 8192}}))
	m["27-keyframe-change"] = bundle(9, scrape(two, 7, Report{Scraped: 7, PostRelabel: 7, Added: 1}, Column{Values: []float64{4, 13, 17, 1.5, 17, 1, 4096}}))
	m["30-down"] = bundle(9, e.AppendDown(nil, start+105000, Report{Duration: 10 * time.Second, Scraped: 5}))
	big := NewBitmap(7)
	big.Set(5)
	m["31-keyframe-absent-timestamps"] = bundle(10, scrape(two, 8, Report{Scraped: 6, PostRelabel: 6},
		Column{Values: []float64{5, 13, 18, math.Pi, 18, 0, 5000}, Absent: big, Timestamps: []int64{1, 2, 1, 2, 1, NoTimestamp, 2}}))
	m["40-end"] = bundle(11, e.AppendEnd(nil, start+135000, Relabelled))
	m["41-epoch-end"] = bundle(12, AppendEpochEnd(nil, 0x1122334455667788, start+136000))
	goldenRich(t, m, bundle)
	goldenEarlier(t, m, bundle)
	m["50-skipped"] = sealed(bytes.Replace(bundle(13, append([]byte{0x30, 1, 1, 1, 2, 'x', 'y', 0, 0, 0, 0}, AppendEpochEnd(nil, 0x1122334455667788, start)...)),
		[]byte{13, keyEnd, 0x30}, []byte{13, 9 << 1, 3, 'a', 'b', 'c', keyEnd, 0x30}, 1))
	tracked := NewEncoder(0x1122334455667788, &Target{ID: 302, Labels: ls("instance", "fed:9090", "job", "federate"), Interval: time.Minute, TrackTimestamps: true}, EncoderOptions{})
	m["52-down-track-timestamps"] = bundle(14, tracked.AppendDown(nil, start, Report{Duration: time.Second}))
	m["51-unknown-version"] = []byte("PSB\x03 whatever a later version writes")
}

// goldenRich adds the bundles of a target with start timestamps, native histograms and exemplars: those of wholeColumn,
// at first alone, then together, then changed.
func goldenRich(t *testing.T, m map[string][]byte, bundle func(uint64, []byte) []byte) {
	series := []Series{{Labels: labels.FromStrings("__name__", "requests_total"), Family: 0, Base: 1}}
	families := []Family{{Name: "requests", Type: model.MetricTypeCounter}, {Name: "latency", Type: model.MetricTypeHistogram, Help: "Native."}}
	for _, code := range []string{"200", "404", "500"} {
		series = append(series, Series{Labels: labels.FromStrings("__name__", "latency", "code", code), Family: 1})
	}
	for i, name := range []string{"a", "b", "c", "d"} {
		series = append(series, Series{Labels: labels.FromStrings("__name__", name), Family: -1, Base: float64(i + 5)})
	}
	s := mustSchema(t, families, series)
	m["60-schema-rich"] = s.Marshal()
	e := NewEncoder(0x1122334455667788, &Target{ID: 301, Labels: labels.FromStrings("instance", "app:80", "job", "app"), Interval: 15 * time.Second}, EncoderOptions{})
	e.length = 16
	seq := uint64(20)
	put := func(name string, s *Schema, c *Column) {
		b, err := e.AppendScrape(nil, wholeTime+15000*int64(seq-20), Report{Scraped: 8, PostRelabel: 8}, s, c)
		if err != nil {
			t.Fatal(err)
		}
		m[name] = bundle(seq, b)
		seq++
	}
	c := wholeColumn()
	put("61-keyframe-starts", s, &Column{Values: []float64{1, 2, 3, 4, 5, 6, 7, 8}, Starts: c.Starts})
	put("62-samples-histograms", s, &Column{Values: c.Values, Starts: c.Starts, Histograms: c.Histograms})
	put("63-samples-exemplars", s, &Column{Values: c.Values, Starts: c.Starts, Histograms: c.Histograms, Exemplars: c.Exemplars})
	c = goldenMoved(wholeColumn())
	put("64-samples-rich-changed", s, c)
	c.Absent = Bitmap{1<<1 | 1<<6}
	put("65-samples-rich-absent", s, &Column{Values: c.Values, Absent: c.Absent, Starts: c.Starts, Histograms: c.Histograms[1:], Exemplars: c.Exemplars[:1]})
	more := mustSchema(t, families, append(append(series[:1:1], Series{Labels: labels.FromStrings("__name__", "new"), Family: -1, Base: 3}), series[1:]...))
	m["66-schema-rich-change"] = more.MarshalDelta(s)
	put("67-samples-rich-moved", more, goldenShift(c))
	e.Reset()
	put("68-keyframe-rich", s, goldenMoved(wholeColumn()))
	put("69-samples-plain-again", s, &Column{Values: []float64{1, 2, 3, 4, 5, 6, 7, 8}})
}

// goldenEarlier adds a scrape with several samples of some series: integers, fractions and floats, with times of their own.
func goldenEarlier(t *testing.T, m map[string][]byte, bundle func(uint64, []byte) []byte) {
	series := []Series{{Labels: labels.FromStrings("__name__", "watts", "phase", "1"), Family: -1, Base: 230}}
	for _, phase := range []string{"2", "3"} {
		series = append(series, Series{Labels: labels.FromStrings("__name__", "watts", "phase", phase), Family: -1, Base: 0.5})
	}
	s := mustSchema(t, nil, series)
	m["70-schema-earlier"] = s.Marshal()
	e := NewEncoder(0x1122334455667788, &Target{ID: 303, Labels: labels.FromStrings("instance", "meter:80", "job", "meter"), Interval: time.Minute}, EncoderOptions{})
	b, err := e.AppendScrape(nil, wholeTime, Report{Scraped: 8, PostRelabel: 8}, s, &Column{
		Values: []float64{233, 1.25, math.Inf(1)}, Timestamps: []int64{wholeTime - 500, wholeTime - 1000, NoTimestamp},
		Earlier: []Earlier{
			{Row: 0, Value: 231, Timestamp: wholeTime - 20500}, {Row: 0, Value: 230, Timestamp: wholeTime - 10500},
			{Row: 1, Value: 1.5, Timestamp: wholeTime - 21000}, {Row: 1, Value: 1, Timestamp: wholeTime - 11000},
			{Row: 2, Value: math.Copysign(0, -1), Timestamp: wholeTime - 1},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	m["71-keyframe-earlier"] = bundle(30, b)
}

// goldenMoved changes numbers, layouts and what stands beside them.
func goldenMoved(c *Column) *Column {
	x := c.Histograms[0].Int
	x.ZeroCount, x.Count, x.Sum = 3, 26, math.NaN()
	x.PositiveSpans = []histogram.Span{{Offset: -4, Length: 3}, {Offset: 2, Length: 1}}
	x.PositiveBuckets = []int64{1, 3, -2, 10}
	f := c.Histograms[1].Float
	f.Sum, f.PositiveBuckets[0] = math.Float64frombits(0x7ff0000000000002), math.Copysign(0, -1)
	c.Histograms[2].Int.Count, c.Histograms[2].Int.Sum, c.Histograms[2].Int.PositiveBuckets = 10, 1240, []int64{4, -1, 0}
	c.Starts[0], c.Starts[3], c.Starts[5] = 1_790_000_050_000, 0, 1_790_000_050_000
	c.Exemplars[1].Value = 0.25
	c.Exemplars = append(c.Exemplars, Exemplar{Row: 7, Labels: labels.FromStrings("id", "café"), Value: 4096, Timestamp: 1_790_000_044_000})
	return c
}

// goldenShift is a column with one more series at place 1, of which all later ones but the absent are there.
func goldenShift(c *Column) *Column {
	n := &Column{Values: append(append(append([]float64(nil), c.Values[:1]...), 4), c.Values[1:]...), Absent: Bitmap{1 << 7},
		Starts: append(append(append([]int64(nil), c.Starts[:1]...), 0), c.Starts[1:]...)}
	for _, h := range c.Histograms {
		h.Row++
		n.Histograms = append(n.Histograms, h)
	}
	for _, x := range c.Exemplars[:3] {
		if x.Row > 0 {
			x.Row++
		}
		n.Exemplars = append(n.Exemplars, x)
	}
	return n
}

// TestDumpDamage: what cannot be read is said, in the output or as an error.
func TestDumpDamage(t *testing.T) {
	var out strings.Builder
	d := NewDumper(&out, DefaultLimits(), func(SchemaID) (*Schema, error) { return nil, errMissing })
	s := plainSchema(t, 3, 0)
	e := NewEncoder(7, testTarget(1, time.Second), EncoderOptions{})
	e.length = 9
	b, _ := e.AppendScrape(nil, 5, Report{}, s, &Column{Values: make([]float64, 3)})
	b, _ = e.AppendScrape(b, 6, Report{}, s, &Column{Values: make([]float64, 3)})
	if err := d.Message(AppendBundle(nil, Header{Publisher: "p\n"}, b)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`publisher="p\n"`, "KEYFRAME target=1 position=1 time=1970-01-01T00:00:00.005Z", errMissing.Error(), "base=1", ErrNoBase.Error()} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	for _, msg := range []string{"", "{}", "PSB", "PSS", "PSB\x02\x00", "PSS\x02\x00\x05"} {
		if err := d.Message([]byte(msg)); err == nil {
			t.Errorf("%q: no error", msg)
		}
	}
}
