package outsider

import "encoding/hex"

// exemplarAt is an exemplar with its row.
type exemplarAt struct {
	row int
	Exemplar
}

// exemplars reads section 6.
func (p *parse) exemplars() {
	in := p.section(6)
	if in == nil {
		return
	}
	rows := p.state.rows
	var old []exemplarAt
	for i := range rows {
		if rows[i].absent {
			continue
		}
		for _, x := range rows[i].exemplars {
			old = append(old, exemplarAt{i, x})
		}
		rows[i].exemplars = nil
	}
	removed := in.gaps(in.count(8), uint64(len(old)))
	kept := merge(script{removed: removed}, old, nil)
	inserted := in.count(24)
	var list []exemplarAt
	var names []string
	for range inserted {
		for gap := in.uvarint(); gap > 0; gap-- {
			must(len(kept) > 0, "an exemplar behind more than there are")
			list, kept = append(list, kept[0]), kept[1:]
		}
		row := 0
		if len(list) > 0 {
			row = list[len(list)-1].row
		}
		var x exemplarAt
		x, names = p.exemplar(in, row, names)
		list = append(list, x)
	}
	in.done("section 6")
	last := 0
	for _, x := range append(list, kept...) {
		must(x.row >= last && !rows[x.row].absent, "exemplars are not in the order of rows")
		last = x.row
		rows[x.row].exemplars = append(rows[x.row].exemplars, x.Exemplar)
	}
}

// exemplar reads one that stands behind one of a row and, in the section, behind one with names.
func (p *parse) exemplar(in *input, before int, names []string) (exemplarAt, []string) {
	head := in.uvarint()
	must(head>>2 < uint64(len(p.state.rows)-before), "an exemplar %d rows behind row %d", head>>2, before)
	x := exemplarAt{row: before + int(head>>2)}
	if head&2 == 0 {
		names = nil
		for range in.count(8) {
			names = append(names, in.string())
		}
	}
	for _, name := range names {
		size := in.uvarint()
		value := string(in.take(size >> 1))
		if size&1 != 0 {
			value = hex.EncodeToString([]byte(value))
		}
		x.Labels = append(x.Labels, Label{name, value})
	}
	x.Value = in.number(in.byte())
	if head&1 != 0 {
		x.HasTimestamp, x.Timestamp = true, p.frame.Time-in.varint()
	}
	return x, names
}
