package outsider

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"math/bits"
)

// input is what is left of a message or of a part of it.
type input struct{ b []byte }

func (in *input) take(n uint64) []byte {
	must(n <= uint64(len(in.b)), "%d bytes where %d are left", n, len(in.b))
	b := in.b[:n]
	in.b = in.b[n:]
	return b
}

func (in *input) byte() byte        { return in.take(1)[0] }
func (in *input) u32() uint32       { return binary.LittleEndian.Uint32(in.take(4)) }
func (in *input) u64() uint64       { return binary.LittleEndian.Uint64(in.take(8)) }
func (in *input) bytes() []byte     { return in.take(in.uvarint()) }
func (in *input) string() string    { return string(in.bytes()) }
func (in *input) varint() int64     { return unzigzag(in.uvarint()) }
func (in *input) id() (id ID)       { copy(id[:], in.take(16)); return id }
func (in *input) done(where string) { must(len(in.b) == 0, "%d bytes behind %s", len(in.b), where) }

func (in *input) uvarint() uint64 {
	var v uint64
	for shift := 0; ; shift += 7 {
		b := in.byte()
		must(shift < 63 || b <= 1, "a number of more than 64 bits")
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return v
		}
	}
}

// count is a uvarint that says how many things follow, each of at least size bits.
func (in *input) count(size uint64) int {
	n := in.uvarint()
	must(n <= uint64(len(in.b))*8/size, "%d things in %d bytes", n, len(in.b))
	return int(n)
}

// fields calls each for the id and the content of each optional part; it returns false for an id that is unknown.
func (in *input) fields(each func(id uint64, content *input) bool) {
	for {
		key := in.uvarint()
		if key == 0 {
			return
		}
		content := &input{in.bytes()}
		known(each(key>>1, content) || key&1 == 0, "key %d", key)
	}
}

func zigzag(v int64) uint64   { return uint64(v<<1) ^ uint64(v>>63) }
func unzigzag(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }

func crc32c(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// script says which of a list go and at which places of the new list others come.
type script struct{ removed, inserted []int }

// gaps reads ordinals below limit.
func (in *input) gaps(n int, limit uint64) []int {
	list := make([]int, 0, n)
	next := uint64(0)
	for range n {
		gap := in.uvarint()
		must(gap < limit && next+gap < limit, "an ordinal that is not below %d", limit)
		list = append(list, int(next+gap))
		next += gap + 1
	}
	return list
}

func (in *input) script(old int) script {
	var s script
	s.removed = in.gaps(in.count(8), uint64(old))
	n := in.count(8)
	s.inserted = in.gaps(n, uint64(old-len(s.removed)+n))
	return s
}

// merge makes the new list of the old one.
func merge[T any](s script, old []T, insert func(at int, before []T) T) []T {
	var kept []T
	removed := s.removed
	for i, x := range old {
		if len(removed) > 0 && removed[0] == i {
			removed = removed[1:]
			continue
		}
		kept = append(kept, x)
	}
	var list []T
	inserted := s.inserted
	for len(kept) > 0 || len(inserted) > 0 {
		if len(inserted) > 0 && inserted[0] == len(list) {
			inserted = inserted[1:]
			list = append(list, insert(len(list), list))
			continue
		}
		list = append(list, kept[0])
		kept = kept[1:]
	}
	return list
}

// The classes.
const (
	decimalLast byte = 0x0f
	binaryZero  byte = 0x10
	binaryLast  byte = 0x3f
	classFloat  byte = 0x40
)

func validClass(c byte) bool { return c <= decimalLast || c > binaryZero && c <= classFloat }

func power(class byte) float64 {
	p := 1.0
	for range class {
		p *= 10
	}
	return p
}

// valueOf is the bits of the value that an integer has in a class.
func valueOf(class byte, m int64) uint64 {
	switch {
	case class == classFloat:
		return uint64(m)
	case class <= decimalLast:
		return math.Float64bits(float64(m) / power(class))
	default:
		return math.Float64bits(float64(m) * math.Ldexp(1, int(class-binaryZero)))
	}
}

// integerOf is the integer that a value has in a class, if it has one.
func integerOf(class byte, value uint64) (int64, bool) {
	if class == classFloat {
		return int64(value), true
	}
	v := math.Float64frombits(value)
	if class <= decimalLast {
		v *= power(class)
	} else {
		v *= math.Ldexp(1, -int(class-binaryZero))
	}
	v = math.RoundToEven(v)
	if !(v >= -(1<<53) && v < 1<<53) || valueOf(class, int64(v)) != value {
		return 0, false
	}
	return int64(v), true
}

// bitInput reads bits from the lowest of each byte on.
type bitInput struct {
	b  []byte
	at int
}

func (in *bitInput) bit() uint64 {
	must(in.at < 8*len(in.b), "more bits than there are")
	b := in.b[in.at/8] >> (in.at % 8) & 1
	in.at++
	return uint64(b)
}

func (in *bitInput) bits(n int) uint64 {
	var v uint64
	for i := range n {
		v |= in.bit() << i
	}
	return v
}

// done says that nothing but the filling up of the last byte is left.
func (in *bitInput) done(where string) {
	must(8*len(in.b)-in.at < 8 && (in.at == 8*len(in.b) || in.b[in.at/8]>>(in.at%8) == 0), "bits behind %s", where)
}

// code is a Huffman code for a number of bits, as in DEFLATE. It gives the number of bits of each code word.
type code map[codeWord]int

type codeWord struct {
	length int
	bits   uint64
}

func newCode(digits string) code {
	c := make(code)
	// Words of a length follow each other by n, and those of the next length begin behind them, doubled (RFC 1951, 3.2.2).
	next := uint64(0)
	for length := 1; length <= 15; length++ {
		for n := range digits {
			if "0123456789abcdef"[length] == digits[n] {
				c[codeWord{length, next}] = n
				next++
			}
		}
		next <<= 1
	}
	return c
}

// number reads a number in the code.
func (c code) number(in *bitInput) uint64 {
	var word codeWord
	for word.length < 15 {
		word = codeWord{word.length + 1, word.bits<<1 | in.bit()}
		switch n, ok := c[word]; {
		case ok && n > 0:
			return in.bits(n-1) | 1<<(n-1)
		case ok:
			return 0
		}
	}
	must(false, "no code")
	return 0
}

// codes are those of the page.
type codes struct{ other, float, predicted, bucket, first, small code }

func pageCodes() *codes {
	return &codes{
		other:     newCode("96544445555544554445567777778899aaaa9aaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
		float:     newCode("bbbbaaaaaaaaaaaaaaaaaaaaaa655578889aa999988876543333445668aaaa888"),
		predicted: newCode("a433333445567777777799aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
		bucket:    newCode("2233455677777777799999988bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"),
		first:     newCode("34333445566666666666688888777bbbbbbbbaaaabbbbbbbbbbbbbbbbbbbbbbbb"),
		small:     newCode("32233567588aaaa99bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"),
	}
}

func ones(b []byte) int {
	n := 0
	for _, x := range b {
		n += bits.OnesCount8(x)
	}
	return n
}
