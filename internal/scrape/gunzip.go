package scrape

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"

	"github.com/choria-io/prometheus-streams/internal/scrape/inflate"
)

const (
	// compressedAtOnce is how much of a compressed body is read at a time: fewer calls into the kernel than with the
	// buffers of net/http.
	compressedAtOnce = 32 << 10
	// largestWhole is how much of a compressed body is read before it is decompressed, about 10 MiB of text. Larger ones are
	// decompressed as they come, in twice the time.
	largestWhole = 1 << 20
	// smallWhole is how much of that does not ask for memory.
	smallWhole = 256 << 10
)

// unpack fills the buffer from a compressed body, with at most one byte more than limit.
func (b *buffer) unpack(body io.Reader, limit int64) error {
	ended, err := b.readWhole(body)
	if err != nil {
		return fmt.Errorf("read the body: %w", err)
	}
	if !ended {
		r, err := b.gunzip(io.MultiReader(bytes.NewReader(b.whole), body))
		if err != nil {
			return err
		}
		if err := b.read(r, limit); err != nil {
			return fmt.Errorf("read the body: %w", err)
		}
		return nil
	}
	if b.inflater == nil {
		b.inflater = new(inflate.Inflater)
	}
	b.limit = limit
	out, err := b.inflater.Append(b.room(), b.whole, (*growing)(b))
	b.bytes = b.bytes[:len(out)]
	if int64(len(out)) > limit {
		err = &BodySizeError{Read: int64(len(out)), Limit: limit}
	}
	if err != nil {
		return fmt.Errorf("read the gzip body: %w", err)
	}
	return nil
}

// readWhole reads a compressed body to its end, or as much of it as may be there at once.
func (b *buffer) readWhole(body io.Reader) (ended bool, err error) {
	for b.whole = b.whole[:0]; ; {
		if len(b.whole) == largestWhole {
			return false, nil
		}
		if len(b.whole) == cap(b.whole) {
			if err := b.enlarge(&b.whole, max(compressedAtOnce, 2*int64(cap(b.whole))), smallWhole); err != nil {
				return false, err
			}
		}
		n, err := body.Read(b.whole[len(b.whole):min(cap(b.whole), largestWhole)])
		b.whole = b.whole[:len(b.whole)+n]
		if err == io.EOF {
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// room is the buffer as far as it may be written to: to a byte more than limit, but for the one that read leaves too.
func (b *buffer) room() []byte {
	n := len(b.bytes)
	return b.bytes[:n:max(n, int(min(int64(cap(b.bytes))-1, b.limit+1)))]
}

// growing is a buffer as the memory of its inflater.
type growing buffer

// Grow keeps what was written, and gives more room.
func (g *growing) Grow(out []byte) ([]byte, error) {
	b := (*buffer)(g)
	b.bytes = b.bytes[:len(out)]
	if int64(len(out)) > b.limit {
		return nil, &BodySizeError{Read: int64(len(out)), Limit: b.limit}
	}
	select {
	case <-b.share.done: // a bomb goes on no longer than others
		return nil, context.DeadlineExceeded
	default:
	}
	if err := b.grow(b.limit); err != nil {
		return nil, err
	}
	return b.room(), nil
}

// gunzip gives what decompresses a body as it comes.
func (b *buffer) gunzip(body io.Reader) (io.Reader, error) {
	if b.compressed == nil {
		b.compressed = bufio.NewReaderSize(body, compressedAtOnce)
	} else {
		b.compressed.Reset(body)
	}
	var err error
	if b.gzip == nil {
		b.gzip, err = gzip.NewReader(b.compressed)
	} else {
		err = b.gzip.Reset(b.compressed)
	}
	if err != nil {
		b.gzip = nil
		return nil, fmt.Errorf("read the gzip body: %w", err)
	}
	return b.gzip, nil
}
