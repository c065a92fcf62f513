package frame

import (
	"bytes"
	"fmt"
	"runtime"
	"testing"
	"time"
	"weak"

	"github.com/prometheus/prometheus/model/labels"
)

// changing gives schemas that have most series in common with the one before.
func changing(t testing.TB) []*Schema {
	var all []*Schema
	for step := range 8 {
		families := []Family{{Name: "a", Type: "counter", Help: fmt.Sprint("help ", step/4)}, {Name: "h", Type: "histogram", Unit: "seconds"}}
		var series []Series
		for i := range 40 {
			if (i+step)%7 == 0 {
				continue
			}
			series = append(series, Series{Labels: labels.FromStrings("__name__", "a", "x", fmt.Sprint(i)), Family: i%3 - 1, Base: float64(i*step) / 8})
		}
		for _, le := range []string{"1", "2", "+Inf"} {
			series = append(series, Series{Labels: labels.FromStrings("__name__", "h_bucket", "le", le), Family: 1, Base: 5})
		}
		all = append(all, mustSchema(t, families, series))
	}
	return all
}

func TestPackedSchemaOpens(t *testing.T) {
	for _, s := range append(changing(t), mustSchema(t, nil, nil)) {
		for what, message := range map[string]*Stored{"": nil, ", message given": s.Stored()} {
			p := s.Pack(message)
			if p.Text != nil || p.ID != s.ID || p.Shape() != s.Shape() || p.Len() != len(s.Series) || p.Bytes() != s.Bytes() || p.Pack(nil) != p {
				t.Fatalf("packed %+v of %+v%s", p, s, what)
			}
			if p.Open().Text != s.Text || !bytes.Equal(p.Marshal(), s.Marshal()) {
				t.Errorf("what is open is not shared, or its message is another%s", what)
			}
			runtime.KeepAlive(s)
			// Now nobody has it open.
			p.packed.open = weak.Pointer[Text]{}
			open := p.Open()
			sameSchema(t, open, s)
			for i := range s.Series {
				if p.base(i) != s.Series[i].Base || open.pred[i] != s.pred[i] || open.classes[i] != s.classes[i] {
					t.Errorf("series %d is not coded as before%s", i, what)
				}
			}
			if again := p.Open(); again.Text != open.Text || open.Open() != open {
				t.Errorf("opened twice: %p and %p%s", open, again, what)
			}
			if got, err := UnmarshalSchema(s.ID, open.Marshal(), DefaultLimits()); err != nil || got.ID != s.ID {
				t.Errorf("what was opened gives another message: %v%s", err, what)
			}
		}
	}
}

// TestPackedSchemaIsLetGo: what is open takes memory for as long as someone has it.
func TestPackedSchemaIsLetGo(t *testing.T) {
	p := changing(t)[0].Pack(nil)
	for range 100 {
		runtime.GC()
		if p.packed.open.Value() == nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Error("the text of a packed schema stays")
}

// TestPackedSchemasEncodeTheSame also where series change.
func TestPackedSchemasEncodeTheSame(t *testing.T) {
	one, two := NewEncoder(1, testTarget(1, time.Minute), EncoderOptions{}), NewEncoder(1, testTarget(1, time.Minute), EncoderOptions{})
	now := int64(1e12)
	for round, s := range changing(t) {
		p := s.Pack(nil)
		for range 3 {
			p.packed.open = weak.Pointer[Text]{}
			c := &Column{Values: make([]float64, s.Len())}
			for i := range c.Values {
				c.Values[i] = float64(i * int(now%97))
			}
			a, err := one.AppendScrape(nil, now, Report{}, s, c)
			if err != nil {
				t.Fatal(err)
			}
			b, err := two.AppendScrape(nil, now, Report{}, p, c)
			if err != nil || !bytes.Equal(a, b) {
				t.Fatalf("round %d: %x of a packed schema, %v, want %x", round, b, err, a)
			}
			now += 60000
		}
	}
}
