package config

import (
	"fmt"
	"log/slog"
	"math"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"
)

// Duration is a time.Duration written as Go or Prometheus write it: 1m30s, 1.5h, 2d. It is never negative.
type Duration time.Duration

// D is the duration as Go's type.
func (v Duration) D() time.Duration { return time.Duration(v) }

// Or is the duration, or otherwise if there is none.
func (v *Duration) Or(otherwise time.Duration) time.Duration {
	if v == nil {
		return otherwise
	}
	return time.Duration(*v)
}

func (v Duration) String() string {
	if d := time.Duration(v); d%time.Millisecond == 0 {
		return model.Duration(d).String()
	}
	return time.Duration(v).String()
}

// MarshalYAML shows the duration as it can be read again.
func (v Duration) MarshalYAML() (any, error) { return v.String(), nil }

func (v *Duration) decode(d *decoder, path string, n *yaml.Node) {
	s, ok := d.text(path, n)
	if !ok {
		return
	}
	parsed, err := parseDuration(s)
	if err != nil {
		hint := ""
		if _, err := strconv.ParseUint(s, 10, 63); err == nil {
			hint = fmt.Sprintf("; a duration has a unit: %ss?", clip(s))
		}
		d.bad(path, n, "not a duration: %s%s", quote(s), hint)
		return
	}
	*v = Duration(parsed)
}

// Age is a Duration that may also be written as plain seconds.
type Age time.Duration

// D is the age as Go's type.
func (v Age) D() time.Duration { return time.Duration(v) }

func (v Age) String() string { return Duration(v).String() }

// MarshalYAML shows the age as it can be read again.
func (v Age) MarshalYAML() (any, error) { return v.String(), nil }

func (v *Age) decode(d *decoder, path string, n *yaml.Node) {
	n = resolve(n)
	if n.Kind == yaml.ScalarNode {
		if seconds, err := strconv.ParseUint(n.Value, 10, 63); err == nil {
			if seconds > uint64(math.MaxInt64/time.Second) {
				d.bad(path, n, "more seconds than fit: %s", quote(n.Value))
				return
			}
			*v = Age(time.Duration(seconds) * time.Second)
			return
		}
	}
	var plain Duration
	plain.decode(d, path, n)
	*v = Age(plain)
}

func parseDuration(s string) (time.Duration, error) {
	parsed, err := time.ParseDuration(s)
	if err != nil {
		var p model.Duration
		if p, err = model.ParseDuration(s); err != nil {
			return 0, err
		}
		parsed = time.Duration(p)
	}
	if parsed < 0 {
		return 0, fmt.Errorf("negative duration %q", s)
	}
	return parsed, nil
}

// Size is a number of bytes, written plain or with B, KiB, MiB, GiB or TiB (KB, MB, GB and TB mean the same, as they do
// for Prometheus and NATS).
type Size int64

// Units of sizes.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
	tib Size = 1 << 40
)

func (v Size) String() string {
	units := []string{"TiB", "GiB", "MiB", "KiB"}
	for i, unit := range []Size{tib, GiB, MiB, KiB} {
		if v != 0 && v%unit == 0 {
			return strconv.FormatInt(int64(v/unit), 10) + units[i]
		}
	}
	return strconv.FormatInt(int64(v), 10)
}

// MarshalYAML shows the size as it can be read again.
func (v Size) MarshalYAML() (any, error) {
	if v%KiB != 0 || v == 0 {
		return int64(v), nil
	}
	return v.String(), nil
}

func (v *Size) decode(d *decoder, path string, n *yaml.Node) {
	s, ok := d.text(path, n)
	if !ok {
		return
	}
	m := regexp.MustCompile(`^(\d{1,18})\s*(?:([kmgtKMGT])i?)?[bB]?$`).FindStringSubmatch(s)
	if m == nil {
		d.bad(path, n, "not a size: %s; a size is like 512KiB, 64MiB or 1GiB", quote(s))
		return
	}
	number, _ := strconv.ParseInt(m[1], 10, 64)
	unit := map[string]Size{"": 1, "k": KiB, "m": MiB, "g": GiB, "t": tib}[strings.ToLower(m[2])]
	if number > math.MaxInt64/int64(unit) {
		d.bad(path, n, "more bytes than fit: %s", quote(s))
		return
	}
	*v = Size(number) * unit
}

// Secret is text that masks itself whenever it is shown; string(s) is the secret.
type Secret string

// masked stands for a secret that is set.
const masked = "<secret>"

func (v Secret) String() string {
	if v == "" {
		return ""
	}
	return masked
}

// GoString masks it for %#v.
func (v Secret) GoString() string { return strconv.Quote(v.String()) }

// LogValue masks it in logs.
func (v Secret) LogValue() slog.Value { return slog.StringValue(v.String()) }

// MarshalText masks it in JSON and the like.
func (v Secret) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// MarshalYAML masks it in a shown configuration.
func (v Secret) MarshalYAML() (any, error) { return v.String(), nil }

func (v *Secret) decode(d *decoder, path string, n *yaml.Node) {
	if s, ok := d.text(path, n); ok {
		*v = Secret(s)
	}
}

// URL is a URL that masks the user information in it whenever it is shown; string(u) is the whole.
type URL string

func (v URL) String() string { return redact(string(v)) }

// GoString masks it for %#v.
func (v URL) GoString() string { return strconv.Quote(v.String()) }

// LogValue masks it in logs.
func (v URL) LogValue() slog.Value { return slog.StringValue(v.String()) }

