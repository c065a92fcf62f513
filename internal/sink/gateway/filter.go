package gateway

import (
	"fmt"
	"net/url"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

const (
	// maxSelectors and maxSelectorBytes bound the match[] parameters of one request.
	maxSelectors     = 100
	maxSelectorBytes = 64 << 10
)

// filter says which targets and series a request wants. The zero value wants all.
type filter struct {
	publishers, jobs []string
	// selectors are alternatives; the matchers of one must all match.
	selectors [][]*labels.Matcher
}

// parseFilter reads the parameters publisher, job and match[]. Others mean nothing here.
func parseFilter(query url.Values) (filter, error) {
	f := filter{publishers: query["publisher"], jobs: query["job"]}
	selectors := query["match[]"]
	if len(selectors) > maxSelectors {
		return f, fmt.Errorf("%d match[] selectors, the limit is %d", len(selectors), maxSelectors)
	}
	size := 0
	for _, s := range selectors {
		if size += len(s); size > maxSelectorBytes {
			return f, fmt.Errorf("match[] selectors of more than %d bytes", maxSelectorBytes)
		}
		m, err := parser.NewParser(parser.Options{}).ParseMetricSelector(s)
		if err != nil {
			return f, fmt.Errorf("match[]=%q: %w", s, err)
		}
		f.selectors = append(f.selectors, m)
	}
	return f, nil
}

// wants tells whether a target's series are asked for at all.
func (f *filter) wants(t *target) bool {
	return (len(f.publishers) == 0 || slices.Contains(f.publishers, t.publisher.name)) &&
		(len(f.jobs) == 0 || slices.Contains(f.jobs, t.prepared.Target.Get("job")))
}

// matches tells whether labels match one of the selectors.
func (f *filter) matches(l labels.Labels) bool {
	if len(f.selectors) == 0 {
		return true
	}
	return slices.ContainsFunc(f.selectors, func(s []*labels.Matcher) bool {
		return !slices.ContainsFunc(s, func(m *labels.Matcher) bool { return !m.Matches(l.Get(m.Name)) })
	})
}

// selection finds the series that match the selectors of a filter, for one answer. What a selector asks of the
// target's labels is decided once for each target, and what it asks of the others once for each text.
type selection struct {
	filter *filter
	own    map[*text][]frame.Bitmap          // by selector: the series of which the rest matches
	joined map[*text]map[string]frame.Bitmap // by the set of selectors that the target matches
}

func newSelection(f *filter) *selection {
	return &selection{f, make(map[*text][]frame.Bitmap), make(map[*text]map[string]frame.Bitmap)}
}

// of gives the series of a target that match.
func (s *selection) of(p *prepared) frame.Bitmap {
	own := s.own[p.text]
	if own == nil {
		own = s.ownOf(p)
		s.own[p.text], s.joined[p.text] = own, make(map[string]frame.Bitmap)
	}
	set := make([]byte, len(own))
	for i, selector := range s.filter.selectors {
		if !slices.ContainsFunc(selector, func(m *labels.Matcher) bool {
			return p.Target.Has(m.Name) && !m.Matches(p.Target.Get(m.Name))
		}) {
			set[i] = 1
		}
	}
	bits, ok := s.joined[p.text][string(set)]
	if !ok {
		bits = frame.NewBitmap(len(p.Schema.Series))
		for i := range own {
			if set[i] == 1 {
				for w := range bits {
					bits[w] |= own[i][w]
				}
			}
		}
		s.joined[p.text][string(set)] = bits
	}
	if !p.HasMixed() {
		return bits
	}
	bits = slices.Clone(bits)
	for i := range p.Schema.Series {
		if p.Mixed.Has(i) && s.filter.matches(p.SeriesLabels(i, nil)) {
			bits.Set(i)
		}
	}
	return bits
}

// ownOf decides for each selector and series about the labels that targets of this text do not have. Mixed series are
// left out.
func (s *selection) ownOf(p *prepared) []frame.Bitmap {
	series := p.Schema.Series
	own := make([]frame.Bitmap, len(s.filter.selectors))
	for i, selector := range s.filter.selectors {
		own[i] = frame.NewBitmap(len(series))
		rest := slices.DeleteFunc(slices.Clone(selector), func(m *labels.Matcher) bool { return p.Target.Has(m.Name) })
		for j := range series {
			if p.Mixed.Has(j) {
				continue
			}
			if !slices.ContainsFunc(rest, func(m *labels.Matcher) bool { return !m.Matches(series[j].Labels.Get(m.Name)) }) {
				own[i].Set(j)
			}
		}
	}
	return own
}
