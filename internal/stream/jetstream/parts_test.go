package jetstream

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/choria-io/prometheus-streams/internal/stream"
)

// A schema that is larger than the server takes is stored in parts, under subjects of their own, and read as one.
func TestSchemaInParts(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, contractConfig)
	c := connect(t, s.options("all"))
	ensure(t, c)
	subject := stream.Subjects{Topic: "demo"}.Schema("edge", [16]byte{1})
	p := publisher(t, c, subject)
	if err := p.Ready(short(t)); err != nil {
		t.Fatal(err)
	}
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		return b
	}
	put := func(message []byte, from, to int) {
		parts, err := stream.Cut(message, 2000)
		if err != nil || len(parts) != 4 {
			t.Fatalf("%d parts, %v", len(parts), err)
		}
		for i := from; i <= to; i++ {
			if r := result(t, p.Publish(stream.SchemaPart(subject, i), parts[i-1])); r.Err != nil {
				t.Fatal(r.Err)
			}
		}
	}
	message, again := random(7000), random(7000)
	put(message, 1, 3)
	if _, err := c.Schema(short(t), subject); !errors.Is(err, stream.ErrNotFound) {
		t.Errorf("a schema that lacks a part: %v", err)
	}
	put(message, 4, 4)
	if got, err := c.Schema(short(t), subject); err != nil || !bytes.Equal(got, message) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	put(again, 1, 2)
	if _, err := c.Schema(short(t), subject); !errors.Is(err, stream.ErrNotFound) {
		t.Errorf("a schema with parts of two storings: %v", err)
	}
	put(again, 3, 4)
	if got, err := c.Schema(short(t), subject); err != nil || !bytes.Equal(got, again) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
