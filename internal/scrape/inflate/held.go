package inflate

import "encoding/binary"

// held are the next bits of the input, the first of them lowest: count of them, and above these only bits that the input says
// too. at is where the input goes on after those counted.
type held struct {
	bits  uint64
	count uint
	at    int
}

// refill makes it 56 bits or more, of an input that has 8 bytes more. What is held above count is said once more.
func (h held) refill(in []byte) held {
	h.bits |= binary.LittleEndian.Uint64(in[h.at:]) << (h.count & 63)
	h.at += int((63 - h.count) >> 3)
	h.count |= 56
	return h
}

// drop consumes what an entry says.
func (h held) drop(e uint32) held {
	h.bits >>= e & 63
	h.count -= uint(e & 63)
	return h
}

// value is what an entry and its extra bits say.
func (h held) value(e uint32) int { return int(e>>16) + int(h.bits&(1<<(e&63)-1)>>(e>>8&15)) }

// second is where the second level has what follows, of an entry that is a link and was dropped.
func (h held) second(e uint32) uint32 { return e>>16 + uint32(h.bits)&(1<<(e>>8&15)-1) }
