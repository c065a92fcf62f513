package scrape

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"

	"github.com/choria-io/prometheus-streams/internal/scrape/inflate"
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

// Buffers is memory for the scrapes that run at the same time: for bodies, and to decompress them. The zero value is
// ready; it is safe for concurrent use.
type Buffers struct {
	mu sync.Mutex
	// ready are a few that stay from scrape to scrape; pool has the others until the next garbage collections.
	ready []*buffer
	pool  sync.Pool

	// limit bounds held, what the buffers in use have together, with loose, what they had and the garbage collector has not
	// taken yet. large are those of them that had to ask for more; freed is closed when one of those who wait may go on.
	limit, held int64
	loose       int64
	collecting  bool
	numbers     uint64
	large       map[*buffer]struct{}
	waiting     int
	freed       chan struct{}
}

// buffer is the memory of one scrape that runs.
type buffer struct {
	bytes []byte
	// whole is the compressed body, or the beginning of one that is too large to be read first; inflater decompresses it, up to
	// limit. Of the large ones compressed reads the rest, for gzip. All are nil until the first such body.
	whole      []byte
	inflater   *inflate.Inflater
	limit      int64
	compressed *bufio.Reader
	gzip       *gzip.Reader

	owner *Buffers // while it is in use
	share share
}

const (
	firstBuffer = 64 << 10
	// largestKept is the largest buffer that waits for the next scrape: one enormous target must not make all
	// buffers enormous.
	largestKept = 16 << 20
	// readyKept and readyLargest bound what stays for good.
	readyKept, readyLargest = 4, 1 << 20
)

func (b *Buffers) get() *buffer {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.ready); n > 0 {
		x := b.ready[n-1]
		b.ready = b.ready[:n-1]
		return b.begin(x)
	}
	if x, ok := b.pool.Get().(*buffer); ok {
		return b.begin(x)
	}
	return b.begin(&buffer{bytes: make([]byte, 0, firstBuffer)})
}

func (b *Buffers) put(x *buffer) {
	if x.compressed != nil {
		x.compressed.Reset(nil) // it must not hold on to the response
	}
	b.take(x)
	b.tidy()
}

// take has back what was in use.
func (b *Buffers) take(x *buffer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.end(x)
	if cap(x.bytes) > largestKept {
		return
	}
	if len(b.ready) < readyKept && cap(x.bytes) <= readyLargest && cap(x.whole) <= smallWhole {
		b.ready = append(b.ready, x)
		return
	}
	b.pool.Put(x)
}

// read fills the buffer from r. It holds at most one byte more than limit, and leaves room for one more: what reads
// the body may want to end it with a line break.
func (b *buffer) read(r io.Reader, limit int64) error {
	for {
		if len(b.bytes)+1 >= cap(b.bytes) {
			if err := b.grow(limit); err != nil {
				return err
			}
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
	switch e := strings.ToLower(resp.Header.Get("Content-Encoding")); e {
	case "", "identity":
		if err = b.read(resp.Body, s.limit); err != nil {
			err = fmt.Errorf("read the body: %w", err)
		}
	case "gzip":
		err = b.unpack(resp.Body, s.limit)
	default:
		err = fmt.Errorf("server returned a body with Content-Encoding %.50q, which was not asked for", e)
	}
	if err != nil {
		return "", err
	}
	return resp.Header.Get("Content-Type"), nil
}
