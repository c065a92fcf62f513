package jetstream

import (
	"context"
	"fmt"
	"sync"

	"github.com/choria-io/prometheus-streams/internal/stream"
)

// linkState is the state of the connection at one moment.
type linkState struct {
	up bool
	// epoch counts connects; 0 means never connected.
	epoch uint64
	// reason why it is down, if known.
	reason error
	// changed is closed when this state is over.
	changed chan struct{}
}

// link tells whoever waits how the connection is. It is safe for concurrent use.
type link struct {
	mu sync.Mutex
	s  linkState
}

func newLink() *link { return &link{s: linkState{changed: make(chan struct{})}} }

func (l *link) state() linkState {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.s
}

func (l *link) setUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.s
	l.s = linkState{up: true, epoch: old.epoch + 1, changed: make(chan struct{})}
	close(old.changed)
}

// setDown notes that the connection is down and why, as far as that is known.
func (l *link) setDown(reason error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.s
	l.s = linkState{epoch: old.epoch, reason: reason, changed: make(chan struct{})}
	close(old.changed)
}

// fail notes why an attempt to connect failed, and tells whether there is no connection indeed.
func (l *link) fail(reason error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.s.up {
		return false
	}
	old := l.s
	l.s = linkState{epoch: old.epoch, reason: reason, changed: make(chan struct{})}
	close(old.changed)
	return true
}

// waitUp returns once the connection is up. If ctx ends before, the error says why there is none.
func (l *link) waitUp(ctx context.Context) (linkState, error) {
	for {
		s := l.state()
		if s.up {
			return s, nil
		}
		select {
		case <-s.changed:
		case <-ctx.Done():
			if s.reason != nil {
				return s, fmt.Errorf("%w to NATS: %w", stream.ErrDisconnected, s.reason)
			}
			return s, fmt.Errorf("%w to NATS", stream.ErrDisconnected)
		}
	}
}

// presence tells a handler when nothing can arrive: Disconnected, and Connected again.
type presence struct {
	link *link
	emit func(stream.Event)
	told bool // Disconnected
}

// up waits for the connection.
func (p *presence) up(ctx context.Context) (linkState, error) {
	if !p.link.state().up {
		p.down()
	}
	state, err := p.link.waitUp(ctx)
	if err == nil && p.told {
		p.told = false
		p.emit(stream.Event{Kind: stream.Connected})
	}
	return state, err
}

func (p *presence) down() {
	if !p.told {
		p.told = true
		p.emit(stream.Event{Kind: stream.Disconnected})
	}
}
