package exposition

import (
	"hash/maphash"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// tally is what one parse counts.
type tally struct {
	scraped, postRelabel, added int
	// appended counts against the sample limit; limited says that it was exceeded.
	appended int
	limited  bool
	// bucketed says that a histogram had too many buckets, buckets how many the first one had.
	bucketed bool
	buckets  int
	// fatal is an error of a sample that ends the scrape.
	fatal   error
	skipped Skipped
	// latest is the latest timestamp that is taken; 0 until one is seen.
	latest int64
}

// pass is what one parse finds out that does not find all as it was. Its memory goes from layout to layout.
type pass struct {
	// lines and tail become the next skeleton.
	lines []line
	tail  []byte
	// seen says for each line of the old skeleton that its key was there; only the first line of a key counts.
	seen []bool
	// present says for each series whether it has a sample, or at least a line.
	present []presence
	// fresh are the series that the schema lacks: their indices follow those of the schema.
	fresh []freshSeries
	// freshKeys finds in lines the first one of each key that the old skeleton lacks, by the text of the key.
	freshKeys map[string]int32
	// freshLabels finds the first fresh series of a labels' hash; the others hang on it by next.
	freshLabels map[uint64]int32
	// anchor is the series of the schema that came last.
	anchor int32

	// catalog is that of the layout, nil if it has none; old its schema with the text, once it was asked for, and index
	// finds the series of that.
	catalog *catalog
	old     *frame.Schema
	index   index

	// families are those of the schema, as this exposition describes them, and then new ones; nil until asked for.
	families    []frame.Family
	familyIndex map[string]int32
	described   []described
	ownFamilies bool
	// conflict says that one family was described twice, differently.
	conflict bool
	// family and typ are what was described last; says is what was said since the last line.
	family int32
	typ    metricType
	says   lineFlags

	// aliased says that two keys give one series.
	aliased bool

	scratch labels.ScratchBuilder
}

type presence uint8

const (
	// named: there is a line of the series, whose sample was not taken.
	named presence = iota + 1
	// sampled: the column has a sample of it.
	sampled
)

type freshSeries struct {
	labels labels.Labels
	// after is the series of the schema behind which it stands, or -1.
	after int32
	base  float64
	next  int32
}

// described says which parts of a family were described in this exposition.
type described uint8

const (
	describedType described = 1 << iota
	describedHelp
	describedUnit
)

// open takes the memory of a pass and begins it.
func (l *Layout) open() {
	if l.pass == nil {
		l.pass, _ = l.store.passes.Get().(*pass)
	}
	if l.pass == nil {
		l.pass = new(pass)
	}
	p := l.pass
	*p = pass{
		lines: p.lines[:0], tail: p.tail[:0], seen: p.seen[:0], present: p.present[:0], fresh: p.fresh[:0],
		freshKeys: p.freshKeys, freshLabels: p.freshLabels, described: p.described[:0], scratch: p.scratch,
		anchor: -1, family: noFamily, catalog: l.catalog, index: index{memory: p.index.memory},
	}
	clear(p.freshKeys)
	clear(p.freshLabels)
}

// shut ends the pass and gives its memory back.
func (l *Layout) shut() {
	p := l.pass
	if p == nil {
		return
	}
	l.pass = nil
	clear(p.fresh[:cap(p.fresh)])
	p.families, p.familyIndex, p.catalog, p.old = nil, nil, nil, nil
	if cap(p.lines) <= largestPass {
		l.store.passes.Put(p)
	}
}

// largestPass is how many lines the memory of a pass may be for to be kept.
const largestPass = 100_000

// own takes the first n lines of the old skeleton over as they are; their samples are in the column already.
func (l *Layout) own(sk *skeleton, n int) {
	l.open()
	l.tally = tally{latest: l.tally.latest}
	p := l.pass
	series := p.series()
	l.grow(series)
	p.present = append(p.present, make([]presence, series)...)
	if sk != nil {
		p.seen = append(p.seen, make([]bool, len(sk.lines))...)
	}
	if n == 0 {
		return
	}
	p.lines = append(p.lines, sk.lines[:n]...)
	p.family, p.typ = sk.lines[n-1].family, sk.lines[n-1].typ
	l.tally.scraped = n
	for i := range p.lines {
		ln := &p.lines[i]
		p.seen[i] = true
		switch {
		case ln.series == dropped:
			continue
		case ln.flags&repeated != 0:
			l.tally.skipped.Duplicates++
		default:
			p.present[ln.series] = sampled
			p.anchor = ln.series
			l.tally.appended++
		}
		l.tally.postRelabel++
	}
}

// known takes a sample of a line that the old skeleton has at id: the first one of its key there.
func (l *Layout) known(sk *skeleton, id int32, seg []byte, n number, ts int64) {
	p := l.pass
	old := &sk.lines[id]
	l.tally.scraped++
	var flags lineFlags
	if old.series != dropped {
		flags = l.sample(old.series, p.seen[id], true, n, ts)
		p.anchor = old.series
	}
	p.seen[id] = true
	l.add(seg, old.key, old.series, flags)
}

// unknown takes a sample of a line that the old skeleton lacks. hash is that of its key; exposed gives its labels.
func (l *Layout) unknown(key []byte, hash uint64, seg []byte, n number, ts int64, exposed func(*labels.Labels)) error {
	p := l.pass
	l.tally.scraped++
	if first, ok := p.freshKeys[string(key)]; ok {
		series := p.lines[first].series
		var flags lineFlags
		if series != dropped {
			taken := p.lines[first].flags&untaken == 0
			flags = l.sample(series, taken, taken, n, ts)
			if flags&untaken == 0 {
				p.lines[first].flags &^= untaken
			}
		}
		l.add(seg, hash, series, flags)
		return nil
	}
	kept, cached := l.failed[string(key)]
	series, err := int32(0), error(nil)
	if cached {
		series = l.place(kept, n)
	} else {
		var ls labels.Labels
		exposed(&ls)
		if series, err = l.enter(ls, n); err != nil {
			return err
		}
	}
	id := int32(len(p.lines))
	var flags lineFlags
	if series != dropped {
		flags = l.sample(series, false, cached, n, ts)
	}
	if p.freshKeys == nil {
		p.freshKeys = make(map[string]int32)
	}
	p.freshKeys[string(key)] = id
	l.add(seg, hash, series, flags)
	return nil
}

// enter gives the index of the series with these exposed labels, which is a new one unless the schema or this pass has
// it, or dropped.
func (l *Layout) enter(exposed labels.Labels, n number) (int32, error) {
	final := l.rules.finalLabels(exposed)
	if final.IsEmpty() {
		return dropped, nil
	}
	if err := l.rules.check(final); err != nil {
		return 0, err
	}
	if n := len(l.pass.fresh); n >= l.limits.Series { // more than any schema holds: known before it costs more memory
		if l.tally.limited {
			return 0, l.sampleLimitError()
		}
		return 0, &frame.LimitError{What: "series of a schema", Got: uint64(n) + 1, Max: uint64(max(l.limits.Series, 0))}
	}
	return l.place(l.rules.schemaLabels(final, &l.pass.scratch), n), nil
}

// place gives the index of the series with these labels of a schema, a new one if need be.
func (l *Layout) place(ls labels.Labels, n number) int32 {
	p := l.pass
	if i := p.find(ls); i >= 0 {
		p.anchor = i
		return i
	}
	old := int32(p.series())
	if i := p.findFresh(ls); i >= 0 {
		return old + i
	}
	p.addFresh(ls, n.value)
	p.present = append(p.present, 0)
	l.grow(int(old) + len(p.fresh))
	return old + int32(len(p.fresh)-1)
}

func (p *pass) findFresh(ls labels.Labels) int32 {
	i, ok := p.freshLabels[ls.Hash()]
	for ok && i >= 0 {
		if labels.Equal(p.fresh[i].labels, ls) {
			return i
		}
		i = p.fresh[i].next
	}
	return -1
}

func (p *pass) addFresh(ls labels.Labels, base float64) {
	if p.freshLabels == nil {
		p.freshLabels = make(map[uint64]int32)
	}
	hash := ls.Hash()
	next, ok := p.freshLabels[hash]
	if !ok {
		next = -1
	}
	p.freshLabels[hash] = int32(len(p.fresh))
	p.fresh = append(p.fresh, freshSeries{labels: ls, after: p.anchor, base: base, next: next})
}

// sample takes one sample of a series and counts it as Prometheus does. again says that the exposition had its key
// before, cached that an earlier one had, so that the series does not count as added.
func (l *Layout) sample(series int32, again, cached bool, n number, ts int64) (flags lineFlags) {
	p := l.pass
	if again {
		flags |= repeated
	} else if p.present[series] != 0 {
		p.aliased = true
	}
	p.present[series] = max(p.present[series], named)
	taken := l.take(series, again, n, ts)
	if !cached && taken && !l.tally.limited && !l.tally.bucketed {
		l.tally.added++
	}
	if !cached && !taken {
		flags |= untaken
	}
	if l.tally.fatal == nil {
		l.tally.postRelabel++
	}
	return flags
}

// take puts a sample into the column unless Prometheus' storage would refuse it. Of samples that it takes and then
// drops for others of the same series it tells that they were taken.
func (l *Layout) take(series int32, again bool, n number, ts int64) bool {
	p := l.pass
	if again && ts == frame.NoTimestamp {
		l.tally.skipped.Duplicates++
		return false
	}
	if l.extra != nil && !l.admit() {
		return false
	}
	l.tally.appended++
	if l.rules.SampleLimit > 0 && l.tally.appended > l.rules.SampleLimit {
		l.tally.limited = true
		return false
	}
	if ts != frame.NoTimestamp && ts > l.latest() {
		l.tally.skipped.Ahead++
		return false
	}
	if l.extra != nil {
		if l.tally.fatal = l.extra.validate(); l.tally.fatal != nil {
			return false
		}
	}
	if p.present[series] == sampled {
		older := l.effective(ts) <= l.effective(l.stampOf(series))
		if older || !l.supersede(series) {
			l.tally.skipped.Duplicates++
		}
		if older {
			return true
		}
	}
	p.present[series] = sampled
	l.put(series, n)
	l.stamp(series, ts)
	if l.extra != nil {
		l.takeExtra(series)
	}
	return true
}

func (l *Layout) put(series int32, n number) {
	l.column.Values[series] = n.value
	l.column.Mantissas[series] = n.mantissa
	l.column.Exponents[series] = n.exponent
}

func (l *Layout) stampOf(series int32) int64 {
	if int(series) < len(l.stamps) {
		return l.stamps[series]
	}
	return frame.NoTimestamp
}

// effective gives the time that a sample has in storage.
func (l *Layout) effective(ts int64) int64 {
	if ts == frame.NoTimestamp {
		return l.latest() - maxAhead.Milliseconds()
	}
	return ts
}

func (l *Layout) latest() int64 {
	if l.tally.latest == 0 {
		l.tally.latest = l.rules.Now().Add(maxAhead).UnixMilli()
	}
	return l.tally.latest
}

// add appends a line to the skeleton in the making: seg holds its bytes up to the value, key is the hash of the key.
func (l *Layout) add(seg []byte, key uint64, series int32, flags lineFlags) {
	p := l.pass
	p.lines = append(p.lines, line{
		text: l.hash(seg), key: key, size: uint32(len(seg)),
		series: series, family: p.family, typ: p.typ, flags: flags | p.says,
	})
	p.says = 0
}

// hash is that of lines and keys in skeletons.
func (l *Layout) hash(text []byte) uint64 { return maphash.Bytes(l.store.seed, text) }
