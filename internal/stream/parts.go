package stream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// A message that is larger than the connection or the stream takes travels as parts: messages on its subject, one after
// the other, each
//
//	"PSP" version: byte = 1  part: uvarint  parts: uvarint  size: uvarint  crc32c: u32  data
//
// part counts from 1; size and crc32c (Castagnoli, lowest byte first) are those of the whole message. Parts are stored and
// acknowledged together: the publisher sends all of them again if the outcome of one is unknown.

const (
	partMagic   = "PSP"
	partVersion = 1
	// partHeader is the most that stands before the data of a part.
	partHeader = len(partMagic) + 1 + 3*binary.MaxVarintLen32 + 4
	// maxWhole bounds a message that travels as parts, maxParts their number, maxOpen what a Joiner holds of all messages:
	// wholeCost for each, the bytes that it will have, and partCost for each part. So no more than maxOpen/partCost parts
	// are held without being acknowledged, which is less than a consumer may have on its way (20,000): messages that are
	// never finished do not keep it from going on.
	maxWhole  = 64 << 20
	maxParts  = 1 << 12
	maxOpen   = 192 << 20
	wholeCost = 128 << 10
	partCost  = 16 << 10
	// openFor is how long a message may lack parts while nothing newer comes on its subject.
	openFor = 10 * time.Minute
)

// MinPart is the size in bytes of the smallest messages that Cut makes.
const MinPart = 1024

// ErrPart: a message claims to be a part and is none.
var ErrPart = errors.New("malformed part")

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// TooLargeError is an ErrTooLarge of a carrier on which messages may travel as parts. It says how large they may be.
type TooLargeError struct {
	// Size of the message and Limit in bytes; Limit is 0 if it is not known.
	Size, Limit int64
}

func (e *TooLargeError) Error() string {
	if e.Limit <= 0 {
		return fmt.Sprintf("%v: it has %d bytes, the stream's max_msg_size is less", ErrTooLarge, e.Size)
	}
	return fmt.Sprintf("%v: it has %d bytes, the server takes at most %d", ErrTooLarge, e.Size, e.Limit)
}

// Narrow tells whether the limit is so small that parts do not help either: it is no fault of the message.
func (e *TooLargeError) Narrow() bool {
	return e.Limit > 0 && e.Limit < MinPart || e.Limit <= 0 && e.Size <= MinPart
}

// Unwrap makes it an ErrTooLarge.
func (e *TooLargeError) Unwrap() error { return ErrTooLarge }

// Cut makes parts of at most so many bytes (at least MinPart) of a message that is larger; one that is not is returned
// as it is. A message that cannot travel as parts either gives an error that wraps ErrTooLarge.
func Cut(message []byte, most int) ([][]byte, error) {
	if most <= 0 || len(message) <= most {
		return [][]byte{message}, nil
	}
	room := max(most, MinPart) - partHeader
	parts := (len(message) + room - 1) / room
	if len(message) > maxWhole || parts > maxParts {
		return nil, &TooLargeError{Size: int64(len(message)), Limit: int64(min(maxWhole, maxParts*room))}
	}
	sum := checksum(message)
	out := make([][]byte, 0, parts)
	for rest := message; len(rest) > 0; {
		n := min(room, len(rest))
		b := append(make([]byte, 0, partHeader+n), partMagic...)
		b = append(b, partVersion)
		b = binary.AppendUvarint(b, uint64(len(out)+1))
		b = binary.AppendUvarint(b, uint64(parts))
		b = binary.AppendUvarint(b, uint64(len(message)))
		b = binary.LittleEndian.AppendUint32(b, sum)
		out = append(out, append(b, rest[:n]...))
		rest = rest[n:]
	}
	return out, nil
}

// Part is one part of a message.
type Part struct {
	// Number of the part, from 1 to Parts.
	Number, Parts int
	// Size and Sum (CRC-32C) of the whole message.
	Size int
	Sum  uint32
	Data []byte
}

