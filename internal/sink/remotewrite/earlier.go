package remotewrite

import (
	"slices"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// freshEarlier gives the earlier samples of a scrape that are newer than all that the server was sent of their series. Targets
// show what they showed before once more; a poller leaves that out, but for the first scrape after its start.
func (t *target) freshEarlier(f *frame.Frame) []frame.Earlier {
	all := f.Column.Earlier
	if len(all) == 0 {
		return nil
	}
	if t.newest == nil || len(t.newest) > 2*len(f.Schema.Series)+64 {
		t.newest = make(map[uint64]int64)
	}
	known := false
	for i := range all {
		if row := all[i].Row; i == 0 || row != all[i-1].Row {
			_, found := t.newest[f.Schema.Series[row].Labels.Hash()]
			known = known || found
		}
	}
	if known {
		all = slices.DeleteFunc(slices.Clone(all), func(x frame.Earlier) bool {
			newest, found := t.newest[f.Schema.Series[x.Row].Labels.Hash()]
			return found && x.Timestamp <= newest
		})
	}
	for i := range f.Column.Earlier {
		row := f.Column.Earlier[i].Row
		hash := f.Schema.Series[row].Labels.Hash()
		if at, found := t.newest[hash]; !found || at < timeOf(f, row) {
			t.newest[hash] = timeOf(f, row)
		}
	}
	return all
}
