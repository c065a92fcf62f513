package outsider

// Earlier is a sample that a row has besides its own.
type Earlier struct {
	Value     uint64 // bits
	Timestamp int64
}

// earlier reads section 7, once the rows have their own samples.
func (p *parse) earlier() {
	in := p.section(7)
	if in == nil {
		return
	}
	rows, next, step := p.frame.Rows, uint64(0), int64(0)
	for len(in.b) > 0 {
		gap := in.uvarint()
		must(gap < uint64(len(rows)) && next+gap < uint64(len(rows)), "earlier samples %d rows behind row %d", gap, next)
		row := &rows[next+gap]
		next += gap + 1
		must(!row.Absent && row.Histogram == nil, "earlier samples of a row without a sample of its own")
		count, class := in.count(16)+1, in.byte()
		must(class <= decimalLast || class == classFloat, "class %#x", class)
		at := p.frame.Time
		if row.HasTimestamp {
			at = row.Timestamp
		}
		m, _ := integerOf(class, row.Value)
		row.Earlier = make([]Earlier, count)
		for i := count - 1; i >= 0; i-- {
			step += in.varint()
			at -= step
			m -= in.varint()
			must(class == classFloat || m >= -(1<<53) && m < 1<<53, "integer %d", m)
			row.Earlier[i] = Earlier{Value: valueOf(class, m), Timestamp: at}
		}
	}
}
