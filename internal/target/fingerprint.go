package target

import (
	"fmt"
	"io"
	"reflect"
	"slices"
)

// maxDepth of what is fingerprinted; settings are far flatter.
const maxDepth = 32

// fingerprint writes all of a value, secrets and unexported fields too, so that two values give the same bytes if and
// only if they are deeply equal. Functions and channels, which settings do not have, count as nothing.
func fingerprint(w io.Writer, v reflect.Value, depth int) {
	if depth > maxDepth {
		return
	}
	put := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			put("nil;")
			return
		}
		put("&%s ", v.Elem().Type())
		fingerprint(w, v.Elem(), depth+1)
	case reflect.Struct:
		put("{")
		for i := range v.NumField() {
			fingerprint(w, v.Field(i), depth+1)
		}
		put("}")
	case reflect.Slice, reflect.Array:
		put("[%d:", v.Len())
		for i := range v.Len() {
			fingerprint(w, v.Index(i), depth+1)
		}
		put("]")
	case reflect.Map:
		put("map[%d:", v.Len())
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int {
			return slices.Compare([]byte(fmt.Sprint(a)), []byte(fmt.Sprint(b)))
		})
		for _, k := range keys {
			fingerprint(w, k, depth+1)
			fingerprint(w, v.MapIndex(k), depth+1)
		}
		put("]")
	case reflect.String:
		put("%d:%s;", v.Len(), v.String())
	case reflect.Bool:
		put("%t;", v.Bool())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		put("%d;", v.Int())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		put("%d;", v.Uint())
	case reflect.Float32, reflect.Float64:
		put("%x;", v.Float())
	}
}
