package pushgateway

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// said keeps the log readable while the same thing goes wrong again and again: one line of a kind in half a minute, with
// the number of those not logged.
type said struct {
	mu    sync.Mutex
	kinds map[string]*saying
}

type saying struct {
	next  time.Time
	count int
}

const sayEvery = 30 * time.Second

func (s *said) warn(logger *slog.Logger, kind, message string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.kinds[kind]
	if k == nil {
		if s.kinds == nil {
			s.kinds = make(map[string]*saying)
		}
		k = &saying{}
		s.kinds[kind] = k
	}
	k.count++
	if now := time.Now(); now.After(k.next) {
		logger.Log(context.Background(), slog.LevelWarn, message, append(args, "count", k.count)...)
		k.next, k.count = now.Add(sayEvery), 0
	}
}

// forget lets the next line of a kind be logged at once.
func (s *said) forget(kind string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.kinds, kind)
}
