package spool

import (
	"fmt"
	"testing"
)

// What idle schemas take is remembered between bundles, and right after all that changes it.
func TestIdleSchemasAreCounted(t *testing.T) {
	d := openDisk(t, DiskOptions{Directory: t.TempDir()})
	check := func(what string) {
		t.Helper()
		d.mu.Lock()
		defer d.mu.Unlock()
		for range 2 {
			got, want := d.schemas.kept(), int64(0)
			for id, st := range d.schemas.all {
				if _, live := d.schemas.live[id]; !live {
					want += st.size
				}
			}
			if got != want {
				t.Errorf("%s: %d bytes of idle schemas, want %d", what, got, want)
			}
		}
	}
	check("empty")
	for i := range 4 {
		id := fmt.Sprint("s", i)
		s := Schema{ID: id, Subject: "schemas", Message: make([]byte, 100*(i+1))}
		mustAppend(t, d, Record{Message: []byte("m"), Schemas: []string{id}}, s)
		check("after a schema")
	}
	if d.schemas.kept() < 1000 {
		t.Errorf("%d bytes of four schemas", d.schemas.kept())
	}
	d.SetLive([]string{"s0", "s3"})
	check("some live")
	d.SetLive(nil)
	check("none live")
	drain(t, d)
	d.mu.Lock()
	d.schemas.forgetFiles()
	d.mu.Unlock()
	check("files forgotten")
	d.mu.Lock()
	_, _ = d.schemas.get("s1")
	d.collect(true, nil)
	d.mu.Unlock()
	check("collected")
}

// BenchmarkUsed is what each bundle asks, with the schemas of 200 targets.
func BenchmarkUsed(b *testing.B) {
	for _, counted := range []bool{true, false} {
		b.Run(fmt.Sprint("counted ", counted), func(b *testing.B) {
			s := &schemaStore{all: map[string]*storedSchema{}, live: map[string]struct{}{}}
			for i := range 200 {
				id := fmt.Sprintf("%032x", i)
				s.all[id], s.live[id] = &storedSchema{size: 1000}, struct{}{}
			}
			for b.Loop() {
				s.counted = s.counted && counted
				s.kept()
			}
		})
	}
}