// IsPart tells whether a message says that it is a part of another.
func IsPart(message []byte) bool { return bytes.HasPrefix(message, []byte(partMagic)) }

// ParsePart reads a part; its Data is within message. The error wraps ErrPart.
func ParsePart(message []byte) (Part, error) {
	if !IsPart(message) || len(message) <= len(partMagic) {
		return Part{}, fmt.Errorf("%w: not one", ErrPart)
	}
	if v := message[len(partMagic)]; v != partVersion {
		return Part{}, fmt.Errorf("%w: version %d, known is %d", ErrPart, v, partVersion)
	}
	rest := message[len(partMagic)+1:]
	var numbers [3]int
	for i, limit := range [3]uint64{maxParts, maxParts, maxWhole} {
		v, n := binary.Uvarint(rest)
		if n <= 0 || v == 0 || v > limit {
			return Part{}, fmt.Errorf("%w: number %d of its header is %d, allowed is 1 to %d", ErrPart, i+1, v, limit)
		}
		numbers[i], rest = int(v), rest[n:]
	}
	if len(rest) < 5 {
		return Part{}, fmt.Errorf("%w: it ends after %d bytes", ErrPart, len(message))
	}
	p := Part{Number: numbers[0], Parts: numbers[1], Size: numbers[2], Sum: binary.LittleEndian.Uint32(rest), Data: rest[4:]}
	if p.Number > p.Parts || p.Parts > p.Size {
		return Part{}, fmt.Errorf("%w: part %d of %d, in all %d bytes", ErrPart, p.Number, p.Parts, p.Size)
	}
	return p, nil
}

// Joiner puts messages that came as parts together again. It is used by one goroutine.
//
// What is open at a time is bounded. Above it, whoever has most open loses the oldest of it, so that nobody can push out
// what others send.
type Joiner struct {
	// Owner, if set, tells who sends on a subject; without it each subject is one sender's.
	Owner func(subject string) string

	open  map[string]*whole // by subject
	held  int               // the costs of all that is open
	since time.Time         // nothing of it has waited for longer
}

// whole is a message that lacks parts.
type whole struct {
	first  Part
	owner  string
	data   []byte
	parts  []Message // those of data, without theirs
	next   int       // the number of the part that is wanted
	last   uint64    // sequence of the newest part
	since  time.Time // when the newest part was stored
	redone bool      // one of the parts was delivered before
}

// cost is what a message is counted with from its first part on: it may grow to that.
func (w *whole) cost() int { return wholeCost + w.first.Size + w.first.Parts*partCost }

// Add takes a message in the order of its stream. It returns the message itself if it is no part, the whole message
// with its last part, else nil. Whole messages have the sequence and time of their last part, and acknowledging one
// acknowledges its parts. An error concerns m alone, which the caller then has to acknowledge.
//
// Parts whose message stays incomplete are acknowledged when a newer message comes on their subject: publishers send
// all parts again until all are stored.
func (j *Joiner) Add(m *Message) (*Message, error) {
	j.expire(m.Stored)
	w := j.open[m.Subject]
	if !IsPart(m.Data) {
		if w != nil {
			j.abandon(m.Subject, w)
		}
		return m, nil
	}
	p, err := ParsePart(m.Data)
	if err != nil {
		return nil, err
	}
	if w != nil && !w.has(p) {
		j.abandon(m.Subject, w)
		w = nil
	}
	if w == nil {
		if p.Number != 1 { // the first ones are gone from the stream
			return nil, m.acknowledge()
		}
		if w = j.begin(m, p); w == nil {
			return nil, m.acknowledge()
		}
	}
	return j.part(m, p, w)
}

// expire abandons what lacks parts for too long.
func (j *Joiner) expire(now time.Time) {
	if len(j.open) == 0 || now.Sub(j.since) <= openFor {
		return
	}
	j.since = now
	for subject, w := range j.open {
		if now.Sub(w.since) > openFor {
			j.abandon(subject, w)
		} else if w.since.Before(j.since) {
			j.since = w.since
		}
	}
}

