package frame

import "testing"

// programScrapes are those of an instrumented program after a while, all of one schema.
func programScrapes(b *testing.B) (times []int64, s *Schema, columns []*Column) {
	p := newProgram(2)
	for range 100 {
		p.scrape(b)
	}
	for range 64 {
		at, schema, c := p.scrape(b)
		if schema != s {
			times, columns, s = nil, nil, schema
		}
		times, columns = append(times, at), append(columns, c)
	}
	return times, s, columns
}

func BenchmarkProgram(b *testing.B) {
	times, s, columns := programScrapes(b)
	each := func(b *testing.B, n int) {
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n*len(columns[0].Histograms)), "ns/histogram")
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n*len(columns[0].Values)), "ns/sample")
	}
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		e := NewEncoder(1, benchTarget, EncoderOptions{})
		var buf []byte
		n := 0
		for b.Loop() {
			buf, _ = e.AppendScrape(buf[:0], times[n%len(times)], Report{}, s, columns[n%len(columns)])
			n++
		}
		each(b, n)
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		e := NewEncoder(1, benchTarget, EncoderOptions{})
		var frames []byte
		for i, c := range columns {
			frames, _ = e.AppendScrape(frames, times[i], Report{}, s, c)
		}
		raws := rawFrames(b, frames)
		d := NewDecoder(1, DefaultLimits())
		lookup := known(s)
		n := 0
		for b.Loop() {
			if _, err := d.Decode(raws[n%len(raws)], lookup); err != nil {
				b.Fatal(err)
			}
			n++
		}
		each(b, n)
	})
}
