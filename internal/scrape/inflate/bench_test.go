package inflate

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path"
	"testing"

	kgzip "github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// room is memory that grows as it has to.
type room struct{ limit int }

var errFull = errors.New("full")

func (r room) Grow(out []byte) ([]byte, error) {
	if len(out) >= r.limit {
		return nil, errFull
	}
	grown := make([]byte, len(out), min(2*cap(out)+1, r.limit))
	copy(grown, out)
	return grown, nil
}

// scrapes gives the last scrape of each of some real programs.
func scrapes(t testing.TB) map[string][]byte {
	t.Helper()
	f, err := os.Open("../../exposition/testdata/scrapes.tar.zst")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	bodies := map[string][]byte{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return bodies
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if bodies[path.Dir(h.Name)], err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// packers are who compresses bodies: programs with the standard library, and those with a client library of today.
var packers = map[string]func(io.Writer) io.WriteCloser{
	"stdlib":    func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
	"klauspost": func(w io.Writer) io.WriteCloser { return kgzip.NewWriter(w) },
}

func pack(t testing.TB, body []byte, packer func(io.Writer) io.WriteCloser) []byte {
	t.Helper()
	var out bytes.Buffer
	w := packer(&out)
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// BenchmarkInflate decompresses real scrapes, and the reader that this room is there to be faster than does: MB/s are of the
// text.
func BenchmarkInflate(b *testing.B) {
	for program, body := range scrapes(b) {
		for packer, p := range packers {
			packed := pack(b, body, p)
			out := make([]byte, 0, len(body)+fastOut)
			b.Run(program+"/"+packer+"/inflate", func(b *testing.B) {
				var z Inflater
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				for b.Loop() {
					if got, err := z.Append(out, packed, room{}); err != nil || len(got) != len(body) {
						b.Fatal(len(got), err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(body)), "ns/B")
			})
			b.Run(program+"/"+packer+"/reader", func(b *testing.B) {
				in := bytes.NewReader(packed)
				buffered := bufio.NewReaderSize(in, 32<<10)
				z, err := kgzip.NewReader(buffered)
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				for b.Loop() {
					in.Reset(packed)
					buffered.Reset(in)
					if err := z.Reset(buffered); err != nil {
						b.Fatal(err)
					}
					if n, err := io.ReadFull(z, out[:len(body)]); err != nil {
						b.Fatal(n, err)
					}
					if n, err := z.Read(out[:1]); n != 0 || err != io.EOF {
						b.Fatal(n, err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(body)), "ns/B")
			})
		}
	}
}
