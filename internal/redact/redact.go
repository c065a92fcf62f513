// Package redact shows URLs, errors and the answers of servers without the secrets in them: in logs, on pages, in what commands
// print. It knows no configuration: the fields that hold secrets are masked by config.
package redact

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// URL is the text of a URL as it may be shown: without its password, and without a user that stands alone, which may be a token.
func URL(u *url.URL) string {
	if _, password := u.User.Password(); u.User != nil && !password {
		hidden := *u
		hidden.User = url.User("xxxxx")
		u = &hidden
	}
	return u.Redacted()
}

// RawURL is URL for one that was not parsed yet.
func RawURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "(not a URL)"
	}
	return URL(u)
}

// userInfo is what stands before the @ of URLs in a text.
var userInfo = regexp.MustCompile(`(://)(?:([^/?#\s"'@:]*):)?[^/?#\s"'@]*@`)

// badRedirect is what Go says of a redirect to what is no URL, with all of it, and that may hold a password.
var badRedirect = regexp.MustCompile(`(failed to )?parse Location header ".*`)

// Text is a text, which may have URLs in it, as it may be shown.
func Text(text string) string {
	text = badRedirect.ReplaceAllString(text, "the redirect leads to what is no URL")
	if !strings.Contains(text, "@") {
		return text
	}
	return userInfo.ReplaceAllStringFunc(text, func(found string) string {
		if user := userInfo.FindStringSubmatch(found)[2]; user != "" {
			return "://" + user + ":xxxxx@"
		}
		return "://xxxxx@"
	})
}

// Error is an error of an HTTP client as it may be shown: without the URL that was asked, which its user knows, and
// without secrets in others.
func Error(err error) error {
	if e := (*url.Error)(nil); errors.As(err, &e) {
		err = e.Err
	}
	if text := err.Error(); Text(text) != text {
		return &unquoted{Text(text), err}
	}
	return err
}

type unquoted struct {
	text string
	err  error
}

func (e *unquoted) Error() string { return e.text }
func (e *unquoted) Unwrap() error { return e.err }

// Answer is the text of an answer as it may be shown: without what the request said in secret, which a server, or a
// proxy before it, may repeat in the page of an error.
func Answer(answer *http.Response, text string) string {
	if answer.Request == nil {
		return text
	}
	for name, values := range answer.Request.Header {
		if openHeader.MatchString(name) {
			continue
		}
		for _, value := range values {
			secrets := []string{value}
			if _, credentials, ok := strings.Cut(value, " "); ok {
				secrets = append(secrets, credentials)
			}
			if user, password, ok := basic(value); ok {
				secrets = append(secrets, user+":"+password, password)
			}
			for _, secret := range secrets {
				if len(secret) > 3 { // less is in any text
					text = strings.ReplaceAll(text, secret, "<secret>")
				}
			}
		}
	}
	return Text(text)
}

// openHeader are headers of requests that hold no secrets.
var openHeader = regexp.MustCompile(`(?i)^(accept|connection|content|host$|retry|user-agent$|x-prometheus)`)

// basic are the user and the password of a header.
func basic(value string) (user, password string, ok bool) {
	scheme, coded, _ := strings.Cut(value, " ")
	text, err := base64.StdEncoding.DecodeString(coded)
	if err != nil || !strings.EqualFold(scheme, "basic") {
		return "", "", false
	}
	return strings.Cut(string(text), ":")
}
