package inflate

const (
	// fastIn is what a turn of fast may read: it refills twice.
	fastIn = 7 + 8
	// fastOut is what a turn of fast may write: a literal, and the longest match with what the last copy has too much.
	fastOut = 1 + 258 + 15
)

// fast decompresses symbols until the block is done, or input or room become scarce. Bits suffice: of the 56 at least that a turn
// begins with, a literal of the first level takes 10, and a length at most 20; a distance takes 28 and sees to it.
func (z *Inflater) fast(t *tables) (done bool, err error) {
	bad := false
	in, h, out, end, window := z.in, z.held, z.out, z.end, z.window
	if h.at > len(in)-fastIn {
		return false, nil
	}
	h = h.refill(in)
	// The next entry is looked up before a match is copied, which hides that it takes its time.
	e := t.literals[h.bits&literalMask]
	for h.at <= len(in)-fastIn && end <= len(out)-fastOut {
		if e&isLiteral != 0 {
			out[end] = byte(e >> 16)
			end++
			h = h.drop(e)
			if e = t.literals[h.bits&literalMask]; e&isLiteral != 0 {
				out[end] = byte(e >> 16)
				end++
				h = h.drop(e).refill(in)
				e = t.literals[h.bits&literalMask]
				continue
			}
		}
		if e&isSpecial != 0 {
			if e&isLink != 0 {
				h = h.drop(e)
				e = t.literals[h.second(e)]
			}
			if e&isLiteral != 0 {
				out[end] = byte(e >> 16)
				end++
				h = h.drop(e).refill(in)
				e = t.literals[h.bits&literalMask]
				continue
			}
			if e&isSpecial != 0 {
				done, h = true, h.drop(e)
				bad = e&isEnd == 0
				break
			}
		}
		length := h.value(e)
		if h = h.drop(e); h.count < longestCode+13 {
			h = h.refill(in)
		}
		if e = t.distances[h.bits&distanceMask]; e&isSpecial != 0 {
			if e&isLink != 0 {
				h = h.drop(e)
				e = t.distances[h.second(e)]
			}
			if e&isSpecial != 0 {
				bad = true
				break
			}
		}
		distance := h.value(e)
		h = h.drop(e).refill(in)
		e = t.literals[h.bits&literalMask]
		if distance > end-window {
			bad = true
			break
		}
		from, stop := end-distance, end+length
		switch { // it may repeat what it writes, so no more at once than is there
		case distance >= 16:
			for ; end < stop; from, end = from+16, end+16 {
				*(*[16]byte)(out[end:]) = *(*[16]byte)(out[from:])
			}
		case distance >= 8:
			for ; end < stop; from, end = from+8, end+8 {
				*(*[8]byte)(out[end:]) = *(*[8]byte)(out[from:])
			}
		default:
			for end < stop {
				end += copy(out[end:stop], out[from:end])
			}
		}
		end = stop
	}
	if z.held, z.end = h, end; bad {
		return true, z.corrupt()
	}
	return done, nil
}
