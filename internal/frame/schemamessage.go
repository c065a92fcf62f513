package frame

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/klauspost/compress/zstd"
)

// The form of a schema's message.
const (
	formDelta = 1 << iota
	formZstd
)

// zstdRatio bounds what a small message may become: no schema comes near it, a bomb has to exceed it.
const (
	zstdRatio = 1000
	zstdFree  = 1 << 20
	// zstdWindow is the largest window that a compressor may use, unless the content is larger.
	zstdWindow = 8 << 20
)

// Marshal gives the schema's message in full form, which can be read alone. It may be shared: it must not be changed.
func (s *Schema) Marshal() []byte {
	if p := s.packed; p != nil && p.Parent == nil {
		return p.Message
	}
	return marshal(0, nil, s.Open().content(), nil, zstd.SpeedDefault)
}

// MarshalDelta gives the schema's message as a change of parent: small if the two have most series in common, but
// readable only together with the parent's message. The id is the same in either form.
func (s *Schema) MarshalDelta(parent *Schema) []byte {
	s, parent = s.Open(), parent.Open()
	return s.marshalDelta(parent.ID, parent.Text, zstd.SpeedDefault)
}

func (s *Schema) marshalDelta(id SchemaID, parent *Text, level zstd.EncoderLevel) []byte {
	return marshal(formDelta, id[:], s.appendDelta(nil, parent), parent.content(), level)
}

// marshal compresses content with the help of dict, the content of the parent.
func marshal(form byte, parent, content, dict []byte, level zstd.EncoderLevel) []byte {
	data, packed := compress(content, dict, level)
	if packed {
		form |= formZstd
	}
	dst := make([]byte, 0, len(schemaMagic)+2+len(parent)+binary.MaxVarintLen64+len(data))
	dst = append(dst, schemaMagic...)
	dst = append(dst, version, form)
	dst = append(dst, parent...)
	dst = binary.AppendUvarint(dst, uint64(len(content)))
	return append(dst, data...)
}

// compress takes a fresh compressor each time: schemas are rare, and its tables would stand idle.
func compress(content, dict []byte, level zstd.EncoderLevel) ([]byte, bool) {
	window := min(max(1<<bits.Len(uint(len(content)+len(dict))), zstd.MinWindowSize), zstdWindow)
	opts := []zstd.EOption{
		zstd.WithEncoderLevel(level), zstd.WithWindowSize(window), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), zstd.WithLowerEncoderMem(true),
	}
	if dict != nil {
		opts = append(opts, zstd.WithEncoderDictRaw(0, dict))
	}
	w, err := zstd.NewWriter(nil, opts...)
	if err != nil {
		return content, false
	}
	defer w.Close()
	data := w.EncodeAll(content, nil)
	if len(data) >= len(content) || uint64(len(content)) > largestOf(data) {
		return content, false
	}
	return data, true
}

// largestOf is how large the content of compressed data may be.
func largestOf(data []byte) uint64 { return zstdFree + zstdRatio*uint64(len(data)) }

// decompress gives the content, of exactly size bytes.
func decompress(data []byte, size uint64, dict []byte, lim Limits) ([]byte, error) {
	if err := within("bytes of a schema", size, lim.SchemaBytes); err != nil {
		return nil, err
	}
	if most := largestOf(data); size > most {
		return nil, &LimitError{What: fmt.Sprintf("bytes of a schema out of %d compressed ones", len(data)), Got: size, Max: most}
	}
	// The compressed frame tells its size too, and memory is taken by that.
	var h zstd.Header
	if err := h.Decode(data); err != nil || !h.HasFCS || h.FrameContentSize != size {
		return nil, fmt.Errorf("%w: compressed content is not of the size told", ErrMalformed)
	}
	opts := []zstd.DOption{
		zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(max(size, zstdWindow)), zstd.WithDecoderMaxWindow(max(size, zstdWindow)),
	}
	if dict != nil {
		opts = append(opts, zstd.WithDecoderDictRaw(0, dict))
	}
	z, err := zstd.NewReader(nil, opts...)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	content, err := z.DecodeAll(data, make([]byte, 0, size))
	if err != nil || uint64(len(content)) != size {
		return nil, fmt.Errorf("%w: compressed content: %v, %d bytes of %d", ErrMalformed, err, len(content), size)
	}
	return content, nil
}

// schemaMessage is a schema's message with its content still packed.
type schemaMessage struct {
	form   byte
	parent SchemaID
	size   uint64
	data   []byte
}

