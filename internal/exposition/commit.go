package exposition

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/prometheus/common/model"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// commit makes what a pass found the state of the layout.
func (l *Layout) commit(kind kind, positional bool) (Parsed, error) {
	p := l.pass
	if l.tally.limited {
		return l.refuse(l.sampleLimitError())
	}
	if l.tally.bucketed {
		return l.refuse(l.bucketError())
	}
	l.extras.settle(l.past.kept)
	missed, expired := l.age(p.series())
	if l.catalog == nil || len(p.fresh) > 0 || expired || p.redescribed() || l.joined() {
		c, err := l.remake(missed)
		if err != nil {
			return l.refuse(err)
		}
		l.catalog = c
	} else {
		l.missed = missed
		for i := range p.lines {
			if ln := &p.lines[i]; int(ln.family) >= l.catalog.families {
				ln.family = lostFamily
			}
		}
	}
	l.presence()
	l.extras.sort(l.catalog.schema.Len())
	l.past.settle(l.catalog.schema.Len(), l.extras.histograms, l.stamps)
	l.keep(kind, positional && !p.aliased && !p.conflict && l.tally.skipped.Ahead == 0)
	l.blank, l.failed = false, nil
	return l.parsed(), nil
}

func (l *Layout) sampleLimitError() error {
	return fmt.Errorf("sample_limit exceeded: %d samples after relabelling, limit %d", l.tally.appended, l.rules.SampleLimit)
}

// age gives how long each series of the schema has been absent, nil if none is, and whether one has to leave.
func (l *Layout) age(n int) (missed []uint8, expired bool) {
	for i, present := range l.pass.present[:n] {
		if present == sampled {
			continue
		}
		if missed == nil {
			missed = make([]uint8, n)
		}
		missed[i] = 1
		if l.missed != nil && present != named {
			missed[i] += l.missed[i]
		}
	}
	return missed, leaving(missed, 0)
}

// leaving tells whether a series has to leave the schema, or enough of them, if those absent were so for some scrapes more.
func leaving(missed []uint8, more uint8) bool {
	gone := 0
	for _, n := range missed {
		switch {
		case n == 0:
		case n+more > mostAbsent:
			return true
		case n+more > keepAbsent:
			gone++
		}
	}
	return 4*gone > len(missed)
}

// remake makes the schema anew: what is absent for too long leaves, fresh series stand behind the one that they came
// after, all else keeps its place.
func (l *Layout) remake(missed []uint8) (*catalog, error) {
	p := l.pass
	old := p.text().Series
	n := len(old)
	order := make([]int32, 0, n+len(p.fresh))
	byAnchor := make([]int32, len(p.fresh))
	for i := range byAnchor {
		byAnchor[i] = int32(i)
	}
	slices.SortStableFunc(byAnchor, func(a, b int32) int { return int(p.fresh[a].after) - int(p.fresh[b].after) })
	for s := -1; s < n; s++ {
		if s >= 0 && (missed == nil || missed[s] <= keepAbsent) {
			order = append(order, int32(s))
		}
		for len(byAnchor) > 0 && p.fresh[byAnchor[0]].after == int32(s) {
			order = append(order, int32(n)+byAnchor[0])
			byAnchor = byAnchor[1:]
		}
	}
	family := l.attribute()
	series := make([]frame.Series, len(order))
	place := make([]int32, n+len(p.fresh))
	for i := range place {
		place[i] = dropped
	}
	used := make([]int32, len(p.families))
	for i, s := range order {
		place[s] = int32(i)
		series[i] = frame.Series{Labels: p.labelsOf(s), Family: int(family[s])}
		if int(s) < n {
			series[i].Base = old[s].Base
		} else {
			series[i].Base = p.fresh[int(s)-n].base
		}
		if f := family[s]; f >= 0 {
			used[f] = 1
		}
	}
	var families []frame.Family
	for f := range used {
		if used[f] == 0 {
			used[f] = lostFamily
			continue
		}
		used[f] = int32(len(families))
		families = append(families, p.families[f])
	}
	for i := range series {
		if f := series[i].Family; f >= 0 {
			series[i].Family = int(used[f])
		}
	}
	schema, err := frame.NewSchema(families, series, l.limits)
	if err != nil {
		return nil, err
	}
	l.replace(order, place, used, missed)
	return l.store.catalog(schema, l.catalog), nil
}

