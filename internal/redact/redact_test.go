package redact

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestText(t *testing.T) {
	for text, want := range map[string]string{
		"Get http://me:canary@h/x: no answer": "Get http://me:xxxxx@h/x: no answer",
		"https://canary@h":                    "https://xxxxx@h",
		"http://:canary@h":                    "http://xxxxx@h",
		"a://b:canary@c and d://e:canary@f":   "a://b:xxxxx@c and d://e:xxxxx@f",
		"http://h/x?mail=me@h":                "http://h/x?mail=me@h",
		"me@h":                                "me@h",
		`failed to parse Location header "http://me:ca/nary@%zz": bad`: "the redirect leads to what is no URL",
	} {
		if got := Text(text); got != want {
			t.Errorf("%s is shown as %s, want %s", text, got, want)
		}
		if err := Error(&url.Error{Op: "Get", URL: "http://canary@h", Err: errors.New(text)}); err.Error() != want {
			t.Errorf("the error %s is shown as %s", text, err)
		}
	}
	for raw, want := range map[string]string{"http://me:canary@h/x": "http://me:xxxxx@h/x", "http://canary@h": "http://xxxxx@h", "http://h/x": "http://h/x"} {
		if u, err := url.Parse(raw); err != nil || URL(u) != want {
			t.Errorf("%s is shown as %s", raw, URL(u))
		}
	}
}

// A server that repeats what it was asked with does not bring our secrets into the log.
func TestAnswer(t *testing.T) {
	r, err := http.NewRequest(http.MethodPost, "http://h", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth("me", "canary1")
	r.Header.Set("X-Token", "canary2")
	r.Header.Set("X-Other", "Bearer canary3")
	r.Header.Set("Content-Type", "text/plain")
	text := "no: " + r.Header.Get("Authorization") + ", me:canary1, canary1, canary2, canary3, http://me:canary4@h, text/plain"
	got := Answer(&http.Response{Request: r}, text)
	coded := strings.TrimPrefix(r.Header.Get("Authorization"), "Basic ")
	if strings.Contains(got, "canary") || strings.Contains(got, coded) || !strings.Contains(got, "text/plain") || !strings.Contains(got, "no: ") {
		t.Errorf("%s is shown as %s", text, got)
	}
}
