package scrape

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// noise does not become smaller when it is compressed.
func noise(n int) []byte {
	b, r := make([]byte, n), rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// dripping gives a byte at a time, which says nothing of where a body ends.
type dripping struct{ io.Reader }

func (d dripping) Read(p []byte) (int, error) { return d.Reader.Read(p[:min(len(p), 1+len(p)/2)]) }

// Bodies that are read whole and those that are not end up the same, up to their limit and above it.
func TestUnpack(t *testing.T) {
	for name, body := range map[string][]byte{
		"nothing": nil, "small": []byte("a 1\n"), "text": []byte(strings.Repeat("a{b=\"c\"} 1\n", 50_000)),
		"nearly at once": noise(largestWhole - 1000), "more than at once": noise(largestWhole + 1000),
	} {
		packed := gzipped(t, body)
		n := int64(len(body))
		for _, limit := range []int64{0, 1, n / 2, n - 1, n, n + 1, 1 << 40} {
			for _, first := range []int{2, 100, firstBuffer, 4 << 20} {
				if limit < 0 {
					continue
				}
				b := &buffer{bytes: make([]byte, 0, first)}
				err := b.unpack(dripping{bytes.NewReader(packed)}, limit)
				if n <= limit && (err != nil || !bytes.Equal(b.bytes, body) || cap(b.bytes) == len(b.bytes)) {
					t.Errorf("%s, limit %d, at first %d: %d bytes of %d, or others, of %d: %v", name, limit, first, len(b.bytes), n, cap(b.bytes), err)
				}
				e := (*BodySizeError)(nil)
				if n > limit && (!errors.As(err, &e) || e.Read != limit+1 || e.Limit != limit || int64(len(b.bytes)) != limit+1) {
					t.Errorf("%s, limit %d, at first %d: %d bytes, error %v", name, limit, first, len(b.bytes), err)
				}
				if int64(cap(b.bytes)) > max(limit+2, int64(first)) || cap(b.whole) > largestWhole {
					t.Errorf("%s, limit %d, at first %d: %d bytes of memory, %d for the compressed", name, limit, first, cap(b.bytes), cap(b.whole))
				}
			}
		}
	}
}

func TestUnpackRefuses(t *testing.T) {
	small, large := gzipped(t, []byte("a 1\n")), gzipped(t, noise(largestWhole+1000))
	changed := func(b []byte) []byte {
		b = bytes.Clone(b)
		b[len(b)-5]++
		return b
	}
	for name, c := range map[string]struct {
		body io.Reader
		want string
	}{
		"nothing":         {strings.NewReader(""), "read the gzip body: EOF"},
		"text":            {strings.NewReader("a_metric 1\n"), "read the gzip body: gzip: invalid header"},
		"cut":             {bytes.NewReader(small[:len(small)-1]), "read the gzip body: unexpected EOF"},
		"large and cut":   {bytes.NewReader(large[:len(large)-1]), "read the body: unexpected EOF"},
		"changed":         {bytes.NewReader(changed(small)), "read the gzip body: gzip: invalid checksum"},
		"large, changed":  {bytes.NewReader(changed(large)), "read the body: gzip: invalid checksum"},
		"large, not gzip": {bytes.NewReader(make([]byte, 2*largestWhole)), "read the gzip body: gzip: invalid header"},
		"broken off":      {io.MultiReader(bytes.NewReader(small[:9]), broken{}), "read the body: broken"},
	} {
		if err := (&buffer{bytes: make([]byte, 0, 100)}).unpack(c.body, 1<<30); err == nil || err.Error() != c.want {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("broken") }

// The memory to decompress goes from scrape to scrape, whatever became of the one before.
func TestUnpackIsShared(t *testing.T) {
	pool := NewBuffers(1 << 30)
	body := []byte(strings.Repeat("a 1\n", 50000))
	whole := gzipped(t, body)
	in := bytes.NewReader(nil)
	read := func(compressed []byte) error {
		b := pool.get()
		defer pool.put(b)
		in.Reset(compressed)
		err := b.unpack(in, 1<<20)
		if err == nil && !bytes.Equal(b.bytes, body) {
			t.Fatalf("%d bytes of %d, or others", len(b.bytes), len(body))
		}
		if b.share.held != b.size() || pool.held != b.size() {
			t.Fatalf("%d bytes are counted, %d together, of %d", b.share.held, pool.held, b.size())
		}
		return err
	}
	checkReuse(t, body, whole, 0, read)
	if pool.held != 0 {
		t.Errorf("%d bytes are held by nobody", pool.held)
	}
}

// A bomb has no more than there is, and a body that hangs gives way, also while it is compressed.
func TestUnpackSharesTheMemory(t *testing.T) {
	bomb := gzipped(t, make([]byte, 64<<20))
	b := NewBuffers(8 << 20)
	x := b.get()
	err := x.unpack(bytes.NewReader(bomb), 1<<30)
	if e := (*BodyMemoryError)(nil); !errors.As(err, &e) || e.Limit != 8<<20 || x.size() > 8<<20 {
		t.Errorf("a bomb took %d bytes: %v", x.size(), err)
	}
	b.put(x)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	x = (&Buffers{}).get()
	x.watch(ended.Done(), cancel)
	if err := x.unpack(bytes.NewReader(bomb), 1<<30); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a bomb after the scrape's end: %d bytes, %v", len(x.bytes), err)
	}
	synctest.Test(t, func(t *testing.T) {
		b := NewBuffers(3 << 20)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		hanging := make(chan error, 1)
		go func() {
			x := b.get()
			defer b.put(x)
			x.watch(ctx.Done(), cancel)
			err := x.unpack(&endless{ctx: ctx, left: 900 << 10, wait: time.Hour}, testBody)
			if why := x.whyEvicted(); err != nil && why != nil {
				err = why
			}
			hanging <- err
		}()
		synctest.Wait()
		if b.held != 1<<20+firstBuffer {
			t.Errorf("held %d", b.held)
		}
		for range 4 {
			y := b.get()
			defer b.put(y)
			if err := y.unpack(bytes.NewReader(gzipped(t, noise(200<<10))), testBody); err != nil {
				t.Errorf("a small one: %v", err)
			}
		}
		if ctx.Err() != nil {
			t.Error("small bodies had the large one give way")
		}
		y := b.get()
		defer b.put(y)
		if err := y.unpack(bytes.NewReader(gzipped(t, noise(300<<10))), testBody); err != nil {
			t.Errorf("a larger one: %v", err)
		}
		if e := (*BodyMemoryError)(nil); !errors.As(<-hanging, &e) {
			t.Errorf("the largest one did not give way")
		}
	})
}
