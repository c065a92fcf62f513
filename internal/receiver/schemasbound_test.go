package receiver

import (
	"fmt"
	"log/slog"
	"runtime"
	"testing"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// However many schemas somebody stores, the cache lets go of those asked for longest ago; those that a target still has
// are found all the same.
func TestSchemasAreBounded(t *testing.T) {
	limits := frame.DefaultLimits()
	s, err := NewSchemas("", limits, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	make1 := func(i int) *frame.Schema {
		series := make([]frame.Series, 50)
		for k := range series {
			series[k] = frame.Series{Labels: labels.FromStrings("__name__", "m", "i", fmt.Sprint(i), "k", fmt.Sprint(k)), Family: -1}
		}
		schema, err := frame.NewSchema(nil, series, limits)
		if err != nil {
			t.Fatal(err)
		}
		return schema
	}
	first := make1(0)
	bound := 20 * first.Bytes()
	s.Bound(bound)
	s.keep(first)
	var ids []frame.SchemaID
	for i := 1; i < 500; i++ {
		schema := make1(i)
		ids = append(ids, schema.ID)
		s.keep(schema)
		if s.bytes > bound {
			t.Fatalf("%d bytes after %d schemas, limit %d", s.bytes, i, bound)
		}
	}
	for range 3 {
		runtime.GC()
	}
	if s.Lookup(first.ID) != first {
		t.Error("a schema that is in use is not found any more")
	}
	found := 0
	for _, id := range ids {
		if s.Lookup(id) != nil {
			found++
		}
	}
	if found < 10 || found > 20 {
		t.Errorf("%d schemas are found, want at most 20", found)
	}
	if s.Lookup(ids[len(ids)-1]) == nil {
		t.Error("the newest schema is gone")
	}
	runtime.KeepAlive(first)
	s.swept = s.swept.Add(-2 * schemaSweep)
	s.keep(make1(1000))
	if len(s.loaded) > 25 {
		t.Errorf("%d schemas are remembered", len(s.loaded))
	}
}