// begin opens a message; nil if there is no room for it.
func (j *Joiner) begin(m *Message, p Part) *whole {
	w := &whole{first: p, owner: m.Subject, next: 1, since: m.Stored}
	if j.Owner != nil {
		w.owner = j.Owner(m.Subject)
	}
	if len(j.open) == 0 {
		j.open, j.since = map[string]*whole{}, m.Stored
	}
	j.open[m.Subject] = w
	j.held += w.cost()
	for j.held > maxOpen {
		subject := j.oldest(j.most(), w)
		j.abandon(subject, j.open[subject])
	}
	return j.open[m.Subject]
}

// most is whoever has most open.
func (j *Joiner) most() (owner string) {
	costs := map[string]int{}
	for _, w := range j.open {
		costs[w.owner] += w.cost()
	}
	for o, cost := range costs {
		if cost > costs[owner] || owner == "" {
			owner = o
		}
	}
	return owner
}

// oldest is the subject on which an owner's oldest message is open, the newest one's only if there is no other.
func (j *Joiner) oldest(owner string, newest *whole) (subject string) {
	var found *whole
	for s, w := range j.open {
		if w.owner == owner && (found == nil || found == newest || w != newest && w.since.Before(found.since)) {
			subject, found = s, w
		}
	}
	return subject
}

func (j *Joiner) part(m *Message, p Part, w *whole) (*Message, error) {
	if p.Number == 1 && w.next > 1 { // sent again from the start
		w.acknowledge()
		w.data, w.next = w.data[:0], 1
	}
	if p.Number != w.next {
		return nil, m.acknowledge() // it is sent again later
	}
	kept := *m
	kept.Data = nil
	w.parts, w.last, w.since = append(w.parts, kept), max(w.last, m.Sequence), m.Stored
	w.redone = w.redone || m.Redelivered
	if len(w.data)+len(p.Data) > p.Size {
		j.abandon(m.Subject, w)
		return nil, nil
	}
	w.next++
	w.data = append(w.data, p.Data...)
	if p.Number < p.Parts {
		return nil, nil
	}
	if len(w.data) != p.Size || checksum(w.data) != p.Sum {
		j.abandon(m.Subject, w)
		return nil, nil
	}
	j.drop(m.Subject, w)
	return w.message(m), nil
}

// has tells whether p is of the same message.
func (w *whole) has(p Part) bool {
	return w.first.Parts == p.Parts && w.first.Size == p.Size && w.first.Sum == p.Sum
}

// message is the whole one; m brought its last part.
func (w *whole) message(m *Message) *Message {
	all := func(act func(*Message) func() error) func() error {
		return func() error {
			var errs []error
			for i := range w.parts {
				if f := act(&w.parts[i]); f != nil {
					errs = append(errs, f())
				}
			}
			return errors.Join(errs...)
		}
	}
	return &Message{
		Subject: m.Subject, Data: w.data, Sequence: w.last, Stored: m.Stored, Redelivered: w.redone,
		Ack:        all(func(m *Message) func() error { return m.Ack }),
		InProgress: all(func(m *Message) func() error { return m.InProgress }),
	}
}

// abandon acknowledges the parts of a message that stays incomplete.
func (j *Joiner) abandon(subject string, w *whole) {
	j.drop(subject, w)
	w.acknowledge()
}

// acknowledge lets go of the parts that came.
func (w *whole) acknowledge() {
	for i := range w.parts {
		_ = w.parts[i].acknowledge()
	}
	w.parts = w.parts[:0]
}

func (j *Joiner) drop(subject string, w *whole) {
	delete(j.open, subject)
	j.held -= w.cost()
}

// Reset forgets all parts: after Restarted they come again.
func (j *Joiner) Reset() {
	j.open, j.held = nil, 0
}

func (m *Message) acknowledge() error {
	if m.Ack == nil {
		return nil
	}
	return m.Ack()
}