// MarshalText masks it in JSON and the like.
func (v URL) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// MarshalYAML masks it in a shown configuration.
func (v URL) MarshalYAML() (any, error) { return v.String(), nil }

func (v *URL) decode(d *decoder, path string, n *yaml.Node) {
	if s, ok := d.text(path, n); ok {
		if *v = URL(strings.TrimSpace(s)); *v == "" {
			d.bad(path, n, "empty URL")
		}
	}
}

// URLs is a list of URLs, written as a YAML list or with commas.
type URLs []URL

func (v *URLs) decode(d *decoder, path string, n *yaml.Node) {
	items := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		items = d.items(n)
	}
	for _, item := range items {
		s, ok := d.text(path, resolve(item))
		if !ok {
			continue
		}
		for one := range strings.SplitSeq(s, ",") {
			if one = strings.TrimSpace(one); one == "" {
				d.bad(path, item, "empty URL in %s", quote(s))
				continue
			}
			*v = append(*v, URL(one))
		}
	}
	if n.Kind == yaml.SequenceNode && len(items) == 0 {
		d.bad(path, n, "empty list of URLs")
	}
}

// redact hides the user information of all URLs in s: the password, and what stands alone before the @, which NATS takes
// as a token. Text that is no proper URL is rather hidden too much.
func redact(s string) string {
	if !strings.Contains(s, "@") {
		return s
	}
	hide := func(re, s string) string {
		find := regexp.MustCompile(re)
		return find.ReplaceAllStringFunc(s, func(m string) string {
			part := find.FindStringSubmatch(m)
			if user, _, ok := strings.Cut(part[2], ":"); ok {
				return part[1] + user + ":xxxxx@"
			}
			return part[1] + "xxxxx@"
		})
	}
	s = hide(`([A-Za-z][A-Za-z0-9+.-]*://)([^/?#\s]*|[^/?#\s:@]*:[^\s@/]*[^\d/@\s][^\s@]*)@`, s)
	return hide(`(^|,\s*)([^/?#\s@,:]*(?::[^/?#\s@,]*)?)@`, s)
}

// parseURL is url.Parse with an error that does not repeat the URL, which may hold a password.
func parseURL(u URL) (*url.URL, error) {
	parsed, err := url.Parse(string(u))
	if err != nil {
		if inner, ok := err.(*url.Error); ok { //nolint:errorlint // url.Parse returns exactly this
			err = inner.Err
		}
		return nil, fmt.Errorf("not a URL: %s: %s", quote(string(u)), quote(err.Error()))
	}
	return parsed, nil
}

// PublisherLabel is the name of the label that a sink adds with the name of the publisher; "" adds none. In the file:
// true for "publisher", false for none, or a name.
type PublisherLabel string

// MarshalYAML shows the name, or false.
func (v PublisherLabel) MarshalYAML() (any, error) {
	if v == "" {
		return false, nil
	}
	return string(v), nil
}

func (v *PublisherLabel) decode(d *decoder, path string, n *yaml.Node) {
	var on bool
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!bool" && n.Decode(&on) == nil {
		*v = ""
		if on {
			*v = "publisher"
		}
		return
	}
	s, ok := d.text(path, n)
	if !ok {
		return
	}
	switch {
	case !model.LegacyValidation.IsValidLabelName(s) || strings.HasPrefix(s, "__"):
		d.bad(path, n, "illegal label name %s; it takes true, false or the name of a label", quote(s))
	case s == "job" || s == "instance":
		d.bad(path, n, "the label %q is the target's own; take another name", s)
	default:
		*v = PublisherLabel(s)
	}
}

// ExternalLabels are label names and their values.
type ExternalLabels map[string]string

func (v *ExternalLabels) decode(d *decoder, path string, n *yaml.Node) {
	pairs, ok := d.pairs(path, n)
	if !ok {
		return
	}
	*v = make(ExternalLabels, len(pairs))
	for _, p := range pairs {
		name, at := p.key.Value, join(path, p.key.Value)
		value, ok := d.text(at, p.value)
		_, twice := (*v)[name]
		switch {
		case !ok:
		case twice && !p.merged:
			d.errorAt(p.key.Line, "duplicate key %s in %s", quote(name), path)
		case twice:
		case !model.UTF8Validation.IsValidLabelName(name) || strings.HasPrefix(name, "__"):
			d.errorAt(p.key.Line, "%s: illegal label name %s", path, quote(name))
		case !utf8.ValidString(value):
			d.bad(at, p.value, "value is not UTF-8")
		default:
			(*v)[name] = value
			d.lines[at] = p.key.Line
		}
	}
}

// DefaultEvery is what true means as an Every.
const DefaultEvery = Every(15 * time.Second)

// Every is how often something is done that is off by default; 0 is never. In the file: true, false or a duration of at
// least a second.
type Every time.Duration

// MarshalYAML shows the duration, or false.
func (v Every) MarshalYAML() (any, error) {
	if v == 0 {
		return false, nil
	}
	return Duration(v).MarshalYAML()
}

func (v *Every) decode(d *decoder, path string, n *yaml.Node) {
	var on bool
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!bool" && n.Decode(&on) == nil {
		*v = 0
		if on {
			*v = DefaultEvery
		}
		return
	}
	var every Duration
	before := len(d.errors.List) + d.errors.Omitted
	every.decode(d, path, n)
	if before != len(d.errors.List)+d.errors.Omitted {
		return
	}
	if every != 0 && time.Duration(every) < time.Second {
		d.bad(path, n, "%s is less than a second; it takes true, false or a duration", quote(n.Value))
		return
	}
	*v = Every(every)
}
