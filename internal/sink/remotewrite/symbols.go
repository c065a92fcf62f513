package remotewrite

import "strings"

// symbols gives strings numbers that are the same for as long as somebody uses them, and makes the table of those that
// one request needs. The empty string is number 0.
type symbols struct {
	numbers map[string]uint32
	text    []string
	uses    []uint32
	free    []uint32

	// places has for each number its place in the table, if round is that of the request.
	places []place
	round  uint32
	table  []uint32
}

type place struct{ round, at uint32 }

func newSymbols() *symbols {
	return &symbols{numbers: map[string]uint32{"": 0}, text: []string{""}, uses: []uint32{1}, places: make([]place, 1)}
}

// acquire gives the number of a string, which stays the same until it is released as often.
func (s *symbols) acquire(text string) uint32 {
	if text == "" {
		return 0
	}
	if n, ok := s.numbers[text]; ok {
		s.uses[n]++
		return n
	}
	text = strings.Clone(text)
	n := uint32(len(s.text))
	if last := len(s.free) - 1; last >= 0 {
		n, s.free = s.free[last], s.free[:last]
		s.text[n], s.uses[n], s.places[n] = text, 1, place{}
	} else {
		s.text, s.uses, s.places = append(s.text, text), append(s.uses, 1), append(s.places, place{})
	}
	s.numbers[text] = n
	return n
}

func (s *symbols) release(n uint32) {
	if n == 0 {
		return
	}
	if s.uses[n]--; s.uses[n] == 0 {
		delete(s.numbers, s.text[n])
		s.text[n] = ""
		s.free = append(s.free, n)
	}
}

// begin starts an empty table.
func (s *symbols) begin() {
	if s.round++; s.round == 0 {
		clear(s.places)
		s.round = 1
	}
	s.table = append(s.table[:0], 0)
	s.places[0] = place{s.round, 0}
}

// ref gives the place of a number in the table.
func (s *symbols) ref(n uint32) uint32 {
	p := &s.places[n]
	if p.round != s.round {
		*p = place{s.round, uint32(len(s.table))}
		s.table = append(s.table, n)
	}
	return p.at
}
