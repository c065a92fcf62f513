package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// decodable is a value with a form of its own in YAML.
type decodable interface {
	decode(d *decoder, path string, n *yaml.Node)
}

// defaulter is a block that has defaults.
type defaulter interface{ defaults() }

// decoder walks the nodes of one file and fills structs by their yaml tags. What it does not like it notes and goes on.
type decoder struct {
	file, dir string
	// lines has, for each key found, by its path (poller_stream.urls, receiver_stream[1].topic), the line.
	lines    map[string]int
	errors   Errors
	warnings []Warning
	fields   map[reflect.Type][]field
	// visited counts the values looked at, which aliases could make endless.
	visited int
}

// maxVisited bounds the values of one file, each use of an alias counted.
const maxVisited = 1_000_000

// items are the children of a mapping or list.
func (d *decoder) items(n *yaml.Node) []*yaml.Node {
	if d.visited > maxVisited {
		return nil
	}
	if d.visited += len(n.Content); d.visited > maxVisited {
		d.errorAt(n.Line, "more than %d values, those of aliases counted", maxVisited)
		return nil
	}
	return n.Content
}

func (d *decoder) err() error { return d.errors.or() }

func (d *decoder) errorAt(line int, format string, args ...any) {
	d.errors.add(d.file, line, fmt.Sprintf(format, args...))
}

// bad notes a problem with the value at path.
func (d *decoder) bad(path string, n *yaml.Node, format string, args ...any) {
	d.errorAt(n.Line, "%s: %s", path, fmt.Sprintf(format, args...))
}

// invalid notes a problem found after the walk, at the line where path was.
func (d *decoder) invalid(path, format string, args ...any) {
	d.errorAt(lineOf(d.lines, path), "%s: %s", path, fmt.Sprintf(format, args...))
}

func (d *decoder) warn(line int, format string, args ...any) {
	if len(d.warnings) < maxErrors {
		d.warnings = append(d.warnings, Warning{File: d.file, Line: line, Text: fmt.Sprintf(format, args...)})
	}
}

