package spool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// record makes a record of which the message alone takes n bytes.
func record(name string, n int, schemas ...string) Record {
	return Record{Subject: "t.frames.dc1.live", Message: []byte(name + strings.Repeat(".", n-len(name))),
		Schemas: schemas, Frames: 2, Samples: 10}
}

func schema(id string, n int) Schema {
	return Schema{ID: id, Subject: "t.schemas.dc1." + id, Message: []byte(strings.Repeat("s", n))}
}

// spooled is what Memory and Disk have in common.
type spooled interface {
	Append(Record, ...Schema) error
	Read(ctx context.Context, after Position, max int) ([]Entry, error)
}

func names(t *testing.T, m spooled, after Position) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	entries, err := m.Read(ctx, after, 1000)
	if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&b, "%d%s ", e.Position, strings.TrimRight(string(e.Message), "."))
	}
	return strings.TrimSpace(b.String())
}

func mustAppend(t *testing.T, m spooled, r Record, schemas ...Schema) {
	t.Helper()
	if err := m.Append(r, schemas...); err != nil {
		t.Fatal(err)
	}
}

func TestMemoryOrder(t *testing.T) {
	m := NewMemory(MemoryOptions{})
	for _, n := range []string{"a", "b", "c"} {
		mustAppend(t, m, record(n, 10))
	}
	for after, want := range []string{"1a 2b 3c", "2b 3c", "3c", ""} {
		if got := names(t, m, Position(after)); got != want {
			t.Errorf("after %d: %q, want %q", after, got, want)
		}
	}
	if r, f, s := m.Held(); r != 3 || f != 6 || s != 30 {
		t.Errorf("Held = %d, %d, %d", r, f, s)
	}
	if err := m.Trim(2); err != nil {
		t.Fatal(err)
	}
	if got := names(t, m, 0); got != "3c" {
		t.Errorf("after trimming 2: %q", got)
	}
	if err := m.Trim(99); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, m, record("d", 10))
	if got := names(t, m, 1); got != "4d" {
		t.Errorf("positions must go on after everything was trimmed: %q", got)
	}
	entries, err := m.Read(t.Context(), 0, 1)
	if err != nil || len(entries) != 1 || entries[0].Frames != 2 || entries[0].Samples != 10 || entries[0].Appended.IsZero() {
		t.Errorf("Read = %+v, %v", entries, err)
	}
}

