package frame

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

func mustSchema(t testing.TB, families []Family, series []Series) *Schema {
	t.Helper()
	s, err := NewSchema(families, series, DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func parents(all ...*Schema) func(SchemaID) (*Schema, []byte, error) {
	return func(id SchemaID) (*Schema, []byte, error) {
		s, err := known(all...)(id)
		return s, nil, err
	}
}

func TestSchemaID(t *testing.T) {
	series := []Series{
		{Labels: labels.FromStrings("__name__", "a_total", "x", "1"), Family: 0, Base: 1},
		{Labels: labels.FromStrings("__name__", "a_total", "x", "2"), Family: 0, Base: 2},
	}
	a := mustSchema(t, testFamilies, series)
	based := slices.Clone(series)
	based[1].Base = math.Copysign(0, -1)
	b := mustSchema(t, testFamilies, based)
	if a.ID == b.ID || a.Shape() != b.Shape() || a.Shape() == a.ID {
		t.Errorf("bases: ids %s and %s, shapes %s and %s", a.ID, b.ID, a.Shape(), b.Shape())
	}
	help := slices.Clone(testFamilies)
	help[0].Help += "."
	swapped := []Series{series[1], series[0]}
	for what, c := range map[string]*Schema{
		"help":     mustSchema(t, help, series),
		"order":    mustSchema(t, testFamilies, swapped),
		"no first": mustSchema(t, testFamilies, series[1:]),
		"family":   mustSchema(t, testFamilies, []Series{series[0], {Labels: series[1].Labels, Family: -1, Base: 2}}),
	} {
		if c.ID == a.ID || c.Shape() == a.Shape() {
			t.Errorf("%s: the same id", what)
		}
	}
	id, err := ParseSchemaID(a.ID.String())
	if err != nil || id != a.ID {
		t.Errorf("%s reads back as %s, %v", a.ID, id, err)
	}
	for _, s := range []string{"", "12", a.ID.String() + "00", strings.Repeat("x", 32)} {
		if _, err := ParseSchemaID(s); !errors.Is(err, ErrMalformed) {
			t.Errorf("id %q: %v", s, err)
		}
	}
}

func TestNewSchemaRefuses(t *testing.T) {
	one := labels.FromStrings("__name__", "a")
	small := Limits{SchemaBytes: 100, Series: 3, Families: 1, Labels: 2}
	for what, c := range map[string]struct {
		families []Family
		series   []Series
		limit    bool
	}{
		"twins":         {series: []Series{{Labels: one, Family: -1}, {Labels: one, Family: -1}}},
		"family":        {series: []Series{{Labels: one, Family: 0}}},
		"family below":  {series: []Series{{Labels: one, Family: -2}}},
		"type":          {families: []Family{{Name: "a", Type: "odd"}}},
		"not utf-8":     {series: []Series{{Labels: labels.FromStrings("__name__", "\xff"), Family: -1}}},
		"help":          {families: []Family{{Name: "a", Help: "\xff"}}},
		"empty name":    {series: []Series{{Labels: labels.FromStrings("", "a"), Family: -1}}},
		"label twice":   {series: []Series{{Labels: labels.FromStrings("a", "1", "a", "2"), Family: -1}}},
		"many families": {families: make([]Family, 2), limit: true},
		"many series":   {series: make([]Series, 4), limit: true},
		"many labels":   {series: []Series{{Labels: labels.FromStrings("a", "1", "b", "1", "c", "1"), Family: -1}}, limit: true},
		"long labels":   {series: []Series{{Labels: labels.FromStrings("a", strings.Repeat("x", 101)), Family: -1}}, limit: true},
	} {
		_, err := NewSchema(c.families, c.series, small)
		var limit *LimitError
		if errors.As(err, &limit) != c.limit || errors.Is(err, ErrMalformed) == c.limit {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestSeriesLabels(t *testing.T) {
	target := labels.FromStrings("instance", "i", "job", "j", "site", "s")
	s := mustSchema(t, nil, []Series{
		{Labels: labels.FromStrings("__name__", "a", "job", "other", "site", "", "x", "1"), Family: -1},
		{Labels: labels.FromStrings("__name__", "b"), Family: -1},
	})
	b := labels.NewBuilder(labels.EmptyLabels())
	for i, want := range []labels.Labels{
		labels.FromStrings("__name__", "a", "instance", "i", "job", "other", "x", "1"),
		labels.FromStrings("__name__", "b", "instance", "i", "job", "j", "site", "s"),
	} {
		if got := s.SeriesLabels(i, target, b); !labels.Equal(got, want) {
			t.Errorf("series %d: %s, want %s", i, got, want)
		}
	}
}

func TestPredictedRows(t *testing.T) {
	ls := func(name string, more ...string) Series {
		return Series{Labels: labels.FromStrings(append([]string{"__name__", name}, more...)...), Family: -1}
	}
	s := mustSchema(t, nil, []Series{
		ls("h_bucket", "le", "1"), ls("h_bucket", "le", "2"), ls("h_sum"), ls("h_count"), // 0 1 0 2
		ls("h_bucket", "le", "1", "x", "1"), ls("h_bucket", "le", "1", "x", "2"), ls("h_count", "x", "2"), ls("h_count", "x", "1"), // 0 0 1 0
		ls("h_bucket", "x", "3"), ls("h_bucket", "le", "9"), ls("_count"), ls("_bucket", "le", "1"), ls("_bucket", "le", "2"), // 0 0 0 0 0
		ls("g_bucket", "le", "1", "y", ""), ls("g_bucket", "le", "2", "y", ""), ls("g_count"), ls("g_count", "y", ""), // 0 1 0 2
	})
	want := []uint8{0, 1, 0, 2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2}
	if !bytes.Equal(s.pred, want) {
		t.Errorf("predicted by rows %v back, want %v", s.pred, want)
	}
}

// TestSchemaDelta: any change of a schema, in either form, gives the same schema.
func TestSchemaDelta(t *testing.T) {
	for seed := range uint64(200) {
		w := newWorld(seed, int(seed%40))
		old := w.schema
		families := slices.Clone(testFamilies)
		switch seed % 5 {
		case 1:
			families = append(families, Family{Name: "new", Type: model.MetricTypeInfo})
		case 2:
			families[0].Help = "other"
		case 3:
			slices.Reverse(families)
		}
		for range w.IntN(6) {
			w.insert()
		}
		for i := range w.series {
			switch w.IntN(12) {
			case 0:
				w.series[i].Base++
			case 1:
				w.series[i].Family = w.IntN(3) - 1
			case 2:
				j := w.IntN(len(w.series))
				w.series[i], w.series[j] = w.series[j], w.series[i]
			}
		}
		if len(w.series) > 3 {
			w.series = slices.Delete(w.series, 1, 1+w.IntN(3))
		}
		s := mustSchema(t, families, slices.Clone(w.series))
		delta, full := s.MarshalDelta(old), s.Marshal()
		got, err := UnmarshalSchemaDelta(s.ID, delta, parents(old), DefaultLimits())
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		sameSchema(t, got, s)
		if got, err = UnmarshalSchema(s.ID, full, DefaultLimits()); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		sameSchema(t, got, s)
		if id, is, err := SchemaParent(delta, DefaultLimits()); id != old.ID || !is || err != nil {
			t.Fatalf("parent is %s, %t, %v", id, is, err)
		}
		if _, err := UnmarshalSchema(s.ID, delta, DefaultLimits()); !errors.Is(err, ErrNoParent) {
			t.Fatalf("a delta alone: %v", err)
		}
		if _, err := UnmarshalSchema(old.ID, full, DefaultLimits()); s.ID != old.ID && !errors.Is(err, ErrChecksum) {
			t.Fatalf("under another id: %v", err)
		}
	}
}

// TestSchemaChain: parents of parents, to the depth that the limit allows and no further, even if they go in circles.
func TestSchemaChain(t *testing.T) {
	var all []*Schema
	var series []Series
	messages := map[SchemaID][]byte{}
	for i := range 12 {
		series = append(slices.Clone(series), Series{Labels: labels.FromStrings("__name__", "a", "i", fmt.Sprint(i)), Family: -1, Base: float64(i)})
		s := mustSchema(t, nil, series)
		messages[s.ID] = s.Marshal()
		if i > 0 {
			messages[s.ID] = s.MarshalDelta(all[i-1])
		}
		all = append(all, s)
	}
	fetched := 0
	fetch := func(id SchemaID) (*Schema, []byte, error) {
		fetched++
		if messages[id] == nil {
			return nil, nil, errMissing
		}
		return nil, messages[id], nil
	}
	lim := DefaultLimits()
	lim.SchemaDepth = 11
	last := all[11]
	got, err := UnmarshalSchemaDelta(last.ID, messages[last.ID], fetch, lim)
	if err != nil || fetched != 11 {
		t.Fatalf("%d fetched, %v", fetched, err)
	}
	sameSchema(t, got, last)
	var limit *LimitError
	lim.SchemaDepth = 10
	if _, err = UnmarshalSchemaDelta(last.ID, messages[last.ID], fetch, lim); !errors.As(err, &limit) {
		t.Errorf("deeper than the limit: %v", err)
	}
	messages[all[0].ID] = all[0].MarshalDelta(last) // a circle
	lim.SchemaDepth = 50
	if _, err = UnmarshalSchemaDelta(last.ID, messages[last.ID], fetch, lim); !errors.As(err, &limit) {
		t.Errorf("a circle: %v", err)
	}
	delete(messages, all[4].ID)
	if _, err = UnmarshalSchemaDelta(last.ID, messages[last.ID], fetch, lim); !errors.Is(err, errMissing) {
		t.Errorf("a parent that is missing: %v", err)
	}
	// A parent that is not the one named is found out by the id.
	wrong := func(SchemaID) (*Schema, []byte, error) { return all[0], nil, nil }
	if _, err = UnmarshalSchemaDelta(last.ID, messages[last.ID], wrong, lim); err == nil {
		t.Error("a wrong parent was taken")
	}
}

// TestSchemaDamage: cut anywhere or with any byte changed, a message is refused or still gives the same schema.
func TestSchemaDamage(t *testing.T) {
	w := newWorld(5, 20)
	old := w.schema
	w.insert()
	w.remake()
	s := w.schema
	for form, msg := range map[string][]byte{"full": s.Marshal(), "delta": s.MarshalDelta(old)} {
		try := func(b []byte) {
			got, err := UnmarshalSchemaDelta(s.ID, b, parents(old), DefaultLimits())
			if err == nil {
				sameSchema(t, got, s)
			}
		}
		for i := range msg {
			if got, err := UnmarshalSchemaDelta(s.ID, msg[:i], parents(old), DefaultLimits()); err == nil {
				t.Fatalf("%s form: cut at %d of %d it is %s", form, i, len(msg), got.ID)
			}
			for _, x := range []byte{1, 0x80, 0xff, byte(i + 7)} {
				b := bytes.Clone(msg)
				b[i] ^= x
				try(b)
			}
		}
	}
}

func TestSchemaLarge(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	var series []Series
	for i := range 120_000 {
		series = append(series, Series{Labels: labels.FromStrings("__name__", "container_memory", "id", fmt.Sprintf("%016x%016x", rnd.Uint64(), rnd.Uint64()), "n", fmt.Sprintf("%06d", i)), Family: -1, Base: float64(i)})
	}
	a := mustSchema(t, nil, series)
	b := mustSchema(t, nil, slices.Delete(slices.Clone(series), 500, 600))
	full, delta := a.Marshal(), a.MarshalDelta(b)
	if len(delta) > len(full)/100 {
		t.Errorf("a delta of %d bytes for a schema of %d", len(delta), len(full))
	}
	got, err := UnmarshalSchema(a.ID, full, DefaultLimits())
	if err != nil || got.ID != a.ID {
		t.Fatal(err)
	}
	if got, err = UnmarshalSchemaDelta(a.ID, delta, parents(b), DefaultLimits()); err != nil || got.ID != a.ID {
		t.Fatal(err)
	}
}

// TestSchemaBombs: a small message does not take much memory, whatever it says.
func TestSchemaBombs(t *testing.T) {
	pack := func(content []byte) []byte {
		w, err := zstd.NewWriter(nil, zstd.WithSingleSegment(true))
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		return w.EncodeAll(content, nil)
	}
	message := func(form byte, size uint64, data []byte) []byte {
		b := append([]byte(schemaMagic), version, form)
		return append(appendUvarint(b, size), data...)
	}
	huge := uint64(1) << 40
	shared := appendUvarint(appendUvarint(nil, 0), 50_000)                     // no families, many series
	shared = append(appendString(append(shared, 0, 0, 1), "a"), 0x80, 0x80, 4) // the first with a value of 64 KiB
	shared = append(shared, bytes.Repeat([]byte("x"), 64<<10)...)              //
	shared = append(shared, bytes.Repeat([]byte{0, 1, 0}, 50_000)...)          // the others share it
	zeros := make([]byte, 100<<20)
	lim := DefaultLimits()
	lim.SchemaBytes = 64 << 20
	for what, msg := range map[string][]byte{
		"declared":       message(0, huge, nil),
		"declared, zstd": message(formZstd, huge, pack(nil)),
		"bomb":           message(formZstd, uint64(len(zeros)), pack(zeros)),
		"bomb that lies": message(formZstd, 10, pack(zeros)),
		"bomb below":     message(formZstd, 60<<20, pack(zeros[:60<<20])),
		"shared labels":  message(formZstd, uint64(len(shared)), pack(shared)),
		"many series":    message(0, 9, appendUvarint([]byte{0}, huge)),
		"many families":  message(0, 8, appendUvarint(nil, huge)),
		"message":        make([]byte, lim.MessageBytes+1),
	} {
		var err error
		grown := allocated(func() { _, err = UnmarshalSchema(SchemaID{}, msg, lim) })
		var limit *LimitError
		if !errors.As(err, &limit) && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", what, err)
		}
		if what == "shared labels" && limit == nil {
			t.Errorf("%s: %v", what, err)
		}
		if most := uint64(150 << 20); grown > most {
			t.Errorf("%s: %d bytes were taken", what, grown)
		}
	}
}
