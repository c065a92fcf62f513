package inflate

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	kgzip "github.com/klauspost/compress/gzip"
)

// append1 decompresses a body after some bytes that are none of it, with room for so many more.
func append1(z *Inflater, body []byte, capacity, limit int) ([]byte, error) {
	const before = "before"
	out, err := z.Append(append(make([]byte, 0, len(before)+capacity), before...), body, room{limit + len(before)})
	if !bytes.HasPrefix(out, []byte(before)) {
		return nil, errors.New("what was there has changed")
	}
	return out[len(before):], err
}

// reference is what two readers make of a body. It is good if both say so: compress/gzip does not look at the flags that are
// reserved, the other one takes a member that ends in its name for the end of the body, and distances of the block before.
func reference(body []byte, limit int) ([]byte, error) {
	var out [2][]byte
	for i, open := range []func(io.Reader) (io.Reader, error){
		func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
		func(r io.Reader) (io.Reader, error) { return kgzip.NewReader(r) },
	} {
		r, err := open(bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		if out[i], err = io.ReadAll(io.LimitReader(r, int64(limit)+1)); err != nil {
			return nil, err
		}
		if len(out[i]) > limit {
			return nil, errFull
		}
	}
	if !bytes.Equal(out[0], out[1]) {
		return nil, errors.New("the readers differ")
	}
	return out[0], nil
}

// check compares what is made of a body, with much room and with none, to what others make of it.
func check(t testing.TB, z *Inflater, body []byte) error {
	t.Helper()
	const limit = 1 << 20
	want, wanted := reference(body, limit)
	for _, capacity := range []int{0, 300, len(want), len(want) + fastOut} {
		got, err := append1(z, body, capacity, max(limit, capacity))
		if (err == nil) != (wanted == nil) {
			t.Fatalf("room for %d, body %x: error %v, want %v", capacity, body[:min(len(body), 1000)], err, wanted)
		}
		if wanted == nil && !bytes.Equal(got, want) {
			t.Fatalf("room for %d, body %x: %d bytes, want %d, or others", capacity, body[:min(len(body), 1000)], len(got), len(want))
		}
	}
	return wanted
}

// member puts a header and a trailer around DEFLATE.
func member(deflated, text []byte) []byte {
	b := append([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}, deflated...)
	b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(text))
	return binary.LittleEndian.AppendUint32(b, uint32(len(text)))
}

func TestWhatOthersCompressed(t *testing.T) {
	noise := make([]byte, 100_000)
	for i, r := 0, rand.New(rand.NewPCG(1, 2)); i < len(noise); i++ {
		noise[i] = byte(r.Uint32())
	}
	texts := scrapes(t)
	texts["nothing"], texts["a byte"], texts["noise"] = nil, []byte("a"), noise
	texts["skewed noise"] = make([]byte, 100_000) // codes of all lengths
	for i := range texts["skewed noise"] {
		texts["skewed noise"][i] = noise[i] & noise[(i+1)%len(noise)] & noise[(i+7)%len(noise)]
	}
	for distance := range 40 {
		texts[fmt.Sprint("distance ", distance)] = bytes.Repeat([]byte("0123456789abcdefghijklmnopqrstuvwxyz+-*/")[:distance+1], 50)
	}
	var z Inflater
	for name, text := range texts {
		for level := gzip.HuffmanOnly; level <= gzip.BestCompression; level++ {
			theirs := func(w io.Writer) io.WriteCloser { c, _ := gzip.NewWriterLevel(w, level); return c }
			others := func(w io.Writer) io.WriteCloser { c, _ := kgzip.NewWriterLevel(w, level); return c }
			for _, p := range []func(io.Writer) io.WriteCloser{theirs, others} {
				packed := pack(t, text, p)
				if err := check(t, &z, packed); err != nil {
					t.Errorf("%s, level %d: %v", name, level, err)
				}
				if got, err := append1(&z, packed, 0, len(text)); err != nil || !bytes.Equal(got, text) {
					t.Errorf("%s, level %d: %d bytes of %d, or others: %v", name, level, len(got), len(text), err)
				}
			}
		}
	}
}

// bitstream writes DEFLATE by hand: numbers with their lowest bit first, codes with their highest.
type bitstream struct {
	bytes []byte
	n     int
}

func (b *bitstream) number(v, bits int) *bitstream {
	for i := range bits {
		if b.n%8 == 0 {
			b.bytes = append(b.bytes, 0)
		}
		b.bytes[b.n/8] |= byte(v>>i&1) << (b.n % 8)
		b.n++
	}
	return b
}

