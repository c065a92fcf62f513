package remotewrite

import (
	"math"
	"slices"
	"unicode/utf8"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// maxExemplarRunes bounds the names and values of an exemplar's labels together, as in OpenMetrics and in Prometheus.
const maxExemplarRunes = 128

// exemplar is one to be written.
type exemplar struct {
	row    int
	labels labels.Labels
	value  float64
	time   int64
	series uint64 // hash of the series
	note   note
}

// note tells exemplars of one series apart.
type note struct {
	time      int64
	bits      uint64 // of the value
	labels    uint64 // hash
	timestamp bool   // it had a timestamp of its own
}

// latest are the newest exemplars of a series: of all that were planned, and of those that are done.
type latest struct {
	planned, settled note
	done             bool // settled is set
}

// compare orders exemplars of one series by time, value and labels, as Prometheus orders them.
func (n note) compare(m note) int {
	if n.time != m.time {
		return cmpOf(n.time < m.time)
	}
	if a, b := math.Float64frombits(n.bits), math.Float64frombits(m.bits); a != b {
		return cmpOf(a < b)
	}
	if n.labels != m.labels {
		return cmpOf(n.labels < m.labels)
	}
	return 0
}

func cmpOf(less bool) int {
	if less {
		return -1
	}
	return 1
}

// equals tells whether m is n once more: one without a timestamp of its own is, whenever it is seen.
func (n note) equals(m note) bool {
	return n.labels == m.labels && n.bits == m.bits && (n.time == m.time || !n.timestamp && !m.timestamp)
}

// freshExemplars gives the exemplars of a scrape that the server has not been sent, in the order of the rows: what
// Prometheus would have stored. Those that stand in the exposition since an earlier scrape are left out.
func (s *Sink) freshExemplars(t *target, d *delivery) []exemplar {
	f := d.Frame
	all := f.Column.Exemplars
	if !s.SendExemplars || len(all) == 0 {
		return nil
	}
	var out []exemplar
	for len(all) > 0 {
		n := 1
		for n < len(all) && all[n].Row == all[0].Row {
			n++
		}
		if row := all[0].Row; !f.Column.Absent.Has(row) {
			out = s.freshOf(t, d, out, all[:n])
		}
		all = all[n:]
	}
	if len(t.exemplars) > 2*len(f.Schema.Series)+64 {
		t.forgetExemplars(f.Schema)
	}
	return out
}

// freshOf appends those of one series.
func (s *Sink) freshOf(t *target, d *delivery, out []exemplar, all []frame.Exemplar) []exemplar {
	f := d.Frame
	row := all[0].Row
	series := f.Schema.Series[row].Labels.Hash()
	first, late := len(out), 0
	for i := range all {
		x := &all[i]
		e := exemplar{row: row, labels: x.Labels.WithoutEmpty(), value: x.Value, time: x.Timestamp, series: series}
		if e.time == frame.NoTimestamp {
			if native(&f.Column, row) {
				continue // as in Prometheus, which cannot tell repeated ones apart
			}
			e.time = timeOf(f, row)
		}
		if tooLong(e.labels) && d.recalled() {
			continue
		}
		if tooLong(e.labels) {
			s.loseExemplars(d.Publisher, rejected, 1, "labels of an exemplar are too long")
			continue
		}
		e.note = note{e.time, math.Float64bits(e.value), e.labels.Hash(), x.Timestamp != frame.NoTimestamp}
		out = append(out, e)
	}
	fresh := out[first:]
	slices.SortStableFunc(fresh, func(a, b exemplar) int { return a.note.compare(b.note) })
	newest := t.exemplars[series]
	kept := out[:first]
	for _, e := range fresh {
		if newest != nil {
			if newest.planned.equals(e.note) {
				continue
			}
			old := e.time < newest.planned.time && e.time <= newest.planned.time-s.OutOfOrderWindow.Milliseconds()
			if old || e.time == newest.planned.time && e.note.compare(newest.planned) < 0 {
				late++
				continue
			}
		}
		if newest == nil {
			newest = &latest{planned: e.note}
			if t.exemplars == nil {
				t.exemplars = make(map[uint64]*latest)
			}
			t.exemplars[series] = newest
		} else if e.note.compare(newest.planned) > 0 {
			newest.planned = e.note
		}
		kept = append(kept, e)
	}
	if late > 0 && late == len(fresh) && !d.recalled() {
		// Only then, as in Prometheus: a native histogram shows old exemplars beside new ones.
		s.loseExemplars(d.Publisher, outOfOrder, late, "exemplars are older than the newest of their series")
	}
	return kept
}

// timeOf is the time of the sample in a row.
func timeOf(f *frame.Frame, row int) int64 {
	if ts := f.Column.Timestamps; ts != nil && ts[row] != frame.NoTimestamp {
		return ts[row]
	}
	return f.Time
}

func tooLong(l labels.Labels) bool {
	n := 0
	l.Range(func(l labels.Label) { n += utf8.RuneCountInString(l.Name) + utf8.RuneCountInString(l.Value) })
	return n > maxExemplarRunes
}

// forgetExemplars forgets series that a schema no longer has, so that what comes and goes does not gather.
func (t *target) forgetExemplars(s *frame.Schema) {
	kept := make(map[uint64]*latest, len(t.exemplars))
	for i := range s.Series {
		h := s.Series[i].Labels.Hash()
		if x := t.exemplars[h]; x != nil {
			kept[h] = x
		}
	}
	t.exemplars = kept
}

// settle notes that exemplars have their verdict.
func (t *target) settle(all []exemplar) {
	for i := range all {
		if x := t.exemplars[all[i].series]; x != nil && (!x.done || all[i].note.compare(x.settled) > 0) {
			x.settled, x.done = all[i].note, true
		}
	}
}
