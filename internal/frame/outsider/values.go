package outsider

// values reads the sections but the first, then the values, and makes the state and the rows of the frame.
func (p *parse) values() {
	s := p.base.clone()
	p.state = s
	p.absent()
	stamps := p.timestamps()
	p.starts()
	p.histograms()
	p.exemplars()

	n := uint64(len(s.rows))
	escaped := make([]bool, n)
	for _, at := range p.in.gaps(p.in.count(8), n) {
		escaped[at] = true
	}
	changed := p.changed()
	residuals := &bitInput{b: p.in.take(uint64(len(p.in.b)))}
	moved := make([]int64, n) // by how much integers differ from their base; 0 where the page says so
	codes := p.reader.codes
	for i := range s.rows {
		row := &s.rows[i]
		residual := func(c code) int64 {
			if !changed[i] {
				return 0
			}
			return unzigzag(c.number(residuals))
		}
		predictor := p.frame.Schema.pred[i]
		switch {
		case row.absent || row.histogram != nil:
			must(!changed[i] && !escaped[i], "row %d without a value has one", i)
		case escaped[i]:
			must(changed[i], "row %d is escaped and has no residual", i)
			row.m, row.raw = int64(row.value())+residual(codes.float), true
		case row.raw || row.class == classFloat:
			row.m += residual(codes.float)
		case predictor >= 0 && s.rows[predictor].class == row.class:
			moved[i] = residual(codes.predicted) + moved[predictor]
		default:
			moved[i] = residual(codes.other)
		}
		row.m += moved[i]
		if !row.raw && row.class != classFloat {
			must(row.m >= -(1<<53) && row.m < 1<<53, "integer %d in row %d", row.m, i)
		}
	}
	residuals.done("the residuals")
	p.rows(stamps)
	p.earlier()
}

// changed reads the bitmap of rows that have a residual.
func (p *parse) changed() []bool {
	rows := len(p.state.rows)
	upper := p.in.take(uint64(rows+63) / 64)
	lower := p.in.take(uint64(ones(upper)))
	list := make([]bool, rows)
	for k := range 8 * len(upper) {
		if upper[k/8]>>(k%8)&1 == 0 {
			continue
		}
		b := lower[0]
		lower = lower[1:]
		must(b != 0, "an empty byte in the bitmap of changes")
		for j := range 8 {
			if b>>j&1 != 0 {
				must(8*k+j < rows, "a residual for row %d of %d", 8*k+j, rows)
				list[8*k+j] = true
			}
		}
	}
	return list
}

// rows makes what the frame says of its state.
func (p *parse) rows(stamps []int64) {
	for i := range p.state.rows {
		r := &p.state.rows[i]
		if r.absent {
			p.frame.Rows = append(p.frame.Rows, Row{Absent: true})
			continue
		}
		row := Row{Start: r.start, Histogram: r.histogram, Exemplars: r.exemplars}
		if r.histogram == nil {
			row.Value = r.value()
		}
		if p.state.grouped && r.group > 0 {
			row.HasTimestamp, row.Timestamp = true, stamps[r.group]
		}
		p.frame.Rows = append(p.frame.Rows, row)
	}
}

// absent reads section 2.
func (p *parse) absent() {
	in := p.section(2)
	if in == nil {
		return
	}
	at, other := uint64(0), false
	for len(in.b) > 0 {
		run := in.uvarint()
		must(run <= uint64(len(p.state.rows))-at, "a run of %d rows from row %d on", run, at)
		for ; run > 0; run-- {
			if other {
				p.state.rows[at].absent = !p.state.rows[at].absent
			}
			at++
		}
		other = !other
	}
}

// timestamps reads section 3 and gives the timestamp of each group.
func (p *parse) timestamps() []int64 {
	s, in := p.state, p.section(3)
	had := s.grouped
	if in == nil {
		s.grouped, s.groups = false, 0
		for i := range s.rows {
			s.rows[i].group = 0
		}
		return nil
	}
	form := in.byte()
	known(form <= 1, "form %d of timestamps", form)
	must(form == 1 || had, "groups as in a base that has none")
	if form == 1 {
		s.grouped, s.groups = true, in.count(8)
		p.groups(in, had)
	}
	stamps := make([]int64, s.groups+1)
	for g := 1; g <= s.groups; g++ {
		stamps[g] = p.frame.Time - in.varint()
	}
	in.done("section 3")
	return stamps
}

// groups reads the group of each row.
func (p *parse) groups(in *input, had bool) {
	rows := p.state.rows
	follower := make(map[int]int)
	before := 0
	put := func(at, group int) {
		rows[at].group = group
		follower[before] = group
		before = group
	}
	for at := 0; at < len(rows); {
		for hits := in.uvarint(); hits > 0; hits-- {
			must(at < len(rows), "more rows have groups than there are")
			guess, ok := follower[before]
			switch {
			case had:
				guess = rows[at].group
			case !ok:
				guess = before
			}
			must(guess <= p.state.groups, "group %d of %d", guess, p.state.groups)
			put(at, guess)
			at++
		}
		if at < len(rows) {
			group := in.uvarint()
			must(group <= uint64(p.state.groups), "group %d of %d", group, p.state.groups)
			put(at, int(group))
			at++
		}
	}
}

// starts reads section 4.
func (p *parse) starts() {
	in := p.section(4)
	if in == nil {
		return
	}
	var written []int64
	last := p.frame.Time
	rows := p.state.rows
	at := uint64(0)
	for len(in.b) > 0 {
		head := in.uvarint()
		if head&2 != 0 {
			gap := in.uvarint()
			must(gap < uint64(len(rows)), "a gap of %d rows", gap)
			at += gap + 1
		}
		number := in.uvarint()
		start := int64(0)
		switch {
		case head&1 == 0:
			start = last - unzigzag(number)
			last = start
			written = append(written, start)
		case number > 0:
			must(number <= uint64(len(written)), "start timestamp %d before the %d written", number, len(written))
			start = written[uint64(len(written))-number]
		}
		run := head >> 2
		must(at < uint64(len(rows)) && run < uint64(len(rows))-at, "start timestamps of %d rows behind row %d", run, at)
		for end := at + run; at <= end; at++ {
			must(!rows[at].absent, "a start timestamp for row %d, which is absent", at)
			rows[at].start = start
		}
	}
}

// number reads an M or the bits of a float.
func (in *input) number(class byte) uint64 {
	must(validClass(class), "class %#x", class)
	if class == classFloat {
		return in.u64()
	}
	return valueOf(class, in.varint())
}