func (b *bitstream) code(v, bits int) *bitstream {
	for i := bits - 1; i >= 0; i-- {
		b.number(v>>i, 1)
	}
	return b
}

// literal is one of the fixed code, below 144.
func (b *bitstream) literal(c byte) *bitstream { return b.code(0x30+int(c), 8) }

// dynamic begins a last block with codes of these lengths. Its code for them has 4 bits for each length.
func dynamic(literals, distances int, codes ...int) *bitstream {
	b := new(bitstream).number(1, 1).number(2, 2).number(literals-257, 5).number(distances-1, 5).number(19-4, 4)
	for _, i := range []int{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15} {
		if i < 16 {
			b.number(4, 3)
		} else {
			b.number(0, 3)
		}
	}
	for _, n := range codes {
		b.code(n, 4)
	}
	return b
}

// lens are code lengths: those given, and 0 for the others.
func lens(n int, of map[int]int) []int {
	l := make([]int, n)
	for i, c := range of {
		l[i] = c
	}
	return l
}

func TestBlocks(t *testing.T) {
	fixed := func() *bitstream { return new(bitstream).number(1, 1).number(1, 2) }
	// 'a' is 0, 'b' 10, the end 110 and a match of three 111.
	abc := lens(258, map[int]int{'a': 1, 'b': 2, 256: 3, 257: 3})
	with := func(distances ...int) *bitstream { return dynamic(258, len(distances), append(abc, distances...)...) }
	for name, c := range map[string]struct {
		b    *bitstream
		want string // "!" if it is refused
	}{
		"nothing stored":      {new(bitstream).number(1, 8).number(0, 16).number(0xffff, 16), ""},
		"stored":              {new(bitstream).number(1, 8).number(3, 16).number(0xfffc, 16).number('a', 8).number('b', 8).number('c', 8), "abc"},
		"stored, then fixed":  {new(bitstream).number(0, 8).number(1, 16).number(0xfffe, 16).number('a', 8).number(1, 1).number(1, 2).code(1, 7).code(0, 5).code(0, 7), "aaaa"},
		"stored, wrong size":  {new(bitstream).number(1, 8).number(3, 16).number(0xfffb, 16).number('a', 8).number('b', 8).number('c', 8), "!"},
		"reserved":            {new(bitstream).number(1, 1).number(3, 2).number(0, 16), "!"},
		"fixed":               {fixed().literal('a').literal('b').code(0, 7), "ab"},
		"fixed, match":        {fixed().literal('a').literal('b').code(2, 7).code(1, 5).code(0, 7), "ababab"},
		"longest match":       {fixed().literal('a').code(0xc0+5, 8).code(0, 5).code(0, 7), strings.Repeat("a", 259)},
		"284 with all extras": {fixed().literal('a').code(0xc0+4, 8).number(31, 5).code(0, 5).code(0, 7), strings.Repeat("a", 259)},
		"distance too far":    {fixed().literal('a').literal('b').code(2, 7).code(2, 5).code(0, 7), "!"},
		"match before all":    {fixed().code(2, 7).code(0, 5).code(0, 7), "!"},
		"length symbol 286":   {fixed().literal('a').code(0xc0+6, 8).code(0, 5).code(0, 7), "!"},
		"length symbol 287":   {fixed().literal('a').code(0xc0+7, 8).code(0, 5).code(0, 7), "!"},
		"distance symbol 30":  {fixed().literal('a').code(1, 7).code(30, 5).code(0, 7), "!"},
		"distance symbol 31":  {fixed().literal('a').code(1, 7).code(31, 5).code(0, 7), "!"},
		"dynamic":             {with(1, 1).code(0, 1).code(2, 2).code(7, 3).code(1, 1).code(6, 3), "ababa"},
		"one distance":        {with(1).code(0, 1).code(7, 3).code(0, 1).code(6, 3), "aaaa"},
		"the other distance":  {with(1).code(0, 1).code(7, 3).code(1, 1).code(6, 3), "!"},
		"one distance, long":  {with(2).code(0, 1).code(6, 3), "!"},
		"no distance":         {with(0).code(0, 1).code(2, 2).code(6, 3), "ab"},
		"no distance, used":   {with(0).code(0, 1).code(7, 3).code(0, 1).code(6, 3), "!"},
		"distances too many":  {with(1, 1, 1).code(6, 3), "!"},
		"distances too few":   {with(2, 2, 2).code(6, 3), "!"},
		"literals too many":   {dynamic(258, 1, append(lens(258, map[int]int{'a': 1, 'b': 1, 256: 1}), 0)...).code(0, 1), "!"},
		"literals too few":    {dynamic(258, 1, append(lens(258, map[int]int{'a': 2, 'b': 2, 256: 2}), 0)...).code(2, 2), "!"},
		"only the end":        {dynamic(257, 1, append(lens(257, map[int]int{256: 1}), 0)...).code(0, 1), ""},
		"no end":              {dynamic(257, 1, append(lens(257, map[int]int{'a': 1, 'b': 1}), 0)...).code(0, 1).code(1, 1), "!"},
		"no literals":         {dynamic(257, 1, lens(258, nil)...).number(0, 20), "!"},
		"287 literals":        {dynamic(287, 1, lens(288, map[int]int{256: 1})...).code(0, 1), "!"},
		"31 distances":        {dynamic(257, 31, lens(288, map[int]int{256: 1})...).code(0, 1), "!"},
		"30 distances":        {dynamic(257, 30, lens(287, map[int]int{256: 1})...).code(0, 1), ""},
	} {
		t.Run(name, func(t *testing.T) {
			text := []byte(strings.TrimSuffix(c.want, "!"))
			var z Inflater
			for _, padding := range []int{0, 100} { // with input for the fast way, and without
				body := member(c.b.bytes, text)
				if padding > 0 {
					body = append(body, member([]byte{1, 0, 0, 255, 255}, nil)...)
					body = append(body, member([]byte{1, 0, 0, 255, 255}, nil)...)
				}
				if err := check(t, &z, body); (err == nil) != (c.want != "!") {
					t.Fatalf("others say %v", err)
				}
				if got, err := append1(&z, body, fastOut, 1<<10); err == nil && string(got) != c.want {
					t.Errorf("got %q", got)
				}
			}
		})
	}
}

