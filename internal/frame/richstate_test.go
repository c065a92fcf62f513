package frame

import (
	"testing"
	"time"
)

// TestRichAllocations: what does not change costs none, and a histogram that does a bounded few.
func TestRichAllocations(t *testing.T) {
	e, _, s := wholePair(t)
	c := wholeColumn()
	buf := make([]byte, 0, 1<<20)
	at := int64(wholeTime)
	run := func(change func()) float64 {
		return testing.AllocsPerRun(160, func() {
			change()
			at += 1000
			var err error
			if buf, err = e.AppendScrape(buf[:0], at, Report{}, s, c); err != nil {
				t.Fatal(err)
			}
		})
	}
	changes := func() { c.Histograms[0].Int.NegativeBuckets[0]++; c.Exemplars[3].Value++; c.Starts[4]++ }
	for range 40 {
		run(changes)
	}
	// A keyframe takes a copy of each histogram, the lists and what their layouts have.
	if n := run(func() {}); n > 2 {
		t.Errorf("%v allocations for each scrape that changes nothing", n)
	}
	if n := run(changes); n > 8 {
		t.Errorf("%v allocations for each scrape with a histogram, an exemplar and a start timestamp that change", n)
	}
}

// TestStateBytes: the account of what a decoder holds is right after each frame, and comes back to nothing.
func TestStateBytes(t *testing.T) {
	d := NewDecoder(1, DefaultLimits())
	var encoders [5]*Encoder
	var worlds [5]*world
	for i := range encoders {
		worlds[i] = newWorld(uint64(4*i+2), 10*i+1)
		encoders[i] = NewEncoder(1, testTarget(uint64(i), time.Second), EncoderOptions{})
	}
	most := int64(0)
	for range 100 {
		for i, e := range encoders {
			at, c := worlds[i].scrape(true)
			b, err := e.AppendScrape(nil, at, Report{}, worlds[i].schema, c)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := decodeAll(d, b, worlds[i].schema); err != nil {
				t.Fatal(err)
			}
			checkAccount(t, d)
			most = max(most, d.StateBytes())
		}
	}
	if most < 5000 {
		t.Errorf("%d bytes were held at most", most)
	}
	for _, e := range encoders {
		if _, err := decodeAll(d, e.AppendEnd(nil, 1, Removed)); err != nil {
			t.Fatal(err)
		}
		checkAccount(t, d)
	}
	if d.Bytes() != 0 || d.fixed != 0 || d.StateBytes() != d.idle {
		t.Errorf("%d bytes are held, %d in states, %d for targets", d.StateBytes(), d.Bytes(), d.fixed)
	}
}

func checkAccount(t testing.TB, d *Decoder) {
	t.Helper()
	states, fixed, idle := int64(0), int64(0), int64(0)
	for _, x := range d.targets {
		fixed += x.bytes()
		for _, s := range x.states {
			was := s.extraBytes
			if s.measure(); was != s.extraBytes {
				t.Fatalf("a state says it has %d bytes besides integers, and has %d", was, s.extraBytes)
			}
			states += s.bytes()
		}
	}
	for _, x := range d.spare {
		idle += 8 * int64(cap(x))
	}
	if d.Bytes() != states || d.fixed != fixed || d.idle != idle || d.StateBytes() != states+fixed+idle {
		t.Fatalf("%d, %d and %d bytes are counted, %d, %d and %d are held", d.bytes, d.fixed, d.idle, states, fixed, idle)
	}
}