// attribute gives the family of each series: that which was described last before its line, if the name fits.
func (l *Layout) attribute() []int32 {
	p := l.pass
	old, before := p.text().Series, p.text().Families
	if p.familyIndex == nil {
		p.families = before
	}
	n := len(old)
	family := make([]int32, n+len(p.fresh))
	for i := range family {
		family[i] = noFamily
		if i < n {
			family[i] = int32(old[i].Family)
		}
	}
	redescribed := p.redescribed()
	for i := range p.lines {
		ln := &p.lines[i]
		if ln.series == dropped || ln.family < 0 || !redescribed && family[ln.series] >= 0 && int(ln.family) < len(before) {
			continue
		}
		if partOfFamily(p.labelsOf(ln.series).Get(model.MetricNameLabel), &p.families[ln.family]) {
			family[ln.series] = ln.family
		}
	}
	return family
}

// joined tells whether a series that the schema has is found in a family that it was not known to be of.
func (l *Layout) joined() bool {
	p, c := l.pass, l.catalog
	for i := range p.lines {
		ln := &p.lines[i]
		if ln.series < 0 || ln.family < 0 || int(ln.series) >= p.series() ||
			int(ln.family) < c.families && !c.single.Has(int(ln.series)) {
			continue
		}
		if p.families == nil {
			p.families = p.text().Families
		}
		if partOfFamily(p.labelsOf(ln.series).Get(model.MetricNameLabel), &p.families[ln.family]) {
			return true
		}
	}
	return false
}

// replace moves what the layout and the pass keep for each series to its new place, and families to theirs.
func (l *Layout) replace(order, place, families []int32, missed []uint8) {
	p := l.pass
	from := l.column
	l.column = frame.Column{
		Values: make([]float64, len(order)), Mantissas: make([]int64, len(order)), Exponents: make([]int8, len(order)),
	}
	var stamps []int64
	if l.stamps != nil {
		stamps = make([]int64, len(order))
	}
	l.missed = nil
	present := make([]presence, len(order))
	for i, s := range order {
		l.column.Values[i], l.column.Mantissas[i], l.column.Exponents[i] = from.Values[s], from.Mantissas[s], from.Exponents[s]
		if stamps != nil {
			stamps[i] = l.stampOf(s)
		}
		if int(s) < len(missed) && missed[s] > 0 {
			if l.missed == nil {
				l.missed = make([]uint8, len(order))
			}
			l.missed[i] = missed[s]
		}
		present[i] = p.present[s]
	}
	if l.stamps != nil {
		l.stamps, l.stampBuf = stamps, stamps
	}
	p.present = present
	l.extras.move(order, place)
	l.past.move(order, place)
	for i := range p.lines {
		ln := &p.lines[i]
		if ln.series >= 0 {
			ln.series = place[ln.series]
		}
		if ln.family >= 0 {
			ln.family = families[ln.family]
		}
	}
}

// presence notes in the column which series this exposition lacks.
func (l *Layout) presence() {
	n := l.catalog.schema.Len()
	l.column.Absent = nil
	for i, present := range l.pass.present[:n] {
		if present == sampled {
			continue
		}
		if l.column.Absent == nil {
			l.column.Absent = frame.NewBitmap(n)
		}
		l.column.Absent.Set(i)
		if l.missed == nil {
			l.missed = make([]uint8, n)
		}
		l.missed[i] = max(l.missed[i], 1)
	}
	if l.stamps != nil {
		for len(l.stamps) < n {
			l.stamps = append(l.stamps, frame.NoTimestamp)
		}
		l.stampBuf = l.stamps
	}
}

// keep makes the lines of the pass the skeleton for the next exposition.
func (l *Layout) keep(kind kind, positional bool) {
	p := l.pass
	sk := &skeleton{catalog: l.catalog, kind: kind, positional: positional, lines: p.lines, tail: p.tail}
	if positional {
		sk.starts = l.extras.starts
	}
	if l.skeleton != nil && l.skeleton.equal(sk) {
		return
	}
	sk.lines, sk.tail = slices.Clone(p.lines), bytes.Clone(p.tail)
	for i := range sk.lines {
		if sk.lines[i].series != dropped {
			sk.kept++
		}
	}
	l.skeleton = l.store.skeleton(sk)
}
