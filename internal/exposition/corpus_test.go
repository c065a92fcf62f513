package exposition

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// wholeCorpus are about forty scrapes of each of four real programs, in a row.
const wholeCorpus = "../../bench/testdata/scrapes.tar.zst"

// exposed is one scrape of a program.
type exposed struct {
	ms   int64
	body []byte
}

// corpus gives some scrapes of real programs, by program, in order.
func corpus(t testing.TB) map[string][][]byte {
	t.Helper()
	bodies := map[string][][]byte{}
	for name, scrapes := range readCorpus(t, "testdata/scrapes.tar.zst") {
		for _, s := range scrapes {
			bodies[name] = append(bodies[name], s.body)
		}
	}
	return bodies
}

func readCorpus(t testing.TB, file string) map[string][]exposed {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	z, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	all := map[string][]exposed{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg || path.Ext(h.Name) != ".txt" {
			continue
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		_, at, _ := strings.Cut(strings.TrimSuffix(path.Base(h.Name), ".txt"), "-")
		ms, err := strconv.ParseInt(at, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		name := path.Dir(h.Name)
		all[name] = append(all[name], exposed{ms, body})
	}
	if len(all) != 4 {
		t.Fatalf("%s has %d programs", file, len(all))
	}
	return all
}

func corpusRules() Rules {
	return Rules{Target: labels.FromStrings("job", "j", "instance", "i:1"), HonorTimestamps: true}
}

func TestCorpus(t *testing.T) {
	for name, scrapes := range readCorpus(t, wholeCorpus) {
		t.Run(name, func(t *testing.T) {
			l, r := NewLayout(corpusRules(), NewPackedSchemas()), newReference(corpusRules())
			var last *frame.Schema
			for i, s := range scrapes {
				runtime.GC() // what no one has open is read from its message again
				p := check(t, l, r, s.body, textType)
				if p.Skipped != (Skipped{}) {
					t.Errorf("scrape %d: skipped %+v", i, p.Skipped)
				}
				if p.Schema == last {
					continue
				}
				if last != nil {
					t.Logf("scrape %d: %d series after %d", i, p.Schema.Len(), last.Len())
				}
				last = p.Schema
			}
			for _, s := range scrapes {
				check(t, l, r, s.body, textType)
				if !l.skeleton.positional {
					t.Error("an ordinary exposition is not for the fast path")
				}
			}
		})
	}
}

// TestCorpusByLines takes lines away and puts them back, so that most of it goes through the resync.
func TestCorpusByLines(t *testing.T) {
	for name, bodies := range corpus(t) {
		t.Run(name, func(t *testing.T) {
			l, r := NewLayout(corpusRules(), NewPackedSchemas()), newReference(corpusRules())
			lines := bytes.SplitAfter(bodies[0], []byte("\n"))
			check(t, l, r, bodies[0], textType)
			for step := 2; step < 40; step += 7 {
				var some [][]byte
				for i, ln := range lines {
					if i%step != 1 || bytes.HasPrefix(ln, []byte("#")) {
						some = append(some, ln)
					}
				}
				check(t, l, r, bytes.Join(some, nil), textType)
				check(t, l, r, bodies[0], textType)
			}
		})
	}
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	for name, bodies := range corpus(t) {
		t.Run(name, func(t *testing.T) {
			body := append(bytes.Clone(bodies[0]), 0)[:len(bodies[0])]
			l := NewLayout(corpusRules(), NewPackedSchemas())
			parse := func() {
				if _, err := l.Parse(body, textType); err != nil {
					t.Fatal(err)
				}
			}
			parse()
			if n := testing.AllocsPerRun(20, parse); n != 0 {
				t.Errorf("%v allocations", n)
			}
			// Other values, and timestamps, are no other lines.
			stamped := []byte("a 1 1000\nb 2 2000\n")
			other := []byte("a 17.5 3000\nb NaN 4000\n\x00")[:23]
			l = NewLayout(corpusRules(), NewSchemas())
			parse = func() {
				for _, b := range [][]byte{stamped, other} {
					if _, err := l.Parse(b, textType); err != nil {
						t.Fatal(err)
					}
				}
			}
			parse()
			if n := testing.AllocsPerRun(20, parse); n != 0 {
				t.Errorf("%v allocations with timestamps", n)
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	for name, bodies := range corpus(b) {
		// Two bodies of the same lines, so that values change.
		pair := [][]byte{bodies[0], values(bodies[0])}
		for i := range pair {
			pair[i] = append(pair[i], 0)[:len(pair[i])]
		}
		b.Run(name, func(b *testing.B) {
			l := NewLayout(corpusRules(), NewPackedSchemas())
			samples := 0
			b.ReportAllocs()
			for b.Loop() {
				for _, body := range pair {
					p, err := l.Parse(body, textType)
					if err != nil {
						b.Fatal(err)
					}
					samples += p.Scraped
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(samples), "ns/sample")
		})
		b.Run(name+"-textparse", func(b *testing.B) {
			cache := map[string]int{}
			values := make([]float64, 0, 4096)
			samples := 0
			b.ReportAllocs()
			for b.Loop() {
				for _, body := range pair {
					p := textparse.NewPromParser(body, nil, false)
					for {
						e, err := p.Next()
						if errors.Is(err, io.EOF) {
							break
						}
						if err != nil {
							b.Fatal(err)
						}
						if e != textparse.EntrySeries {
							continue
						}
						met, _, v := p.Series()
						i, ok := cache[string(met)]
						if !ok {
							i = len(cache)
							cache[string(met)] = i
							values = append(values, 0)
						}
						values[i] = v
						samples++
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(samples), "ns/sample")
		})
	}
}

// BenchmarkParseChurn has a twentieth of the lines vanish in every other exposition.
func BenchmarkParseChurn(b *testing.B) {
	for name, bodies := range corpus(b) {
		body := bodies[0]
		var less []byte
		for i, ln := range bytes.SplitAfter(body, []byte("\n")) {
			if i%20 != 0 || bytes.HasPrefix(ln, []byte("#")) {
				less = append(less, ln...)
			}
		}
		less = append(less, 0)[:len(less)]
		b.Run(name, func(b *testing.B) {
			l := NewLayout(corpusRules(), NewPackedSchemas())
			samples := 0
			b.ReportAllocs()
			for b.Loop() {
				for _, x := range [][]byte{body, less} {
					p, err := l.Parse(x, textType)
					if err != nil {
						b.Fatal(err)
					}
					samples += p.Scraped
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(samples), "ns/sample")
		})
	}
}

// BenchmarkParseReplaced has one series leave and another one come in each exposition, so that each has a new schema.
func BenchmarkParseReplaced(b *testing.B) {
	for name, bodies := range corpus(b) {
		b.Run(name, func(b *testing.B) {
			l := NewLayout(corpusRules(), NewPackedSchemas())
			samples := 0
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				p, err := l.Parse(fmt.Appendf(bytes.Clone(bodies[0]), "one_more{of=\"%d\"} 1\n", i), textType)
				if err != nil {
					b.Fatal(err)
				}
				p.Schema.Marshal() // as the spool wants it
				samples += p.Scraped
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(samples), "ns/sample")
		})
	}
}

// BenchmarkMemory tells what a poller keeps of targets that expose like one program but share no series: their layouts
// and encoders, in bytes of the heap per series.
func BenchmarkMemory(b *testing.B) {
	for name, bodies := range corpus(b) {
		b.Run(name, func(b *testing.B) {
			const targets = 20
			for b.Loop() {
				before := heap()
				store, kept, series := NewPackedSchemas(), make([]any, 0, 2*targets), 0
				for i := range targets {
					own := func(body []byte) []byte {
						return bytes.ReplaceAll(body, []byte{'"', '}'}, fmt.Appendf(nil, `",of="%d"}`, i))
					}
					l := NewLayout(corpusRules(), store)
					e := frame.NewEncoder(1, &frame.Target{ID: uint64(i + 1), Interval: time.Minute}, frame.EncoderOptions{})
					for j, body := range [][]byte{bodies[0], values(bodies[0]), bodies[0], values(bodies[0])} {
						p, err := l.Parse(own(body), textType)
						if err != nil {
							b.Fatal(err)
						}
						if _, err := e.AppendScrape(nil, int64(j)*60000, frame.Report{}, p.Schema, &p.Column); err != nil {
							b.Fatal(err)
						}
						if j == 0 {
							series += len(p.Column.Values)
						}
					}
					kept = append(kept, l, e)
				}
				b.ReportMetric(float64(heap()-before)/float64(series), "B/series")
				runtime.KeepAlive(kept)
			}
		})
	}
}

// heap is what is in use after what is not was collected, pools among it.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// values changes the last digit of every value.
func values(body []byte) []byte {
	lines := strings.SplitAfter(string(body), "\n")
	for i, ln := range lines {
		if n := len(ln) - 2; n > 0 && ln[0] != '#' && ln[n] >= '0' && ln[n] < '9' {
			lines[i] = ln[:n] + string(ln[n]+1) + "\n"
		}
	}
	return []byte(strings.Join(lines, ""))
}

func TestNumbers(t *testing.T) {
	for _, s := range []string{
		"0", "-0", "+0", "0.0", "-0.0e5", "1", "007", "1e0", "1E5", "1.5e+06", "15e-1", "1e22", "1e23", "1e-22", "1e-23", "9007199254740991",
		"9007199254740992", "9007199254740993", "123456789012345678", "1234567890123456789", "0.1", "0.30000000000000004", "1e308", "1e309",
		"-1e309", "5e-324", "1e-400", "1e99999", ".5", "5.", ".", "+", "-", "e5", "1e", "1e+", "NaN", "nan", "-NaN", "+NaN", "Inf", "+Inf", "-Inf",
		"infinity", "0x10", "0x1p4", "0x1P4", "1_0", "1,0", "1\r", "٣", "", "1.2.3", "1-2", "0.000000000000000000000001", "100000000000000000000000",
	} {
		want, wantErr := parseFloat(s)
		for _, end := range []string{"", "\n", " ", "\t5", " 5\n"} {
			b := []byte("xx" + s + end)
			n, next := parseNumber(b, 2)
			if (next < 0) != (wantErr != nil) {
				t.Errorf("%q: end %d, want error %v", s+end, next, wantErr)
				continue
			}
			if next < 0 {
				continue
			}
			if math.Float64bits(n.value) != math.Float64bits(want) || next != 2+len(s) {
				t.Errorf("%q: %v to %d, want %v to %d", s+end, n.value, next, want, 2+len(s))
			}
			if n.exponent == frame.NoDecimal {
				continue
			}
			if v, ok := scaled(n.mantissa, int(n.exponent)); !ok || math.Float64bits(v) != math.Float64bits(want) {
				t.Errorf("%q: decimal form %d·10^%d, want %v", s+end, n.mantissa, n.exponent, want)
			}
		}
	}
}
