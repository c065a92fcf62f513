package stream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// tape is a stream of messages on one subject, with a note of what was acknowledged.
type tape struct {
	sequence uint64
	acked    map[uint64]int
}

func (s *tape) message(subject string, data []byte) *Message {
	s.sequence++
	n := s.sequence
	if s.acked == nil {
		s.acked = map[uint64]int{}
	}
	return &Message{
		Subject: subject, Data: data, Sequence: n, Stored: time.Unix(1000+int64(n), 0),
		Ack: func() error { s.acked[n]++; return nil },
	}
}

func (s *tape) unacked() (n int) {
	for i := uint64(1); i <= s.sequence; i++ {
		if s.acked[i] == 0 {
			n++
		}
	}
	return n
}

func random(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n)})
	_, _ = r.Read(b)
	return b
}

func cut(t testing.TB, message []byte, most int) [][]byte {
	t.Helper()
	parts, err := Cut(message, most)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range parts {
		if len(p) > most {
			t.Fatalf("part %d of %d has %d bytes, limit %d", i+1, len(parts), len(p), most)
		}
	}
	return parts
}

func TestPartsRoundTrip(t *testing.T) {
	for _, size := range []int{1, MinPart, MinPart + 1, 3 * MinPart, 10*MinPart + 17, 1 << 20} {
		message := random(size)
		var s tape
		var j Joiner
		parts := cut(t, message, MinPart)
		if (len(parts) > 1) != (size > MinPart) {
			t.Errorf("%d bytes in %d parts", size, len(parts))
		}
		for i, p := range parts {
			whole, err := j.Add(s.message("a", p))
			if err != nil || (whole != nil) != (i == len(parts)-1) {
				t.Fatalf("%d bytes, part %d of %d: %v, %v", size, i+1, len(parts), whole, err)
			}
			if whole == nil {
				continue
			}
			if !bytes.Equal(whole.Data, message) || whole.Sequence != s.sequence {
				t.Errorf("%d bytes: other content, or sequence %d", size, whole.Sequence)
			}
			if n := s.unacked(); n != len(parts) {
				t.Errorf("%d parts were acknowledged before the whole", len(parts)-n)
			}
			if err := whole.Ack(); err != nil || s.unacked() != 0 {
				t.Errorf("%d parts are not acknowledged with the whole: %v", s.unacked(), err)
			}
		}
		if len(j.open) != 0 || j.held != 0 {
			t.Errorf("%d messages with %d bytes are still held", len(j.open), j.held)
		}
	}
}

// What publishers and streams do to parts: sent again, interleaved with other subjects, the start gone, never finished.
func TestPartsOutOfOrder(t *testing.T) {
	a, b := random(3*MinPart), random(2*MinPart)
	pa, pb := cut(t, a, MinPart), cut(t, b, MinPart)
	tests := []struct {
		name  string
		sent  [][]byte
		whole []string // of each message sent: a, b, - for none, whole for one that is no part
		left  int      // not acknowledged at the end, besides those of whole messages
	}{
		{"sent again from the start", [][]byte{pa[0], pa[1], pa[0], pa[1], pa[2], pa[3]}, []string{"-", "-", "-", "-", "-", "a"}, 0},
		{"one refused, then all again", [][]byte{pa[0], pa[2], pa[3], pa[0], pa[1], pa[2], pa[3]}, []string{"-", "-", "-", "-", "-", "-", "a"}, 0},
		{"a newer one passes first", [][]byte{pa[0], pa[2], []byte("x"), pa[0], pa[1], pa[2], pa[3]}, []string{"-", "-", "x", "-", "-", "-", "a"}, 0},
		{"the first ones are gone", [][]byte{pa[2], pa[3], pb[0], pb[1], pb[2]}, []string{"-", "-", "-", "-", "b"}, 0},
		{"never finished", [][]byte{pa[0], pa[1], pb[0], pb[1], pb[2]}, []string{"-", "-", "-", "-", "b"}, 0},
		{"not yet finished", [][]byte{pa[0], pa[1]}, []string{"-", "-"}, 2},
		{"twice", append(append([][]byte{}, pb...), pb...), []string{"-", "-", "b", "-", "-", "b"}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s tape
			var j Joiner
			for i, data := range tt.sent {
				whole, err := j.Add(s.message("s", data))
				got := "-"
				switch {
				case err != nil:
					t.Fatal(err)
				case whole == nil:
				case bytes.Equal(whole.Data, a):
					got = "a"
				case bytes.Equal(whole.Data, b):
					got = "b"
				default:
					got = string(whole.Data)
				}
				if got != tt.whole[i] {
					t.Errorf("message %d gives %q, want %q", i, got, tt.whole[i])
				}
				if whole != nil {
					_ = whole.Ack()
				}
			}
			if n := s.unacked(); n != tt.left {
				t.Errorf("%d messages are not acknowledged, want %d", n, tt.left)
			}
		})
	}
}

