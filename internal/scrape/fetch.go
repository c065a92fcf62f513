package scrape

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
)

// BodySizeError says that an exposition is larger than allowed.
type BodySizeError struct {
	// Read is how many bytes were read before giving up.
	Read int64
	// Limit is how many are allowed.
	Limit int64
}

func (e *BodySizeError) Error() string {
	return fmt.Sprintf("body_size_limit exceeded: %d bytes read so far, limit %d", e.Read, e.Limit)
}

// Buffers is memory for the bodies of scrapes that run at the same time. The zero value is ready; it is safe for
// concurrent use.
type Buffers struct {
	pool sync.Pool
}

type buffer struct {
	bytes []byte
}

const (
	firstBuffer = 64 << 10
	// largestKept is the largest buffer that waits for the next scrape: one enormous target must not make all
	// buffers enormous.
	largestKept = 16 << 20
)

func (b *Buffers) get() *buffer {
	if x, ok := b.pool.Get().(*buffer); ok {
		x.bytes = x.bytes[:0]
		return x
	}
	return &buffer{bytes: make([]byte, 0, firstBuffer)}
}

func (b *Buffers) put(x *buffer) {
	if cap(x.bytes) <= largestKept {
		b.pool.Put(x)
	}
}

// read fills the buffer from r. It holds at most one byte more than limit, and leaves room for one more: what reads
// the body may want to end it with a line break.
func (b *buffer) read(r io.Reader, limit int64) error {
	for {
		if len(b.bytes)+1 >= cap(b.bytes) {
			b.bytes = append(b.bytes, make([]byte, cap(b.bytes))...)[:len(b.bytes)]
		}
		room := b.bytes[len(b.bytes) : cap(b.bytes)-1]
		if left := limit + 1 - int64(len(b.bytes)); int64(len(room)) > left {
			room = room[:left]
		}
		n, err := r.Read(room)
		b.bytes = b.bytes[:len(b.bytes)+n]
		if int64(len(b.bytes)) > limit {
			return &BodySizeError{Read: int64(len(b.bytes)), Limit: limit}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// fetch gets the body of one GET, uncompressed.
func (s *Scraper) fetch(ctx context.Context, b *buffer) (contentType string, err error) {
	// A clone, since clients with credentials leave them in the headers of the request.
	resp, err := s.client.Do(s.request.Clone(ctx))
	if err != nil {
		return "", err
	}
	defer func() {
		if err == nil {
			// A body read to its end leaves the connection to the next scrape.
			_, _ = io.CopyN(io.Discard, resp.Body, 1<<10)
		}
		_ = resp.Body.Close()
	}()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("server returned HTTP status %s", resp.Status)
	}
	var r io.Reader = resp.Body
	switch e := strings.ToLower(resp.Header.Get("Content-Encoding")); e {
	case "", "identity":
	case "gzip":
		if s.gzip == nil {
			s.gzip, err = gzip.NewReader(resp.Body)
		} else {
			err = s.gzip.Reset(resp.Body)
		}
		if err != nil {
			s.gzip = nil
			return "", fmt.Errorf("read the gzip body: %w", err)
		}
		r = s.gzip
	default:
		return "", fmt.Errorf("server returned a body with Content-Encoding %.50q, which was not asked for", e)
	}
	if err := b.read(r, s.limit); err != nil {
		return "", fmt.Errorf("read the body: %w", err)
	}
	return resp.Header.Get("Content-Type"), nil
}
