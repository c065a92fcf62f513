package inflate

import "math/bits"

// A code is decoded by looking up as many of the next bits as its table's first level has, 10 for literals and lengths and
// 8 for distances; longer codes go on in a second level. An entry says all there is to know of a symbol:
//
//	bits  0 to 5   how many bits to consume: of the code and, for a length or a distance, the extra ones after it
//	bits  8 to 11  of these, how many are the code
//	bits 16 to 30  the literal, the least length or distance, or where the second level begins
//	bit  31        isLiteral
//
// An entry with isSpecial is none of these: with isEnd the end of the block, with isLink a second level, which looks up so many
// bits as bits 8 to 11 say after the ones of the first; otherwise nothing that may be.
const (
	isLiteral = 1 << 31
	isSpecial = 1 << 15
	isLink    = 1 << 14
	isEnd     = 1 << 13

	literalBits, distanceBits, lengthCodeBits = 10, 8, 7
	literalMask, distanceMask                 = 1<<literalBits - 1, 1<<distanceBits - 1
	longestCode                               = 15

	// A second level for b more bits has at least b+1 of the symbols. So those of literals and lengths, with at most 5 more
	// bits, need 32 entries for 6 symbols at most, and those of distances, with 7, 128 for 8.
	literalEntries  = 1<<literalBits + 288*32/6
	distanceEntries = 1<<distanceBits + 32*128/8
)

// tables are the two codes of a block.
type tables struct {
	literals  [literalEntries]uint32
	distances [distanceEntries]uint32
}

// lengths are the entries of the symbols from 257 on and distances those of the distance symbols (RFC 1951, 3.2.5), without
// the bits of their codes. The last two of each may not be used.
var (
	lengths = [31]uint32{
		3 << 16, 4 << 16, 5 << 16, 6 << 16, 7 << 16, 8 << 16, 9 << 16, 10 << 16,
		11<<16 | 1, 13<<16 | 1, 15<<16 | 1, 17<<16 | 1, 19<<16 | 2, 23<<16 | 2, 27<<16 | 2, 31<<16 | 2,
		35<<16 | 3, 43<<16 | 3, 51<<16 | 3, 59<<16 | 3, 67<<16 | 4, 83<<16 | 4, 99<<16 | 4, 115<<16 | 4,
		131<<16 | 5, 163<<16 | 5, 195<<16 | 5, 227<<16 | 5, 258 << 16, isSpecial, isSpecial,
	}
	distances = [32]uint32{
		1 << 16, 2 << 16, 3 << 16, 4 << 16, 5<<16 | 1, 7<<16 | 1, 9<<16 | 2, 13<<16 | 2,
		17<<16 | 3, 25<<16 | 3, 33<<16 | 4, 49<<16 | 4, 65<<16 | 5, 97<<16 | 5, 129<<16 | 6, 193<<16 | 6,
		257<<16 | 7, 385<<16 | 7, 513<<16 | 8, 769<<16 | 8, 1025<<16 | 9, 1537<<16 | 9, 2049<<16 | 10, 3073<<16 | 10,
		4097<<16 | 11, 6145<<16 | 11, 8193<<16 | 12, 12289<<16 | 12, 16385<<16 | 13, 24577<<16 | 13, isSpecial, isSpecial,
	}
)

// literal is the entry of a literal or length symbol, without the bits of its code.
func literal(symbol int) uint32 {
	switch {
	case symbol < 256:
		return isLiteral | uint32(symbol)<<16
	case symbol == 256:
		return isSpecial | isEnd
	default:
		return lengths[symbol-257]
	}
}

func distance(symbol int) uint32 { return distances[symbol] }

// itself is the entry of a symbol of the code for code lengths.
func itself(symbol int) uint32 { return uint32(symbol) << 16 }

// build makes the table of a Huffman code from the lengths of its codes (RFC 1951, 3.2.2), 0 for symbols without one. It
// tells whether that is a code: neither over-subscribed nor incomplete, but none at all and a single one of one bit are fine.
func build(table []uint32, firstBits int, codes []uint8, entry func(symbol int) uint32) bool {
	var count, next [longestCode + 2]int
	for _, n := range codes {
		count[n]++
	}
	used := len(codes) - count[0]
	count[0] = 0
	space := 1 // of the codes of n bits, those that are left
	for n := 1; n <= longestCode; n++ {
		space = space<<1 - count[n]
		if space < 0 {
			return false
		}
		next[n+1] = next[n] + count[n]
	}
	if space > 0 {
		if used > 1 || used == 1 && count[1] == 0 {
			return false
		}
		for i := range table[:1<<firstBits] {
			table[i] = isSpecial
		}
	}
	var sorted [288]uint16 // by length, then by number, as the codes are
	for symbol, n := range codes {
		if n > 0 {
			sorted[next[n]] = uint16(symbol)
			next[n]++
		}
	}
	fill(table, firstBits, sorted[:used], &count, entry)
	return true
}

// fill writes the entries. Codes come with their first bit lowest, so each is there for whatever bits follow it: what is
// there for n bits is doubled to have it for n+1.
func fill(table []uint32, firstBits int, sorted []uint16, count *[longestCode + 2]int, entry func(symbol int) uint32) {
	code, n, end := 0, 0, 1<<firstBits
	link, linkBits, first := -1, 0, 0
	for len(sorted) > 0 {
		n++
		if code <<= 1; n <= firstBits {
			copy(table[1<<(n-1):1<<n], table[:1<<(n-1)])
		}
		for i, symbol := range sorted[:count[n]] {
			reversed := int(bits.Reverse16(uint16(code)) >> (16 - n))
			code++
			if n <= firstBits {
				table[reversed] = entry(int(symbol)) + uint32(n)*0x101
				continue
			}
			if prefix := reversed & (1<<firstBits - 1); prefix != link {
				link, linkBits, first = prefix, n-firstBits, end
				for room := 1<<linkBits - (count[n] - i); room > 0; {
					linkBits++
					room = room<<1 - count[firstBits+linkBits]
				}
				end += 1 << linkBits
				table[link] = isSpecial | isLink | uint32(first)<<16 | uint32(linkBits)<<8 | uint32(firstBits)
			}
			more := n - firstBits
			for at := first + reversed>>firstBits; at < end; at += 1 << more {
				table[at] = entry(int(symbol)) + uint32(more)*0x101
			}
		}
		sorted = sorted[count[n]:]
	}
	for n++; n <= firstBits; n++ {
		copy(table[1<<(n-1):1<<n], table[:1<<(n-1)])
	}
}
