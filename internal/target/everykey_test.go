package target

import (
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	commonconfig "github.com/prometheus/common/config"
	promconfig "github.com/prometheus/prometheus/config"
)

// testdata/everykey.yml, which a real Prometheus and we are to list alike, has every key that Prometheus has.
func TestEveryKeyIsThere(t *testing.T) {
	text := read(t, filepath.Join("testdata", "everykey.yml"))
	keys := 0
	var walk func(of reflect.Type)
	walk = func(of reflect.Type) {
		for i := range of.NumField() {
			f := of.Field(i)
			name, rest, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			switch {
			case name == "-" || !f.IsExported():
			case rest == "inline":
				if f.Type.Kind() == reflect.Struct {
					walk(f.Type)
				}
			case name == "":
			default:
				keys++
				if !regexp.MustCompile(`(^|[\s{,-])` + name + `:`).MatchString(text) {
					t.Errorf("everykey.yml lacks %s", name)
				}
			}
		}
	}
	walk(reflect.TypeFor[promconfig.ScrapeConfig]())
	walk(reflect.TypeFor[commonconfig.HTTPClientConfig]())
	if keys < 40 {
		t.Errorf("only %d keys looked for", keys)
	}
}
