package sink

import (
	"encoding/binary"
	"errors"
	"hash/maphash"
	"strings"
)

var errProto = errors.New("not a protobuf message of the kind expected")

// staleMarker are the bits of the NaN with which Prometheus ends a series.
const staleMarker = 0x7ff0000000000002

// field is one field of a protobuf message.
type field struct {
	number, wire int
	value        uint64 // for wire types 0, 1 and 5
	data         []byte // for wire type 2
}

// eachField calls f for each field of a message until it fails.
func eachField(b []byte, f func(field) error) error {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 {
			return errProto
		}
		b = b[n:]
		fd := field{number: int(tag >> 3), wire: int(tag & 7)}
		switch fd.wire {
		case 0:
			if fd.value, n = binary.Uvarint(b); n <= 0 {
				return errProto
			}
		case 1:
			if n = 8; len(b) < n {
				return errProto
			}
			fd.value = binary.LittleEndian.Uint64(b)
		case 2:
			size, k := binary.Uvarint(b)
			if k <= 0 || uint64(len(b)-k) < size {
				return errProto
			}
			n = k + int(size)
			fd.data = b[k:n]
		case 5:
			if n = 4; len(b) < n {
				return errProto
			}
			fd.value = uint64(binary.LittleEndian.Uint32(b))
		default:
			return errProto
		}
		b = b[n:]
		if err := f(fd); err != nil {
			return err
		}
	}
	return nil
}

// parseSample reads prometheus.Sample and its like: 1 is the value, 2 the timestamp.
func parseSample(b []byte) (bits uint64, timestamp int64, err error) {
	err = eachField(b, func(f field) error {
		switch f.number {
		case 1:
			bits = f.value
		case 2:
			timestamp = int64(f.value)
		}
		return nil
	})
	return bits, timestamp, err
}

// automatic tells whether the scraper, not the target, made a series.
func automatic(name []byte) bool {
	return string(name) == "up" || strings.HasPrefix(string(name), "scrape_") || strings.HasPrefix(string(name), "prometheus_scrape")
}

// seriesID hashes labels as they come: senders keep them sorted.
type seriesID struct {
	hash      maphash.Hash
	automatic bool
}

func (s *seriesID) reset() {
	s.hash.Reset()
	s.automatic = false
}

func (s *seriesID) label(name, value []byte) {
	if string(name) == "__name__" {
		s.automatic = automatic(value)
	}
	s.hash.Write(name)
	s.hash.WriteByte(0)
	s.hash.Write(value)
	s.hash.WriteByte(1)
}