func TestMemoryDropsOldest(t *testing.T) {
	one := record("x", 1000).size()
	reg := prometheus.NewPedanticRegistry()
	m := NewMemory(MemoryOptions{MaxBytes: 3 * one, Registerer: reg})
	for _, n := range []string{"a", "b", "c", "d", "e"} {
		mustAppend(t, m, record(n, 1000))
	}
	if got := names(t, m, 0); got != "3c 4d 5e" {
		t.Errorf("held %q", got)
	}
	if got := names(t, m, 1); got != "3c 4d 5e" {
		t.Errorf("reading after a dropped record: %q", got)
	}
	want := `
# HELP prometheus_streams_spool_bytes Bytes of the records that wait to be stored by the stream, with their schemas.
# TYPE prometheus_streams_spool_bytes gauge
prometheus_streams_spool_bytes ` + fmt.Sprint(3*one) + `
# HELP prometheus_streams_spool_dropped_frames_total Frames in dropped records.
# TYPE prometheus_streams_spool_dropped_frames_total counter
prometheus_streams_spool_dropped_frames_total{reason="age"} 0
prometheus_streams_spool_dropped_frames_total{reason="full"} 4
# HELP prometheus_streams_spool_dropped_records_total Records dropped before the stream stored them.
# TYPE prometheus_streams_spool_dropped_records_total counter
prometheus_streams_spool_dropped_records_total{reason="age"} 0
prometheus_streams_spool_dropped_records_total{reason="full"} 2
# HELP prometheus_streams_spool_dropped_samples_total Samples in dropped records.
# TYPE prometheus_streams_spool_dropped_samples_total counter
prometheus_streams_spool_dropped_samples_total{reason="age"} 0
prometheus_streams_spool_dropped_samples_total{reason="full"} 20
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "prometheus_streams_spool_bytes", "prometheus_streams_spool_dropped_frames_total",
		"prometheus_streams_spool_dropped_records_total", "prometheus_streams_spool_dropped_samples_total"); err != nil {
		t.Error(err)
	}
	if err := m.Append(record("huge", int(3*one))); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a record larger than the spool: %v", err)
	}
	if got := names(t, m, 0); got != "3c 4d 5e" {
		t.Errorf("a refused record cost others: %q", got)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
}

func TestMemoryRefuses(t *testing.T) {
	one := record("x", 1000).size()
	m := NewMemory(MemoryOptions{MaxBytes: 2 * one, Refuse: true})
	mustAppend(t, m, record("a", 1000))
	mustAppend(t, m, record("b", 1000))
	if err := m.Append(record("c", 1000)); !errors.Is(err, ErrFull) {
		t.Fatalf("full spool: %v", err)
	}
	if err := m.Trim(1); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, m, record("d", 1000))
	if got := names(t, m, 0); got != "2b 3d" {
		t.Errorf("held %q", got)
	}

	// A schema that two records name takes its room once.
	one, sch := record("x", 1000, "s").size(), schema("s", 1000)
	m = NewMemory(MemoryOptions{MaxBytes: 2*one + sch.size(), Refuse: true})
	mustAppend(t, m, record("a", 1000, "s"), sch)
	mustAppend(t, m, record("b", 1000, "s"), sch)
	if err := m.Append(record("c", 10, "s")); !errors.Is(err, ErrFull) {
		t.Errorf("full spool: %v", err)
	}
}

func TestMemorySchemas(t *testing.T) {
	m := NewMemory(MemoryOptions{})
	if err := m.Append(record("a", 10, "s1")); !errors.Is(err, ErrNoSchema) || !strings.Contains(err.Error(), "s1") {
		t.Fatalf("a record that names an unknown schema: %v", err)
	}
	mustAppend(t, m, record("a", 10, "s1"), schema("s1", 50), schema("unwanted", 50))
	if has(m, "unwanted") {
		t.Error("a schema that nobody names is kept")
	}
	mustAppend(t, m, record("b", 10, "s1"))
	mustAppend(t, m, record("c", 10, "s2"), schema("s2", 50))
	m.SetLive([]string{"s2", "s3", "s2"})
	if got := m.Live(); len(got) != 1 || got[0] != "s2" {
		t.Errorf("live %v: only those that the spool holds", got)
	}
	has := func(want string) {
		t.Helper()
		var got []string
		for _, id := range []string{"s1", "s2", "s3"} {
			if has(m, id) {
				got = append(got, id)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("schemas %v, want %s", got, want)
		}
	}
	has("s1 s2")
	m.Trim(1)
	has("s1 s2")
	m.Trim(3)
	has("s2")
	if m.bytes != 0 {
		t.Errorf("%d bytes in an empty spool: a live schema does not count", m.bytes)
	}
	m.SetLive(nil)
	has("")
	if _, err := m.Schema("s2"); !errors.Is(err, ErrNoSchema) {
		t.Errorf("Schema: %v", err)
	}
	m.SetLive([]string{"s3"})
	mustAppend(t, m, record("d", 10), schema("s3", 50))
	has("s3")
}

// The count of bytes must be exact whatever the order of things, or the bound drifts.
func TestMemoryAccounts(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	m := NewMemory(MemoryOptions{MaxBytes: 20_000})
	var live []string
	for i := range 20_000 {
		switch rnd.IntN(5) {
		case 0:
			m.Trim(m.last - Position(rnd.IntN(30)))
		case 1:
			live = live[:0]
			for s := range 8 {
				if rnd.IntN(2) == 0 {
					live = append(live, fmt.Sprint("s", s))
				}
			}
			m.SetLive(live)
		default:
			s := schema(fmt.Sprint("s", rnd.IntN(8)), 2000)
			if err := m.Append(record("r", 10+rnd.IntN(900), s.ID), s); err != nil {
				t.Fatal(err)
			}
			if m.bytes > m.opts.MaxBytes {
				t.Fatalf("step %d: %d bytes held, limit %d", i, m.bytes, m.opts.MaxBytes)
			}
		}
		var want int64
		for _, e := range m.entries[m.head:] {
			want += e.size()
			for _, id := range e.Schemas {
				if !has(m, id) {
					t.Fatalf("step %d: the schema %s of a record is gone", i, id)
				}
			}
		}
		for id, s := range m.schemas {
			if _, ok := m.live[id]; !ok {
				want += s.size()
			}
		}
		if m.bytes != want {
			t.Fatalf("step %d: counted %d bytes, there are %d", i, m.bytes, want)
		}
	}
}

func TestMemoryReadWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(MemoryOptions{})
		start := time.Now()
		go func() {
			time.Sleep(time.Minute)
			m.Append(record("a", 10))
			time.Sleep(time.Minute)
			m.Close()
		}()
		entries, err := m.Read(t.Context(), 0, 10)
		if err != nil || len(entries) != 1 || time.Since(start) != time.Minute {
			t.Fatalf("Read = %v, %v after %v", entries, err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := m.Read(ctx, 1, 10); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Read past its deadline: %v", err)
		}
		if _, err := m.Read(t.Context(), 1, 10); !errors.Is(err, ErrClosed) || time.Since(start) != 2*time.Minute {
			t.Errorf("Read of a closed spool: %v after %v", err, time.Since(start))
		}
		if entries, err := m.Read(t.Context(), 0, 10); err != nil || len(entries) != 1 {
			t.Errorf("what is not trimmed can be read again after Close: %v, %v", entries, err)
		}
		if err := m.Append(record("b", 10)); !errors.Is(err, ErrClosed) {
			t.Errorf("Append to a closed spool: %v", err)
		}
	})
}

func TestMemoryConcurrent(t *testing.T) {
	m := NewMemory(MemoryOptions{})
	const n = 2000
	var wg sync.WaitGroup
	wg.Go(func() {
		for range n {
			m.Append(record("x", 100, "s"), schema("s", 10))
		}
		m.Close()
	})
	var after Position
	for {
		entries, err := m.Read(t.Context(), after, 7)
		if errors.Is(err, ErrClosed) {
			break
		}
		for _, e := range entries {
			if e.Position != after+1 {
				t.Fatalf("position %d after %d", e.Position, after)
			}
			after = e.Position
		}
		m.Trim(after)
	}
	wg.Wait()
	if after != n || len(m.schemas) != 0 || m.bytes != 0 {
		t.Errorf("read up to %d of %d; %d schemas and %d bytes left", after, n, len(m.schemas), m.bytes)
	}
}

func BenchmarkMemory(b *testing.B) {
	m := NewMemory(MemoryOptions{MaxBytes: 64 << 20})
	r := record("x", 32<<10, "s")
	s := schema("s", 1000)
	b.ReportAllocs()
	for b.Loop() {
		if err := m.Append(r, s); err != nil {
			b.Fatal(err)
		}
	}
}
