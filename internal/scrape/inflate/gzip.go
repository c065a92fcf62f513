package inflate

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/binary"
	"hash/crc32"
	"io"
)

// Memory is where the output of an Inflater goes.
type Memory interface {
	// Grow gives room after out, which is full: a slice that begins with the same bytes and has a larger capacity. Its error
	// ends the decompression.
	Grow(out []byte) ([]byte, error)
}

// Inflater has the memory for a decompression, 14 KB, and 13 more since the first block with the fixed codes. The zero value is
// ready; one goroutine uses it at a time.
type Inflater struct {
	in []byte
	held

	out    []byte // up to its capacity
	end    int    // what is written
	window int    // where the member began, before which no match may reach

	block       tables
	fixed       *tables // of blocks with the fixed codes, since the first such block
	lengthCodes [1 << lengthCodeBits]uint32
	codes       [288 + 32]uint8
	memory      Memory
}

// What a header has (RFC 1952, 2.3.1).
const (
	flagHeaderCRC, flagExtra, flagName, flagComment, flagsReserved = 1 << 1, 1 << 2, 1 << 3, 1 << 4, 0xe0
	longestName                                                    = 512 // with its zero, as compress/gzip has it
)

// Append decompresses a gzip body after out: one member or several, one after the other, and nothing else. It writes up to the
// capacity of out before it asks for more, and gives what it has with an error too: those of
// compress/gzip, which are io.EOF for no body at all, gzip.ErrHeader, gzip.ErrChecksum, a flate.CorruptInputError, io.ErrUnexpectedEOF for one that is cut short, and what m says.
func (z *Inflater) Append(out, body []byte, m Memory) ([]byte, error) {
	if len(body) == 0 {
		return out, io.EOF
	}
	z.in, z.held, z.out, z.end, z.memory = body, held{}, out[:cap(out)], len(out), m
	var err error
	for err == nil && z.at < len(z.in) {
		err = z.member()
	}
	out = z.out[:z.end]
	z.in, z.out, z.memory = nil, nil, nil
	return out, err
}

// member decompresses one member (RFC 1952, 2.3).
func (z *Inflater) member() error {
	if err := z.header(); err != nil {
		return err
	}
	z.window = z.end
	for last := false; !last; {
		var err error
		if last, err = z.nextBlock(); err != nil {
			return err
		}
	}
	z.align()
	trailer, err := z.take(8)
	if err != nil {
		return err
	}
	data := z.out[z.window:z.end]
	if binary.LittleEndian.Uint32(trailer) != crc32.ChecksumIEEE(data) || binary.LittleEndian.Uint32(trailer[4:]) != uint32(len(data)) {
		return gzip.ErrChecksum
	}
	return nil
}

// header reads the header of a member, of which nothing is wanted.
func (z *Inflater) header() error {
	begin := z.at
	fixed, err := z.take(10)
	if err != nil {
		return err
	}
	if fixed[0] != 0x1f || fixed[1] != 0x8b || fixed[2] != 8 {
		return gzip.ErrHeader
	}
	flags := fixed[3]
	if flags&flagExtra != 0 {
		n, err := z.take(2)
		if err != nil {
			return err
		}
		if _, err := z.take(int(binary.LittleEndian.Uint16(n))); err != nil {
			return err
		}
	}
	for _, flag := range [...]byte{flagName, flagComment} {
		if flags&flag == 0 {
			continue
		}
		rest := z.in[z.at:]
		n := bytes.IndexByte(rest[:min(len(rest), longestName)], 0)
		if n < 0 && len(rest) < longestName {
			return io.ErrUnexpectedEOF
		}
		if n < 0 {
			return gzip.ErrHeader
		}
		z.at += n + 1
	}
	if flags&flagHeaderCRC != 0 {
		sum := crc32.ChecksumIEEE(z.in[begin:z.at])
		said, err := z.take(2)
		if err != nil {
			return err
		}
		if binary.LittleEndian.Uint16(said) != uint16(sum) {
			return gzip.ErrHeader
		}
	}
	if flags&flagsReserved != 0 {
		return gzip.ErrHeader
	}
	return nil
}

// take gives the next n bytes of the input, when no bits are held.
func (z *Inflater) take(n int) ([]byte, error) {
	if len(z.in)-z.at < n {
		z.at = len(z.in)
		return nil, io.ErrUnexpectedEOF
	}
	z.at += n
	return z.in[z.at-n : z.at], nil
}

// align drops the rest of a byte, and gives those that are held whole back to the input.
func (z *Inflater) align() {
	z.held = held{at: z.at - int(z.count/8)}
}

// corrupt is the error of what cannot be.
func (z *Inflater) corrupt() error { return flate.CorruptInputError(z.at - int(z.count/8)) }