func parseSchemaMessage(msg []byte, lim Limits) (m schemaMessage, err error) {
	if err := within("bytes of a message", uint64(len(msg)), lim.MessageBytes); err != nil {
		return m, err
	}
	if !IsSchema(msg) {
		return m, fmt.Errorf("%w: starts with %q", ErrMalformed, msg[:min(len(msg), 4)])
	}
	r := &reader{b: msg[len(schemaMagic):]}
	if v := r.byte(); v != version {
		return m, &VersionError{What: "schema version", Got: uint64(v)}
	}
	if m.form = r.byte(); m.form&^(formDelta|formZstd) != 0 {
		return m, &VersionError{What: "schema form", Got: uint64(m.form)}
	}
	if m.form&formDelta != 0 {
		m.parent = r.schemaID()
	}
	m.size, m.data = r.uvarint(), r.b
	return m, r.err
}

// content unpacks it; parent is that of a delta.
func (m *schemaMessage) content(parent *Text, lim Limits) ([]byte, error) {
	if m.form&formZstd != 0 {
		var dict []byte
		if parent != nil {
			dict = parent.content()
		}
		return decompress(m.data, m.size, dict, lim)
	}
	if m.size != uint64(len(m.data)) {
		return nil, fmt.Errorf("%w: %d bytes of %d", ErrTruncated, len(m.data), m.size)
	}
	return m.data, within("bytes of a schema", m.size, lim.SchemaBytes)
}

// SchemaParent tells of a schema's message whether it is in delta form, and to which parent.
func SchemaParent(msg []byte, lim Limits) (parent SchemaID, delta bool, err error) {
	m, err := parseSchemaMessage(msg, lim)
	if err != nil {
		return parent, false, fmt.Errorf("schema: %w", err)
	}
	return m.parent, m.form&formDelta != 0, nil
}

// UnmarshalSchema reads a message in full form and checks that its content has the id. A message in delta form is
// ErrNoParent.
func UnmarshalSchema(id SchemaID, msg []byte, lim Limits) (*Schema, error) {
	return UnmarshalSchemaDelta(id, msg, nil, lim)
}

// UnmarshalSchemaDelta reads a message in either form and checks that its content has the id. For a parent that it
// needs, fetch gives the schema if it is held, else the message that was stored for it; its error is passed on
// wrapped. Nothing is decoded before all parents are there, so that a call may be repeated cheaply.
func UnmarshalSchemaDelta(id SchemaID, msg []byte, fetch func(SchemaID) (*Schema, []byte, error), lim Limits) (*Schema, error) {
	s, err := unmarshalChain(id, msg, fetch, lim)
	if err != nil {
		return nil, fmt.Errorf("schema %s: %w", id, err)
	}
	return s, nil
}

func unmarshalChain(id SchemaID, msg []byte, fetch func(SchemaID) (*Schema, []byte, error), lim Limits) (*Schema, error) {
	var s *Schema
	var chain []schemaMessage
	ids := []SchemaID{id}
	for s == nil {
		m, err := parseSchemaMessage(msg, lim)
		if err != nil {
			return nil, err
		}
		chain = append(chain, m)
		if m.form&formDelta == 0 {
			break
		}
		if fetch == nil {
			return nil, fmt.Errorf("%w: %s", ErrNoParent, m.parent)
		}
		if err := within("parents of a schema", uint64(len(chain)), lim.SchemaDepth); err != nil {
			return nil, err
		}
		if s, msg, err = fetch(m.parent); err != nil {
			return nil, fmt.Errorf("parent %s: %w", m.parent, err)
		}
		ids = append(ids, m.parent)
	}
	for i := len(chain) - 1; i >= 0; i-- {
		var err error
		if s, err = chain[i].schema(s, lim); err != nil {
			return nil, err
		}
		if s.ID != ids[i] {
			return nil, fmt.Errorf("%w: its content is that of %s", ErrChecksum, s.ID)
		}
	}
	return s, nil
}

// schema reads the content; parent is that of a delta.
func (m *schemaMessage) schema(parent *Schema, lim Limits) (*Schema, error) {
	if m.form&formDelta == 0 {
		content, err := m.content(nil, lim)
		if err != nil {
			return nil, err
		}
		return parseContent(content, lim)
	}
	content, err := m.content(parent.Text, lim)
	if err != nil {
		return nil, err
	}
	return parseDelta(content, parent, lim)
}
