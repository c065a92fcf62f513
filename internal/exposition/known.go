package exposition

import (
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// series is how many the schema has.
func (p *pass) series() int {
	if p.catalog == nil {
		return 0
	}
	return p.catalog.schema.Len()
}

// text is what the schema says in words: empty without one.
func (p *pass) text() *frame.Text {
	if p.catalog == nil {
		return &frame.Text{}
	}
	if p.old == nil {
		p.old = p.catalog.schema.Open()
	}
	return p.old.Text
}

// labelsOf gives the labels of a series of the schema, or of a fresh one.
func (p *pass) labelsOf(s int32) labels.Labels {
	if n := p.series(); int(s) >= n {
		return p.fresh[int(s)-n].labels
	}
	return p.text().Series[s].Labels
}

// find gives the index in the schema of the series with these labels, or -1.
func (p *pass) find(ls labels.Labels) int32 {
	series := p.text().Series
	if p.index.slots == nil {
		p.index.begin(len(series))
		for i := range series {
			p.index.add(series[i].Labels.Hash(), int32(i), func(int32) bool { return false })
		}
	}
	return p.index.find(ls.Hash(), func(i int32) bool { return labels.Equal(series[i].Labels, ls) })
}