// lineOf finds the line of a key, or of the nearest block around it.
func lineOf(lines map[string]int, path string) int {
	for path != "" {
		if line, ok := lines[path]; ok {
			return line
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return 0
}

func reflectOf(pointer any) reflect.Value { return reflect.ValueOf(pointer).Elem() }

// value decodes one node into v.
func (d *decoder) value(path string, n *yaml.Node, v reflect.Value) {
	n = resolve(n)
	if v.Kind() == reflect.Pointer {
		if isNull(n) && v.Type().Elem().Kind() != reflect.Struct {
			return
		}
		v.Set(reflect.New(v.Type().Elem()))
		if b, ok := v.Interface().(defaulter); ok {
			b.defaults()
		}
		d.value(path, n, v.Elem())
		return
	}
	if c, ok := v.Addr().Interface().(decodable); ok {
		if !isNull(n) {
			c.decode(d, path, n)
		}
		return
	}
	if isNull(n) {
		return // a key without a value is as good as none
	}
	switch v.Kind() {
	case reflect.Struct:
		d.block(path, n, v)
	case reflect.Slice:
		d.list(path, n, v)
	case reflect.String:
		if s, ok := d.text(path, n); ok {
			v.SetString(s)
		}
	case reflect.Bool:
		var b bool
		if n.Kind != yaml.ScalarNode || n.Decode(&b) != nil {
			d.bad(path, n, "must be true or false, not %s", kindOf(n))
			return
		}
		v.SetBool(b)
	case reflect.Int:
		i, err := strconv.ParseInt(strings.ReplaceAll(n.Value, "_", ""), 0, 32)
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || err != nil {
			d.bad(path, n, "must be a whole number, not %s", kindOf(n))
			return
		}
		v.SetInt(i)
	}
}

// block decodes a mapping into a struct; every key must be one of its fields.
func (d *decoder) block(path string, n *yaml.Node, v reflect.Value) {
	fields, known := d.fields[v.Type()]
	if !known {
		fields = fieldsOf(v.Type())
		d.fields[v.Type()] = fields
	}
	d.keys(path, n, fields, func(f field, _, value *yaml.Node) {
		d.value(join(path, f.name), value, v.FieldByIndex(f.index))
	})
}

// keys calls visit for each key of a mapping that is among fields, and notes the others.
func (d *decoder) keys(path string, n *yaml.Node, fields []field, visit func(f field, key, value *yaml.Node)) {
	pairs, ok := d.pairs(path, n)
	if !ok {
		return
	}
	seen := map[string]int{}
	for _, p := range pairs {
		i := slices.IndexFunc(fields, func(f field) bool { return f.is(p.key.Value) })
		if i < 0 {
			d.unknown(path, p.key, fields)
			continue
		}
		f := fields[i]
		if line, twice := seen[f.name]; twice {
			if !p.merged {
				d.errorAt(p.key.Line, "duplicate key %s%s; it is on line %d already", quote(p.key.Value), inBlock(path), line)
			}
			continue
		}
		seen[f.name] = p.key.Line
		d.lines[join(path, f.name)] = p.key.Line
		visit(f, p.key, p.value)
	}
}

func (d *decoder) unknown(path string, key *yaml.Node, fields []field) {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	hint := ""
	if s := suggest(key.Value, names); s != "" {
		hint = fmt.Sprintf("; did you mean %q?", s)
	}
	d.errorAt(key.Line, "unknown key %s%s%s", quote(key.Value), inBlock(path), hint)
}

func inBlock(path string) string {
	if path == "" {
		return ""
	}
	return " in " + path
}

// list decodes a sequence.
func (d *decoder) list(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		d.bad(path, n, "must be a list, not %s", kindOf(n))
		return
	}
	items := d.items(n)
	v.Set(reflect.MakeSlice(v.Type(), len(items), len(items)))
	for i, item := range items {
		at := fmt.Sprintf("%s[%d]", path, i)
		d.lines[at] = item.Line
		if b, ok := v.Index(i).Addr().Interface().(defaulter); ok {
			b.defaults()
		}
		d.value(at, item, v.Index(i))
	}
}

// text is the value of a scalar that is meant as a string. Numbers are taken as they are written.
func (d *decoder) text(path string, n *yaml.Node) (string, bool) {
	n = resolve(n)
	tag := n.ShortTag()
	if n.Kind != yaml.ScalarNode || tag == "!!binary" || tag == "!!null" {
		d.bad(path, n, "must be text, not %s", kindOf(n))
		return "", false
	}
	if tag == "!!bool" {
		d.bad(path, n, "must be text, not %s; put it in quotes if it is meant as text", kindOf(n))
		return "", false
	}
	return n.Value, true
}

// pair is one key of a mapping and its value.
type pair struct {
	key, value *yaml.Node
	// merged tells that it comes from a merge key (<<), so that one written out goes first.
	merged bool
}

// pairs lists a mapping's keys and values, those of merge keys at the end.
func (d *decoder) pairs(path string, n *yaml.Node) ([]pair, bool) {
	n = resolve(n)
	if n.Kind != yaml.MappingNode {
		d.bad(orTop(path), n, "must be a mapping of keys to values, not %s", kindOf(n))
		return nil, false
	}
	var own, merged []pair
	items := d.items(n)
	for i := 0; i+1 < len(items); i += 2 {
		key, value := resolve(items[i]), resolve(items[i+1])
		switch {
		case key.ShortTag() == "!!merge":
			merged = append(merged, d.merge(path, value)...)
		case key.Kind != yaml.ScalarNode:
			d.errorAt(key.Line, "a key%s must be text, not %s", inBlock(path), kindOf(key))
		default:
			own = append(own, pair{key: key, value: value})
		}
	}
	return append(own, merged...), true
}

// merge lists what a merge key brings in: a mapping or a list of them, one level deep.
func (d *decoder) merge(path string, n *yaml.Node) []pair {
	sources := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		sources = d.items(n)
	}
	var out []pair
	for _, s := range sources {
		s = resolve(s)
		if s.Kind != yaml.MappingNode {
			d.errorAt(n.Line, "a merge key (<<)%s takes a mapping, not %s", inBlock(path), kindOf(s))
			continue
		}
		items := d.items(s)
		for i := 0; i+1 < len(items); i += 2 {
			key := resolve(items[i])
			if key.Kind != yaml.ScalarNode || key.ShortTag() == "!!merge" {
				d.errorAt(key.Line, "a merge key (<<)%s takes a mapping of plain keys", inBlock(path))
				continue
			}
			out = append(out, pair{key: key, value: resolve(items[i+1]), merged: true})
		}
	}
	return out
}

// field is one key of a block.
type field struct {
	name, alias string
	index       []int
	kind        reflect.Type
}

func (f field) is(key string) bool {
	return strings.EqualFold(f.name, key) || f.alias != "" && strings.EqualFold(f.alias, key)
}

// fieldsOf lists the keys of a struct type, those of inlined structs among them.
func fieldsOf(t reflect.Type) []field {
	var out []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case options == "inline" && f.Type.Kind() == reflect.Struct:
			for _, inner := range fieldsOf(f.Type) {
				inner.index = append([]int{i}, inner.index...)
				out = append(out, inner)
			}
		case name != "" && name != "-":
			out = append(out, field{name: name, alias: f.Tag.Get("alias"), index: []int{i}, kind: f.Type})
		}
	}
	return out
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func orTop(path string) string {
	if path == "" {
		return "the file"
	}
	return path
}

func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// kindOf names what a node is, without what it holds: that may be a secret.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!bool":
		return "true or false"
	case "!!int":
		return "a whole number"
	case "!!float":
		return "a number"
	}
	return "text"
}
