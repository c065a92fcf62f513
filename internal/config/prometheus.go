package config

import (
	"reflect"
	"regexp"
	"slices"
	"strings"

	promconfig "github.com/prometheus/common/config"
	"go.yaml.in/yaml/v3"
)

// PushGateway is the Push Gateway that frames are pushed to.
type PushGateway struct {
	URL            URL            `yaml:"url"`
	PublisherLabel PublisherLabel `yaml:"publisher_label"`
	// Method is put, or post as 1.0 did it.
	Method string `yaml:"method"`
	// StaleAfter is when the group of a silent target is deleted: nil is max(5 intervals, 5m), 0 is never.
	StaleAfter *Duration `yaml:"stale_after,omitempty"`
	// Timeout of one push; nil is the target's interval, between 5 and 30 seconds.
	Timeout *Duration `yaml:"timeout,omitempty"`

	// HTTP are Prometheus' keys for HTTP clients: basic_auth, authorization, tls_config and so on.
	HTTP promconfig.HTTPClientConfig `yaml:",inline"`
}

// MarshalYAML shows the block without its secrets, of which Prometheus' own types mask some only.
func (v PushGateway) MarshalYAML() (any, error) {
	type plain PushGateway // without this method
	n := &yaml.Node{}
	if err := n.Encode(plain(v)); err != nil {
		return nil, err
	}
	return newMask().node(n, 0), nil
}

// RemoteWrite is one of Prometheus' remote_write blocks with our keys besides.
type RemoteWrite struct {
	Name             string         `yaml:"name"`
	URL              URL            `yaml:"url"`
	Protocol         string         `yaml:"protocol"`
	PublisherLabel   PublisherLabel `yaml:"publisher_label"`
	OutOfOrderWindow Duration       `yaml:"out_of_order_window"`
	LateDirectory    string         `yaml:"late_directory"`
	// LateMaxSize bounds what is in LateDirectory; 0 is 1 GiB.
	LateMaxSize Size `yaml:"late_max_size"`
	// PublisherMetrics is how often what is known of publishers is written; 0 is never.
	PublisherMetrics Every `yaml:"publisher_metrics"`
	Line             int   `yaml:"-"`
	// Prometheus has the whole block, our keys among it, and Block what of Prometheus' keys is used.
	Prometheus *yaml.Node       `yaml:"-"`
	Block      RemoteWriteBlock `yaml:"-"`
}

// RemoteWrites are the blocks of remote_write.
type RemoteWrites []RemoteWrite

// pushGatewayKeys are our own keys of push_gateway.
func pushGatewayKeys() []field {
	return slices.DeleteFunc(fieldsOf(reflect.TypeFor[PushGateway]()), func(f field) bool { return len(f.index) > 1 })
}

func (v *PushGateway) defaults() {
	*v = PushGateway{Method: "put", HTTP: promconfig.DefaultHTTPClientConfig}
}

func (v *PushGateway) decode(d *decoder, path string, n *yaml.Node) {
	own := pushGatewayKeys()
	http := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: n.Line, Column: n.Column}
	all := append(slices.Clone(own), fieldsOf(reflect.TypeFor[promconfig.HTTPClientConfig]())...)
	target := reflectOf(v)
	before := len(d.errors.List) + d.errors.Omitted
	d.keys(path, n, all, func(f field, key, value *yaml.Node) {
		if i := slices.IndexFunc(own, func(o field) bool { return o.name == f.name }); i >= 0 {
			d.value(join(path, f.name), value, target.FieldByIndex(own[i].index))
			return
		}
		name := *key
		name.Value = f.name
		http.Content = append(http.Content, &name, d.foreign(join(path, f.name), value, f.kind))
	})
	if before != len(d.errors.List)+d.errors.Omitted {
		return
	}
	if err := http.Decode(&v.HTTP); err != nil {
		d.bad(path, n, "%s", foreignError(err))
		return
	}
	v.HTTP.SetDirectory(d.dir)
}

