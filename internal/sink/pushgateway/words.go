package pushgateway

import (
	"strings"

	"github.com/prometheus/common/model"
)

// The gateway's answers are the only place where it says what it does not take. They are read for hints: where the words
// are others, nothing is lost but the rest of the push.

// insists reads that the gateway has a metric of its own with another type.
func insists(words string) (name string, typ model.MetricType) {
	name, ok := between(words, "gathered metric family ", " has type ")
	if !ok {
		return "", ""
	}
	_, should, ok := strings.Cut(words, " but should have ")
	if !ok {
		return "", ""
	}
	if i := strings.IndexAny(should, " \n"); i >= 0 {
		should = should[:i]
	}
	switch should {
	case "COUNTER":
		return name, model.MetricTypeCounter
	case "GAUGE":
		return name, model.MetricTypeGauge
	case "SUMMARY":
		return name, model.MetricTypeSummary
	case "HISTOGRAM":
		return name, model.MetricTypeHistogram
	case "UNTYPED":
		return name, model.MetricTypeUnknown
	}
	return "", ""
}

// differs tells whether the content has a family with another type.
func (c *content) differs(name string, typ model.MetricType) bool {
	for i := range c.families {
		if c.families[i].name == name {
			return c.families[i].typ != typ
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
