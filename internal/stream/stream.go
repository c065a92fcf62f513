// Package stream says what a carrier of messages promises, whatever it is: JetStream, NATS Streaming
// or a server in the process. The carriers live in the folders below; streamtest holds the contract they all pass.
//
// A carrier stores messages under subjects, in one order, and hands them to consumers in that order. A message is
// acknowledged alone, after its content is done; what is not acknowledged comes again. This package holds the words in
// which carriers and their users talk; the interfaces belong to the users (forward, receiver).
package stream

import (
	"errors"
	"fmt"
	"time"
)

// Errors of publishing. A Result's error wraps one of them or is of unknown outcome: the message may or may not be
// stored, and has to be sent again with the same bytes.
var (
	// ErrRefused: the stream answered that it does not take the message. Sending it again may or may not help.
	ErrRefused = errors.New("refused by the stream")
	// ErrFull: the stream is at one of its limits and takes nothing new until there is room. It says nothing about the
	// message itself, which is not stored.
	ErrFull = errors.New("the stream is full")
	// ErrPermission: the server denies the right to publish on the subject (or to ask what was asked).
	ErrPermission = errors.New("permission denied by the server")
	// ErrTooLarge: the message is larger than the connection or the stream takes.
	ErrTooLarge = errors.New("message too large")
	// ErrDisconnected: there is no connection now.
	ErrDisconnected = errors.New("not connected")
	// ErrNotFound: the carrier answered that what was asked for is not there.
	ErrNotFound = errors.New("not found")
)

// Result is how one publish ended.
type Result struct {
	// Sequence under which the stream stored the message, if Err is nil.
	Sequence uint64
	// Err is nil once the message is stored.
	Err error
}

// Usage is how full a stream is. A limit that is not positive is none.
type Usage struct {
	Messages, Bytes       int64
	MaxMessages, MaxBytes int64
}

// Message is one stored message as a consumer is handed it.
type Message struct {
	Subject string
	Data    []byte
	// Sequence is the message's place in its stream.
	Sequence uint64
	// Stored is when the stream stored it.
	Stored time.Time
	// Redelivered tells that the carrier handed this message to some consumer of the same durable before.
	Redelivered bool

	// Ack tells the carrier that the message is done and must not come again. It does not wait; an acknowledgement
	// that is lost lets the message come again.
	Ack func() error
	// InProgress tells the carrier that the message is still being worked on.
	InProgress func() error
}

// EventKind says what an Event tells.
type EventKind uint8

// The kinds of events.
const (
	// Delivered: the event has a message.
	Delivered EventKind = iota + 1
	// Restarted: all messages that are not yet acknowledged come again from here on, in order. The Ack of messages
	// delivered before it have no effect any more.
	Restarted
	// Disconnected and Connected tell of the connection, so that nobody counts time against a silent carrier.
	Disconnected
	Connected
)

// Event is what a consumer receives.
type Event struct {
	Kind    EventKind
	Message *Message
}

// Floor is how far a durable has come in its stream.
type Floor struct {
	// Created is when the stream was made: sequences of another stream mean nothing.
	Created time.Time
	// Sequence up to which everything is acknowledged; 0 if nothing is.
	Sequence uint64
	// Delivered is the highest sequence handed out so far: what lies between Sequence and it may have been delivered
	// to its sink before.
	Delivered uint64
	// First and Last are the sequences that the stream holds.
	First, Last uint64
	// Stored is when the message at Sequence was stored; zero if it is no longer known.
	Stored time.Time
}

// Range names messages of a stream to read again without consuming them.
type Range struct {
	// Subject to which the reading is limited; empty for all of the consumer's filter.
	Subject string
	// From is the time stored of the first message wanted; the zero time means the start of the stream.
	From time.Time
	// To is the last sequence wanted.
	To uint64
}

// PermissionError is an ErrPermission that names what was denied.
type PermissionError struct {
	// Operation is "publish" or "subscribe".
	Operation string
	Subject   string
}

func (e *PermissionError) Error() string {
	return fmt.Sprintf("permission to %s on %q denied by the server", e.Operation, e.Subject)
}

// Unwrap makes it an ErrPermission.
func (e *PermissionError) Unwrap() error { return ErrPermission }
