package pushgateway

import (
	"encoding/base64"
	"fmt"
	"strings"
)

// key names a group: the labels that its path spells. The gateway sets them on every series of the group.
type key struct {
	job, instance string
	// label and publisher are the publisher's label; label is empty without one.
	label, publisher string
}

const (
	pathRoot     = "/metrics"
	base64Suffix = "@base64"
)

// path spells the group below the gateway's URL. Equal groups have equal paths, other groups other ones: it is the
// group's name everywhere in this room.
//
// The order of the parts is that of version 1.0. A value that has only characters which no client, proxy or gateway
// changes stands as it is, any other one in the gateway's base64 form.
func (k key) path() string {
	var b strings.Builder
	b.WriteString(pathRoot)
	writePart(&b, "job", k.job)
	writePart(&b, "instance", k.instance)
	if k.label != "" {
		writePart(&b, k.label, k.publisher)
	}
	return b.String()
}

func writePart(b *strings.Builder, name, value string) {
	b.WriteByte('/')
	b.WriteString(name)
	if plain(value) {
		b.WriteByte('/')
		b.WriteString(value)
		return
	}
	b.WriteString(base64Suffix)
	b.WriteByte('/')
	if value == "" {
		b.WriteByte('=') // an empty path element would be cleaned away
		return
	}
	b.WriteString(base64.RawURLEncoding.EncodeToString([]byte(value)))
}

// plain tells whether a value may stand in a path as it is.
func plain(v string) bool {
	if v == "" || v == "." || v == ".." {
		return false
	}
	for i := range len(v) {
		c := v[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
			c == '-' || c == '_' || c == '.' || c == ':') {
			return false
		}
	}
	return true
}

// parsePath reads what path spells; it takes nothing else.
func parsePath(p string) (key, error) {
	bad := func(why string) (key, error) { return key{}, fmt.Errorf("path of a group %.200q: %s", p, why) }
	rest, ok := strings.CutPrefix(p, pathRoot+"/")
	if !ok {
		return bad("does not begin with " + pathRoot)
	}
	parts := strings.Split(rest, "/")
	if len(parts) != 4 && len(parts) != 6 {
		return bad("has not two or three labels")
	}
	var k key
	for i := 0; i < len(parts); i += 2 {
		name, value := parts[i], parts[i+1]
		if n, coded := strings.CutSuffix(name, base64Suffix); coded {
			b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(value, "="))
			if err != nil {
				return bad(err.Error())
			}
			name, value = n, string(b)
		}
		switch {
		case i == 0 && name == "job":
			k.job = value
		case i == 2 && name == "instance":
			k.instance = value
		case i == 4:
			k.label, k.publisher = name, value
		default:
			return bad("has another label where job or instance belongs")
		}
	}
	if k.path() != p {
		return bad("is not in its canonical form")
	}
	return k, nil
}
