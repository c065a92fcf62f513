package stream

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestSubjects(t *testing.T) {
	s := Subjects{Topic: "dc1.prometheus"}
	tests := []struct{ got, want string }{
		{s.Frames("edge1", "live"), "dc1.prometheus.frames.edge1.live"},
		{s.Frames("web1.example.net", "live"), "dc1.prometheus.frames.web1%2Eexample%2Enet.live"},
		{s.Frames("a b>*", "back.log"), "dc1.prometheus.frames.a%20b%3E%2A.back%2Elog"},
		{s.Schema("ü", [16]byte{0xab, 15: 1}), "dc1.prometheus.schemas.%C3%BC.ab000000000000000000000000000001"},
		{s.AllFrames(), "dc1.prometheus.frames.*.*"},
		{s.AllSchemas(), "dc1.prometheus.schemas.*.*"},
	}
	for _, tt := range tests {
		if tt.got != tt.want {
			t.Errorf("got %s, want %s", tt.got, tt.want)
		}
	}
}

func TestUnescapeToken(t *testing.T) {
	good := map[string]string{"": "", "edge1": "edge1", "a%2Eb": "a.b", "%25": "%", "A-b_9": "A-b_9", "%C3%BC%00": "ü\x00"}
	for token, name := range good {
		if got, err := UnescapeToken(token); err != nil || got != name {
			t.Errorf("%q: %q, %v; want %q", token, got, err, name)
		}
	}
	// Each of these would be a second token for a name, or none: two subjects could then claim one publisher.
	bad := map[string]string{
		"a.b": "should be escaped", "ü": "should be escaped", "%2e": "not the escaped form", "%41": "not the escaped form",
		"%": "ends inside", "%2": "ends inside", "a%zzb": "bad escape", "%2E.": "not the escaped form",
		"%FF%00": "UTF-8", "a%C3": "UTF-8",
	}
	for token, why := range bad {
		if got, err := UnescapeToken(token); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %q, %v; want an error that says %q", token, got, err, why)
		}
	}
}

func FuzzEscapeToken(f *testing.F) {
	for _, s := range []string{"", "edge1", "web1.example.net", "%41", "%", "a%2Eb", "\x00\xff", "ü", "*", ">", "a b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		token := EscapeToken(s)
		if strings.ContainsAny(token, ".*> \t\r\n") {
			t.Fatalf("%q becomes %q, which is not one token", s, token)
		}
		if back, err := UnescapeToken(token); utf8.ValidString(s) != (err == nil) || err == nil && back != s {
			t.Fatalf("%q becomes %q and back %q, %v", s, token, back, err)
		}
		// Taken as a token itself, it is either refused or exactly the form of the name it gives.
		if name, err := UnescapeToken(s); err == nil && EscapeToken(name) != s {
			t.Fatalf("token %q gives %q, whose token is %q", s, name, EscapeToken(name))
		}
	})
}

func TestPermissionError(t *testing.T) {
	err := error(&PermissionError{Operation: "publish", Subject: "a.b"})
	if got := err.Error(); !strings.Contains(got, "publish") || !strings.Contains(got, `"a.b"`) {
		t.Errorf("the error does not name what is denied: %s", got)
	}
}
