package harness

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Page is a parsed exposition.
type Page map[string]*dto.MetricFamily

// ParsePage reads the text format.
func ParsePage(body string) (Page, error) {
	p := expfmt.NewTextParser(model.UTF8Validation)
	families, err := p.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	return families, nil
}

// Scrape fetches and parses a page in the text format.
func Scrape(url string) (Page, error) {
	status, body, err := Get(url, "Accept", "text/plain;version=0.0.4")
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("%s: status %d: %s", url, status, lastLines(body, 3))
	}
	return ParsePage(body)
}

// MustScrape is Scrape for a page that has to be there.
func MustScrape(t testing.TB, url string) Page {
	t.Helper()
	p, err := Scrape(url)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Labels names the labels a sample must have; other labels of it do not matter. An empty value means without it.
type Labels map[string]string

// Values are the values of the samples of one metric that have the labels, by all their labels. Counters, gauges and
// untyped samples only.
func (p Page) Values(name string, want Labels) map[string]float64 {
	found := map[string]float64{}
	family := p[name]
	if family == nil {
		return found
	}
	for _, m := range family.Metric {
		got := map[string]string{}
		for _, l := range m.Label {
			got[l.GetName()] = l.GetValue()
		}
		if !has(got, want) {
			continue
		}
		found[fmt.Sprint(got)] = value(m)
	}
	return found
}

// Sum adds up Values; nothing found is 0.
func (p Page) Sum(name string, want Labels) float64 {
	sum := 0.0
	for v := range maps.Values(p.Values(name, want)) {
		sum += v
	}
	return sum
}

// Count is the number of samples with the labels, in all metrics of the page.
func (p Page) Count(want Labels) int {
	n := 0
	for name := range p {
		n += len(p.Values(name, want))
	}
	return n
}

func has(got map[string]string, want Labels) bool {
	for name, v := range want {
		if got[name] != v {
			return false
		}
	}
	return true
}

func value(m *dto.Metric) float64 {
	switch {
	case m.Counter != nil:
		return m.Counter.GetValue()
	case m.Gauge != nil:
		return m.Gauge.GetValue()
	default:
		return m.Untyped.GetValue()
	}
}
