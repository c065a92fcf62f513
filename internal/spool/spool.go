// Package spool keeps finished messages at the edge until the stream has stored them: append, read in order, trim.
// It knows nothing of what the messages hold.
//
// A record names the schemas that must be stored before it is; their messages lie beside the records for as long as one
// of them names them, or the poller says that they are in use (Live). What a spool cannot keep is counted with its
// reason, its frames and its samples; it never vanishes in silence.
package spool

import (
	"errors"
	"time"
)

// Errors of a spool.
var (
	// ErrClosed: the spool was closed. Reading returns it once nothing lies after the position asked for; what was
	// read and is not trimmed yet can still be read again.
	ErrClosed = errors.New("spool is closed")
	// ErrTooLarge: one record is larger than the whole spool may be.
	ErrTooLarge = errors.New("record larger than the spool")
	// ErrFull: the spool is full and was told to refuse rather than to drop its oldest.
	ErrFull = errors.New("spool is full")
	// ErrNoSchema: the spool does not hold a schema that was asked for, or that a record names.
	ErrNoSchema = errors.New("schema is not in the spool")
)

// Position is a record's place in the spool. It only grows; 0 is before the first.
type Position uint64

// Record is one finished message.
type Record struct {
	// Subject under which it is published.
	Subject string
	Message []byte
	// Schemas are the ids of the schemas that must be stored before this message is: for Append those that it needs itself, of
	// what is read also their parents, each before the schema that needs it.
	Schemas []string
	// Frames and Samples are how many are lost if the record is.
	Frames, Samples int
}

// Schema is a schema's message; its content never changes under its id.
type Schema struct {
	ID string
	// Parent is the id of the schema that must be stored before this one is, so that this one can be read; empty if there is
	// none. A spool that holds a schema holds its parent.
	Parent  string
	Subject string
	Message []byte
}

// Entry is a record as it is read back.
type Entry struct {
	Record
	Position Position
	Appended time.Time
}

// What one record or schema takes besides its subject and message: headers, slices, an entry of a map.
const overhead = 160

func (r Record) size() int64 {
	n := len(r.Subject) + len(r.Message) + overhead
	for _, id := range r.Schemas {
		n += len(id)
	}
	return int64(n)
}

func (s Schema) size() int64 {
	return int64(len(s.ID) + len(s.Parent) + len(s.Subject) + len(s.Message) + overhead)
}
