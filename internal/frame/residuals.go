package frame

import (
	"encoding/binary"
	"math/bits"
)

// Residuals are written as a stream of bits, filled from the lowest bit of each byte on: for each a prefix code of
// how many bits its number (zigzag) has, then that number without its highest bit. Three codes share the work,
// because sizes differ by what the row is. They are part of the format: trained once, never changed.
const (
	codeOther     = iota // integers
	codeFloat            // bits of floats
	codePredicted        // buckets and counts predicted by the bucket before
	codeCount
)

// codeLengths gives for each code how many bits stand for a number of 0, 1, … 64 bits, as one hexadecimal digit
// each. From the lengths the codes follow as in DEFLATE (RFC 1951, section 3.2.2).
func codeLengths(code int) string {
	switch code {
	case codeFloat:
		return "bbbbaaaaaaaaaaaaaaaaaaaaaa655578889aa999988876543333445668aaaa888"
	case codePredicted:
		return "a433333445567777777799aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	default:
		return "96544445555544554445567777778899aaaa9aaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	}
}

const (
	residualSizes = 65 // 0 to 64 bits
	maxCodeBits   = 11
)

// residualCodes is what an encoder needs: for each size the code, and its length in the upper half.
type residualCodes [codeCount][residualSizes]uint32

func newResidualCodes() *residualCodes {
	c := new(residualCodes)
	for k := range c {
		c[k] = residualCode(codeLengths(k))
	}
	return c
}

// residualCode makes a code of its lengths.
func residualCode(lengths string) (c [residualSizes]uint32) {
	next := uint32(0)
	for n := 1; n <= maxCodeBits; n++ {
		for size := range residualSizes {
			if codeLength(lengths[size]) == n {
				c[size] = bits.Reverse32(next)>>(32-n) | uint32(n)<<16
				next++
			}
		}
		next <<= 1
	}
	return c
}

func codeLength(digit byte) int {
	if digit >= 'a' {
		return int(digit-'a') + 10
	}
	return int(digit - '0')
}

// residualTables is what a decoder needs: for each next bits of the stream the size, and the length of its code in
// the upper half.
type residualTables [codeCount][1 << maxCodeBits]uint16

func newResidualTables() *residualTables {
	t := new(residualTables)
	for k, code := range newResidualCodes() {
		t[k] = residualTable(&code)
	}
	return t
}

func residualTable(code *[residualSizes]uint32) (t [1 << maxCodeBits]uint16) {
	for size, c := range code {
		n := c >> 16
		for x := c & 0xffff; x < 1<<maxCodeBits; x += 1 << n {
			t[x] = uint16(size) | uint16(n)<<8
		}
	}
	return t
}

// bitWriter holds the bits that do not fill a byte yet.
type bitWriter struct {
	bits uint64
	n    uint
}

// maxResidual is the most bytes one residual takes, and bitSlack what put writes beyond what it says.
const (
	maxResidual = (maxCodeBits + 63 + 7) / 8
	bitSlack    = 8
)

// put writes a number to buf and gives how many bytes are full. Those behind are overwritten by the next.
func (w *bitWriter) put(buf []byte, codes *[residualSizes]uint32, u uint64) int {
	size := uint(bits.Len64(u))
	c := codes[size]
	w.bits |= uint64(c&0xffff) << w.n
	w.n += uint(c >> 16)
	if size <= 1 {
		return w.flush(buf)
	}
	size--
	u &^= 1 << size
	if w.n+size <= 64 {
		w.bits |= u << w.n
		w.n += size
		return w.flush(buf)
	}
	full := w.flush(buf)
	low := min(size, 32)
	w.bits |= u & (1<<low - 1) << w.n
	w.n += low
	full += w.flush(buf[full:])
	w.bits |= u >> low << w.n
	w.n += size - low
	return full + w.flush(buf[full:])
}

func (w *bitWriter) flush(buf []byte) int {
	binary.LittleEndian.PutUint64(buf, w.bits)
	full := w.n / 8
	w.bits >>= full * 8 // a shift by 64 gives 0
	w.n &= 7
	return int(full)
}

// bitReader reads what bitWriter wrote. Behind the end it reads zeros; at then is more than there is.
type bitReader struct {
	b  []byte
	at uint // in bits
}

// peek gives the next 57 bits at least.
func (r *bitReader) peek() uint64 {
	i := r.at / 8
	if i+8 <= uint(len(r.b)) {
		return binary.LittleEndian.Uint64(r.b[i:]) >> (r.at & 7)
	}
	var x uint64
	for k := uint(0); i+k < uint(len(r.b)); k++ {
		x |= uint64(r.b[i+k]) << (8 * k)
	}
	return x >> (r.at & 7)
}

func (r *bitReader) number(table *[1 << maxCodeBits]uint16) uint64 {
	x := r.peek()
	e := table[x&(1<<maxCodeBits-1)]
	size, n := uint(e&0xff), uint(e>>8)
	if size <= 1 {
		r.at += n
		return uint64(size)
	}
	size--
	if n+size <= 57 {
		r.at += n + size
		return x>>n&(1<<size-1) | 1<<size
	}
	r.at += n
	low := r.peek() & (1<<32 - 1)
	r.at += 32
	high := r.peek() & (1<<(size-32) - 1)
	r.at += size - 32
	return low | high<<32 | 1<<size
}

// past tells that more was read than there is.
func (r *bitReader) past() bool { return r.at > 8*uint(len(r.b)) }
