package exposition

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

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
	l.extras.settle()
	var old []frame.Series
	var families []frame.Family
	if l.catalog != nil {
		old, families = l.catalog.schema.Series, l.catalog.schema.Families
	}
	missed, expired := l.age(len(old))
	remade := l.catalog == nil || len(p.fresh) > 0 || expired || p.redescribed(families) || l.joined(old, families)
	if remade {
		c, err := l.remake(old, missed)
		if err != nil {
			return l.refuse(err)
		}
		l.catalog = c
	} else {
		l.missed = missed
		for i := range p.lines {
			if ln := &p.lines[i]; int(ln.family) >= len(families) {
				ln.family = lostFamily
			}
		}
	}
	l.presence()
	l.extras.sort(len(l.catalog.schema.Series))
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
		expired = expired || missed[i] > keepAbsent
	}
	return missed, expired
}

// remake makes the schema anew: what is absent for too long leaves, fresh series stand behind the one that they came
// after, all else keeps its place.
func (l *Layout) remake(old []frame.Series, missed []uint8) (*catalog, error) {
	p := l.pass
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
	family := l.attribute(old)
	series := make([]frame.Series, len(order))
	place := make([]int32, n+len(p.fresh))
	for i := range place {
		place[i] = dropped
	}
	used := make([]int32, len(p.families))
	for i, s := range order {
		place[s] = int32(i)
		series[i] = frame.Series{Labels: l.labelsOf(old, s), Family: int(family[s])}
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
	return l.store.catalog(schema), nil
}

// attribute gives the family of each series: that which was described last before its line, if the name fits.
func (l *Layout) attribute(old []frame.Series) []int32 {
	p := l.pass
	n := len(old)
	family := make([]int32, n+len(p.fresh))
	for i := range family {
		family[i] = noFamily
		if i < n {
			family[i] = int32(old[i].Family)
		}
	}
	var before []frame.Family
	if l.catalog != nil {
		before = l.catalog.schema.Families
	}
	redescribed := p.redescribed(before)
	for i := range p.lines {
		ln := &p.lines[i]
		if ln.series == dropped || ln.family < 0 || !redescribed && family[ln.series] >= 0 && int(ln.family) < len(before) {
			continue
		}
		if partOfFamily(l.labelsOf(old, ln.series).Get(model.MetricNameLabel), &p.families[ln.family]) {
			family[ln.series] = ln.family
		}
	}
	return family
}

// joined tells whether a series that the schema has is found in a family that it was not known to be of.
func (l *Layout) joined(old []frame.Series, families []frame.Family) bool {
	p := l.pass
	for i := range p.lines {
		ln := &p.lines[i]
		if ln.series < 0 || ln.family < 0 || int(ln.series) >= len(old) ||
			int(ln.family) < len(families) && old[ln.series].Family >= 0 {
			continue
		}
		if partOfFamily(old[ln.series].Labels.Get(model.MetricNameLabel), &p.families[ln.family]) {
			return true
		}
	}
	return false
}

func (l *Layout) labelsOf(old []frame.Series, s int32) labels.Labels {
	if int(s) < len(old) {
		return old[s].Labels
	}
	return l.pass.fresh[int(s)-len(old)].labels
}

// replace moves what the layout and the pass keep for each series to its new place, and families to theirs.
func (l *Layout) replace(order, place, families []int32, missed []uint8) {
	p := l.pass
	from := l.column
	l.column = frame.Column{}
	l.grow(len(order))
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
	n := len(l.catalog.schema.Series)
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
	sk := &skeleton{catalog: l.catalog, kind: kind, positional: positional, arena: p.arena, lines: p.lines, tail: p.tail}
	if positional {
		sk.starts = l.extras.starts
	}
	if l.skeleton != nil && l.skeleton.equal(sk) {
		return
	}
	sk.arena, sk.lines, sk.tail = bytes.Clone(p.arena), slices.Clone(p.lines), bytes.Clone(p.tail)
	for i := range sk.lines {
		if sk.lines[i].series != dropped {
			sk.kept++
		}
	}
	l.skeleton = l.store.skeleton(sk)
}
