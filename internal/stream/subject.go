package stream

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Subjects makes the subjects of one topic.
//
//	<topic>.frames.<publisher>.<lane>          bundles of frames
//	<topic>.schemas.<publisher>.<schema id>    schemas, one message each
//	<topic>.control.<publisher>.<verb>         requests to a process; in no stream
type Subjects struct {
	// Topic may itself have dots.
	Topic string
}

// Frames is the subject of a publisher's lane.
func (s Subjects) Frames(publisher, lane string) string {
	return s.Topic + ".frames." + EscapeToken(publisher) + "." + EscapeToken(lane)
}

// AllFrames is the filter for the frames of all publishers and lanes.
func (s Subjects) AllFrames() string { return s.Topic + ".frames.*.*" }

// Schema is the subject of one schema.
func (s Subjects) Schema(publisher string, id [16]byte) string {
	return s.Topic + ".schemas." + EscapeToken(publisher) + "." + hex.EncodeToString(id[:])
}

// SchemaPart is the subject of a part of a schema that is stored in parts: the first has the schema's own.
func SchemaPart(subject string, number int) string {
	if number == 1 {
		return subject
	}
	return subject + "-" + strconv.Itoa(number)
}

// AllSchemas is the filter for all schemas.
func (s Subjects) AllSchemas() string { return s.Topic + ".schemas.*.*" }

// Control is what the subjects of requests to a publisher's processes begin with.
func (s Subjects) Control(publisher string) string {
	return s.Topic + ".control." + EscapeToken(publisher)
}

// EscapeToken writes a name as one token of a subject: all bytes outside A-Z a-z 0-9 _ - become %XX.
func EscapeToken(name string) string {
	if strings.IndexFunc(name, func(r rune) bool { return r >= 0x80 || !plain(byte(r)) }) < 0 {
		return name
	}
	var b strings.Builder
	for i := range len(name) {
		if c := name[i]; plain(c) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// UnescapeToken is the inverse of EscapeToken. It takes nothing but what EscapeToken gives: a name has one token. Names are
// UTF-8, as labels are, which they become.
func UnescapeToken(token string) (string, error) {
	if !strings.Contains(token, "%") {
		if EscapeToken(token) != token {
			return "", fmt.Errorf("subject token %q has characters that should be escaped", token)
		}
		return token, nil
	}
	b := make([]byte, 0, len(token))
	for i := 0; i < len(token); i++ {
		if token[i] != '%' {
			b = append(b, token[i])
			continue
		}
		if i+2 >= len(token) {
			return "", fmt.Errorf("subject token %q ends inside an escape", token)
		}
		c, err := hex.DecodeString(token[i+1 : i+3])
		if err != nil {
			return "", fmt.Errorf("subject token %q has a bad escape at byte %d", token, i)
		}
		b = append(b, c[0])
		i += 2
	}
	if !utf8.Valid(b) {
		return "", fmt.Errorf("subject token %q names nothing that is UTF-8", token)
	}
	if EscapeToken(string(b)) != token {
		return "", fmt.Errorf("subject token %q is not the escaped form of a name", token)
	}
	return string(b), nil
}

func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-'
}
