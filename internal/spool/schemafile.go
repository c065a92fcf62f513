package spool

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
)

// What a schema's file begins with, one without a parent and one with:
//
//	"PSS1" · crc32c of the rest, 4 bytes little endian · length of the subject, uvarint · subject · message
//	"PSS2" · the same · length of the subject, uvarint · subject · length of the parent's id, uvarint · id · message
const (
	schemaMagic = "PSS1"
	childMagic  = "PSS2"
)

// appendSchema writes what a schema's file holds.
func appendSchema(dst []byte, s *Schema) []byte {
	magic, rest := schemaMagic, appendText(nil, s.Subject)
	if s.Parent != "" {
		magic, rest = childMagic, appendText(rest, s.Parent)
	}
	rest = append(rest, s.Message...)
	dst = append(dst, magic...)
	dst = binary.LittleEndian.AppendUint32(dst, crc32.Checksum(rest, castagnoli))
	return append(dst, rest...)
}

// parentIn reads the parent's id out of a schema's file; whether all of it is right is seen when it is read.
func parentIn(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, 4096) // subjects are shorter
	n, err := io.ReadFull(f, b)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", err
	}
	p := parser{b: b[:n]}
	s := p.schema()
	if p.bad {
		return "", errSchemaFile
	}
	return s.Parent, nil
}

var errSchemaFile = errors.New("not a schema, or damaged")

// schema reads what appendSchema wrote, but for the checksum.
func (p *parser) schema() (s Schema) {
	if len(p.b) < 8 || string(p.b[:4]) != schemaMagic && string(p.b[:4]) != childMagic {
		p.b, p.bad = nil, true
		return s
	}
	child := string(p.b[:4]) == childMagic
	p.b = p.b[8:]
	s.Subject = string(p.text())
	if child {
		s.Parent = string(p.text())
	}
	s.Message = p.b
	return s
}

// parseSchema reads a schema's file.
func parseSchema(id string, b []byte) (Schema, error) {
	if len(b) < 8 || crc32.Checksum(b[8:], castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
		return Schema{}, errSchemaFile
	}
	p := parser{b: b}
	s := p.schema()
	if p.bad {
		return Schema{}, errSchemaFile
	}
	s.ID = id
	return s, nil
}