// Codes for code lengths that are none, and repetitions of nothing and past the end.
func TestCodeLengths(t *testing.T) {
	head := func(lengths ...int) *bitstream { // for 16, 17, 18 and 0, 8, 7, ...
		b := new(bitstream).number(1, 1).number(2, 2).number(0, 5).number(0, 5).number(19-4, 4)
		for i := range 19 {
			if i < len(lengths) {
				b.number(lengths[i], 3)
			} else {
				b.number(0, 3)
			}
		}
		return b
	}
	var z Inflater
	for name, b := range map[string]*bitstream{
		"none":               head(),
		"incomplete":         head(2, 2, 2).number(0, 40),
		"over-subscribed":    head(1, 1, 1).number(0, 40),
		"repeat at first":    head(1, 1).code(0, 1).number(0, 40),
		"zeros past the end": head(0, 0, 1).code(0, 1).number(127, 7).code(0, 1).number(127, 7).number(0, 40),
		"the unused code":    head(0, 0, 1).code(1, 1).number(0, 40),
	} {
		if err := check(t, &z, member(b.bytes, nil)); err == nil {
			t.Errorf("%s: others take it", name)
		}
	}
}

func TestMembers(t *testing.T) {
	small := pack(t, []byte("a 1\n"), packers["stdlib"])
	empty := pack(t, nil, packers["stdlib"])
	// flagged is a member with flags and what they announce.
	flagged := func(flags byte, fields ...byte) []byte {
		b := append([]byte{0x1f, 0x8b, 8, flags, 1, 2, 3, 4, 0, 255}, fields...)
		return append(b, small[10:]...)
	}
	withCRC := func(wrong uint16) []byte {
		b := []byte{0x1f, 0x8b, 8, flagHeaderCRC | flagExtra | flagName | flagComment, 1, 2, 3, 4, 0, 255, 2, 0, 'x', 'y', 'n', 0, 'c', 0}
		b = binary.LittleEndian.AppendUint16(b, uint16(crc32.ChecksumIEEE(b))+wrong)
		return append(b, small[10:]...)
	}
	changed := func(i int) []byte {
		b := bytes.Clone(small)
		b[(i+len(b))%len(b)] ^= 4
		return b
	}
	for name, c := range map[string]struct {
		body []byte
		want error
	}{
		"no body":               {nil, io.EOF},
		"one":                   {small, nil},
		"empty":                 {empty, nil},
		"several":               {slicesOf(small, empty, small, withCRC(0)), nil},
		"extra":                 {flagged(flagExtra, 3, 0, 0, 1, 2), nil},
		"no extra":              {flagged(flagExtra, 0, 0), nil},
		"name":                  {flagged(flagName, 'n', 0xff, 0), nil},
		"comment":               {flagged(flagComment, 0), nil},
		"text":                  {flagged(1), nil},
		"all flags":             {withCRC(0), nil},
		"header checksum":       {withCRC(1), gzip.ErrHeader},
		"longest name":          {flagged(flagName, append(bytes.Repeat([]byte("n"), 511), 0)...), nil},
		"name too long":         {flagged(flagName, append(bytes.Repeat([]byte("n"), 512), 0)...), gzip.ErrHeader},
		"comment too long":      {flagged(flagComment, append(bytes.Repeat([]byte("n"), 600), 0)...), gzip.ErrHeader},
		"name without an end":   {flagged(flagName)[:10], io.ErrUnexpectedEOF},
		"reserved flag":         {flagged(0x20), gzip.ErrHeader},
		"first byte":            {changed(0), gzip.ErrHeader},
		"second byte":           {changed(1), gzip.ErrHeader},
		"method":                {changed(2), gzip.ErrHeader},
		"checksum":              {changed(-8), gzip.ErrChecksum},
		"size":                  {changed(-4), gzip.ErrChecksum},
		"a zero after it":       {slicesOf(small, []byte{0}), io.ErrUnexpectedEOF},
		"zeros after it":        {slicesOf(small, make([]byte, 512)), gzip.ErrHeader},
		"text after it":         {slicesOf(small, []byte("0123456789")), gzip.ErrHeader},
		"second one is cut":     {slicesOf(small, small[:len(small)-1]), io.ErrUnexpectedEOF},
		"second one's name":     {slicesOf(small, flagged(flagName, 'n')[:11]), io.ErrUnexpectedEOF},
		"match across members":  {slicesOf(small, member(new(bitstream).number(1, 1).number(1, 2).code(1, 7).code(0, 5).code(0, 7).bytes, []byte("\n\n\n"))), flate.CorruptInputError(0)},
		"not DEFLATE":           {slicesOf(small[:10], []byte("\xff\xff\xff\xff")), flate.CorruptInputError(0)},
		"nothing in the member": {small[:10], io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			var z Inflater
			if err := check(t, &z, c.body); (err == nil) != (c.want == nil) {
				t.Fatalf("others say %v", err)
			}
			_, err := append1(&z, c.body, 100, 100)
			if want := (flate.CorruptInputError)(0); errors.As(c.want, &want) {
				if !errors.As(err, &want) {
					t.Errorf("error %v", err)
				}
			} else if err != c.want {
				t.Errorf("error %v, want %v", err, c.want)
			}
		})
	}
}

