package pushgateway

import "time"

// Pause keeps Run from pushing and deleting; pushes that are on their way come to their end.
func (s *Sink) Pause() {
	s.lock()
	defer s.unlock()
	if s.pausedAt.IsZero() {
		s.pausedAt = time.Now()
	}
}

// Resume lets it go on. Nobody could fill a group meanwhile: the pause does not count as silence.
func (s *Sink) Resume() {
	s.lock()
	defer s.unlock()
	if s.pausedAt.IsZero() {
		return
	}
	lasted := time.Since(s.pausedAt)
	s.pausedAt = time.Time{}
	for _, g := range s.groups {
		g.filled = g.filled.Add(lasted)
	}
	for _, t := range s.targets {
		t.seen = t.seen.Add(lasted)
	}
	s.wakeUp()
}
