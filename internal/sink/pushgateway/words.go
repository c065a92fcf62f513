package pushgateway

import (
	"strconv"
	"strings"

	"github.com/prometheus/common/model"
)

// The gateway's answers are the only place where it says what it does not take. They are read for hints: where the words
// are others, nothing is lost but the rest of the push.

// insisted is what the gateway has of a metric of its own, where a push says another thing.
type insisted struct {
	name string
	typ  model.MetricType // empty if it is about the help
	help string
}

// insists reads that the gateway has a metric of its own with another type or help.
func insists(words string) (in insisted, ok bool) {
	_, should, ok := strings.Cut(words, " but should have ")
	if !ok {
		return in, false
	}
	if in.name, ok = between(words, "gathered metric family ", " has help "); ok {
		quoted, err := strconv.QuotedPrefix(should)
		if err != nil {
			return in, false
		}
		in.help, err = strconv.Unquote(quoted)
		return in, err == nil
	}
	if in.name, ok = between(words, "gathered metric family ", " has type "); !ok {
		return in, false
	}
	if i := strings.IndexAny(should, " \n"); i >= 0 {
		should = should[:i]
	}
	switch should {
	case "COUNTER":
		in.typ = model.MetricTypeCounter
	case "GAUGE":
		in.typ = model.MetricTypeGauge
	case "SUMMARY":
		in.typ = model.MetricTypeSummary
	case "HISTOGRAM":
		in.typ = model.MetricTypeHistogram
	case "UNTYPED":
		in.typ = model.MetricTypeUnknown
	}
	return in, in.typ != ""
}

// differs tells whether the content says another thing of the metric.
func (c *content) differs(in insisted) bool {
	for i := range c.families {
		if f := &c.families[i]; f.name == in.name {
			return in.typ != "" && f.typ != in.typ || in.typ == "" && f.help != in.help
		}
	}
	return false
}

// named gives the metric of the content that an answer names.
func (c *content) named(words string) (string, bool) {
	for _, quote := range [][2]string{
		{`collected metric "`, `"`},
		{`collected metric named "`, `"`},
		{`collected histogram or summary named "`, `"`},
		{`previously collected histogram named "`, `"`},
		{`previously collected summary named "`, `"`},
		{`metric family `, ` `},
		{`for metric "`, `"`},
		{`metric name "`, `"`},
	} {
		name, ok := between(words, quote[0], quote[1])
		if !ok {
			continue
		}
		for i := range c.families {
			if c.families[i].name == name {
				return name, true
			}
		}
	}
	return "", false
}

// aboutNames tells whether an answer complains of the form of a name.
func aboutNames(words string) bool {
	for _, w := range []string{"invalid name", "invalid metric name", "invalid label name"} {
		if strings.Contains(words, w) {
			return true
		}
	}
	return false
}

func between(s, before, after string) (string, bool) {
	_, s, ok := strings.Cut(s, before)
	if !ok {
		return "", false
	}
	s, _, ok = strings.Cut(s, after)
	return s, ok
}