func TestPartsOfSubjectsDoNotMix(t *testing.T) {
	a := random(3 * MinPart)
	parts := cut(t, a, MinPart)
	var s tape
	var j Joiner
	for i, p := range parts {
		for _, subject := range []string{"x", "y"} {
			whole, err := j.Add(s.message(subject, p))
			if err != nil || (whole != nil) != (i == len(parts)-1) || whole != nil && (whole.Subject != subject || !bytes.Equal(whole.Data, a)) {
				t.Fatalf("part %d on %s: %v, %v", i+1, subject, whole, err)
			}
		}
	}
}

func TestPartsThatStayIncompleteAreBounded(t *testing.T) {
	var s tape
	var j Joiner
	big := cut(t, random(40<<20), 30<<20)
	for i := range 20 {
		if _, err := j.Add(s.message(strings.Repeat("s", i+1), big[0])); err != nil {
			t.Fatal(err)
		}
		if j.held > maxOpen {
			t.Fatalf("%d bytes are held, limit %d", j.held, maxOpen)
		}
	}
	old := s.message("late", random(10))
	old.Stored = old.Stored.Add(openFor)
	later := s.message("t", cut(t, random(2*MinPart), MinPart)[0])
	later.Stored = later.Stored.Add(2 * openFor)
	if _, err := j.Add(later); err != nil || len(j.open) != 1 || s.unacked() != 2 {
		t.Errorf("%v; %d messages are still open after %v and %d not acknowledged", err, len(j.open), openFor, s.unacked())
	}
}

func TestParsePartRefuses(t *testing.T) {
	header := func(version byte, numbers ...uint64) []byte {
		b := append([]byte(partMagic), version)
		for _, n := range numbers {
			b = binary.AppendUvarint(b, n)
		}
		return append(b, 1, 2, 3, 4, 'x')
	}
	tests := map[string]struct {
		data []byte
		want string
	}{
		"nothing":         {[]byte("PSP"), "not one"},
		"other magic":     {[]byte("PSB\x02"), "not one"},
		"version":         {header(2, 1, 2, 10), "version 2, known is 1"},
		"part 0":          {header(1, 0, 2, 10), "number 1 of its header is 0"},
		"behind the last": {header(1, 3, 2, 10), "part 3 of 2"},
		"too many":        {header(1, 1, maxParts+1, 1<<20), "number 2 of its header is 4097, allowed is 1 to 4096"},
		"too large":       {header(1, 1, 2, maxWhole+1), "number 3 of its header is 67108865"},
		"more than bytes": {header(1, 1, 5, 4), "part 1 of 5, in all 4 bytes"},
		"cut short":       {header(1, 1, 2, 10)[:8], "it ends after 8 bytes"},
		"cut in a number": {header(1, 1, 300)[:6], "number 2"},
	}
	for name, tt := range tests {
		_, err := ParsePart(tt.data)
		if !errors.Is(err, ErrPart) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want an error that says %q", name, err, tt.want)
		}
	}
	if _, err := Cut(make([]byte, maxWhole+1), 1<<20); !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "67108865") {
		t.Errorf("a message that is too large for parts too: %v", err)
	}
}

