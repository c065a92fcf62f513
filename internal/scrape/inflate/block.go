package inflate

import (
	"encoding/binary"
	"io"
)

// nextBlock decompresses a block (RFC 1951, 3.2.3) and tells whether it was the last.
func (z *Inflater) nextBlock() (last bool, err error) {
	head, err := z.next(3)
	if err != nil {
		return false, err
	}
	switch head >> 1 {
	case 0:
		err = z.stored()
	case 1:
		err = z.coded(z.fixedTables())
	case 2:
		if err = z.dynamicTables(); err == nil {
			err = z.coded(&z.block)
		}
	default:
		err = z.corrupt()
	}
	return head&1 != 0, err
}

// more holds more bits, 56 to 63 but for the end of the input.
func (z *Inflater) more() {
	for z.count < 56 && z.at < len(z.in) {
		z.bits |= uint64(z.in[z.at]) << z.count
		z.at++
		z.count += 8
	}
}

// next gives the next n bits, not more than 16.
func (z *Inflater) next(n uint) (int, error) {
	if z.count < n {
		if z.more(); z.count < n {
			return 0, io.ErrUnexpectedEOF
		}
	}
	v := int(z.bits & (1<<n - 1))
	z.bits >>= n
	z.count -= n
	return v, nil
}

// symbol looks the next bits up and consumes them. It gives the entry, and what it says with its extra bits.
func (z *Inflater) symbol(table []uint32, firstBits uint) (e uint32, value int, err error) {
	if z.count < longestCode+13 {
		z.more()
	}
	e = table[z.bits&(1<<firstBits-1)]
	if e&isLink != 0 && z.count >= firstBits {
		z.held = z.drop(e)
		e = table[z.second(e)]
	}
	if z.count < uint(e&63) {
		return 0, 0, io.ErrUnexpectedEOF
	}
	if e&isSpecial != 0 && e&isEnd == 0 {
		return 0, 0, z.corrupt()
	}
	value = z.value(e)
	z.held = z.drop(e)
	return e, value, nil
}

// grow has room for a byte more.
func (z *Inflater) grow() error {
	out, err := z.memory.Grow(z.out[:z.end])
	if err != nil {
		return err
	}
	if cap(out) <= z.end {
		return io.ErrShortBuffer
	}
	z.out = out[:cap(out)]
	return nil
}

// stored copies a block that is not compressed (3.2.4).
func (z *Inflater) stored() error {
	z.align()
	head, err := z.take(4)
	if err != nil {
		return err
	}
	n := binary.LittleEndian.Uint16(head)
	if n != ^binary.LittleEndian.Uint16(head[2:]) {
		return z.corrupt()
	}
	data, cut := z.take(int(n))
	if cut != nil {
		return cut
	}
	for {
		n := copy(z.out[z.end:], data)
		z.end += n
		if data = data[n:]; len(data) == 0 {
			return nil
		}
		if err := z.grow(); err != nil {
			return err
		}
	}
}

// fixedTables are those of 3.2.6.
func (z *Inflater) fixedTables() *tables {
	if z.fixed == nil {
		z.fixed = new(tables)
		codes := z.codes[:288]
		for i := range codes {
			codes[i] = 8
		}
		for i := 144; i < 256; i++ {
			codes[i] = 9
		}
		for i := 256; i < 280; i++ {
			codes[i] = 7
		}
		build(z.fixed.literals[:], literalBits, codes, literal)
		codes = codes[:32]
		for i := range codes {
			codes[i] = 5
		}
		build(z.fixed.distances[:], distanceBits, codes, distance)
	}
	return z.fixed
}

// dynamicTables reads the codes of a block (3.2.7).
func (z *Inflater) dynamicTables() error {
	sizes, err := z.next(14)
	if err != nil {
		return err
	}
	literals, distances, lengthCodes := sizes&31+257, sizes>>5&31+1, sizes>>10+4
	if literals > 286 || distances > 30 {
		return z.corrupt()
	}
	var codes [19]uint8
	order := [...]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}
	for _, i := range order[:lengthCodes] {
		n, err := z.next(3)
		if err != nil {
			return err
		}
		codes[i] = uint8(n)
	}
	if !build(z.lengthCodes[:], lengthCodeBits, codes[:], itself) {
		return z.corrupt()
	}
	if err := z.codeLengths(z.codes[:literals+distances]); err != nil {
		return err
	}
	if !build(z.block.literals[:], literalBits, z.codes[:literals], literal) ||
		!build(z.block.distances[:], distanceBits, z.codes[literals:literals+distances], distance) {
		return z.corrupt()
	}
	return nil
}

// codeLengths reads the lengths of the codes of a block, those of literals and distances as one list.
func (z *Inflater) codeLengths(codes []uint8) error {
	for i := 0; i < len(codes); {
		_, v, err := z.symbol(z.lengthCodes[:], lengthCodeBits)
		if err != nil {
			return err
		}
		n, again, bits := uint8(v), 0, uint(0)
		switch {
		case n < 16:
			codes[i] = n
			i++
			continue
		case n == 16 && i == 0:
			return z.corrupt()
		case n == 16:
			n, again, bits = codes[i-1], 3, 2
		case n == 17:
			n, again, bits = 0, 3, 3
		default:
			n, again, bits = 0, 11, 7
		}
		more, err := z.next(bits)
		if err != nil {
			return err
		}
		if again += more; i+again > len(codes) {
			return z.corrupt()
		}
		for range again {
			codes[i] = n
			i++
		}
	}
	return nil
}

// coded decompresses a block whose codes are known, as fast as it goes while there is plenty of input and room, else one
// symbol at a time.
func (z *Inflater) coded(t *tables) error {
	for {
		if done, err := z.fast(t); done || err != nil {
			return err
		}
		e, value, err := z.symbol(t.literals[:], literalBits)
		if err != nil {
			return err
		}
		if e&isSpecial != 0 {
			return nil
		}
		if e&isLiteral != 0 {
			if z.end == len(z.out) {
				if err := z.grow(); err != nil {
					return err
				}
			}
			z.out[z.end] = byte(value)
			z.end++
			continue
		}
		_, distance, err := z.symbol(t.distances[:], distanceBits)
		if err != nil {
			return err
		}
		if err := z.match(value, distance); err != nil {
			return err
		}
	}
}

// match repeats what is there, which may be shorter than what it becomes.
func (z *Inflater) match(length, distance int) error {
	if distance > z.end-z.window {
		return z.corrupt()
	}
	for length > 0 {
		if z.end == len(z.out) {
			if err := z.grow(); err != nil {
				return err
			}
		}
		n := copy(z.out[z.end:min(z.end+length, len(z.out))], z.out[z.end-distance:z.end])
		z.end += n
		length -= n
	}
	return nil
}