func slicesOf(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// Every prefix of a body is refused, and so is one with a bit changed, or it is what others take it for.
func TestCutAndChanged(t *testing.T) {
	var z Inflater
	text := scrapes(t)["redisx"][:1500]
	for _, p := range packers {
		for _, body := range [][]byte{pack(t, text, p), pack(t, text[:40], p), slicesOf(pack(t, text[:40], p), pack(t, text[:500], p))} {
			for n := range len(body) {
				got, err := append1(&z, body[:n], 0, 1<<20)
				if want := io.ErrUnexpectedEOF; n > 0 && err != want && check(t, &z, body[:n]) != nil {
					t.Errorf("%d of %d bytes: %d bytes, error %v", n, len(body), len(got), err)
				}
			}
			for n := range len(body) * 8 {
				body[n/8] ^= 1 << (n % 8)
				_ = check(t, &z, body)
				body[n/8] ^= 1 << (n % 8)
			}
		}
	}
}

// What a small body becomes ends at what memory allows, to the byte.
func TestOutputIsBounded(t *testing.T) {
	var z Inflater
	bomb := pack(t, make([]byte, 10<<20), packers["stdlib"])
	noise := pack(t, scrapes(t)["node"], func(w io.Writer) io.WriteCloser { c, _ := gzip.NewWriterLevel(w, 0); return c })
	for _, body := range [][]byte{bomb, noise} {
		for _, limit := range []int{1, 2, 257, 258, 259, 1000, 50_000} {
			got, err := append1(&z, body, 0, limit)
			if err != errFull || len(got) != limit {
				t.Errorf("limit %d: %d bytes, %v", limit, len(got), err)
			}
		}
	}
	if got, err := append1(&z, bomb, 0, 10<<20); err != nil || len(got) != 10<<20 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestNoAllocations(t *testing.T) {
	var z Inflater
	text := scrapes(t)["node"]
	body := slicesOf(pack(t, text, packers["stdlib"]), pack(t, []byte("a 1\n"), packers["stdlib"]))
	out := make([]byte, 0, 2*len(text))
	if n := testing.AllocsPerRun(100, func() {
		if _, err := z.Append(out, body, room{}); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
