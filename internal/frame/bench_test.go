package frame

import (
	"math/rand/v2"
	"testing"
	"time"
)

var benchTarget = &Target{ID: 7, Labels: corpusLabels, Interval: 15 * time.Second, Timeout: 10 * time.Second}

// steady is the longest run of scrapes with one schema.
func steady(c *corpusTarget) []corpusScrape {
	best, from := 0, 0
	for i := 0; i < len(c.scrapes); {
		j := i
		for j < len(c.scrapes) && c.scrapes[j].schema == c.scrapes[i].schema {
			j++
		}
		if j-i > best {
			best, from = j-i, i
		}
		i = j
	}
	return c.scrapes[from : from+best]
}

func BenchmarkEncode(b *testing.B) {
	for _, c := range loadCorpus(b) {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			scrapes := steady(c)
			e := NewEncoder(1, benchTarget, EncoderOptions{})
			var buf []byte
			samples, bytes := 0, 0
			for i := 0; b.Loop(); i++ {
				s := &scrapes[i%len(scrapes)]
				if i%len(scrapes) == 0 {
					e.Reset()
				}
				buf, _ = e.AppendScrape(buf[:0], s.time, Report{Duration: 3217431}, s.schema, &s.column)
				samples += len(s.column.Values)
				bytes += len(buf)
			}
			report(b, samples, bytes)
		})
	}
}

func report(b *testing.B, samples, bytes int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(samples), "ns/sample")
	b.ReportMetric(float64(bytes)/float64(samples), "B/sample")
}

func BenchmarkDecode(b *testing.B) {
	for _, c := range loadCorpus(b) {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			scrapes := steady(c)
			e := NewEncoder(1, benchTarget, EncoderOptions{})
			var frames []byte
			for i := range scrapes {
				s := &scrapes[i]
				frames, _ = e.AppendScrape(frames, s.time, Report{Duration: 3217431}, s.schema, &s.column)
			}
			bundle := &Bundle{frames: frames}
			var raws []RawFrame
			for f, err := range bundle.Frames() {
				if err != nil {
					b.Fatal(err)
				}
				raws = append(raws, f)
			}
			d := NewDecoder(1, DefaultLimits())
			schema := scrapes[0].schema
			lookup := func(SchemaID) (*Schema, error) { return schema, nil }
			samples, bytes := 0, 0
			for i := 0; b.Loop(); i++ {
				raw := raws[i%len(raws)]
				f, err := d.Decode(raw, lookup)
				if err != nil {
					b.Fatal(err)
				}
				samples += len(f.Column.Values)
				bytes += len(raw.Body)
			}
			report(b, samples, bytes)
		})
	}
}

func BenchmarkSchema(b *testing.B) {
	c := loadCorpus(b)[0]
	s := c.scrapes[0].schema
	series := append([]Series(nil), s.Series...)
	x := rand.New(rand.NewPCG(1, 2)).IntN(len(series))
	other, err := NewSchema(s.Families, append(series[:x:x], series[x+1:]...), DefaultLimits())
	if err != nil {
		b.Fatal(err)
	}
	full, delta := s.Marshal(), s.MarshalDelta(other)
	b.Run("New", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := NewSchema(s.Families, s.Series, DefaultLimits()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Marshal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			s.Marshal()
		}
	})
	b.Run("MarshalDelta", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			s.MarshalDelta(other)
		}
	})
	b.Run("Unmarshal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := UnmarshalSchema(s.ID, full, DefaultLimits()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("UnmarshalDelta", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := UnmarshalSchemaDelta(s.ID, delta, func(SchemaID) (*Schema, []byte, error) { return other, nil, nil }, DefaultLimits()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
