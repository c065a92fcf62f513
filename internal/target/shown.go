package target

import (
	"net/url"
	"regexp"
	"strings"
)

// ShownURL is a URL as it may be shown: without its password, and without a user that stands alone, which may be a token.
func ShownURL(u *url.URL) string {
	if _, password := u.User.Password(); u.User != nil && !password {
		hidden := *u
		hidden.User = url.User("xxxxx")
		u = &hidden
	}
	return u.Redacted()
}

// userInfo is what stands before the @ of URLs in a text.
var userInfo = regexp.MustCompile(`(://)(?:([^/?#\s"'@:]*):)?[^/?#\s"'@]*@`)

// badRedirect is what Go says of a redirect to what is no URL, with all of it, and that may hold a password.
var badRedirect = regexp.MustCompile(`(failed to )?parse Location header ".*`)

// Shown is a text, which may have URLs in it, as it may be shown.
func Shown(text string) string {
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