// foreign checks a node against one of Prometheus' own types, whose decoding would not name file and key, and returns it
// with the keys in the case in which that type knows them.
func (d *decoder) foreign(path string, n *yaml.Node, t reflect.Type) *yaml.Node {
	n = resolve(n)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if isNull(n) {
		return n
	}
	switch t.Kind() {
	case reflect.Struct:
		fields := fieldsOf(t)
		if inner, ok := openMap(t); ok {
			return d.foreignMap(path, n, inner)
		}
		if len(fields) == 0 { // url.URL and the like: text in YAML
			d.foreignScalar(path, n)
			return n
		}
		out := *n
		out.Content = nil
		d.keys(path, n, fields, func(f field, key, value *yaml.Node) {
			name := *key
			name.Value = f.name
			out.Content = append(out.Content, &name, d.foreign(join(path, f.name), value, f.kind))
		})
		return &out
	case reflect.Map:
		return d.foreignMap(path, n, t.Elem())
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			d.bad(path, n, "must be a list, not %s", kindOf(n))
			return n
		}
		out := *n
		out.Content = nil
		for _, item := range d.items(n) {
			out.Content = append(out.Content, d.foreign(path, item, t.Elem()))
		}
		return &out
	case reflect.Interface:
		return n
	}
	d.foreignScalar(path, n)
	return n
}

func (d *decoder) foreignMap(path string, n *yaml.Node, t reflect.Type) *yaml.Node {
	pairs, ok := d.pairs(path, n)
	if !ok {
		return n
	}
	out := *n
	out.Content = nil
	seen := map[string]bool{}
	for _, p := range pairs {
		if seen[p.key.Value] {
			if !p.merged {
				d.errorAt(p.key.Line, "duplicate key %s%s", quote(p.key.Value), inBlock(path))
			}
			continue
		}
		seen[p.key.Value] = true
		out.Content = append(out.Content, p.key, d.foreign(join(path, p.key.Value), p.value, t))
	}
	return &out
}

func (d *decoder) foreignScalar(path string, n *yaml.Node) {
	if n.Kind != yaml.ScalarNode {
		d.bad(path, n, "must be one value, not %s", kindOf(n))
	}
}

// openMap tells that a struct is a mapping with keys of the user's choice (http_headers), and what those hold.
func openMap(t reflect.Type) (reflect.Type, bool) {
	for i := range t.NumField() {
		if f := t.Field(i); f.Type.Kind() == reflect.Map && strings.HasSuffix(f.Tag.Get("yaml"), ",inline") {
			return f.Type.Elem(), true
		}
	}
	return nil, false
}

// foreignError is the text of a decoding error without the value in it, which may be a secret.
func foreignError(err error) string {
	return clip(regexp.MustCompile("`[^`]*`").ReplaceAllString(strings.TrimPrefix(err.Error(), "yaml: "), "…"))
}

func (v *RemoteWrites) decode(d *decoder, path string, n *yaml.Node) {
	names := map[string]int{}
	d.foreignBlocks(path, n, reflect.TypeFor[RemoteWrite](), func(at string, rest *yaml.Node, own reflect.Value) {
		k := own.Interface().(RemoteWrite)
		if k.URL == "" {
			d.errorAt(rest.Line, "%s: remote write without url", at)
		} else {
			d.httpURL(at+".url", k.URL)
		}
		if !slices.Contains([]string{"", "auto", "1", "2"}, k.Protocol) {
			d.invalid(at+".protocol", "not auto, 1 or 2: %s", quote(k.Protocol))
		}
		k.Line, k.Prometheus = rest.Line, rest
		if line, twice := names[k.Name]; twice && k.Name != "" {
			d.errorAt(rest.Line, "%s: the name %s is on line %d already", at, quote(k.Name), line)
		}
		names[k.Name] = rest.Line
		k.block(d, at, rest)
		*v = append(*v, k)
	})
}

// foreignBlocks decodes a list of Prometheus' blocks: the keys of the struct type own, wherever they are, and the whole
// block besides. Prometheus' keys have one case.
func (d *decoder) foreignBlocks(path string, n *yaml.Node, own reflect.Type, add func(at string, rest *yaml.Node, own reflect.Value)) {
	if n.Kind != yaml.SequenceNode {
		d.bad(path, n, "must be a list, not %s", kindOf(n))
		return
	}
	fields := fieldsOf(own)
	for i, item := range d.items(n) {
		item = resolve(item)
		at := path + "[" + itoa(i) + "]"
		d.lines[at] = item.Line
		pairs, ok := d.pairs(at, item)
		if !ok {
			continue
		}
		values := reflect.New(own).Elem()
		seen := map[string]bool{}
		for _, p := range pairs {
			if seen[p.key.Value] && !p.merged {
				d.errorAt(p.key.Line, "duplicate key %s in %s", quote(p.key.Value), at)
			}
			seen[p.key.Value] = true
			if i := slices.IndexFunc(fields, func(f field) bool { return f.name == p.key.Value }); i >= 0 {
				d.lines[join(at, fields[i].name)] = p.key.Line
				d.value(join(at, fields[i].name), p.value, values.FieldByIndex(fields[i].index))
			}
		}
		add(at, item, values)
	}
}