// A flipped bit never gives another message.
func FuzzJoiner(f *testing.F) {
	message := random(2*MinPart + 100)
	var parts [][]byte
	for _, p := range cut(f, message, MinPart) {
		parts = append(parts, p)
		f.Add(p, byte(0), uint16(20))
	}
	f.Add([]byte("PSP\x01\x01\x02\x0a\x00\x00\x00\x00abc"), byte(1), uint16(3))
	f.Fuzz(func(t *testing.T, data []byte, place byte, flip uint16) {
		var s tape
		var j Joiner
		var damaged []byte
		for i, p := range parts {
			if i == int(place)%len(parts) {
				damaged = bytes.Clone(p)
				damaged[int(flip)%len(p)] ^= 1 << (flip % 8)
				if whole, err := j.Add(s.message("s", data)); err == nil && whole != nil && IsPart(data) && !bytes.Equal(whole.Data, message) {
					if q, err := ParsePart(data); err != nil || q.Parts != 1 {
						t.Fatalf("a whole message of %d bytes from one part", len(whole.Data))
					}
				}
				p = damaged
			}
			whole, err := j.Add(s.message("s", p))
			if err != nil && !errors.Is(err, ErrPart) {
				t.Fatal(err)
			}
			if whole != nil && IsPart(p) && !bytes.Equal(whole.Data, message) {
				if q, err := ParsePart(p); err != nil || q.Parts != 1 || checksum(whole.Data) != q.Sum {
					t.Fatalf("damaged parts gave a message of %d bytes", len(whole.Data))
				}
			}
		}
		if j.held > maxOpen {
			t.Fatalf("%d bytes are held", j.held)
		}
	})
}

// flood sends the first of so many parts of messages that never end, on a subject each, and says what they claim to be.
func flood(t *testing.T, s *tape, j *Joiner, prefix string, messages, parts, size int) {
	t.Helper()
	at := s.message("now", nil).Stored
	for i := range messages {
		b := append([]byte(partMagic), partVersion, 1)
		b = binary.AppendUvarint(b, uint64(parts))
		b = binary.AppendUvarint(b, uint64(size))
		b = append(binary.LittleEndian.AppendUint32(b, uint32(i)), 'x')
		m := s.message(fmt.Sprint(prefix, ".", i), b)
		m.Stored = at
		if whole, err := j.Add(m); whole != nil || err != nil {
			t.Fatal(whole, err)
		}
		if j.held > maxOpen {
			t.Fatalf("%d bytes may come to be held, limit %d", j.held, maxOpen)
		}
	}
}

// Whoever opens messages without end, however they are made, loses those, and nobody else any; and what is held without
// being acknowledged stays less than a consumer may have on its way.
func TestPartsOfAHostilePublisher(t *testing.T) {
	for name, c := range map[string]struct{ messages, parts, size int }{
		"many small": {1600, 2, 2}, "many parts": {50, maxParts, maxParts}, "large": {50, 2, maxWhole}, "the largest": {50, maxParts, maxWhole},
	} {
		t.Run(name, func(t *testing.T) {
			var s tape
			j := Joiner{Owner: func(subject string) string { owner, _, _ := strings.Cut(subject, "."); return owner }}
			message := random(1 << 20)
			parts := cut(t, message, 64<<10)
			for _, p := range parts[:len(parts)/2] {
				if _, err := j.Add(s.message("good.live", p)); err != nil {
					t.Fatal(err)
				}
			}
			flood(t, &s, &j, "evil", c.messages, c.parts, c.size)
			if n := s.unacked(); n > 12<<10 {
				t.Errorf("%d messages are not acknowledged", n)
			}
			var whole *Message
			for i, p := range parts[len(parts)/2:] {
				m := s.message("good.live", p)
				m.Stored = time.Unix(1000+int64(i), 0)
				var err error
				if whole, err = j.Add(m); err != nil {
					t.Fatal(err)
				}
			}
			if whole == nil || !bytes.Equal(whole.Data, message) {
				t.Error("another publisher's message is lost")
			}
		})
	}
}

// All parts of the largest number of them fit, and one that never ends is let go of after a time, also if what comes is
// no part.
func TestPartsEnd(t *testing.T) {
	var s tape
	var j Joiner
	for i := range maxParts - 1 {
		b := binary.AppendUvarint(append([]byte(partMagic), partVersion), uint64(i+1))
		b = binary.AppendUvarint(binary.AppendUvarint(b, maxParts), maxParts)
		if _, err := j.Add(s.message("a", append(b, 0, 0, 0, 0, 'x'))); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.unacked(); n != maxParts-1 {
		t.Errorf("%d of %d parts are held", n, maxParts-1)
	}
	later := s.message("b", []byte("x"))
	later.Stored = later.Stored.Add(openFor + time.Hour)
	if m, err := j.Add(later); err != nil || m == nil || s.unacked() != 1 || len(j.open) != 0 || j.held != 0 {
		t.Errorf("%v; %d messages are not acknowledged, %d open with %d bytes", err, s.unacked(), len(j.open), j.held)
	}
}
