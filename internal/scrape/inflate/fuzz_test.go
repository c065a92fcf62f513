package inflate

import (
	"bytes"
	"compress/flate"
	"io"
	"testing"
)

// FuzzInflate compares what is made of a body to what others make of it: of the bytes as they are, and as
// DEFLATE, with a header and the checksum of what they are before the first error, so that it is not the checksum
// that decides.
func FuzzInflate(f *testing.F) {
	for _, text := range scrapes(f) {
		for _, p := range packers {
			body := pack(f, text[:3000], p)
			f.Add(body, false)
			f.Add(body[10:len(body)-8], true)
		}
	}
	f.Add([]byte{0x1f, 0x8b, 8, 0x1e, 0, 0, 0, 0, 0, 0, 1, 0, 'x', 'n', 0, 'c', 0, 0, 0}, false)
	for _, b := range []*bitstream{
		new(bitstream).number(0, 8).number(1, 16).number(0xfffe, 16).number('a', 8).number(1, 1).number(1, 2).code(1, 7).code(0, 5).code(0, 7),
		new(bitstream).number(1, 1).number(1, 2).literal('a').code(0xc0+4, 8).number(31, 5).code(0, 5).code(0, 7),
		dynamic(258, 2, append(lens(258, map[int]int{'a': 1, 'b': 2, 256: 3, 257: 3}), 1, 1)...).code(0, 1).code(2, 2).code(7, 3).code(1, 1).code(6, 3),
	} {
		f.Add(b.bytes, true)
	}
	var z Inflater
	f.Fuzz(func(t *testing.T, body []byte, bare bool) {
		if bare {
			in := bytes.NewReader(body)
			text, err := io.ReadAll(io.LimitReader(flate.NewReader(in), 1<<20))
			if err == nil {
				body = body[:len(body)-in.Len()]
			}
			body = member(body, text)
		}
		_ = check(t, &z, body)
	})
}
