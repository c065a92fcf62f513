package frame

// habit is what an encoder remembers of a row, to choose its class at the next keyframe.
type habit struct {
	class uint8 // that held all values so far, floats apart
	score uint8 // rises with each float; above habitFloat the row is one
}

const (
	habitKnown = 0x80 // set in score once there was a value other than 0, which any class holds
	habitScore = 0x0f
	habitFloat = 8
)

// adopt makes the habits those of the rows of s.
func (e *Encoder) adopt(s *Schema) {
	if e.schema == s {
		return
	}
	was := e.schema
	e.schema = s
	fresh := make([]habit, s.Len())
	for i := range fresh {
		fresh[i] = s.habit(i)
	}
	if was == nil {
		e.habits = fresh
		return
	}
	o := seriesOrigins(was.Open().Text, s.Open().Text)
	changed := was.Len()
	for i, j := range o {
		if j >= 0 {
			fresh[i] = e.habits[j]
			changed--
		} else {
			changed++
		}
	}
	e.habits = fresh
	e.groups = nil
	if 4*changed > s.Len() {
		e.Reset() // a keyframe tells as much
	}
}

// habit is that of a row of which only the base is known.
func (s *Schema) habit(i int) habit {
	switch c := s.classes[i]; {
	case s.base(i) == 0:
		return habit{}
	case c > classShift && c < classFloat && s.pred[i] != 0:
		return habit{score: habitKnown}
	case c == classFloat:
		return habit{score: habitKnown | 4}
	default:
		return habit{class: c, score: habitKnown}
	}
}

// chooseClasses sets the classes of a keyframe's rows.
func (e *Encoder) chooseClasses(s *Schema, c *Column) {
	n := s.Len()
	if cap(e.classes) < n {
		e.classes = make([]uint8, n)
	}
	e.classes = e.classes[:n]
	for i, v := range c.Values {
		h := &e.habits[i]
		if e.hidden.Has(i) {
			v = s.base(i)
		}
		class := h.class
		if _, ok := mantissa(v, e.div[class]); !ok || v != 0 && h.score&habitKnown == 0 {
			class = h.widen(v, c, i, s.pred[i], &e.div)
		} else if h.score&habitScore > 0 {
			h.score--
		}
		if h.score&habitScore >= habitFloat {
			class = classFloat
		}
		e.classes[i] = class
	}
}

// widen learns from a value that the class does not hold, and gives the class that does.
func (h *habit) widen(v float64, c *Column, i int, pred uint8, div *scales) uint8 {
	class := uint8(classFloat)
	if c.Exponents != nil && c.Exponents[i] < 0 && c.Exponents[i] > -classScales {
		if x := uint8(-c.Exponents[i]); x > h.class {
			if _, ok := mantissa(v, div[x]); ok {
				class = x
			}
		}
	}
	if class == classFloat {
		class = classOf(v, div)
	}
	if class > classShift && class < classFloat && (pred != 0 || h.score&habitKnown != 0) {
		class = 0 // a bucket, or not always a multiple
	}
	if class == classFloat {
		h.score = min(h.score&habitScore+4, habitScore) | habitKnown
		return class
	}
	if h.class < classScales && class < h.class {
		// It holds the value in fewer digits than the row is used to, and that one did not: too large for it.
		class = classFloat
		h.score = min(h.score&habitScore+2, habitScore) | habitKnown
		return class
	}
	h.class = class
	h.score |= habitKnown
	return class
}

// learn takes note of the rows that the frame just written had to escape.
func (e *Encoder) learn(c *Column) {
	for _, i := range e.escapes {
		e.habits[i].widen(c.Values[i], c, int(i), e.schema.pred[i], &e.div)
	}
}
